import { ProofError } from "./error.ts";
import { interpolate, PRIME } from "./field.ts";
import { injectiveModulus, residues } from "./modulus.ts";

/** `bf16`: the reference's form, one polynomial. `f32`: two, through the high and the low halves of float32 values. */
export type ProofForm = "bf16" | "f32";

/** A parsed proof. Coefficients are elements of GF(65497) in ascending power. */
export type Proof =
  | { form: "bf16"; modulus: number; high: Uint16Array }
  | { form: "f32"; modulus: number; high: Uint16Array; low: Uint16Array };

/** Bytes of a proof of k points: `2 + 2k` (bf16) or `2 + 4k` (f32). */
export function proofLength(k: number, form: ProofForm): number {
  return 2 + (form === "bf16" ? 2 : 4) * k;
}

/**
 * The reference's proof of explicit points: modulus, then coefficients, unsigned 16-bit big-endian.
 *
 * @param indices flat indices in the window, each once.
 * @param bits16 the bf16 pattern at each index.
 * @throws ProofError `POINTS` when the counts differ or are zero, `MODULUS` when no modulus separates the indices.
 */
export function encodeProof(indices: ArrayLike<number>, bits16: ArrayLike<number>): Uint8Array {
  const points = checkedIndices(indices, bits16.length);
  const modulus = injectiveModulus(points);
  return write(modulus, [interpolate(residues(points, modulus), Uint16Array.from(bits16))]);
}

/**
 * The f32 form's proof of explicit points: modulus, coefficients through `bits >>> 16`, then through the low 16 bits, these
 * saturated at 65496.
 *
 * @param indices flat indices in the window, each once.
 * @param bits32 the float32 bit pattern at each index.
 * @throws ProofError as {@link encodeProof}.
 */
export function encodeProofF32(indices: ArrayLike<number>, bits32: ArrayLike<number>): Uint8Array {
  const points = checkedIndices(indices, bits32.length);
  const modulus = injectiveModulus(points);
  const xs = residues(points, modulus);
  const high = new Uint16Array(points.length);
  const low = new Uint16Array(points.length);
  for (let i = 0; i < points.length; i++) {
    high[i] = bits32[i]! >>> 16;
    low[i] = Math.min(bits32[i]! & 0xffff, PRIME - 1);
  }
  return write(modulus, [interpolate(xs, high), interpolate(xs, low)]);
}

/**
 * Parses a proof of exactly k points and refuses everything else: another length, a coefficient ≥ 65497, a modulus outside
 * 1…65497. There is one encoding of a proof, so equal proofs are equal bytes.
 *
 * @throws ProofError `LENGTH`, `COEFFICIENT`, `MODULUS`, or `WINDOW` for a k that is not a positive integer.
 */
export function decodeProof(bytes: Uint8Array, expected: { k: number; form: ProofForm }): Proof {
  const { k, form } = expected;
  if (!Number.isInteger(k) || k < 1) throw new ProofError("WINDOW", `k is ${k}; give a positive integer.`);
  const length = proofLength(k, form);
  if (bytes.length !== length) {
    throw new ProofError(
      "LENGTH",
      `The proof has ${bytes.length} bytes; a ${form} proof of ${k} points has ${length}.`,
    );
  }
  const modulus = (bytes[0]! << 8) | bytes[1]!;
  if (modulus < 1 || modulus > PRIME) {
    throw new ProofError("MODULUS", `The proof's modulus is ${modulus}; it must be within 1…${PRIME}.`);
  }
  const coefficients = readCoefficients(bytes, k);
  if (form === "bf16") return { form, modulus, high: coefficients };
  return { form, modulus, high: coefficients.subarray(0, k), low: coefficients.subarray(k) };
}

/** All coefficients of a proof, `k` a polynomial. */
function readCoefficients(bytes: Uint8Array, k: number): Uint16Array {
  const coefficients = new Uint16Array((bytes.length - 2) / 2);
  let largest = 0;
  for (let i = 0; i < coefficients.length; i++) {
    const value = (bytes[2 * i + 2]! << 8) | bytes[2 * i + 3]!;
    if (value > largest) largest = value;
    coefficients[i] = value;
  }
  if (largest >= PRIME) {
    const i = coefficients.findIndex((value) => value >= PRIME);
    throw new ProofError(
      "COEFFICIENT",
      `Coefficient ${i % k} is ${coefficients[i]}; it must be below ${PRIME}.`,
    );
  }
  return coefficients;
}

function write(modulus: number, polynomials: Uint16Array[]): Uint8Array {
  const words = [Uint16Array.of(modulus), ...polynomials];
  const bytes = new Uint8Array(2 * words.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of words) {
    for (const word of part) {
      bytes[offset++] = word >>> 8;
      bytes[offset++] = word & 0xff;
    }
  }
  return bytes;
}

function checkedIndices(indices: ArrayLike<number>, values: number): Uint32Array {
  if (indices.length === 0 || indices.length !== values) {
    throw new ProofError(
      "POINTS",
      `${indices.length} indices and ${values} values; give one value an index.`,
    );
  }
  const checked = new Uint32Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i]!;
    if (!Number.isInteger(index) || index < 0 || index > 0xffffffff) {
      throw new ProofError("POINTS", `Index ${index} is not an unsigned 32-bit integer.`);
    }
    checked[i] = index;
  }
  return checked;
}
