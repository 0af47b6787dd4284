/**
 * Why a proof or the material for one was refused.
 *
 * - `LENGTH`: the bytes are not `2 + 2k` (bf16) or `2 + 4k` (f32) long.
 * - `COEFFICIENT`: a coefficient is not an element of GF(65497).
 * - `MODULUS`: the modulus is outside 1…65497, or no modulus separates the given indices.
 * - `POINTS`: indices and values do not belong together (counts differ, an index is out of range or repeated).
 * - `WINDOW`: the window is empty or too large, or k is not a positive integer.
 * - `DRAW`: the source of random numbers does not vary.
 */
export type ProofErrorCode = "LENGTH" | "COEFFICIENT" | "MODULUS" | "POINTS" | "WINDOW" | "DRAW";

/** The one error this package throws on purpose; `code` says which rule was broken. */
export class ProofError extends Error {
  override readonly name = "ProofError";
  readonly code: ProofErrorCode;

  constructor(code: ProofErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
