import { StateBadge, StateWord, type Tone } from "../../ui/state-badge.tsx";

const states: Record<string, { tone: Tone; word: string }> = {
  DRAFT: { tone: "idle", word: "Draft" },
  RUNNING: { tone: "running", word: "Running" },
  PAUSED: { tone: "pending", word: "Paused" },
  COMPLETED: { tone: "ok", word: "Completed" },
  CANCELLED: { tone: "idle", word: "Cancelled" },
  FAILED: { tone: "rejected", word: "Failed" },
};

const unknown = { tone: "idle", word: "Unknown" } as const;

export function RunStateBadge({ state }: { state: string }) {
  const { tone, word } = states[state] ?? unknown;
  return <StateBadge tone={tone}>{word}</StateBadge>;
}

export function RunStateWord({ state }: { state: string }) {
  const { tone, word } = states[state] ?? unknown;
  return <StateWord tone={tone}>{word}</StateWord>;
}

export function runStateWord(state: string): string {
  return (states[state] ?? unknown).word;
}

/** A run that will not change any more. */
export function isOver(state: string): boolean {
  return state === "COMPLETED" || state === "CANCELLED" || state === "FAILED";
}

/** Why a run is in its state, in a sentence; codes of the coordinator become words, a person's own reason stays as it is. */
export function reasonInWords(reason: string | null | undefined): string | undefined {
  if (!reason) return undefined;
  const failed = /^([A-Z]+)_FAILED: (.*)$/s.exec(reason);
  return failed ? `A ${failed[1]} task failed: ${failed[2]}` : (reasons[reason] ?? reason);
}

const reasons: Record<string, string> = {
  SOLVED: "Nearly every rollout has the highest reward: there is nothing left to learn.",
  NO_SIGNAL: "Too few groups had different rewards, so there was nothing to learn from.",
  BUDGET_EXHAUSTED: "The budget does not cover the next task. Fund the run, then resume it.",
  CREDITS: "The credit limit of the spec is reached.",
  STEPS: "All steps of the spec are trained.",
  ORGANIZER: "Done by the organizer, who gave no reason.",
  DEADLINE: "The deadline of the spec has passed.",
};
