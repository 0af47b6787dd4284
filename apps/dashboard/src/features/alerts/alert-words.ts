import type { ResultOf } from "../../graphql/graphql.ts";
import { formatDuration, formatMetric, formatShare } from "../../ui/format.ts";
import type { Tone } from "../../ui/state-badge.tsx";
import type { AlertRuleFragment } from "./rules-table.tsx";

type Rule = ResultOf<typeof AlertRuleFragment>;
export type AlertKind = Rule["kind"];
export type Severity = Rule["severity"];

type KindWords = {
  /** In a list of kinds. */
  readonly label: string;
  /** What it watches, in a sentence. */
  readonly help: string;
  /** Absent: the window is all there is. */
  readonly threshold?: {
    readonly label: string;
    readonly unit: "share" | "seconds" | "number" | "count";
    readonly usual: number | undefined;
    readonly optional?: boolean;
  };
  readonly window: { readonly label: string; readonly usual: number };
  readonly severity: Severity;
};

/** What a rule can watch, in the order of the form, with the usual numbers. */
export const kindWords: Readonly<Record<AlertKind, KindWords>> = {
  RUN_STALLED: {
    label: "Run stalled",
    help: "No training step was done.",
    window: { label: "For", usual: 1_800 },
    severity: "CRITICAL",
  },
  NO_ACCEPTED: {
    label: "Nothing accepted",
    help: "No group was accepted.",
    window: { label: "For", usual: 900 },
    severity: "CRITICAL",
  },
  REJECT_RATE: {
    label: "Reject rate",
    help: "More groups are rejected than the run’s own past explains: p̄ + 3 √(p̄ (1 − p̄) / n) of the twenty windows before.",
    threshold: { label: "But not below", unit: "share", usual: undefined, optional: true },
    window: { label: "Over", usual: 900 },
    severity: "WARNING",
  },
  KL_ABOVE: {
    label: "KL too high",
    help: "Mean KL of the training steps.",
    threshold: { label: "Above", unit: "number", usual: 0.2 },
    window: { label: "Over", usual: 600 },
    severity: "WARNING",
  },
  ENTROPY_BELOW: {
    label: "Entropy too low",
    help: "Mean entropy of the training steps.",
    threshold: { label: "Below", unit: "number", usual: 0.1 },
    window: { label: "Over", usual: 600 },
    severity: "WARNING",
  },
  BROADCAST_P95: {
    label: "Broadcast slow",
    help: "Time until 95 % of the nodes that have a checkpoint had it; the slowest checkpoint counts.",
    threshold: { label: "Above", unit: "seconds", usual: 120 },
    window: { label: "Over", usual: 3_600 },
    severity: "WARNING",
  },
  WORKER_OFFLINE: {
    label: "Workers offline",
    help: "Nodes that were here today and are not any more.",
    threshold: { label: "At least", unit: "count", usual: 1 },
    window: { label: "Not seen for", usual: 600 },
    severity: "INFO",
  },
  VERIFY_QUEUE_AGE: {
    label: "Validators behind",
    help: "How long the oldest group waits for a validator.",
    threshold: { label: "Above", unit: "seconds", usual: 600 },
    window: { label: "Looked at over", usual: 60 },
    severity: "WARNING",
  },
  BUDGET_SPENT: {
    label: "Budget",
    help: "Share of the run’s credits that is spent or held.",
    threshold: { label: "At least", unit: "share", usual: 0.8 },
    window: { label: "Looked at over", usual: 60 },
    severity: "WARNING",
  },
};

/** The kinds whose window changes nothing: they look at now. */
export const windowless: ReadonlySet<AlertKind> = new Set(["VERIFY_QUEUE_AGE", "BUDGET_SPENT"]);

/** A rule's condition in words: `KL above 0.2 over 10 min`. */
export function conditionInWords({
  kind,
  threshold,
  windowSeconds,
}: Pick<Rule, "kind" | "threshold" | "windowSeconds">): string {
  // whole hours without their minutes
  const window = windowSeconds % 3_600 === 0 ? `${windowSeconds / 3_600} h` : formatDuration(windowSeconds);
  const value = threshold === null ? "" : valueInWords(kind, threshold);
  switch (kind) {
    case "RUN_STALLED":
      return `no training step for ${window}`;
    case "NO_ACCEPTED":
      return `no group accepted for ${window}`;
    case "REJECT_RATE":
      return `reject rate above its control limit${value === "" ? "" : `, at least ${value},`} over ${window}`;
    case "KL_ABOVE":
      return `KL above ${value} over ${window}`;
    case "ENTROPY_BELOW":
      return `entropy below ${value} over ${window}`;
    case "BROADCAST_P95":
      return `a checkpoint took over ${value} to reach 95 %, in ${window}`;
    case "WORKER_OFFLINE":
      return `${value} or more not seen for ${window}`;
    case "VERIFY_QUEUE_AGE":
      return `oldest group waits over ${value}`;
    case "BUDGET_SPENT":
      return `${value} or more spent or held`;
  }
}

/** A measured value in the unit of its kind. */
export function valueInWords(kind: AlertKind, value: number): string {
  const unit = kindWords[kind].threshold?.unit ?? "seconds";
  switch (unit) {
    case "share":
      return formatShare(value);
    case "seconds":
      return formatDuration(value);
    case "number":
      return formatMetric(value);
    case "count":
      return String(value);
  }
}

export const severityTone: Readonly<Record<Severity, Tone>> = {
  CRITICAL: "rejected",
  WARNING: "pending",
  INFO: "idle",
};

/** Why an alert ended. */
export function resolutionInWords(resolution: string | null): string {
  switch (resolution) {
    case "RECOVERED":
      return "recovered";
    case "RUN_NOT_RUNNING":
      return "the run stopped running";
    case "RULE_CHANGED":
      return "the rule was changed";
    default:
      return "";
  }
}
