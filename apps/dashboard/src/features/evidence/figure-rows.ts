import type { CheckResult, Figures } from "@muster/verification";

/** One number of a check, wherever it stands: on record, found here, expected, allowed. */
export type FigureRow = {
  readonly name: string;
  readonly recorded: string;
  readonly found: string;
  readonly expected: string;
  readonly threshold: string;
};

/** A check's numbers side by side, in the order in which they are reported; what has no value is empty. */
export function figureRows(recorded: CheckResult | undefined, found: CheckResult | undefined): FigureRow[] {
  const sources = [recorded, found].filter((check) => check !== undefined);
  const names = new Set(
    sources.flatMap((check) => [check.observed, check.expected, check.threshold].flatMap(Object.keys)),
  );
  const first = (part: "expected" | "threshold", name: string) =>
    spoken(sources.find((check) => Object.hasOwn(check[part], name))?.[part], name);
  return [...names].map((name) => ({
    name: inWords(name),
    recorded: spoken(recorded?.observed, name),
    found: spoken(found?.observed, name),
    expected: first("expected", name),
    threshold: first("threshold", name),
  }));
}

/** `meanUlp` → `mean ulp` */
export function inWords(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

function spoken(figures: Figures | undefined, name: string): string {
  const value = figures !== undefined && Object.hasOwn(figures, name) ? figures[name] : undefined;
  if (value === undefined) return "";
  if (typeof value === "string") return value === "Infinity" ? "without bound" : value;
  return String(Number(value.toPrecision(5)));
}
