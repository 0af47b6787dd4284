/** One request for a shard while it is under way. */
export type Flight = {
  startedAt: number;
  received: number;
  /** When the last byte came. */
  lastAt: number;
  /** Where it was some time ago, and more recently. */
  marks: [{ at: number; received: number }, { at: number; received: number }];
  abort: AbortController;
};

/** How often flights are looked at. */
export const LOOK_EVERY_MS = 250;

export function takeOff(): Flight {
  const at = performance.now();
  const mark = { at, received: 0 };
  return { startedAt: at, received: 0, lastAt: at, marks: [mark, mark], abort: new AbortController() };
}

export function advance(flight: Flight, length: number): void {
  flight.received += length;
  const now = performance.now();
  flight.lastAt = now;
  if (now - flight.marks[1].at >= 1_000)
    flight.marks = [flight.marks[1], { at: now, received: flight.received }];
}

/** Bytes a second over the last second or two. */
export function rateOf({ marks: [mark], received }: Flight): number {
  return ((received - mark.received) * 1_000) / Math.max(1, performance.now() - mark.at);
}

/**
 * {@link rateOf} the slowest of the flights from one source; undefined when it is too early to say. A flight without any byte yet may be one
 * that was asked for on a slow line: it counts only after `patienceMs`.
 */
export function slowestRate(flights: Iterable<Flight>, patienceMs: number): number | undefined {
  const now = performance.now();
  const rates = [...flights]
    .filter(({ startedAt, received }) => now - startedAt >= (received > 0 ? 1_000 : patienceMs))
    .map(rateOf);
  return rates.length === 0 ? undefined : Math.min(...rates);
}

/**
 * Seconds by which a flight is expected to end after another one of the same shard begun now elsewhere; 0 unless it needs `factor` times
 * as long and was given as long as that other one needs.
 * @param elsewhere.speeds bytes a second of the others, as far as they are known. When none is, a flight is late once nothing came for
 * `patienceMs`, or it has had that long and needs as long again.
 */
export function lateness(
  flight: Flight,
  elsewhere: { size: number; speeds: readonly number[]; factor: number; patienceMs: number },
): number {
  const now = performance.now();
  const { size, speeds, factor, patienceMs } = elsewhere;
  const rate = rateOf(flight);
  const left = rate === 0 ? Number.POSITIVE_INFINITY : Math.max(0, size - flight.received) / rate;
  const had = (now - flight.startedAt) / 1_000;
  if (speeds.length === 0) {
    const patience = patienceMs / 1_000;
    if (now - flight.lastAt >= patienceMs) return Number.POSITIVE_INFINITY;
    return had >= patience && left >= patience ? left : 0;
  }
  const needed = size / Math.max(...speeds, 1);
  if (had < Math.max(LOOK_EVERY_MS / 1_000, needed)) return 0;
  return left > factor * needed ? left - needed : 0;
}
