/** A shown column; without a width it has its own. */
export type ShownColumn = { readonly id: string; readonly width?: number };

const least = 48;
const most = 900;

/** `state,name~240,reward`: the shown columns in order, a tilde before a chosen width. */
export function printColumns(columns: readonly ShownColumn[]): string {
  return columns.map(({ id, width }) => (width === undefined ? id : `${id}~${width}`)).join(",");
}

/** @returns null for text that names no column. */
export function parseColumns(text: string): ShownColumn[] | null {
  const seen = new Set<string>();
  const columns = text.split(",").flatMap((part): ShownColumn[] => {
    const [id = "", width] = part.split("~");
    if (!/^[\w.]+$/.test(id) || seen.has(id)) return [];
    seen.add(id);
    const size = width === undefined ? Number.NaN : Number(width);
    return [Number.isFinite(size) ? { id, width: clampWidth(size) } : { id }];
  });
  return columns.length === 0 ? null : columns;
}

export function clampWidth(width: number): number {
  return Math.round(Math.min(most, Math.max(least, width)));
}

/**
 * The columns to show: those of the address that exist, or those that are not hidden by themselves. The first column identifies the row:
 * it always stands first.
 */
export function shownColumns(
  all: readonly { readonly id: string; readonly hidden?: boolean }[],
  chosen: readonly ShownColumn[] | null,
): ShownColumn[] {
  const first = all[0];
  if (first === undefined) return [];
  const known = new Set(all.map(({ id }) => id));
  const wanted = chosen?.filter(({ id }) => known.has(id)) ?? [];
  if (wanted.length === 0) return all.filter(({ hidden }) => !hidden).map(({ id }) => ({ id }));
  const own = wanted.find(({ id }) => id === first.id) ?? { id: first.id };
  return [own, ...wanted.filter(({ id }) => id !== first.id)];
}

/** The list with a column shown or hidden; what is shown anew stands last. */
export function toggleColumn(shown: readonly ShownColumn[], id: string): ShownColumn[] {
  return shown.some((column) => column.id === id)
    ? shown.filter((column) => column.id !== id)
    : [...shown, { id }];
}

/** The list with a column moved by `by` places; the first place is taken for good. */
export function moveColumn(shown: readonly ShownColumn[], id: string, by: number): ShownColumn[] {
  const from = shown.findIndex((column) => column.id === id);
  const column = shown[from];
  const to = from + by;
  if (column === undefined || from < 1 || to < 1 || to >= shown.length) return [...shown];
  return shown.toSpliced(from, 1).toSpliced(to, 0, column);
}

/** The list with a column's width set. */
export function resizeColumn(shown: readonly ShownColumn[], id: string, width: number): ShownColumn[] {
  return shown.map((column) => (column.id === id ? { id, width: clampWidth(width) } : column));
}
