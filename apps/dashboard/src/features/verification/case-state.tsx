import { StateBadge, StateWord, type Tone } from "../../ui/state-badge.tsx";

export const caseStates = ["OPEN", "UPHELD", "OVERTURNED"] as const;
export type CaseState = (typeof caseStates)[number];

const states: Record<CaseState, { tone: Tone; word: string; meaning: string }> = {
  OPEN: {
    tone: "pending",
    word: "Open",
    meaning:
      "The group is rejected; whether the rejection stands is not decided. It costs the node nothing yet.",
  },
  UPHELD: {
    tone: "rejected",
    word: "Upheld",
    meaning: "The rejection stands: the group stays unpaid, and the node has lost what it held in this run.",
  },
  OVERTURNED: {
    tone: "ok",
    word: "Overturned",
    meaning: "The group is accepted and paid, and the node stands as if it had never been rejected.",
  },
};

export function CaseStateBadge({ state }: { state: CaseState }) {
  return <StateBadge tone={states[state].tone}>{states[state].word}</StateBadge>;
}

export function CaseStateWord({ state }: { state: CaseState }) {
  return (
    <span title={states[state].meaning}>
      <StateWord tone={states[state].tone}>{states[state].word}</StateWord>
    </span>
  );
}

export function caseStateWord(state: CaseState): string {
  return states[state].word;
}

export function caseStateMeaning(state: CaseState): string {
  return states[state].meaning;
}

/** What measuring again has said about a rejection. */
export function ConfirmedWord({ confirmed }: { confirmed: boolean | null }) {
  if (confirmed === null) return <StateWord tone="pending">Not yet</StateWord>;
  return confirmed ? (
    <StateWord tone="rejected">Found the same</StateWord>
  ) : (
    <StateWord tone="ok">Found otherwise</StateWord>
  );
}
