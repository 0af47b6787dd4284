import { BF16_NAN } from "./bf16.ts";
import { encodeProof, encodeProofF32 } from "./proof.ts";
import { selectTopK } from "./top-k.ts";

/** `topK`: points in a proof, 128 in the reference; a smaller window is proved whole. */
export type ProofOptions = { topK: number };

/**
 * The reference-compatible proof of a window of bf16 patterns (row-major): `2 + 2k` bytes, k = min(topK, window length).
 * A NaN is largest in magnitude and committed to as 0x7FC0.
 *
 * @throws ProofError `WINDOW` for an empty or too large window, `MODULUS` when no modulus separates its top-k.
 */
export function buildProof(window: Uint16Array, options: ProofOptions): Uint8Array {
  const indices = selectTopK(window, options.topK);
  return encodeProof(indices, patternsAt(window, indices));
}

/**
 * The f32 form's proof of a window of float32 values (row-major): `2 + 4k` bytes, k = min(topK, window length).
 * A NaN is largest in magnitude and committed to as 0x7FC00000.
 *
 * @throws ProofError as {@link buildProof}.
 */
export function buildProofF32(window: Float32Array, options: ProofOptions): Uint8Array {
  const indices = selectTopK(window, options.topK);
  return encodeProofF32(indices, bitsAt(window, indices));
}

/** The bf16 patterns at the indices, NaNs as 0x7FC0. */
export function patternsAt(window: Uint16Array, indices: Uint32Array): Uint16Array {
  const patterns = new Uint16Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const pattern = window[indices[i]!]!;
    // Some negative NaNs are no field elements; one spelling for all of them keeps a window equal to its own proof.
    patterns[i] = (pattern & 0x7fff) > 0x7f80 ? BF16_NAN : pattern;
  }
  return patterns;
}

/** The float32 bit patterns at the indices, NaNs as 0x7FC00000. */
export function bitsAt(window: Float32Array, indices: Uint32Array): Uint32Array {
  const words = new Uint32Array(window.buffer, window.byteOffset, window.length);
  const bits = new Uint32Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const word = words[indices[i]!]!;
    bits[i] = (word & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : word;
  }
  return bits;
}
