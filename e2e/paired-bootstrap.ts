/** A mean with a 95 % interval. */
export type Interval = { mean: number; low: number; high: number };

/**
 * The mean difference of paired numbers and its 95 % interval: the percentile bootstrap over the pairs, so that what two
 * policies find equally hard on the same example does not widen it.
 * @param resamples how often the pairs are drawn anew; 4,000 puts the bounds' own noise near a hundredth of the width.
 */
export function pairedDifference(
  after: readonly number[],
  before: readonly number[],
  resamples = 4_000,
): Interval {
  if (after.length !== before.length || after.length === 0)
    throw new RangeError(`${after.length} and ${before.length} numbers cannot be paired.`);
  const differences = after.map((value, i) => value - (before[i] ?? 0));
  const random = generator(0x6d757374);
  const means = Array.from({ length: resamples }, () => {
    let sum = 0;
    for (let i = 0; i < differences.length; i++)
      sum += differences[Math.floor(random() * differences.length)] ?? 0;
    return sum / differences.length;
  }).sort((a, b) => a - b);
  return {
    mean: differences.reduce((sum, value) => sum + value, 0) / differences.length,
    low: means[Math.floor(0.025 * resamples)] ?? Number.NaN,
    high: means[Math.ceil(0.975 * resamples) - 1] ?? Number.NaN,
  };
}

/** mulberry32: small, and the same numbers on every machine, so that a check says the same twice. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
