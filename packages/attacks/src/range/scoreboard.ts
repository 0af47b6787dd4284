import type { Score } from "./score.ts";

export type Honest = { windows: number; falseRejections: number; upper95: number };

const columns = [
  "attack",
  "outcome",
  "noticed at",
  "quarantined at",
  "caught by",
  "poison",
  "credits kept",
  "value",
];

/** The scoreboard as lines of text. */
export function board(scores: readonly Score[]): string[] {
  const rows = [columns, ...scores.map(cells)];
  const widths = columns.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

export function cells(score: Score): string[] {
  const { attack, outcome, untilDetection, untilQuarantine, caughtBy, poison, kept, expectedValue } = score;
  const number = (value: number | null) => (value === null ? "–" : String(value));
  return [
    attack.id,
    outcome,
    number(untilDetection),
    number(untilQuarantine),
    caughtBy.slice(0, 3).join(", ") || "–",
    String(poison),
    String(kept),
    String(expectedValue),
  ];
}

/** What `--json` ends with. */
export function summary(scores: readonly Score[], honest: Honest): object {
  return {
    attacks: scores.map(({ attack, outcome, untilQuarantine, expectedValue, poison }) => ({
      id: attack.id,
      kind: attack.kind,
      detected: outcome !== "missed",
      groupsUntilQuarantine: untilQuarantine,
      expectedValue,
      poisonAccepted: poison,
    })),
    honest,
  };
}
