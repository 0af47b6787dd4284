import { philox4x32 } from "@muster/protocol";
import {
  buildProof,
  buildProofF32,
  compareBf16,
  compareF32,
  countDecoys,
  decodeProof,
  fromBf16,
  selectTopK,
  toBf16,
} from "@muster/toploc";
import { type Bench, medianMs } from "./bench.ts";
import { referenceBuild, referenceVerify } from "./toploc-reference.ts";
import { measureVerificationCost } from "./verification-cost.ts";

/** What proofs cost beside reading the window once, and what verification costs beside generation. */
export const verification: Bench = {
  async run(say) {
    const proofs = measureProofs(say);
    const share = await measureVerificationCost(say);
    const figures = Object.entries({ ...proofs, ...share });
    return {
      ...Object.fromEntries(figures.map(([name, value]) => [name, Number(value.toPrecision(4))])),
      // Its algorithm in our language; the package itself needs 3 GB of torch.
      reference: "algorithm",
    };
  },
};

const ROWS = 32;
const HIDDEN = 5120;
const TOP_K = 128;
const ROUNDS = 200;

function measureProofs(say: (line: string) => void) {
  // Several windows in turn, together larger than the second-level cache: a real one has just been written by the model.
  const floats = Array.from({ length: 8 }, (_, seed) => gaussian(ROWS * HIDDEN, seed));
  const words = floats.map((window) => new Uint32Array(window.buffer));
  const patterns = floats.map(toBf16);
  const draw = (i: number) => philox4x32([i, 0, 0, 0], [1, 2])[0];
  const at = <T>(list: readonly T[], round: number): T => list[round % list.length]!;

  const f32Proofs = floats.map((window) => buildProofF32(window, { topK: TOP_K }));
  const bf16Proofs = patterns.map((window) => buildProof(window, { topK: TOP_K }));

  const limitF32 = medianMs(ROUNDS, (round) => scanF32(at(words, round)));
  const limitBf16 = medianMs(ROUNDS, (round) => scanBf16(at(patterns, round)));
  const buildF32 = medianMs(ROUNDS, (round) => buildProofF32(at(floats, round), { topK: TOP_K }));
  const buildBf16 = medianMs(ROUNDS, (round) => buildProof(at(patterns, round), { topK: TOP_K }));
  // All a validator and a coordinator do for one window together: top-k, parse, compare, decoys.
  const verifyF32 = medianMs(ROUNDS, (round) => {
    const window = at(floats, round);
    const indices = selectTopK(window, TOP_K);
    const values = Float32Array.from(indices, (index) => window[index]!);
    const proof = decodeProof(at(f32Proofs, round), { k: TOP_K, form: "f32" });
    return [compareF32(proof, indices, values), countDecoys(proof, indices, values, draw)];
  });
  const verifyBf16 = medianMs(ROUNDS, (round) => {
    const window = at(patterns, round);
    const indices = selectTopK(window, TOP_K);
    const values = fromBf16(Uint16Array.from(indices, (index) => window[index]!));
    const proof = decodeProof(at(bf16Proofs, round), { k: TOP_K, form: "bf16" });
    return [compareBf16(proof, indices, values), countDecoys(proof, indices, values, draw)];
  });

  const theirs = patterns.map((window) => referenceBuild(window, TOP_K));
  for (const [i, window] of patterns.entries()) {
    const ours = decodeProof(at(bf16Proofs, i), { k: TOP_K, form: "bf16" });
    const proof = { modulus: ours.modulus, coefficients: Array.from(ours.high) };
    const { mismatches, mean } = referenceVerify(proof, window, TOP_K);
    // Ties at the last magnitude are anyone's choice, so a point or two may be another.
    if (mismatches > 4 || mean > 1)
      throw new Error("The reference does not accept our proof; compare nothing.");
  }
  const buildReference = medianMs(20, (round) => referenceBuild(at(patterns, round), TOP_K));
  const verifyReference = medianMs(ROUNDS, (round) =>
    referenceVerify(at(theirs, round), at(patterns, round), TOP_K),
  );

  say(`One window of ${ROWS} × ${HIDDEN}, top-${TOP_K}, one core, decoys included; median of ${ROUNDS}.`);
  say(`Limit: one pass over the window's magnitudes that keeps nothing but their maximum.`);
  const row = (form: string, limit: number, build: number, verify: number) =>
    say(
      `  ${form}  limit ${limit.toFixed(3)} ms   build ${build.toFixed(3)} ms (${(build / limit).toFixed(1)}×)   verify ${verify.toFixed(3)} ms (${(verify / limit).toFixed(1)}×)`,
    );
  row("f32 ", limitF32, buildF32, verifyF32);
  row("bf16", limitBf16, buildBf16, verifyBf16);
  say(
    `  bf16  the reference's algorithm   build ${buildReference.toFixed(3)} ms   verify ${verifyReference.toFixed(3)} ms, without decoys`,
  );
  return {
    referenceBuildMs: buildReference,
    referenceVerifyMs: verifyReference,
    buildMsPerWindow5120: Math.max(buildF32, buildBf16),
    verifyMsPerWindow5120: Math.max(verifyF32, verifyBf16),
    buildOverScan: Math.max(buildF32 / limitF32, buildBf16 / limitBf16),
    verifyOverScan: Math.max(verifyF32 / limitF32, verifyBf16 / limitBf16),
  };
}

// Four maxima, so that one comparison does not wait for the last: the fastest pass found in JavaScript. One function an array type,
// because a shared one loads polymorphically, and slowly.
function scanF32(bits: Uint32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i + 4 <= bits.length; i += 4) {
    a = Math.max(a, bits[i]! & 0x7fffffff);
    b = Math.max(b, bits[i + 1]! & 0x7fffffff);
    c = Math.max(c, bits[i + 2]! & 0x7fffffff);
    d = Math.max(d, bits[i + 3]! & 0x7fffffff);
  }
  return Math.max(a, b, c, d);
}

function scanBf16(bits: Uint16Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i + 4 <= bits.length; i += 4) {
    a = Math.max(a, bits[i]! & 0x7fff);
    b = Math.max(b, bits[i + 1]! & 0x7fff);
    c = Math.max(c, bits[i + 2]! & 0x7fff);
    d = Math.max(d, bits[i + 3]! & 0x7fff);
  }
  return Math.max(a, b, c, d);
}

function gaussian(length: number, seed: number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i += 2) {
    const [a, b] = philox4x32([i, 0, 0, 0], [seed, 0]);
    const radius = Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32));
    values[i] = radius * Math.cos((2 * Math.PI * b) / 2 ** 32);
    if (i + 1 < length) values[i + 1] = radius * Math.sin((2 * Math.PI * b) / 2 ** 32);
  }
  return values;
}
