import {
  type MeasuredRollout,
  type PackedRollout,
  type PhiloxKey,
  philox4x32,
  type RunSpec,
} from "@muster/protocol";
import { compareBf16, countDecoys, windowsOf } from "@muster/toploc";
import { distanceF32 } from "./activations.ts";
import { pairWindows, type WindowPair } from "./evidence.ts";

/** A threshold of a run spec, by its name. */
export type ThresholdName = keyof RunSpec["verification"]["thresholds"];

/** The thresholds that judge runs of each form. */
export const thresholdNames = {
  f32: ["outliers", "meanUlp", "decoys", "margin", "logProbability"],
  bf16: ["exponentMismatches", "mantissaMean", "mantissaMedian", "decoys", "margin", "logProbability"],
} as const satisfies Record<RunSpec["verification"]["form"], readonly ThresholdName[]>;

/** What one window of 32 tokens is judged by: the number that each threshold is compared with, the worst of its tokens for the last two. */
export type WindowFigures = {
  rollout: number;
  window: number;
  figures: Partial<Record<ThresholdName, number>>;
};

/**
 * The numbers behind the verdicts, one set a window: a window passes when none is above its threshold. Calibration derives thresholds from
 * them; `verifyGroup` judges by the same.
 * @param input rollouts and measurement of sound form, in the same order.
 */
export function windowFigures(input: {
  spec: RunSpec;
  rollouts: readonly PackedRollout[];
  measurement: readonly MeasuredRollout[];
  decoyKey: PhiloxKey;
}): WindowFigures[] {
  const { spec, rollouts, measurement, decoyKey } = input;
  const stream: number[] = [];
  const draw = (i: number) => (stream[i] ??= philox4x32([i, 0, 0, 0], decoyKey)[0]);
  return pairWindows(spec, rollouts, measurement).map((pair) => {
    const { rollout, window, proof, indices, values } = pair;
    const measured = measurement[rollout]!;
    const claimed = rollouts[rollout]!.logprobs;
    const { start, end } = windowsOf(measured.argmax.length)[window]!;
    let margin = 0;
    let logProbability = 0;
    for (let j = start; j < end; j++) {
      margin = Math.max(margin, measured.margins[j]!);
      logProbability = Math.max(logProbability, Math.abs(claimed[j]! - measured.logprobs[j]!));
    }
    const decoys = countDecoys(proof, indices, values, draw).hits;
    return { rollout, window, figures: { ...distance(spec, pair), decoys, margin, logProbability } };
  });
}

function distance({ verification }: RunSpec, pair: WindowPair): WindowFigures["figures"] {
  switch (verification.form) {
    case "f32": {
      const { outliers, meanUlp } = distanceF32(pair);
      return { outliers, meanUlp };
    }
    case "bf16": {
      const found = compareBf16(pair.proof, pair.indices, pair.values);
      const { exponentMismatches, signMismatches, mantissaMean, mantissaMedian } = found;
      // Signs are judged by the same threshold.
      return {
        exponentMismatches: Math.max(exponentMismatches, signMismatches),
        mantissaMean,
        mantissaMedian,
      };
    }
  }
}
