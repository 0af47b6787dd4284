// Data of charts: columns over one x axis. `NaN` is never drawn; a hole is `null`.

/** One line of a chart; `low` and `high` are its spread inside each bucket, when buckets hold more than one point. */
export type Column = {
  readonly values: readonly (number | null)[];
  readonly low?: readonly (number | null)[];
  readonly high?: readonly (number | null)[];
};

/** A bucket of a metric series, `x` being its last step. */
export type Bucket = {
  readonly from: number;
  readonly to: number;
  readonly n: number;
  readonly metrics: ReadonlyMap<
    string,
    { readonly min: number; readonly max: number; readonly last: number }
  >;
};

/** A single step that arrived live. */
export type Point = { readonly step: number; readonly metrics: ReadonlyMap<string, number> };

/**
 * Buckets of the server with the points that arrived after them, sorted by step, each step once. A live point inside an older bucket is
 * already counted there; one with the step of a single-step bucket replaces nothing, because both are the same absolute values.
 */
export function joinLive(buckets: readonly Bucket[], points: readonly Point[]): Bucket[] {
  const joined = buckets.toSorted((a, b) => a.to - b.to);
  const covered = joined.at(-1)?.to ?? Number.NEGATIVE_INFINITY;
  const fresh = new Map<number, Point>();
  for (const point of points) if (point.step > covered) fresh.set(point.step, point);
  for (const point of [...fresh.values()].sort((a, b) => a.step - b.step)) {
    const metrics = new Map(
      [...point.metrics].map(([name, value]) => [name, { min: value, max: value, last: value }]),
    );
    joined.push({ from: point.step, to: point.step, n: 1, metrics });
  }
  return joined;
}

/** The x axis of the buckets: their last step. */
export function axisOf(buckets: readonly Bucket[]): number[] {
  return buckets.map((bucket) => bucket.to);
}

/** The column of the first of `names` that any bucket has; undefined when none has it. */
export function columnOf(buckets: readonly Bucket[], names: readonly string[]): Column | undefined {
  const name = names.find((candidate) => buckets.some((bucket) => bucket.metrics.has(candidate)));
  if (name === undefined) return undefined;
  const pick = (key: "min" | "max" | "last") =>
    buckets.map((bucket) => drawable(bucket.metrics.get(name)?.[key]));
  const values = pick("last");
  return buckets.some((bucket) => bucket.n > 1)
    ? { values, low: pick("min"), high: pick("max") }
    : { values };
}

/** At most `most` evenly chosen row numbers of `length`, the last one always among them: what "view as table" lists. */
export function tableRows(length: number, most = 500): number[] {
  if (length <= most) return Array.from({ length }, (_, i) => i);
  return Array.from({ length: most }, (_, i) => Math.round((i * (length - 1)) / (most - 1)));
}

/** Index of the x nearest to `target`; −1 without points. `x` ascends. */
export function nearest(x: readonly number[], target: number): number {
  let low = 0;
  let high = x.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((x[middle] ?? 0) < target) low = middle;
    else high = middle;
  }
  return Math.abs((x[low] ?? 0) - target) <= Math.abs((x[high] ?? 0) - target) ? low : high;
}

/** Where the cursor goes on a key: by one point, by a tenth, or to an end. Undefined for keys that do not move it. */
export function cursorAfterKey(key: string, index: number | null, length: number): number | undefined {
  if (length === 0) return undefined;
  const last = length - 1;
  const at = index ?? last;
  const page = Math.max(1, Math.round(length / 10));
  const clamp = (i: number) => Math.min(last, Math.max(0, i));
  switch (key) {
    case "ArrowLeft":
      return clamp(at - 1);
    case "ArrowRight":
      return clamp(index === null ? last : at + 1);
    case "PageUp":
      return clamp(at - page);
    case "PageDown":
      return clamp(at + page);
    case "Home":
      return 0;
    case "End":
      return last;
    default:
      return undefined;
  }
}

function drawable(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}
