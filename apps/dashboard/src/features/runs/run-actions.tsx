"use client";

import { useId, useState } from "react";
import { useMutation } from "urql";
import { failureOf } from "../../graphql/failure.ts";
import { graphql } from "../../graphql/graphql.ts";
import { Button } from "../../ui/button.tsx";
import { Confirm, preparesConfirm } from "../../ui/confirm.tsx";
import { isOver } from "./run-state.tsx";

const PauseRun = graphql(`
  mutation PauseRun($input: RunInput!) {
    pauseRun(input: $input) {
      id
      state
      stateReason
    }
  }
`);

const ResumeRun = graphql(`
  mutation ResumeRun($input: RunInput!) {
    resumeRun(input: $input) {
      id
      state
      stateReason
    }
  }
`);

const CancelRun = graphql(`
  mutation CancelRun($input: RunInput!) {
    cancelRun(input: $input) {
      id
      state
      stateReason
      endedAt
    }
  }
`);

type Asked = "pause" | "cancel";

/** Pause, resume and cancel. What stops work asks first and says what follows. */
export function RunActions({ id, state, workers }: { id: string; state: string; workers: number }) {
  const [asked, setAsked] = useState<Asked>();
  const [open, setOpen] = useState(false);
  const [reason, setReason] = useState("");
  const [pausing, pause] = useMutation(PauseRun);
  const [resuming, resume] = useMutation(ResumeRun);
  const [cancelling, cancel] = useMutation(CancelRun);
  const field = useId();
  if (isOver(state)) return null;

  const error = asked === "cancel" ? cancelling.error : pausing.error;
  const busy = pausing.fetching || cancelling.fetching;
  async function confirm(): Promise<void> {
    const input = { run: id, reason: reason.trim() === "" ? null : reason.trim() };
    const done = asked === "cancel" ? await cancel({ input }) : await pause({ input });
    if (!done.error) setOpen(false);
  }
  function ask(what: Asked): void {
    setAsked(what);
    setReason("");
    setOpen(true);
  }
  const machines =
    workers === 1 ? "The one generating worker stops" : `The ${workers} generating workers stop`;
  const text = {
    pause: {
      title: "Pause this run?",
      description: `No new tasks are opened. ${machines} when its lease ends; work already submitted is still judged and paid. You can resume at any time.`,
      button: "Pause run",
    },
    cancel: {
      title: "Cancel this run?",
      description: `The run ends for good: open tasks are cancelled and what is left of the budget stays unspent. Checkpoints, rollouts and verdicts stay readable.`,
      button: "Cancel run",
    },
  }[asked ?? "pause"];
  return (
    <>
      {resuming.error ? (
        <span role="alert" className="self-center text-table text-on-rejected-soft">
          {failureOf(resuming.error).message}
        </span>
      ) : null}
      {state === "RUNNING" ? (
        <Button {...preparesConfirm} onClick={() => ask("pause")}>
          Pause run
        </Button>
      ) : (
        <Button
          tone="primary"
          disabled={resuming.fetching}
          onClick={() => void resume({ input: { run: id } })}
        >
          {state === "DRAFT" ? "Start run" : "Resume run"}
        </Button>
      )}
      <Button tone="danger" {...preparesConfirm} onClick={() => ask("cancel")}>
        Cancel run
      </Button>
      {asked === undefined ? null : (
        <Confirm
          open={open}
          onOpenChange={setOpen}
          {...text}
          danger={asked === "cancel"}
          busy={busy}
          error={error}
          onConfirm={confirm}
        >
          <label htmlFor={field} className="text-table font-medium">
            Reason <span className="font-normal text-subtle">(everybody in the run sees it)</span>
          </label>
          <input
            id={field}
            className="control mt-1 w-full"
            maxLength={200}
            value={reason}
            onChange={(event) => setReason(event.target.value)}
          />
        </Confirm>
      )}
    </>
  );
}
