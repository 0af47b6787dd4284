import type { Bucket } from "../../ui/chart/chart-data.ts";

/** The coordinator's own mean over the batch's settled groups. */
export const rewardName = "meanReward";

/** Training steps of the API as buckets of a chart. */
export function bucketsOf(
  steps: readonly {
    fromStep: number;
    toStep: number;
    n: number;
    metrics: readonly { name: string; min: number; max: number; last: number }[];
  }[],
): Bucket[] {
  return steps.map(({ fromStep, toStep, n, metrics }) => ({
    from: fromStep,
    to: toStep,
    n,
    metrics: new Map(metrics.map(({ name, min, max, last }) => [name, { min, max, last }])),
  }));
}

/** The reward of each bucket that has one. */
export function rewardsOf(
  steps: readonly { toStep: number; metrics: readonly { name: string; last: number }[] }[],
): { step: number; reward: number }[] {
  return steps.flatMap(({ toStep, metrics }) => {
    const metric = metrics.find(({ name }) => name === rewardName);
    return metric ? [{ step: toStep, reward: metric.last }] : [];
  });
}
