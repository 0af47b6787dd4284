"use client";

import { useId, useState } from "react";
import { useMutation } from "urql";
import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { Button } from "../../ui/button.tsx";
import { Confirm, preparesConfirm } from "../../ui/confirm.tsx";
import { Section } from "../../ui/section.tsx";

export const CaseDecisionFragment = graphql(`
  fragment CaseDecision_case on Case {
    id
    state
  }
`);

const DecideCase = graphql(`
  mutation DecideCase($input: DecideCaseInput!) {
    decideCase(input: $input) {
      id
      state
      decision
      decidedAt
    }
  }
`);

type Decision = "UPHELD" | "OVERTURNED";

const decisions: Record<Decision, { button: string; title: string; description: string }> = {
  UPHELD: {
    button: "Uphold rejection",
    title: "Uphold this rejection?",
    description:
      "The group stays rejected and unpaid, and the node loses what it still holds in this run. You can overturn it later.",
  },
  OVERTURNED: {
    button: "Overturn rejection",
    title: "Overturn this rejection?",
    description:
      "The group is accepted and paid, forfeits that followed are refunded, and a quarantine that rests on it is lifted: as if it had never been rejected. This cannot be taken back.",
  },
};

const longest = 2000;

/** The organizer's word, with a reason that the accused reads. */
export function CaseDecision({
  found: masked,
  mayDecide,
  organization,
  onDecided,
}: {
  found: FragmentOf<typeof CaseDecisionFragment>;
  mayDecide: boolean;
  organization: string;
  onDecided(): void;
}) {
  const { id, state } = readFragment(CaseDecisionFragment, masked);
  const [reason, setReason] = useState("");
  const [asked, setAsked] = useState<Decision>();
  const [open, setOpen] = useState(false);
  const [{ fetching, error }, decide] = useMutation(DecideCase);
  const field = useId();
  if (state === "OVERTURNED") return null;
  if (!mayDecide)
    return state === "OPEN" ? (
      <Section title="Decision">
        <p className="border-y border-line py-3 text-muted">
          An admin of {organization} decides what is disputed. The node that made the group, and whoever owns
          it, may object: <code className="font-mono">npm run muster -- cases dispute {id}</code>.
        </p>
      </Section>
    ) : null;

  const given = reason.trim() !== "";
  const text = decisions[asked ?? "OVERTURNED"];
  function ask(decision: Decision): void {
    setAsked(decision);
    setOpen(true);
  }
  async function confirm(): Promise<void> {
    if (asked === undefined) return;
    const done = await decide({ input: { case: id, decision: asked, reason: reason.trim() } });
    if (done.error) return;
    setOpen(false);
    setReason("");
    onDecided();
  }
  return (
    <Section
      title="Decision"
      note={
        state === "OPEN"
          ? "Only needed when the two measurements differ or the accused objects; otherwise the case decides itself."
          : "It is upheld. You may still overturn it."
      }
    >
      <div className="max-w-[72ch]">
        <label htmlFor={field} className="text-table font-medium">
          Reason{" "}
          <span className="font-normal text-subtle">(the accused reads it; it stays in the audit log)</span>
        </label>
        <textarea
          id={field}
          className="control mt-1 w-full"
          rows={3}
          maxLength={longest}
          value={reason}
          onChange={(event) => setReason(event.target.value)}
        />
        <div className="mt-2 flex flex-wrap items-center gap-2">
          {state === "OPEN" ? (
            <Button disabled={!given} {...preparesConfirm} onClick={() => ask("UPHELD")}>
              {decisions.UPHELD.button}
            </Button>
          ) : null}
          <Button tone="danger" disabled={!given} {...preparesConfirm} onClick={() => ask("OVERTURNED")}>
            {decisions.OVERTURNED.button}
          </Button>
          {given ? null : <span className="text-table text-subtle">Write a reason first.</span>}
        </div>
      </div>
      {asked === undefined ? null : (
        <Confirm
          open={open}
          onOpenChange={setOpen}
          {...text}
          danger={asked === "OVERTURNED"}
          busy={fetching}
          error={error}
          onConfirm={confirm}
        >
          <blockquote className="max-h-40 overflow-y-auto border-l-2 border-line-strong pl-3 whitespace-pre-wrap text-muted wrap-anywhere">
            {reason.trim()}
          </blockquote>
        </Confirm>
      )}
    </Section>
  );
}
