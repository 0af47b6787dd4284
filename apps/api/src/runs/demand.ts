import type { Batch } from "@muster/db";
import { environment, exampleSeed, newId, type RunSpec, toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { budgetAvailable } from "../ledger/ledger.ts";
import { cancelTasks, openTasks } from "../tasks/lease.ts";
import type { StartedRun } from "./lifecycle.ts";

export type Demand = {
  /** GENERATE tasks that are missing. */
  readonly tasks: number;
  /** How many of them the budget covers at their longest, beside all that is in flight. */
  readonly affordable: number;
  /** Groups on their way to the batches at hand. */
  readonly inFlight: number;
  /** OPEN tasks given up because their version is too old. */
  readonly cancelled: number;
};

/** Most tasks opened in one pass: a transaction that prepares more prompts would hold the run's lock too long. */
const tasksPerPass = 64;

/**
 * How many GENERATE tasks are missing: the groups that the FILLING batch still needs and those of at most `asyncLevel − 1` further
 * batches, minus what is on its way, in whole tasks.
 */
export async function demandOf(tx: Tx, run: StartedRun, spec: RunSpec, batch: Batch): Promise<Demand> {
  const { generation, prices } = spec;
  // A group of an older version would be stale when this batch is sealed.
  const oldest = batch.step - 1 - spec.batch.asyncLevel;
  const cancelled = await cancelTasks(
    tx,
    { runId: run.id, kind: "GENERATE", state: "OPEN", policyVersion: { lt: oldest } },
    `Version ${run.currentVersion} is out; groups of versions before ${oldest} would be stale.`,
  );
  const inFlight = await groupsInFlight(tx, run.id, oldest);
  const further = Math.max(0, Math.min(spec.batch.asyncLevel - 1, run.stepLimit - batch.step));
  const share = await signalShare(tx, run.id);
  const missing =
    groupsFor(spec, share, batch.signalGroups, batch.settledGroups) +
    further * groupsFor(spec, share, 0, 0) -
    inFlight;
  const tasks = Math.min(Math.max(0, Math.ceil(missing / generation.groupsPerTask)), tasksPerPass);

  // At their longest: every rollout as long as it may be, accepted and measured.
  const tokens = generation.groupSize * generation.maxOutputTokens;
  const perGroup = tokens * (prices.generatedToken + prices.measuredToken);
  const step = spec.batch.signalGroups * tokens * prices.trainedToken;
  const free = Number(await budgetAvailable(tx, run.id)) - inFlight * perGroup - step;
  const perTask = perGroup * generation.groupsPerTask;
  const affordable = perTask === 0 ? tasks : Math.max(0, Math.floor(free / perTask));
  return { tasks, affordable, inFlight, cancelled };
}

/** Opens GENERATE tasks at the newest version. @returns how many */
export async function openGenerate(tx: Tx, run: StartedRun, spec: RunSpec, count: number): Promise<number> {
  const checkpoint = await tx.checkpoint.findUniqueOrThrow({
    where: { runId_version: { runId: run.id, version: run.currentVersion } },
    select: { manifestHash: true },
  });
  const env = environment(spec.environment);
  const tasks = Array.from({ length: count }, () => {
    // The id first: the examples are derived from it, so that nobody can choose them by dropping tasks.
    const id = newId("task");
    const taskId = toTypeId("task", id);
    const prompts = Array.from({ length: spec.generation.groupsPerTask }, (_, group) =>
      env.tokenizer.encode(env.example(exampleSeed(spec.seed, taskId, group), "train").prompt),
    );
    return {
      id,
      organizationId: run.organizationId,
      runId: run.id,
      kind: "GENERATE" as const,
      revision: run.revision,
      policyVersion: run.currentVersion,
      manifestHash: checkpoint.manifestHash,
      payload: {
        kind: "GENERATE" as const,
        seed: spec.seed,
        manifest: checkpoint.manifestHash,
        prompts,
        groupSize: spec.generation.groupSize,
        maxOutputTokens: spec.generation.maxOutputTokens,
        sampling: spec.generation.sampling,
        form: spec.verification.form,
        topK: spec.verification.topK,
      },
    };
  });
  await openTasks(tx, tasks);
  return tasks.length;
}

/** Groups that a batch with this much in it still needs, given the share of groups that has had signal lately. Never more than settle it. */
function groupsFor(spec: RunSpec, share: number, signal: number, settled: number): number {
  const { signalGroups, settledGroups } = spec.batch;
  return Math.max(0, Math.min(settledGroups - settled, Math.ceil((signalGroups - signal) / share)));
}

/** Share of groups with signal over the last three batches that have any; 1 before there are some, so as never to open too much. */
async function signalShare(tx: Tx, runId: string): Promise<number> {
  const batches = await tx.batch.findMany({
    where: { runId, settledGroups: { gt: 0 } },
    orderBy: { step: "desc" },
    take: 3,
  });
  const signal = batches.reduce((sum, batch) => sum + batch.signalGroups, 0);
  const settled = batches.reduce((sum, batch) => sum + batch.settledGroups, 0);
  return (signal + 1) / (settled + 1);
}

async function groupsInFlight(tx: Tx, runId: string, oldest: number): Promise<number> {
  const [row] = await tx.$queryRaw<{ promised: number; undecided: number; waiting: number }[]>`
    SELECT
      (SELECT COALESCE(sum(jsonb_array_length(t.payload->'prompts')), 0)::int FROM "Task" t
        WHERE t."runId" = ${runId}::uuid AND t.kind = 'GENERATE' AND t.state IN ('OPEN', 'LEASED', 'SUBMITTED')
          AND t."policyVersion" >= ${oldest}
          -- Its groups appear in the transaction that submits it.
          AND NOT EXISTS (SELECT 1 FROM "Group" g WHERE g."taskId" = t.id)) AS promised,
      (SELECT count(*)::int FROM "Group" g
        WHERE g."runId" = ${runId}::uuid AND g.state IN ('SUBMITTED', 'VERIFYING') AND g."policyVersion" >= ${oldest}) AS undecided,
      (SELECT count(*)::int FROM "Group" g
        WHERE g."runId" = ${runId}::uuid AND g.state = 'ACCEPTED' AND g."policyVersion" >= ${oldest}
          AND NOT EXISTS (SELECT 1 FROM "BatchGroup" b WHERE b."groupId" = g.id)) AS waiting`;
  return (row?.promised ?? 0) + (row?.undecided ?? 0) + (row?.waiting ?? 0);
}
