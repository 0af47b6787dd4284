/**
 * Exponential moving average whose weight follows the distance on the x axis, so that a hole in the data is not smoothed over: at the
 * median distance between points the old value keeps `weight` of itself. Without bias at the beginning (the first value is itself).
 * @param weight 0 leaves the values as they are; below 1.
 */
export function smooth(
  x: readonly number[],
  values: readonly (number | null)[],
  weight: number,
): (number | null)[] {
  if (weight <= 0) return [...values];
  const usual = medianDistance(x);
  let sum = 0;
  let mass = 0;
  let last: number | undefined;
  return values.map((value, i) => {
    if (value === null) return null;
    const at = x[i] ?? 0;
    const kept = last === undefined ? 0 : weight ** Math.max(0, (at - last) / usual);
    sum = sum * kept + value * (1 - weight);
    mass = mass * kept + (1 - weight);
    last = at;
    return sum / mass;
  });
}

function medianDistance(x: readonly number[]): number {
  const distances: number[] = [];
  // a few hundred tell the median well enough
  const stride = Math.max(1, Math.floor(x.length / 400));
  for (let i = stride; i < x.length; i += stride) {
    const distance = ((x[i] ?? 0) - (x[i - stride] ?? 0)) / stride;
    if (distance > 0) distances.push(distance);
  }
  distances.sort((a, b) => a - b);
  return distances[distances.length >> 1] ?? 1;
}
