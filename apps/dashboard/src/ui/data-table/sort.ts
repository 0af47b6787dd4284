/** A sorted column; the first in a list decides, the next ones break ties. */
export type SortKey = { readonly id: string; readonly down: boolean };

/** What rows can be ordered by. */
export type SortValue = string | number | bigint | boolean | null | undefined;

/** `-reward,name`: a minus is descending. */
export function printSort(keys: readonly SortKey[]): string {
  return keys.map(({ id, down }) => (down ? `-${id}` : id)).join(",");
}

/** @returns null for text that names no column. */
export function parseSort(text: string): SortKey[] | null {
  const keys = text
    .split(",")
    .map((part) => (part.startsWith("-") ? { id: part.slice(1), down: true } : { id: part, down: false }))
    .filter(({ id }) => /^[\w.]+$/.test(id));
  return keys.length === 0 ? null : keys;
}

/**
 * What a click on a head makes of the order: down, up, not sorted, as numbers are read from the top. With `add` the other keys stay.
 * @param first the direction a first click gives.
 */
export function nextSort(
  keys: readonly SortKey[],
  id: string,
  options: { add: boolean; first: "up" | "down" },
): SortKey[] {
  const { add, first } = options;
  const at = keys.findIndex((key) => key.id === id);
  const firstDown = first === "down";
  const old = keys[at];
  const others = add ? keys.filter((key) => key.id !== id) : [];
  if (old === undefined) return [...others, { id, down: firstDown }];
  if (old.down !== firstDown) return others;
  const turned = { id, down: !firstDown };
  return add ? keys.map((key) => (key.id === id ? turned : key)) : [turned];
}

/** Orders two values; what is absent comes last whichever way the column runs. */
export function compareValues(a: SortValue, b: SortValue, down: boolean): number {
  const noA = a === null || a === undefined || Number.isNaN(a);
  const noB = b === null || b === undefined || Number.isNaN(b);
  if (noA || noB) return noA === noB ? 0 : noA ? 1 : -1;
  const order =
    typeof a === "string" && typeof b === "string" ? words.compare(a, b) : a < b ? -1 : a > b ? 1 : 0;
  return down ? -order : order;
}

const words = new Intl.Collator("en", { numeric: true });

/**
 * Row numbers in the wanted order; equal rows keep theirs. Every value is read once, so a million rows are a second and not a minute.
 * @param valuesOf reads a column's value of a row; undefined for columns that cannot be sorted.
 */
export function sortedIndices<Row>(
  rows: readonly Row[],
  keys: readonly SortKey[],
  valuesOf: (id: string) => ((row: Row) => SortValue) | undefined,
): number[] {
  const indices = Array.from({ length: rows.length }, (_, i) => i);
  const readers = keys.flatMap(({ id, down }) => {
    const read = valuesOf(id);
    return read ? [{ values: rows.map(read), down }] : [];
  });
  if (readers.length === 0) return indices;
  return indices.sort((a, b) => {
    for (const { values, down } of readers) {
      const order = compareValues(values[a], values[b], down);
      if (order !== 0) return order;
    }
    return a - b;
  });
}
