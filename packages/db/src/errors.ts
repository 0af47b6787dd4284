/**
 * What can go wrong with the database as a whole. Each code has one cause and one remedy, told in the
 * message.
 */
export type DatabaseErrorCode =
  | "BINARIES_MISSING"
  | "NOT_A_DATA_DIRECTORY"
  | "OTHER_MAJOR_VERSION"
  | "DATA_UNREACHABLE"
  | "PASSWORD_REFUSED"
  | "DISK_FULL"
  | "START_FAILED"
  | "STOP_FAILED"
  | "BAD_URL"
  | "MIGRATION_EDITED"
  | "MIGRATION_FAILED"
  | "MIGRATION_UNKNOWN"
  | "MIGRATION_LOCKED";

/** An error of the database as a whole (its server or its migrations), never of a single query. */
export class DatabaseError extends Error {
  readonly code: DatabaseErrorCode;

  constructor(code: DatabaseErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "DatabaseError";
    this.code = code;
  }
}

/** The system's or the server's code of an error (`ENOENT`, SQLSTATE `3D000`), if it carries one. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message || (codeOf(error) ?? error.name) : String(error);
}
