import type { Example, MeasuredRollout, PackedRollout, PhiloxKey, RunSpec } from "@muster/protocol";
import { decodeProof, type Proof, pointCount, windowsOf } from "@muster/toploc";

/** What the coordinator knows about a group by itself: nothing here comes from the worker. */
export type GroupTask = {
  policyVersion: number;
  /** SHA-256 of the manifest the task names. */
  manifest: string;
  /** Prompt token ids, one list a rollout. */
  promptTokens: readonly ArrayLike<number>[];
  /** Philox key of each rollout. */
  keys: readonly PhiloxKey[];
  /** SHA-256 of the blind pack the validator was given; compared with the measurement's when present. */
  blind?: string;
  /** The group's example. With it the rewards are recomputed; without it there is no reward check. */
  example?: Example;
  /** The rewards on record, one a rollout, to compare the recomputed ones with. */
  rewards?: readonly number[];
};

/** Everything the checks of one group look at, form and measurement already found sound. */
export type Evidence = {
  spec: RunSpec;
  task: GroupTask;
  rollouts: readonly PackedRollout[];
  measurement: readonly MeasuredRollout[];
  /** Every proof beside its measurement, in order; empty without a measurement. */
  windows: readonly WindowPair[];
  /** Secret until the pack was committed. */
  decoyKey: PhiloxKey;
};

/** One proof beside the validator's own top-k of the same rows. */
export type WindowPair = {
  rollout: number;
  window: number;
  /** Values in the window: rows × hidden. */
  size: number;
  proof: Proof;
  indices: Uint32Array;
  values: Float32Array;
};

/**
 * Pairs the windows of a group. Needs sound form and measurement: a proof that does not parse throws here.
 * @param parsed the proofs of each rollout, when whoever calls has parsed them.
 */
export function pairWindows(
  spec: RunSpec,
  rollouts: readonly PackedRollout[],
  measurement: readonly MeasuredRollout[],
  parsed?: readonly (readonly Proof[])[],
): WindowPair[] {
  const { form, topK } = spec.verification;
  const hidden = spec.model.hiddenSize;
  const pairs: WindowPair[] = [];
  for (const [rollout, measured] of measurement.entries()) {
    const { tokens, proofs } = rollouts[rollout]!;
    for (const [window, { start, end }] of windowsOf(tokens.length).entries()) {
      const k = pointCount(end - start, hidden, topK);
      const proof = parsed?.[rollout]?.[window] ?? decodeProof(proofs[window]!, { k, form });
      const { indices, values } = measured.windows[window]!;
      pairs.push({ rollout, window, size: (end - start) * hidden, proof, indices, values });
    }
  }
  return pairs;
}
