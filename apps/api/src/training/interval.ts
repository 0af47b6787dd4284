/** A mean with its 95 % interval. */
export type Interval = { readonly mean: number; readonly low: number; readonly high: number };

const resamples = 1000;

/**
 * Mean of one value a prompt and its 95 % interval by the percentile bootstrap over prompts (Efron, 1979; 1,000 resamples). The draws
 * follow from the number of values alone, so the same values always get the same interval.
 */
export function bootstrap(values: readonly number[]): Interval {
  const n = values.length;
  if (n === 0) return { mean: 0, low: 0, high: 0 };
  const sample = Float64Array.from(values);
  const random = mulberry32(n);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += sample[Math.floor(random() * n)] ?? 0;
    means[r] = sum / n;
  }
  means.sort();
  return {
    mean: values.reduce((sum, value) => sum + value, 0) / n,
    low: means[Math.floor(resamples * 0.025)] ?? 0,
    high: means[Math.ceil(resamples * 0.975) - 1] ?? 0,
  };
}

/** Mean difference on the same prompts, with its interval. Both lists are in the suite's order; the shorter one decides how many. */
export function pairedGain(rewards: readonly number[], base: readonly number[]): Interval {
  const n = Math.min(rewards.length, base.length);
  return bootstrap(Array.from({ length: n }, (_, i) => (rewards[i] ?? 0) - (base[i] ?? 0)));
}

/** Tommy Ettinger's mulberry32: uniform in [0, 1), good enough to resample with. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
