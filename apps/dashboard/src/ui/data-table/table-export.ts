import type { DataColumn } from "./columns.ts";

/** Rows as RFC 4180 CSV. A cell that a spreadsheet would run as a formula gets an apostrophe before it: the text may be a stranger's. */
export function toCsv<Row>(columns: readonly DataColumn<Row>[], rows: readonly Row[]): string {
  const lines = [
    columns.map(({ id }) => id),
    ...rows.map((row) => columns.map((column) => textOf(column, row))),
  ];
  return `${lines.map((line) => line.map(quoted).join(",")).join("\r\n")}\r\n`;
}

/** Rows as JSON objects, one to a line. */
export function toNdjson<Row>(columns: readonly DataColumn<Row>[], rows: readonly Row[]): string {
  return rows
    .map((row) => `${JSON.stringify(Object.fromEntries(columns.map((c) => [c.id, textOf(c, row)])))}\n`)
    .join("");
}

/** Hands text to the browser as a file to keep. */
export function download(name: string, type: string, text: string | Blob): void {
  const url = URL.createObjectURL(text instanceof Blob ? text : new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A cell as text: its own, or what it is ordered by. */
export function textOf<Row>(column: DataColumn<Row>, row: Row): string {
  if (column.text) return column.text(row);
  const value = column.sort?.(row);
  return value === null || value === undefined ? "" : String(value);
}

function quoted(value: string): string {
  const safe = /^[=+@\t\r]|^-(?![\d.]+$)/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
