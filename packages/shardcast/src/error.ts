/** Why a checkpoint cannot be used. */
export type ShardcastErrorCode =
  | "MANIFEST_MISMATCH"
  | "MANIFEST_INVALID"
  | "WRONG_TRAINER"
  | "BAD_SIGNATURE"
  | "SHARD_MISMATCH"
  | "FILE_MISMATCH"
  | "DELTA_INVALID"
  | "WRONG_CHECKPOINT"
  | "NO_SOURCE"
  | "TOO_LARGE"
  | "DISK_FULL";

/** A checkpoint that is not the one named, that nobody has, or that does not fit. Nothing of it was used; what was verified is kept. */
export class ShardcastError extends Error {
  override readonly name = "ShardcastError";
  readonly code: ShardcastErrorCode;

  constructor(code: ShardcastErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
