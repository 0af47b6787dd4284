import type { Figures } from "@muster/verification";

/** One named number of a check, in every column that has it; elsewhere empty. */
export type FigureRow = { readonly name: string; readonly values: readonly string[] };

/** Numbers side by side, a row a name. What the last columns name, thresholds, comes first: it is what decides. */
export function figureRows(columns: readonly (Figures | undefined)[]): FigureRow[] {
  const names = new Set(columns.toReversed().flatMap((figures) => Object.keys(figures ?? {})));
  return [...names].map((name) => ({
    name: name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`),
    values: columns.map((figures) => spoken(figures, name)),
  }));
}

/** What the coordinator says of a check's numbers (`meanUlp 1.3, outliers 0`), as numbers. */
export function parseFigures(text: string): Figures {
  const pairs = text.split(", ").map((pair) => {
    const cut = pair.lastIndexOf(" ");
    const value = pair.slice(cut + 1);
    return [pair.slice(0, cut), Number.isFinite(Number(value)) ? Number(value) : value] as const;
  });
  return Object.fromEntries(pairs.filter(([name]) => name !== ""));
}

function spoken(figures: Figures | undefined, name: string): string {
  const value = figures !== undefined && Object.hasOwn(figures, name) ? figures[name] : undefined;
  if (value === undefined) return "";
  if (typeof value === "string") return value === "Infinity" ? "without bound" : value;
  return String(Number(value.toPrecision(6)));
}
