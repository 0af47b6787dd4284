/** What can be wrong with a value that a caller handed to this package. */
export type ProtocolErrorCode =
  | "INVALID_ID"
  | "NOT_CANONICAL"
  | "INVALID_SEED"
  | "INVALID_TOKEN"
  | "INVALID_CHARACTER"
  | "UNKNOWN_ENVIRONMENT"
  | "SPLIT_EXHAUSTED"
  | "INVALID_MANIFEST"
  | "INVALID_TICKET";

/** A caller's mistake, by code. Retrying the same call cannot help. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
  readonly code: ProtocolErrorCode;

  constructor(code: ProtocolErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
