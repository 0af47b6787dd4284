/**
 * `TRUNCATED`: the bytes end early. `WRONG_MAGIC`: they are no bundle. `WRONG_HEADER`: the header is malformed or contradicts itself.
 * `WRONG_PART`: a part is missing, altered, or does not belong to the others. `WRONG_SIGNATURE`: a signature does not fit.
 */
export type EvidenceErrorCode =
  | "TRUNCATED"
  | "WRONG_MAGIC"
  | "WRONG_HEADER"
  | "WRONG_PART"
  | "WRONG_SIGNATURE";

/** Why bytes are not evidence. Nothing in them may be relied on. */
export class EvidenceError extends Error {
  override readonly name = "EvidenceError";
  readonly code: EvidenceErrorCode;

  constructor(code: EvidenceErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
