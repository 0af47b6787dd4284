import { StateBadge, StateWord, type Tone } from "../../ui/state-badge.tsx";

/** States of a group, which are those of its rollouts too. */
export const groupStates = [
  "SUBMITTED",
  "VERIFYING",
  "ACCEPTED",
  "SET_ASIDE",
  "REJECTED",
  "INVALID",
  "STALE",
] as const;

export type GroupState = (typeof groupStates)[number];

const states: Record<GroupState, { tone: Tone; word: string; meaning: string }> = {
  SUBMITTED: {
    tone: "pending",
    word: "Submitted",
    meaning: "Received and well-formed; the audit draw decides whether it is measured.",
  },
  VERIFYING: {
    tone: "running",
    word: "Verifying",
    meaning: "A validator is measuring it, without knowing whose it is.",
  },
  ACCEPTED: { tone: "ok", word: "Accepted", meaning: "It counts, is paid and trained on." },
  SET_ASIDE: {
    tone: "ok",
    word: "Set aside",
    meaning: "Accepted and paid, but all its rewards are equal: there is nothing to learn from it.",
  },
  REJECTED: {
    tone: "rejected",
    word: "Rejected",
    meaning: "A check failed: it is neither paid nor trained on.",
  },
  INVALID: {
    tone: "idle",
    word: "Invalid",
    meaning: "It could not be judged, through no fault of the node: unpaid, without penalty.",
  },
  STALE: {
    tone: "idle",
    word: "Stale",
    meaning:
      "Its policy version is too old for the batch; still judged, and paid if its lease began in time.",
  },
};

export function GroupStateWord({ state }: { state: GroupState }) {
  return (
    <span title={states[state].meaning}>
      <StateWord tone={states[state].tone}>{states[state].word}</StateWord>
    </span>
  );
}

export function GroupStateBadge({ state }: { state: GroupState }) {
  return <StateBadge tone={states[state].tone}>{states[state].word}</StateBadge>;
}

export function groupStateWord(state: GroupState): string {
  return states[state].word;
}

export function groupStateMeaning(state: GroupState): string {
  return states[state].meaning;
}
