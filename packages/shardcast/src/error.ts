/** Why a checkpoint cannot be used. */
export type ShardcastErrorCode =
  | "MANIFEST_MISMATCH"
  | "MANIFEST_INVALID"
  | "WRONG_TRAINER"
  | "BAD_SIGNATURE"
  | "SHARD_MISMATCH"
  | "FILE_MISMATCH"
  | "TOO_LARGE"
  | "ABORTED";

/** A checkpoint that is not the one named. Nothing of it was used; fetching it from another source may help. */
export class ShardcastError extends Error {
  override readonly name = "ShardcastError";
  readonly code: ShardcastErrorCode;

  constructor(code: ShardcastErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
