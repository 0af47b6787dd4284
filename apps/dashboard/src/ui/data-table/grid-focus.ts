/** The cell that has the focus of a grid; row −1 is the head. */
export type GridPosition = { readonly row: number; readonly column: number };

/**
 * Where the focus of a grid goes on a key; undefined for keys that do not move it.
 * @param size `page` is the number of rows in view.
 */
export function gridAfterKey(
  key: string,
  at: GridPosition,
  size: { rows: number; columns: number; page: number },
  modifiers: { ctrl: boolean } = { ctrl: false },
): GridPosition | undefined {
  const lastRow = size.rows - 1;
  const lastColumn = size.columns - 1;
  const to = (row: number, column = at.column): GridPosition => ({
    row: Math.min(lastRow, Math.max(-1, row)),
    column: Math.min(lastColumn, Math.max(0, column)),
  });
  // whoever pages or reads on by letters stays among the rows
  const among = (row: number): GridPosition => to(Math.max(0, row));
  switch (key) {
    case "ArrowDown":
      return to(at.row + 1);
    case "ArrowUp":
      return to(at.row - 1);
    case "j":
      return among(at.row + 1);
    case "k":
      return among(at.row - 1);
    case "ArrowLeft":
      return to(at.row, at.column - 1);
    case "ArrowRight":
      return to(at.row, at.column + 1);
    case "PageDown":
      return among(at.row + Math.max(1, size.page - 1));
    case "PageUp":
      return among(at.row - Math.max(1, size.page - 1));
    case "Home":
      return modifiers.ctrl ? { row: 0, column: 0 } : to(at.row, 0);
    case "End":
      return modifiers.ctrl ? to(lastRow, lastColumn) : to(at.row, lastColumn);
    default:
      return undefined;
  }
}

/** The selection with `ids` added, or taken out when all of them are in it; never more than `max`. */
export function selectIds(
  selected: ReadonlySet<string>,
  ids: readonly string[],
  max: number,
): ReadonlySet<string> {
  const next = new Set(selected);
  if (ids.every((id) => next.has(id))) {
    for (const id of ids) next.delete(id);
    return next;
  }
  for (const id of ids) if (next.size < max) next.add(id);
  return next;
}
