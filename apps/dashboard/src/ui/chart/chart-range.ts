import type { XRange } from "../view-state.ts";

/** Two ends of an x axis. */
export type Ends = readonly [number, number];

/** What is drawn of the axis: all of it when undefined. A window of the last part moves on with the data. */
export function endsOf(range: XRange | null, extent: Ends | undefined): Ends | undefined {
  if (range === null) return undefined;
  if (range.kind === "fixed") return [range.from, range.to];
  return extent === undefined ? undefined : [extent[1] - range.span, extent[1]];
}

/** Moved by a distance; never past both ends of what there is. */
export function panned(ends: Ends, by: number, extent: Ends): Ends {
  const [from, to] = ends;
  const most = extent[1] - from - (to - from) * 0.1;
  const least = extent[0] - to + (to - from) * 0.1;
  const moved = Math.min(Math.max(by, least), most);
  return [from + moved, to + moved];
}

/** Made narrower (factor below 1) or wider around a point that stays where it is; undefined when all of it is in sight again. */
export function zoomedAt(ends: Ends, at: number, factor: number, extent: Ends): Ends | undefined {
  const from = Math.max(extent[0], at - (at - ends[0]) * factor);
  const to = Math.min(extent[1], at + (ends[1] - at) * factor);
  return from <= extent[0] && to >= extent[1] ? undefined : from < to ? [from, to] : ends;
}

/** How many points came after `held`. */
export function newerThan(x: readonly number[], held: number | undefined): number {
  if (held === undefined) return 0;
  let count = 0;
  for (let i = x.length - 1; i >= 0 && (x[i] ?? 0) > held; i--) count++;
  return count;
}

/**
 * Limits of y that do not tremble: as long as the data fits and fills more than three fifths, they stay.
 * @param kept the limits of the last drawing.
 */
export function steadyLimits(wanted: Ends, kept: Ends | undefined): Ends {
  if (kept === undefined) return wanted;
  const fits = wanted[0] >= kept[0] && wanted[1] <= kept[1];
  return fits && wanted[1] - wanted[0] > 0.6 * (kept[1] - kept[0]) ? kept : wanted;
}
