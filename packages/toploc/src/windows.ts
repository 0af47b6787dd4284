/** Rows (output positions) in a full window. */
export const WINDOW_ROWS = 32;

/** One window's rows: `start` (inclusive) … `end` (exclusive). */
export type WindowRange = { start: number; end: number };

/** How many windows, and so proofs, `rows` output positions have. */
export function windowCount(rows: number): number {
  return Math.ceil(rows / WINDOW_ROWS);
}

/** The windows of `rows` output positions: 32 consecutive rows each, the last may be shorter. */
export function windowsOf(rows: number): WindowRange[] {
  const windows: WindowRange[] = [];
  for (let start = 0; start < rows; start += WINDOW_ROWS) {
    windows.push({ start, end: Math.min(rows, start + WINDOW_ROWS) });
  }
  return windows;
}

/** Points in the proof of a window: min(`topK`, rows × hidden). */
export function pointCount(rows: number, hidden: number, topK: number): number {
  return Math.min(topK, rows * hidden);
}
