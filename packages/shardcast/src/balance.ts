// How well each source serves this client, and whom it asks next. What one client sees changes nobody else's weights.

/** What is known of a source; `bandwidth` (bytes a second of one connection) only once a shard of its has arrived. */
export type Standing = { bandwidth: number | undefined; success: number };
/** By source id. */
export type Standings = Map<string, Standing>;

/** A source that could be asked now. */
export type Candidate = {
  id: string;
  /** Connections to it that are open already. */
  open: number;
  /** Bytes a second that the slowest of those brings, once that can be told. */
  arriving?: number | undefined;
};

const ALPHA = 0.3;
const HEAL = 0.01;
const ABOUT_AS_GOOD = 2 / 3;
// Below this the time is that of a round trip, not of the bytes.
const LEAST_SAMPLE_BYTES = 64 * 1024;

/**
 * Counts a shard that arrived whole and right. Both terms are exponential moving averages with α = 0.3, `x ← 0.3 · sample + 0.7 · x`: bandwidth
 * with the shard's bytes / seconds, success with 1. Every update of any source then adds 0.01 to everyone's success, at most 1, so that
 * one that failed is tried again in time. From SHARDCAST of INTELLECT-2 (arXiv 2505.07291); unlike there, a failure is no sample of
 * bandwidth: how long a source was waited for says nothing about how fast it is.
 * @param shard.bytes below 64 KiB only success is counted.
 */
export function countShard(
  standings: Standings,
  id: string,
  { bytes, seconds }: { bytes: number; seconds: number },
): void {
  const { bandwidth, success } = standingOf(standings, id);
  const sample = bytes < LEAST_SAMPLE_BYTES ? undefined : bytes / Math.max(seconds, 1e-3);
  standings.set(id, {
    bandwidth: sample === undefined ? bandwidth : bandwidth === undefined ? sample : mix(bandwidth, sample),
    success: mix(success, 1),
  });
  heal(standings);
}

/** Counts a failure of any kind: 0 into the average of success, nothing into that of bandwidth. See {@link countShard}. */
export function countFailure(standings: Standings, id: string): void {
  const { bandwidth, success } = standingOf(standings, id);
  standings.set(id, { bandwidth, success: mix(success, 0) });
  heal(standings);
}

/**
 * Weight of each candidate: bandwidth × success. A source that is not known counts as fast as the known ones on average, so that it is
 * tried, but with one connection at a time: it might never let go of them. One whose open connection brings less than a quarter of what
 * it used to counts as fast as that. While one about as good is idle, a source counts divided by 1 + its open connections: the clients of
 * one place spread over equal relays instead of queueing at whichever they drew.
 */
export function weightsOf(standings: Standings, candidates: readonly Candidate[]): number[] {
  const speeds = candidates.map((candidate) => speedOf(standings, candidate));
  const known = speeds.filter((speed) => speed !== undefined);
  const mean = known.length === 0 ? 1 : known.reduce((sum, speed) => sum + speed, 0) / known.length;
  const weights = candidates.map(({ id, open }, i) => {
    const speed = speeds[i] ?? (open === 0 ? mean : 0);
    return speed * standingOf(standings, id).success;
  });
  const idle = Math.max(0, ...weights.filter((_, i) => candidates[i]?.open === 0));
  if (weights.some((weight) => weight > 0))
    return weights.map((weight, i) =>
      idle >= weight * ABOUT_AS_GOOD ? weight / (1 + (candidates[i]?.open ?? 0)) : weight,
    );
  // all of them are being tried, or bring nothing: the ones with the fewest connections
  const fewest = Math.min(...candidates.map(({ open }) => open));
  return candidates.map(({ id, open }) => (open === fewest ? standingOf(standings, id).success : 0));
}

/** Bytes a second of those candidates of which they are known, as {@link weightsOf} counts them. */
export function speedsOf(standings: Standings, candidates: readonly Candidate[]): number[] {
  return candidates.map((candidate) => speedOf(standings, candidate)).filter((speed) => speed !== undefined);
}

function speedOf(standings: Standings, { id, arriving }: Candidate): number | undefined {
  const { bandwidth } = standingOf(standings, id);
  if (arriving === undefined) return bandwidth;
  return bandwidth === undefined || arriving < bandwidth / 4 ? arriving : bandwidth;
}

/**
 * Draws an index in proportion to the weights.
 * @param draw uniform in [0, 1).
 * @returns undefined for no weights; any index when all of them are 0.
 */
export function drawIndex(weights: readonly number[], draw: number): number | undefined {
  if (weights.length === 0) return undefined;
  const sum = weights.reduce((total, weight) => total + weight, 0);
  if (sum <= 0) return Math.floor(draw * weights.length);
  let left = draw * sum;
  for (const [i, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return i;
  }
  // rounding: the last that has any weight
  return weights.findLastIndex((weight) => weight > 0);
}

function standingOf(standings: Standings, id: string): Standing {
  return standings.get(id) ?? { bandwidth: undefined, success: 1 };
}

function mix(average: number, sample: number): number {
  return ALPHA * sample + (1 - ALPHA) * average;
}

function heal(standings: Standings): void {
  for (const [id, { bandwidth, success }] of standings)
    standings.set(id, { bandwidth, success: Math.min(1, success + HEAL) });
}
