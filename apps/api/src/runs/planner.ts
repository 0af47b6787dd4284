import { type Batch, GroupState } from "@muster/db";
import { newId, type RunSpec, toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import type { Bus } from "../events/bus.ts";
import { budgetOf } from "../ledger/ledger.ts";
import type { Loop } from "../loops.ts";
import { openEvaluations } from "../training/evaluation-plan.ts";
import { retireCheckpoints } from "../training/retention.ts";
import { sealBatch, writeBatchPack } from "../training/seal.ts";
import { type Demand, demandOf, openGenerate } from "./demand.ts";
import { fillBatch } from "./fill.ts";
import { finishRun } from "./finish.ts";
import { endRun, lockRun, moveRun, type StartedRun } from "./lifecycle.ts";
import { specOf } from "./spec.ts";

// Invariant: a plan is a function of the rows. `advanceRun` reads them under the run's lock, does what is due and can be called by
// anyone at any moment, any number of times: a crash between two calls, or a nudge that came twice, changes nothing.

const fullPassMs = 1_000;
/** When every unfinished run was last planned, by the process's bus. */
const fullPasses = new WeakMap<Bus, number>();

/** Plans every run that was nudged, and every running one once a second. */
export const plannerLoop: Loop = {
  name: "planner",
  everyMs: fullPassMs,
  // A batch's groups are decided one after the other; planning after each would mostly find nothing to do.
  atLeastMs: 100,
  topics: ["run:*"],
  leader: true,
  async run(ctx, turn) {
    const nudged = [...turn.topics].flatMap((topic) => /^run:([0-9a-f-]{36})$/.exec(topic)?.[1] ?? []);
    // Deadlines come without a nudge, and a busy run must not keep the others from theirs.
    const full = nudged.length === 0 || Date.now() - (fullPasses.get(ctx.bus) ?? 0) >= fullPassMs;
    if (full) fullPasses.set(ctx.bus, Date.now());
    const due = full ? new Set([...nudged, ...(await unfinishedRuns(ctx))]) : nudged;
    for (const runId of due) {
      if (turn.signal.aborted) return;
      try {
        await advanceRun(ctx, runId);
      } catch (error) {
        // One run's trouble is not the others': it is tried again at the next turn.
        ctx.log.error({ err: error, run: runId }, "planning a run failed");
      }
    }
  },
};

/** Does everything that is due in a run: fills and seals batches, opens and cancels tasks, ends it. Idempotent. */
export async function advanceRun(ctx: Ctx, runId: string): Promise<void> {
  // A sealed batch frees the next one to be planned at once. Two turns do; the bound only guards against a mistake here.
  for (let turn = 0; turn < 4; turn++) {
    const plan = await ctx.prisma.$transaction((tx) => planTurn(tx, runId));
    publish(ctx, runId, plan);
    if (plan.seal === null) return;
    // Packs are read and written outside of the transaction; what it decided is checked again when the batch is sealed.
    const written = await writeBatchPack(ctx, plan.seal);
    if (written === null) return;
    const sealed = await ctx.prisma.$transaction((tx) => sealBatch(tx, written));
    if (!sealed) return;
    ctx.bus.publish("events");
    ctx.bus.publish("offers:TRAIN");
  }
}

type Plan = {
  /** Id of a batch that is ready to be sealed. */
  readonly seal: string | null;
  readonly changed: boolean;
  readonly offers: readonly ("GENERATE" | "EVALUATE")[];
};

const nothing: Plan = { seal: null, changed: false, offers: [] };
const changed: Plan = { ...nothing, changed: true };

async function planTurn(tx: Tx, runId: string): Promise<Plan> {
  const run = await lockRun(tx, runId);
  if (run === null) return nothing;
  if (
    run.deadlineAt !== null &&
    run.deadlineAt <= new Date() &&
    ["DRAFT", "RUNNING", "PAUSED"].includes(run.state)
  ) {
    await endRun(tx, run, run.state === "DRAFT" ? "CANCELLED" : "COMPLETED", "DEADLINE");
    return changed;
  }
  if (run.state !== "RUNNING") return nothing;
  const spec = await specOf(tx, run.id, run.revision);

  const broken = await tx.task.findFirst({
    where: { runId, kind: { in: ["BASE", "TRAIN"] }, state: "FAILED" },
  });
  if (broken !== null) {
    await endRun(
      tx,
      run,
      "FAILED",
      `${broken.kind}_FAILED: ${broken.failure ?? "its attempts were used up"}`,
    );
    return changed;
  }
  if (run.currentVersion === null) return nothing;
  return planRunning(tx, { ...run, currentVersion: run.currentVersion }, spec);
}

async function planRunning(tx: Tx, run: StartedRun, spec: RunSpec): Promise<Plan> {
  const retired = await retireCheckpoints(tx, run, spec);
  const batch = await fillingBatch(tx, run);
  const filled = batch === null ? null : await fillBatch(tx, run, spec, batch);
  const full = filled?.full === true && filled.batch.step === run.step + 1;

  const ending = await endReason(tx, run, spec, full ? filled.batch : null);
  if (ending !== null) {
    const finishing = await finishRun(tx, run, spec, ending);
    if (filled?.changed) await progress(tx, run, spec, filled.batch);
    return {
      ...changed,
      changed: finishing.changed || retired || (filled?.changed ?? false),
      offers: finishing.opened ? ["EVALUATE"] : [],
    };
  }
  const evaluations = await openEvaluations(tx, run, spec, { final: false });
  if (filled === null)
    return { seal: null, changed: evaluations > 0 || retired, offers: evaluations > 0 ? ["EVALUATE"] : [] };

  const demand = await demandOf(tx, run, spec, filled.batch);
  const opened = full ? 0 : await openOrPause(tx, run, spec, demand);
  const moved = filled.changed || opened !== 0 || evaluations > 0 || demand.cancelled > 0;
  if (moved) await progress(tx, run, spec, filled.batch);
  return {
    seal: full ? filled.batch.id : null,
    changed: moved || retired,
    offers: [
      ...(opened > 0 ? (["GENERATE"] as const) : []),
      ...(evaluations > 0 ? (["EVALUATE"] as const) : []),
    ],
  };
}

/** The batch that accepted groups go into; null when the run needs no further one. Opened here as soon as the one before is sealed. */
async function fillingBatch(tx: Tx, run: StartedRun): Promise<Batch | null> {
  const newest = await tx.batch.findFirst({ where: { runId: run.id }, orderBy: { step: "desc" } });
  if (newest?.state === "FILLING") return newest;
  const step = (newest?.step ?? 0) + 1;
  if (step > run.stepLimit) return null;
  return tx.batch.create({
    data: { id: newId("batch"), organizationId: run.organizationId, runId: run.id, step },
  });
}

/** Why the run is at its end; null while it is not. `full` is a batch that is due to be sealed. */
async function endReason(tx: Tx, run: StartedRun, spec: RunSpec, full: Batch | null): Promise<string | null> {
  if (run.step >= run.stepLimit) return "STEPS";
  if (full !== null && full.signalGroups < spec.batch.minSignalGroups) {
    const mean = await tx.group.aggregate({
      where: { runId: run.id, batchGroup: { batchId: full.id } },
      _avg: { meanReward: true },
    });
    // Rewards lie in [0, 1]. A group without signal at a mean near 1 has nothing left to learn.
    return (mean._avg.meanReward ?? 0) >= 0.95 ? "SOLVED" : "NO_SIGNAL";
  }
  if (spec.limits.credits !== undefined) {
    const { paid, held } = await budgetOf(tx, run.id);
    if (paid + held >= BigInt(spec.limits.credits)) return "CREDITS";
  }
  return null;
}

/** Opens what is missing and affordable. @returns tasks opened; −1 when the run was paused for want of credits. */
async function openOrPause(tx: Tx, run: StartedRun, spec: RunSpec, demand: Demand): Promise<number> {
  if (demand.tasks === 0) return 0;
  if (demand.affordable > 0) return openGenerate(tx, run, spec, Math.min(demand.tasks, demand.affordable));
  // While work is in flight, what was reserved for it at its longest may come back.
  if (demand.inFlight > 0) return 0;
  const training = await tx.task.count({
    where: { runId: run.id, kind: "TRAIN", state: { in: ["OPEN", "LEASED", "SUBMITTED"] } },
  });
  if (training > 0) return 0;
  await moveRun(tx, run, "PAUSED", "BUDGET_EXHAUSTED");
  return -1;
}

/** Where the run stands, in absolute numbers; the groups are those of the versions at hand, for a count of all would grow with the run. */
async function progress(tx: Tx, run: StartedRun, spec: RunSpec, batch: Batch): Promise<void> {
  const groups = await tx.group.groupBy({
    by: ["state"],
    // Naming the states makes it one short range of the index for each.
    where: {
      runId: run.id,
      state: { in: Object.values(GroupState) },
      policyVersion: { gte: batch.step - 1 - spec.batch.asyncLevel },
    },
    _count: true,
  });
  const tasks = await tx.task.groupBy({
    by: ["kind", "state"],
    where: { runId: run.id, state: { in: ["OPEN", "LEASED", "SUBMITTED"] } },
    _count: true,
  });
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId: run.organizationId,
      type: "run.progress",
      subject: toTypeId("run", run.id),
      data: {
        step: run.step,
        stepLimit: run.stepLimit,
        version: run.currentVersion,
        batchStep: batch.step,
        signalGroups: batch.signalGroups,
        settledGroups: batch.settledGroups,
        groups: Object.fromEntries(groups.map((row) => [row.state, row._count])),
        tasks: Object.fromEntries(tasks.map((row) => [`${row.kind}.${row.state}`, row._count])),
      },
    },
  ]);
}

async function unfinishedRuns(ctx: Ctx): Promise<string[]> {
  const runs = await ctx.prisma.run.findMany({
    where: {
      OR: [{ state: "RUNNING" }, { state: { in: ["DRAFT", "PAUSED"] }, deadlineAt: { lte: new Date() } }],
    },
    select: { id: true },
  });
  return runs.map((run) => run.id);
}

function publish(ctx: Ctx, runId: string, plan: Plan): void {
  if (plan.changed) ctx.bus.publish("events");
  for (const kind of plan.offers) ctx.bus.publish(`offers:${kind}`);
  if (plan.changed) ctx.log.debug({ run: runId, ...plan }, "run planned");
}
