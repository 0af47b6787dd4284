/**
 * `TOO_LARGE`: over a limit, refused before anything was allocated. `NOT_PARQUET`: malformed bytes. `UNSUPPORTED`: Parquet, but of a
 * kind packs do not use (compression, dictionaries, nulls). `WRONG_SCHEMA`: other columns. `WRONG_HEADER`: other metadata.
 * `WRONG_VALUE`: a value that no honest writer produces.
 */
export type PackErrorCode =
  | "TOO_LARGE"
  | "NOT_PARQUET"
  | "UNSUPPORTED"
  | "WRONG_SCHEMA"
  | "WRONG_HEADER"
  | "WRONG_VALUE";

/** Why bytes are not a pack, or values do not make one. Retrying cannot help: the bytes must be made again. */
export class PackError extends Error {
  override readonly name = "PackError";
  readonly code: PackErrorCode;

  constructor(code: PackErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
