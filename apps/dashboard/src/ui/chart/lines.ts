import type { Column } from "./chart-data.ts";

/** A line of a chart. */
export type Line = Column & {
  readonly label: string;
  /** Its colour, 0 to 5; its place in the list without. Things that appear in many charts keep theirs: see `slotOf`. */
  readonly slot?: number;
};

/** A mark on the rail under a chart: something that happened there. */
export type ChartEvent = { readonly x: number; readonly label: string };

/** A colour that follows from an id, so that a run keeps it in every chart. */
export function slotOf(id: string): number {
  let hash = 0;
  for (let i = 0; i < id.length; i++) hash = (hash * 31 + id.charCodeAt(i)) >>> 0;
  return hash % 6;
}

/** Different colours for a few ids, each its own where it is free. */
export function slotsOf(ids: readonly string[]): ReadonlyMap<string, number> {
  const slots = new Map<string, number>();
  const taken = new Set<number>();
  for (const id of ids) {
    let slot = slotOf(id);
    for (let tries = 0; tries < 6 && taken.has(slot); tries++) slot = (slot + 1) % 6;
    taken.add(slot);
    if (taken.size === 6) taken.clear();
    slots.set(id, slot);
  }
  return slots;
}

/** Lines with x axes of their own on one common axis; where a line has no point it has null. */
export function joinLines(parts: readonly { readonly x: readonly number[]; readonly line: Line }[]): {
  x: number[];
  lines: Line[];
} {
  const x = [...new Set(parts.flatMap((part) => part.x))].sort((a, b) => a - b);
  const lines = parts.map(({ x: own, line }) => {
    const places = new Map(own.map((value, i) => [value, i]));
    const spread = (values: readonly (number | null)[] | undefined) =>
      x.map((value) => values?.[places.get(value) ?? -1] ?? null);
    const { low, high } = line;
    return {
      ...line,
      values: spread(line.values),
      ...(low && high ? { low: spread(low), high: spread(high) } : {}),
    };
  });
  return { x, lines };
}

/** Each line on top of those before it: their tops, which are drawn as areas. */
export function stacked(lines: readonly Line[]): Line[] {
  const sums: number[] = [];
  return lines.map((line) => ({
    ...line,
    values: line.values.map((value, i) => {
      sums[i] = (sums[i] ?? 0) + (value ?? 0);
      return sums[i] ?? 0;
    }),
  }));
}
