import type { LoggedEvent } from "../../live/event-log.ts";
import type { Bin } from "../../ui/chart/histogram.tsx";

/** What an event is about in one word: `group` of `group.decided`. */
export function kindOf({ type }: Pick<LoggedEvent, "type">): string {
  const dot = type.indexOf(".");
  return dot < 0 ? type : type.slice(0, dot);
}

const lengths = [
  0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400,
];
const mostBins = 80;

/**
 * How many events fell into each part of the time, oldest first. The parts have round lengths and fixed edges, so that they stay where
 * they are while events come.
 */
export function densityOf(events: readonly Pick<LoggedEvent, "at">[]): Bin[] {
  const first = events[0];
  const last = events.at(-1);
  if (first === undefined || last === undefined) return [];
  const start = Date.parse(first.at) / 1000;
  const end = Date.parse(last.at) / 1000;
  const length =
    lengths.find((each) => (end - start) / each < mostBins - 1) ?? Math.ceil((end - start) / mostBins);
  const from = Math.floor(start / length) * length;
  const bins = Array.from({ length: Math.floor((end - from) / length) + 1 }, (_, i) => ({
    from: from + i * length,
    to: from + (i + 1) * length,
    count: 0,
  }));
  for (const { at } of events) {
    const bin = bins[Math.floor((Date.parse(at) / 1000 - from) / length)];
    if (bin) bin.count++;
  }
  return bins;
}

/** `step 12, version 12`: the plain values of an event's data on one line. */
export function eventInWords(data: unknown): string {
  if (typeof data !== "object" || data === null) return "";
  return Object.entries(data)
    .filter(([, value]) => value !== null && typeof value !== "object")
    .map(
      ([name, value]) =>
        `${name} ${typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : String(value)}`,
    )
    .join(", ");
}
