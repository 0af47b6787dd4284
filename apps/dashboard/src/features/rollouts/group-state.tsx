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
    meaning:
      "Received and well-formed. The secret draw spared it; it waits for the audits of what its node submitted before or with it.",
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

/** How a group was accepted, and whether it was looked at again. Nothing for one that was not accepted. */
export function AcceptanceBadge({
  acceptance,
  retroactive,
}: {
  acceptance: "AUDITED" | "TRUSTED" | null;
  retroactive: boolean;
}) {
  return (
    <>
      {acceptance === null ? null : (
        <span title={acceptances[acceptance].meaning}>
          <StateBadge tone={acceptances[acceptance].tone}>{acceptances[acceptance].word}</StateBadge>
        </span>
      )}
      {retroactive ? (
        <span title="It was trusted at first, and is audited because its node failed since.">
          <StateBadge tone="pending">Audited afterwards</StateBadge>
        </span>
      ) : null}
    </>
  );
}

/** The same in a few words, for a table. */
export function acceptanceInWords(acceptance: "AUDITED" | "TRUSTED" | null, retroactive: boolean): string {
  if (acceptance === null) return "";
  if (retroactive) return acceptance === "AUDITED" ? "audited afterwards" : "on trust, now audited";
  return acceptance === "AUDITED" ? "audited" : "on trust";
}

const acceptances = {
  AUDITED: { tone: "ok", word: "Audited", meaning: "A validator measured it, and every check passed." },
  TRUSTED: {
    tone: "idle",
    word: "On trust",
    meaning: "Its node is trusted, and the secret draw did not choose it to be measured.",
  },
} as const;
