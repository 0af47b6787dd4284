import { createHash } from "node:crypto";
import { submissionBytes } from "@muster/protocol";
import { isRetryable, type PackSubmission, pause, retryDelay, type SubmissionResult } from "@muster/sdk";
import { isOutage } from "./connection.ts";
import type { ExecutorContext, Outcome } from "./executor.ts";
import type { HeldLease } from "./lease.ts";
import type { Ticket } from "./together.ts";

/** A result that can be delivered: everything but a failure. */
export type Deliverable = Exclude<Outcome, { kind: "failed" }>;

const RETRY = { first: 500, most: 15_000 };
/** Answers that are errors, in a row, after which the task is handed back: another node may fare better. */
const ERROR_ANSWERS = 8;

/**
 * Stores what was made and submits it, again and again until the coordinator has said yes or no: the same submission twice
 * answers the first result, so a lost answer costs nothing. A coordinator that is away or busy is waited for without end; one that keeps
 * answering with an error is not.
 * With a ticket the submission goes together with others of its kind.
 * @throws ApiError when it is refused for good otherwise than by a result, or the signal aborts.
 */
export async function deliver(
  ctx: ExecutorContext,
  held: HeldLease,
  outcome: Deliverable,
  { cpuSeconds, signal, ticket }: { cpuSeconds: number; signal: AbortSignal; ticket: Ticket | undefined },
): Promise<SubmissionResult> {
  const { lease } = held;
  const key = { task: lease.task, attempt: lease.attempt };
  const sign = (pack: string) => ctx.identity.signHex(submissionBytes({ run: lease.run, ...key, pack }));
  // while bytes are stored, losing the task still stops the work; once submitted, only an answer does
  const storing = AbortSignal.any([signal, held.lost]);
  const store = (blob: { kind: string; sha256: string; bytes: Uint8Array<ArrayBuffer> }) =>
    untilAnswered(storing, () =>
      ctx.client.blobs.put({
        body: blob.bytes,
        sha256: blob.sha256,
        kind: blob.kind,
        lease: key,
        signal: storing,
      }),
    );

  switch (outcome.kind) {
    case "pack": {
      const pack = createHash("sha256").update(outcome.bytes).digest("hex");
      await store({ kind: outcome.pack, sha256: pack, bytes: outcome.bytes });
      held.submitting = true;
      const submission: PackSubmission = { ...key, pack, signature: sign(pack), cpuSeconds };
      return untilAnswered(
        signal,
        () => ticket?.submit(submission) ?? submitPack(ctx, outcome.pack, submission, signal),
      );
    }
    case "step": {
      for (const blob of outcome.blobs) await store(blob);
      held.submitting = true;
      const { manifest, state, metrics } = outcome;
      const submission = { ...key, manifest, state, metrics, signature: sign(manifest), cpuSeconds };
      return untilAnswered(signal, () => ctx.client.tasks.submitStep(submission, { signal }));
    }
  }
}

function submitPack(
  { client: { tasks } }: ExecutorContext,
  kind: "ROLLOUTS" | "MEASUREMENT" | "SAMPLES",
  submission: PackSubmission,
  signal: AbortSignal,
): Promise<SubmissionResult> {
  switch (kind) {
    case "ROLLOUTS":
      return tasks.submitRollouts(submission, { signal });
    case "MEASUREMENT":
      return tasks.submitMeasurement(submission, { signal });
    case "SAMPLES":
      return tasks.submitEvaluation(submission, { signal });
  }
}

async function untilAnswered<T>(signal: AbortSignal, call: () => Promise<T>): Promise<T> {
  let answers = 0;
  for (let attempt = 0; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      answers = isOutage(error) ? 0 : answers + 1;
      if (signal.aborted || !isRetryable(error) || answers >= ERROR_ANSWERS) throw error;
      await pause(retryDelay(error, attempt, RETRY), signal);
    }
  }
}
