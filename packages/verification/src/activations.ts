import { type Bf16Distance, compareBf16, compareF32, type F32Distance } from "@muster/toploc";
import { type Check, type CheckResult, figure, spoken } from "./check.ts";
import type { Evidence, WindowPair } from "./evidence.ts";

/** Were the tokens produced by this version of this policy, after this prompt? */
export const activations: Check = {
  id: "activations",
  title: "Activations",
  plain:
    "Every 32 tokens the worker commits to the largest values inside the model. A validator runs the same tokens through the policy and compares: another model, an older version, lower precision, another prompt or an edited token give other values.",
  cannotCatch:
    "Whether a token was sampled (see sampling), and a forgery that fits any values (see decoys). Differences smaller than those between honest machines.",
  run(evidence) {
    return evidence.spec.verification.form === "f32" ? checkF32(evidence) : checkBf16(evidence);
  },
};

function checkF32(evidence: Evidence): CheckResult {
  const { outliers, meanUlp } = evidence.spec.verification.thresholds;
  let windows = 0;
  let failed = 0;
  let worst: { distance: F32Distance; excess: number; rollout: number; window: number } | undefined;
  for (const pair of evidence.windows) {
    const { rollout, window } = pair;
    const distance = distanceF32(pair);
    windows++;
    if (distance.outliers > outliers || distance.meanUlp > meanUlp) failed++;
    const excess = Math.max(ratio(distance.outliers, outliers), ratio(distance.meanUlp, meanUlp));
    if (worst === undefined || excess > worst.excess) worst = { distance, excess, rollout, window };
  }
  const { distance, rollout, window } = worst ?? {
    distance: { outliers: 0, meanUlp: 0 },
    rollout: 0,
    window: 0,
  };
  return {
    id: "activations",
    verdict: failed === 0 ? "PASS" : "FAIL",
    observed: {
      outliers: distance.outliers,
      meanUlp: figure(distance.meanUlp),
      rollout,
      window,
      windows,
      failedWindows: failed,
    },
    expected: { outliers: 0, meanUlp: 0 },
    threshold: { outliers, meanUlp },
    note:
      failed === 0
        ? ""
        : `${failed} of ${windows} windows are beyond the thresholds; rollout ${rollout}, window ${window} is the furthest.`,
    plain:
      failed === 0
        ? `The activations are those of policy version ${evidence.task.policyVersion}: at most ${spoken(distance.meanUlp)} ulp away on average, where ${meanUlp} are allowed.`
        : `The activations are not those of policy version ${evidence.task.policyVersion} after this prompt: ${spoken(distance.meanUlp)} ulp away on average with ${distance.outliers} points far off, where ${meanUlp} and ${outliers} are allowed.`,
  };
}

function checkBf16(evidence: Evidence): CheckResult {
  const { exponentMismatches, mantissaMean, mantissaMedian } = evidence.spec.verification.thresholds;
  const limits: Bf16Distance = {
    exponentMismatches,
    mantissaMean,
    mantissaMedian,
    // Not in the reference, which accepts negated activations. An honest sign differs only where the exponent does too.
    signMismatches: exponentMismatches,
  };
  const names = ["exponentMismatches", "mantissaMean", "mantissaMedian", "signMismatches"] as const;
  let windows = 0;
  let failed = 0;
  let worst: { distance: Bf16Distance; excess: number; rollout: number; window: number } | undefined;
  for (const { rollout, window, proof, indices, values } of evidence.windows) {
    const distance = compareBf16(proof, indices, values);
    windows++;
    if (names.some((name) => distance[name] > limits[name])) failed++;
    const excess = Math.max(...names.map((name) => ratio(distance[name], limits[name])));
    if (worst === undefined || excess > worst.excess) worst = { distance, excess, rollout, window };
  }
  const none: Bf16Distance = { exponentMismatches: 0, mantissaMean: 0, mantissaMedian: 0, signMismatches: 0 };
  const { distance, rollout, window } = worst ?? { distance: none, rollout: 0, window: 0 };
  return {
    id: "activations",
    verdict: failed === 0 ? "PASS" : "FAIL",
    observed: {
      ...Object.fromEntries(names.map((name) => [name, figure(distance[name])])),
      rollout,
      window,
      windows,
      failedWindows: failed,
    },
    expected: { ...none },
    threshold: { ...limits },
    note:
      failed === 0
        ? ""
        : `${failed} of ${windows} windows are beyond the thresholds; rollout ${rollout}, window ${window} is the furthest.`,
    plain:
      failed === 0
        ? `The activations are those of policy version ${evidence.task.policyVersion}: at most ${distance.exponentMismatches} exponents differ, where ${exponentMismatches} may.`
        : `The activations are not those of policy version ${evidence.task.policyVersion} after this prompt: ${distance.exponentMismatches} exponents and ${distance.signMismatches} signs differ, mantissas by ${spoken(distance.mantissaMean)} on average.`,
  };
}

/** How far a proof is from what was measured, over the points that count. */
export function distanceF32({ size, proof, indices, values }: WindowPair): F32Distance {
  const larger = largerHalf(indices, values, size);
  return compareF32(proof, larger.indices, larger.values);
}

/**
 * The points among the larger half of the window's values. Machines differ by a few ulp of a typical value, which are thousands of
 * ulp of a value near zero. The top-k of a long window has none of those; that of a window of one or two rows is all of it, and one
 * such value put honest means as high as 8,000 ulp.
 */
function largerHalf(indices: Uint32Array, values: Float32Array, size: number) {
  const half = Math.ceil(size / 2);
  if (values.length <= half) return { indices, values };
  if (isFalling(indices, values)) {
    return { indices: indices.subarray(0, half), values: values.subarray(0, half) };
  }
  const order = Uint32Array.from(values.keys())
    .sort((a, b) => Math.abs(values[b]!) - Math.abs(values[a]!) || indices[a]! - indices[b]!)
    .subarray(0, half);
  return {
    indices: Uint32Array.from(order, (i) => indices[i]!),
    values: Float32Array.from(order, (i) => values[i]!),
  };
}

/** Whether the points are in the order a validator hands them in: by falling magnitude, then by index. A check may not rely on it. */
function isFalling(indices: Uint32Array, values: Float32Array): boolean {
  for (let i = 1; i < values.length; i++) {
    const fall = Math.abs(values[i - 1]!) - Math.abs(values[i]!);
    if (!(fall > 0 || (fall === 0 && indices[i - 1]! < indices[i]!))) return false;
  }
  return true;
}

/** How much of what is allowed was used; above 1 is beyond it. */
function ratio(found: number, allowed: number): number {
  return found === 0 ? 0 : found / allowed;
}
