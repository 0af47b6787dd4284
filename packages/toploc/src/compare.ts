import { toBf16 } from "./bf16.ts";
import { bitsAt, type ProofOptions, patternsAt } from "./build.ts";
import { ProofError } from "./error.ts";
import { evaluate } from "./field.ts";
import { residues } from "./modulus.ts";
import { decodeProof, type Proof } from "./proof.ts";
import { selectTopK } from "./top-k.ts";

/**
 * How far a bf16 proof is from a verifier's values at its own top-k.
 * Means and medians are over points of equal exponent, in units of the 7-bit mantissa; Infinity when there is none.
 */
export type Bf16Distance = {
  exponentMismatches: number;
  mantissaMean: number;
  /** Upper median: element ⌊n/2⌋ of the sorted differences. */
  mantissaMedian: number;
  /** Over all points. The reference ignores signs, and so accepts negated activations. */
  signMismatches: number;
};

/**
 * How far an f32 proof is from a verifier's values at its own top-k.
 * `outliers`: points 2²³ ulp or more away; `meanUlp`: mean distance of the others, Infinity when there is none.
 */
export type F32Distance = { outliers: number; meanUlp: number };

/**
 * Compares a proof's bytes with the verifier's own window of bf16 patterns, at the verifier's own top-k.
 *
 * @throws ProofError when the bytes are no proof of min(topK, window length) points, or the window cannot be ordered.
 */
export function verifyProof(bytes: Uint8Array, window: Uint16Array, options: ProofOptions): Bf16Distance {
  const indices = selectTopK(window, options.topK);
  const proof = decodeProof(bytes, { k: indices.length, form: "bf16" });
  return bf16Distance(proof, indices, patternsAt(window, indices));
}

/**
 * Compares a proof's bytes with the verifier's own window of float32 values, at the verifier's own top-k.
 *
 * @throws ProofError when the bytes are no proof of min(topK, window length) points, or the window cannot be ordered.
 */
export function verifyProofF32(bytes: Uint8Array, window: Float32Array, options: ProofOptions): F32Distance {
  const indices = selectTopK(window, options.topK);
  const proof = decodeProof(bytes, { k: indices.length, form: "f32" });
  return f32Distance(proof, indices, bitsAt(window, indices));
}

/**
 * {@link verifyProof} from a measurement in place of a window.
 *
 * @param indices the verifier's top-k, flat indices in its window, or some of them: only these are compared.
 * @param values its values there, rounded to bf16 and widened to float32.
 * @throws ProofError `POINTS` when indices and values differ in count or are none, or the proof is not bf16.
 */
export function compareBf16(proof: Proof, indices: Uint32Array, values: Float32Array): Bf16Distance {
  return bf16Distance(proof, indices, toBf16(values));
}

/**
 * {@link verifyProofF32} from a measurement in place of a window.
 *
 * @param indices the verifier's top-k, flat indices in its window, or some of them: only these are compared.
 * @param values its float32 values there.
 * @throws ProofError `POINTS` when indices and values differ in count or are none, or the proof is not f32.
 */
export function compareF32(proof: Proof, indices: Uint32Array, values: Float32Array): F32Distance {
  return f32Distance(proof, indices, new Uint32Array(values.buffer, values.byteOffset, values.length));
}

function bf16Distance(proof: Proof, indices: Uint32Array, patterns: Uint16Array): Bf16Distance {
  if (proof.form !== "bf16") throw new ProofError("POINTS", "A bf16 comparison needs a bf16 proof.");
  requireSameCount(indices, patterns.length);
  const claimed = evaluate(proof.high, residues(indices, proof.modulus));
  const differences: number[] = [];
  let signMismatches = 0;
  let sum = 0;
  for (let i = 0; i < claimed.length; i++) {
    const different = claimed[i]! ^ patterns[i]!;
    if (different & 0x8000) signMismatches++;
    if (different & 0x7f80) continue;
    const difference = Math.abs((claimed[i]! & 0x7f) - (patterns[i]! & 0x7f));
    differences.push(difference);
    sum += difference;
  }
  const equal = differences.length;
  differences.sort((a, b) => a - b);
  return {
    exponentMismatches: claimed.length - equal,
    mantissaMean: equal === 0 ? Number.POSITIVE_INFINITY : sum / equal,
    mantissaMedian: differences[equal >> 1] ?? Number.POSITIVE_INFINITY,
    signMismatches,
  };
}

const OUTLIER_ULP = 2 ** 23;

function f32Distance(proof: Proof, indices: Uint32Array, bits: Uint32Array): F32Distance {
  if (proof.form !== "f32") throw new ProofError("POINTS", "An f32 comparison needs an f32 proof.");
  requireSameCount(indices, bits.length);
  const [first, second, third] = room(indices.length);
  const xs = residues(indices, proof.modulus, first);
  const high = evaluate(proof.high, xs, second);
  const low = evaluate(proof.low, xs, third);
  let outliers = 0;
  let sum = 0;
  for (let i = 0; i < bits.length; i++) {
    const distance = Math.abs(
      ordered(high[i]! >>> 15, ((high[i]! & 0x7fff) << 16) | low[i]!) - orderedBits(bits[i]!),
    );
    if (distance >= OUTLIER_ULP) outliers++;
    else sum += distance;
  }
  const near = bits.length - outliers;
  return { outliers, meanUlp: near === 0 ? Number.POSITIVE_INFINITY : sum / near };
}

/** Room for three numbers a point, shared with the call before: an array of 128 takes longer to get than to fill. */
function room(points: number): [Uint16Array, Uint16Array, Uint16Array] {
  if (memory.length < 3 * points) memory = new Uint16Array(3 * points);
  const part = (i: number) => memory.subarray(i * points, (i + 1) * points);
  return [part(0), part(1), part(2)];
}

let memory = new Uint16Array(3 * 128);

// Integers in the order of the floats they stand for; both zeros are 0.
function ordered(sign: number, magnitude: number): number {
  return sign === 0 ? magnitude : -magnitude;
}

function orderedBits(bits: number): number {
  return ordered(bits >>> 31, bits & 0x7fffffff);
}

function requireSameCount(indices: Uint32Array, values: number): void {
  if (indices.length > 0 && values === indices.length) return;
  throw new ProofError("POINTS", `${indices.length} indices and ${values} values; give one value an index.`);
}
