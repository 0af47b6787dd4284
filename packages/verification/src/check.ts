import type { Evidence } from "./evidence.ts";

/** The checks there are. `duplicates` judges nothing by itself: it decides that a group is audited. */
export type CheckId =
  | "form"
  | "activations"
  | "decoys"
  | "sampling"
  | "log-probabilities"
  | "reward"
  | "duplicates";

/** INCONCLUSIVE: the check could not run; nobody is blamed for it. */
export type CheckVerdict = "PASS" | "FAIL" | "INCONCLUSIVE";

/** Named numbers, safe to store as JSON: what has no finite value is its name as text ("Infinity"). */
export type Figures = Record<string, number | string>;

/** One check's outcome with every number that led to it. */
export type CheckResult = {
  id: CheckId;
  verdict: CheckVerdict;
  /** What was found; where there are many windows or tokens, the worst of them and where it is. */
  observed: Figures;
  /** What an ideal machine would give. */
  expected: Figures;
  /** What is still accepted. */
  threshold: Figures;
  /** Detail for whoever looks into it; empty when there is nothing to add. */
  note: string;
  /** The outcome in one sentence for anyone. */
  plain: string;
};

/** What a check is, for people. */
export type CheckDescription = {
  id: CheckId;
  title: string;
  /** What it does, in plain words. */
  plain: string;
  /** What gets past it. */
  cannotCatch: string;
};

/** A check over one group's evidence. `run` never throws for what a stranger sent. */
export type Check = CheckDescription & { run(evidence: Evidence): CheckResult };

/** A result that says the check could not run, and why. */
export function inconclusive(id: CheckId, note: string): CheckResult {
  return {
    id,
    verdict: "INCONCLUSIVE",
    observed: {},
    expected: {},
    threshold: {},
    note,
    plain: `This could not be checked: ${note}`,
  };
}

/** A number as a figure. */
export function figure(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

/** A number for a sentence: four significant digits. */
export function spoken(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "without bound";
}
