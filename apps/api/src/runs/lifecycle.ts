import type { Run, RunState } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import { dropUploadNotes } from "../blobs/upload.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { cancelTasks } from "../tasks/lease.ts";
import { giveUpUndecided } from "../verification/undecided.ts";
import { openBase } from "./base.ts";
import { emptyBatch } from "./fill.ts";
import { specOf } from "./spec.ts";

/** Which state may follow which. COMPLETED, CANCELLED and FAILED are ends. */
export const runTransitions = {
  DRAFT: ["RUNNING", "CANCELLED"],
  RUNNING: ["PAUSED", "COMPLETED", "CANCELLED", "FAILED"],
  PAUSED: ["RUNNING", "COMPLETED", "CANCELLED", "FAILED"],
  COMPLETED: [],
  CANCELLED: [],
  FAILED: [],
} as const satisfies Record<RunState, readonly RunState[]>;

/** A run whose base is published. */
export type StartedRun = Run & { readonly currentVersion: number };

/**
 * Whoever changes a run's state, step, batches or plan takes this lock first, before any row: planner, submitted steps and people
 * then never wait for each other in a circle. Returns the run as it is under the lock.
 */
export async function lockRun(tx: Tx, runId: string): Promise<Run | null> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('run:' || ${runId}, 0))`;
  return tx.run.findUnique({ where: { id: runId } });
}

/** Stops opening and claiming. What is leased may finish and is judged. */
export async function pauseRun(ctx: Ctx, input: { runId: string; reason?: string }): Promise<void> {
  await control(ctx, input.runId, (tx, run) => moveRun(tx, run, "PAUSED", input.reason ?? "ORGANIZER"));
}

/** Starts a draft, or goes on after a pause. */
export async function resumeRun(ctx: Ctx, input: { runId: string }): Promise<void> {
  await control(ctx, input.runId, startRun);
}

/** Ends a run for good: everything unfinished is cancelled, groups nobody judged are INVALID. */
export async function cancelRun(ctx: Ctx, input: { runId: string; reason?: string }): Promise<void> {
  await control(ctx, input.runId, (tx, run) => endRun(tx, run, "CANCELLED", input.reason ?? "ORGANIZER"));
}

const mostRunning = 64;

/** DRAFT or PAUSED → RUNNING. The first start opens the BASE task. */
export async function startRun(tx: Tx, run: Run): Promise<void> {
  if (run.deadlineAt !== null && run.deadlineAt <= new Date())
    throw new CodedError(
      "STATE_CONFLICT",
      "The run's deadline has passed. Create a new run, or revise its deadline.",
    );
  // One loop plans all runs, and each costs it some time.
  if (
    (await tx.run.count({ where: { organizationId: run.organizationId, state: "RUNNING" } })) >= mostRunning
  )
    throw new CodedError(
      "STATE_CONFLICT",
      `The organization has ${mostRunning} runs RUNNING. Pause or end one of them first.`,
    );
  await moveRun(tx, run, "RUNNING", null);
  if (run.startedAt !== null) return;
  await tx.run.update({ where: { id: run.id }, data: { startedAt: new Date() } });
  await openBase(tx, run, await specOf(tx, run.id, run.revision));
}

/**
 * Ends a run: cancels what is unfinished, declares INVALID what nobody has judged and gives up the batch that was being filled.
 * Under `lockRun`.
 */
export async function endRun(
  tx: Tx,
  run: Run,
  state: "COMPLETED" | "CANCELLED" | "FAILED",
  reason: string,
): Promise<void> {
  await moveRun(tx, run, state, reason);
  // Again until there are none: a submission that held its task's row while we waited for it may have opened others.
  while ((await cancelTasks(tx, { runId: run.id }, `The run is ${state}: ${reason}.`)) > 0);
  await giveUpUndecided(tx, run.id);
  await emptyBatch(tx, run);
  await dropUploadNotes(tx, run.id);
}

/** Says what a run is doing without changing its state: it is finishing for this reason. Under `lockRun`. */
export async function noteReason(tx: Tx, run: Run, reason: string): Promise<void> {
  await tx.run.update({ where: { id: run.id }, data: { stateReason: reason } });
  await stateEvent(tx, run, run.state, reason);
}

/** @throws CodedError `STATE_CONFLICT` for a move that the table does not have. Under `lockRun`. */
export async function moveRun(tx: Tx, run: Run, to: RunState, reason: string | null): Promise<void> {
  if (!(runTransitions[run.state] as readonly RunState[]).includes(to))
    throw new CodedError(
      "STATE_CONFLICT",
      `The run is ${run.state}${run.stateReason === null ? "" : ` (${run.stateReason})`} and cannot become ${to}.`,
    );
  const ended = runTransitions[to].length === 0;
  await tx.run.update({
    where: { id: run.id },
    data: { state: to, stateReason: reason, ...(ended ? { endedAt: new Date() } : {}) },
  });
  await stateEvent(tx, run, to, reason);
}

/**
 * The run, when the actor may do `action` in it.
 * @throws CodedError `NOT_FOUND`, also to those who may not see it; `FORBIDDEN`
 */
export async function runFor(
  ctx: Ctx,
  runId: string,
  action: "run:control" | "run:fund" | "run:read",
): Promise<Run> {
  const run = await ctx.prisma.run.findUnique({ where: { id: runId } });
  if (run === null || (ctx.actor.kind !== "anonymous" && !allows(ctx.actor, "run:read", run.organizationId)))
    throw notFound("The run");
  assertAllowed(ctx.actor, action, run.organizationId);
  return run;
}

/** Wakes what waits for changes in a run. After the commit. */
export function nudgeRun(ctx: Ctx, runId: string): void {
  ctx.bus.publish("events");
  ctx.bus.publish(`run:${runId}`);
}

async function control(ctx: Ctx, runId: string, change: (tx: Tx, run: Run) => Promise<void>): Promise<void> {
  await runFor(ctx, runId, "run:control");
  await ctx.prisma.$transaction(async (tx) => {
    const run = await lockRun(tx, runId);
    if (run === null) throw notFound("The run");
    await change(tx, run);
  });
  nudgeRun(ctx, runId);
  // Paused or resumed, nodes that wait for its tasks look again.
  ctx.bus.publish("offers:BASE");
  ctx.bus.publish("offers:GENERATE");
  ctx.bus.publish("offers:VERIFY");
  ctx.bus.publish("offers:TRAIN");
  ctx.bus.publish("offers:EVALUATE");
}

async function stateEvent(tx: Tx, run: Run, state: RunState, reason: string | null): Promise<void> {
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId: run.organizationId,
      type: "run.state",
      subject: toTypeId("run", run.id),
      data: { state, reason, step: run.step, version: run.currentVersion },
    },
  ]);
}
