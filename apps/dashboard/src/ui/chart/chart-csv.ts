import type { Line } from "./lines.ts";

/** The points of a chart as CSV; a bucket's range stands in columns of its own. */
export function chartCsv(axis: string, x: readonly number[], lines: readonly Line[]): string {
  const columns = lines.flatMap(({ label, values, low, high }) => [
    { name: label, values },
    ...(low && high
      ? [
          { name: `${label} least`, values: low },
          { name: `${label} most`, values: high },
        ]
      : []),
  ]);
  const quoted = (text: string) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const head = [axis, ...columns.map(({ name }) => name)].map(quoted).join(",");
  const rows = x.map((value, i) => [value, ...columns.map(({ values }) => values[i] ?? "")].join(","));
  return `${[head, ...rows].join("\r\n")}\r\n`;
}
