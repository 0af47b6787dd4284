import type { Random } from "./random.ts";

// What a trainer reports of a step. The coordinator keeps up to 64 numbers by name with each step, so a long series is a long run: ten
// million points are 51 numbers of some two hundred thousand steps.

/** Names beside those that the coordinator gives itself (`tokens`, `lagMean`, and `meanReward` in a column of its own). */
export const metricNames = [
  "loss",
  "policyLoss",
  "kl",
  "entropy",
  "ratioMean",
  "clipLow",
  "clipHigh",
  "gradNorm",
  "learningRate",
  "seconds",
  "entropyP10",
  "entropyP90",
  "klMax",
  "ratioMax",
  "ratioMin",
  "advantageMean",
  "advantageStd",
  "rewardStd",
  "rewardMin",
  "rewardMax",
  "lengthMean",
  "lengthMax",
  "lengthMin",
  "truncatedShare",
  "signalShare",
  "gradNormLayer0",
  "gradNormLayer1",
  "gradNormHead",
  "weightNorm",
  "updateNorm",
  "updateRatio",
  "adamVMean",
  "adamMNorm",
  "logprobMean",
  "logprobStd",
  "logprobMin",
  "tokensPerSecond",
  "memoryMiB",
  "batchSeconds",
  "loadSeconds",
  "stepSeconds",
  "publishSeconds",
  "deltaShare",
  "stalenessP95",
  "explained",
  "kurtosis",
  "outlierShare",
  "temperatureFit",
] as const;

/** Numbers of one step: the trainer's, the coordinator's two and the mean reward. */
export const pointsPerStep = metricNames.length + 3;

export type Series = (
  step: number,
  figures: { reward: number; tokens: number; lagMean: number },
) => Record<string, number>;

/** Curves that look like a training run: trends, a level of noise of their own, a spike now and then. */
export function createSeries(random: Random, steps: number): Series {
  const shapes = metricNames.map((name) => ({
    name,
    level: 0.1 + 2 * random.next(),
    trend: random.next() * 2 - 1,
    noise: 0.02 + 0.15 * random.next(),
    drift: 0,
  }));
  return (step, { reward, tokens, lagMean }) => {
    const t = step / Math.max(1, steps);
    const spike = random.chance(0.0008) ? 4 : 1;
    const metrics: Record<string, number> = {};
    for (const shape of shapes) {
      shape.drift = 0.995 * shape.drift + shape.noise * 0.1 * (random.next() - 0.5);
      metrics[shape.name] = rounded(figureOf(shape, t, reward, spike, random));
    }
    metrics.tokens = tokens;
    metrics.lagMean = rounded(lagMean);
    return metrics;
  };
}

type Shape = {
  name: (typeof metricNames)[number];
  level: number;
  trend: number;
  noise: number;
  drift: number;
};

function figureOf(
  { name, level, trend, noise, drift }: Shape,
  t: number,
  reward: number,
  spike: number,
  random: Random,
): number {
  const wobble = drift + noise * (random.next() - 0.5);
  switch (name) {
    case "entropy":
      return Math.max(0.02, 1.4 * Math.exp(-2.2 * t) + 0.12 + 0.3 * wobble);
    case "kl":
      return Math.abs(0.002 + 0.03 * t + 0.01 * wobble) * spike;
    case "gradNorm":
      return Math.abs(0.4 + 0.2 * Math.exp(-3 * t) + 0.3 * wobble) * spike;
    case "learningRate":
      return 1e-3 * Math.min(1, t * 40) * (1 - 0.9 * t);
    case "ratioMean":
      return 1 + 0.01 * wobble;
    case "rewardMax":
      return 1;
    case "rewardMin":
      return 0;
    case "rewardStd":
      return Math.sqrt(Math.max(0, reward * (1 - reward)));
    default:
      return (level * (1 + 0.5 * trend * t) + wobble) * (name.endsWith("Max") ? spike : 1);
  }
}

/** Six decimals: as many as a chart can tell apart, and a third of the text. */
function rounded(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}

/** The mean reward that a policy has reached at a share of its way. */
export function rewardAt(
  t: number,
  { low = 0.12, high = 0.94 }: { low?: number; high?: number } = {},
): number {
  return low + (high - low) / (1 + Math.exp(-7 * (t - 0.38)));
}
