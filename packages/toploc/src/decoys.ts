import { ProofError } from "./error.ts";
import { evaluate } from "./field.ts";
import { Marks } from "./modulus.ts";
import type { Proof } from "./proof.ts";

/** Residues a proof is probed at, when the modulus leaves that many outside the top-k. */
export const DECOYS = 128;

/** `hits` of `drawn` secret residues gave an exponent within the top-k's range. */
export type DecoyCount = { drawn: number; hits: number };

/**
 * Evaluates a proof where it promises nothing: at min(128, m − distinct top-k residues) residues outside the top-k's. A proof of
 * real activations is noise there; a polynomial that fits everywhere (a constant, say) was made without a model.
 *
 * @param proof either form; only the half that holds the exponent is read.
 * @param indices the verifier's top-k.
 * @param values the verifier's values there; their exponents are the range.
 * @param draw the i-th unsigned 32-bit number, i = 0, 1, …, of a stream the prover could not foresee. Residues are `draw(i) mod m`;
 *   repeats and the top-k's are skipped.
 * @throws ProofError `POINTS` when indices and values differ in count, `DRAW` when `draw` does not produce enough different residues.
 */
export function countDecoys(
  proof: Proof,
  indices: Uint32Array,
  values: Float32Array,
  draw: (i: number) => number,
): DecoyCount {
  if (indices.length === 0 || indices.length !== values.length) {
    throw new ProofError(
      "POINTS",
      `${indices.length} indices and ${values.length} values; give one value an index.`,
    );
  }
  const { lowest, highest } = exponentRange(values);
  const xs = decoyResidues(indices, proof.modulus, draw);
  let hits = 0;
  const patterns = evaluate(proof.high, xs, memory.patterns.subarray(0, xs.length));
  for (let i = 0; i < patterns.length; i++) {
    const exponent = (patterns[i]! >>> 7) & 0xff;
    if (exponent >= lowest && exponent <= highest) hits++;
  }
  return { drawn: xs.length, hits };
}

function exponentRange(values: Float32Array): { lowest: number; highest: number } {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let lowest = 0xff;
  let highest = 0;
  for (let i = 0; i < bits.length; i++) {
    const exponent = (bits[i]! >>> 23) & 0xff;
    if (exponent < lowest) lowest = exponent;
    if (exponent > highest) highest = exponent;
  }
  return { lowest, highest };
}

// One residue of 128 left to find takes m ≤ 256 draws in the mean; a million without it means the stream stands still.
const MAX_DRAWS = 1_000_000;

/** Valid until the next call. */
function decoyResidues(indices: Uint32Array, modulus: number, draw: (i: number) => number): Uint16Array {
  const taken = new Marks();
  let distinct = 0;
  for (let i = 0; i < indices.length; i++) if (taken.add(indices[i]! % modulus)) distinct++;
  const xs = memory.xs.subarray(0, Math.min(DECOYS, modulus - distinct));
  let found = 0;
  for (let i = 0; found < xs.length; i++) {
    if (i === MAX_DRAWS)
      throw new ProofError("DRAW", "The random numbers repeat; no further residue was found.");
    // `>>> 0` shows the compiler an integer; the remainder of a float64 takes ten times as long.
    const residue = (draw(i) >>> 0) % modulus;
    if (taken.add(residue)) xs[found++] = residue;
  }
  return xs;
}

// Arrays of 128 take longer to get than to fill.
const memory = { xs: new Uint16Array(DECOYS), patterns: new Uint16Array(DECOYS) };
