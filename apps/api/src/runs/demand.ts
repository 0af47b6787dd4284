import type { Batch } from "@muster/db";
import { environment, exampleSeed, newId, type RunSpec, toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { budgetAvailable } from "../ledger/ledger.ts";
import { refundable } from "../ledger/stakes.ts";
import { cancelTasks, openTasks } from "../tasks/lease.ts";
import { wantedVersions } from "../training/evaluation-plan.ts";
import type { StartedRun } from "./lifecycle.ts";
import { specOf } from "./spec.ts";

export type Demand = {
  /** GENERATE tasks that are missing. */
  readonly tasks: number;
  /** How many of them the budget covers at their longest, beside all that is in flight. */
  readonly affordable: number;
  /** Groups on their way, to the batches at hand or only to a verdict: what is reserved for them at their longest may come back. */
  readonly inFlight: number;
  /** OPEN tasks given up because their version is too old. */
  readonly cancelled: number;
};

/** Most tasks opened in one pass: a transaction that prepares more prompts would hold the run's lock too long. */
const tasksPerPass = 64;

/**
 * How many GENERATE tasks are missing: the groups that the FILLING batch still needs and those of at most `asyncLevel − 1` further
 * batches, minus what is on its way, in whole tasks. None while more is waiting to be measured than validators keep up with: an audit is
 * never skipped, so generation waits for them.
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
  const work = await workInFlight(tx, run.id, oldest, patientLeases * spec.leaseSeconds);
  const further = Math.max(0, Math.min(spec.batch.asyncLevel - 1, run.stepLimit - batch.step));
  const share = await signalShare(tx, run.id);
  const missing =
    groupsFor(spec, share, batch.signalGroups, batch.settledGroups) +
    further * groupsFor(spec, share, 0, 0) -
    work.recent;
  const wanted = Math.min(Math.max(0, Math.ceil(missing / generation.groupsPerTask)), tasksPerPass);
  const tasks = wanted > 0 && (await verifyBacklog(tx, run.id)) > backlogLimit(spec) ? 0 : wanted;

  const tokens = generation.groupSize * generation.maxOutputTokens;
  const step = spec.batch.signalGroups * tokens * prices.trainedToken;
  const reserved =
    (await costOf(tx, run.id, work)) +
    step +
    (await evaluationsDue(tx, run, spec, batch)) * evaluationPrice(spec);
  const free = Number((await budgetAvailable(tx, run.id)) - (await refundable(tx, run.id))) - reserved;
  const perTask = tokens * (prices.generatedToken + prices.measuredToken) * generation.groupsPerTask;
  const affordable = perTask === 0 ? tasks : Math.max(0, Math.floor(free / perTask));
  return { tasks, affordable, inFlight: work.all, cancelled };
}

/** VERIFY tasks of a run that wait to be measured, above which no further GENERATE task is opened. */
export function backlogLimit({ batch, generation }: RunSpec): number {
  return Math.max(2 * batch.settledGroups, 4 * generation.groupsPerTask);
}

/** VERIFY tasks of a run that are OPEN or LEASED. */
export function verifyBacklog(tx: Tx, runId: string): Promise<number> {
  return tx.task.count({ where: { runId, kind: "VERIFY", state: { in: ["OPEN", "LEASED"] } } });
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

type Work = {
  /** Groups that may still enter the batch at hand or a later one. */
  readonly recent: number;
  readonly all: number;
  /** What is not paid yet, by the revision of the spec that priced it: groups to be made, tokens to be accepted and tokens to be measured. */
  readonly unpaid: readonly { revision: number; promised: number; generated: number; measured: number }[];
};

/** Lease lengths after which a task that is still worked on is not waited for: identities are free, and renewing is all a ghost does. */
const patientLeases = 5;

/** All that is under way, whatever its version: what is too old for a batch is measured and paid all the same. */
async function workInFlight(tx: Tx, runId: string, oldest: number, patience: number): Promise<Work> {
  type Row = {
    revision: number;
    recent: number;
    n: number;
    promised: number;
    generated: number;
    measured: number;
  };
  const rows = await tx.$queryRaw<Row[]>`
    SELECT revision, sum(recent)::int AS recent, sum(n)::int AS n, sum(promised)::int AS promised,
      sum(generated)::float8 AS generated, sum(measured)::float8 AS measured
    FROM (
      SELECT t.revision, CASE WHEN t."policyVersion" >= ${oldest} AND NOT EXISTS (SELECT 1 FROM "Attempt" a
          WHERE a."taskId" = t.id AND a.state = 'LIVE' AND a."claimedAt" < now() - make_interval(secs => ${patience}))
        THEN p.n ELSE 0 END AS recent, p.n, p.n AS promised, 0 AS generated, 0 AS measured
      FROM "Task" t CROSS JOIN LATERAL (SELECT jsonb_array_length(t.payload->'prompts') AS n) p
      WHERE t."runId" = ${runId}::uuid AND t.kind = 'GENERATE' AND t.state IN ('OPEN', 'LEASED', 'SUBMITTED')
        -- Its groups appear in the transaction that submits it.
        AND NOT EXISTS (SELECT 1 FROM "Group" g WHERE g."taskId" = t.id)
      UNION ALL
      SELECT t.revision, CASE WHEN g."policyVersion" >= ${oldest} THEN 1 ELSE 0 END, 1, 0, CASE WHEN g."finalAfter" IS NULL THEN g.tokens ELSE 0 END, g.tokens
      FROM "Group" g JOIN "Task" t ON t.id = g."taskId"
      WHERE g."runId" = ${runId}::uuid AND g.state IN ('SUBMITTED', 'VERIFYING')
      UNION ALL
      -- Audited afterwards where they stand.
      SELECT t.revision, 0, 1, 0, 0, g.tokens
      FROM "Group" g JOIN "Task" t ON t.id = g."taskId"
      WHERE g."runId" = ${runId}::uuid AND g.retroactive AND g.acceptance = 'TRUSTED' AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE')
      UNION ALL
      SELECT t.revision, 0, 0, 0, 0, g.tokens
      FROM "Probe" p JOIN "Group" g ON g.id = p."groupId" JOIN "Task" t ON t.id = p."taskId"
      WHERE p."runId" = ${runId}::uuid AND p.outcome IS NULL AND t.state IN ('OPEN', 'LEASED')
    ) w GROUP BY revision`;
  const [waiting] = await tx.$queryRaw<{ n: number }[]>`
    SELECT count(*)::int AS n FROM "Group" g
    WHERE g."runId" = ${runId}::uuid AND g.state = 'ACCEPTED' AND g."policyVersion" >= ${oldest}
      -- As in fill.ts, so that it costs a look for each recent group and not a join with all.
      AND (SELECT b."groupId" FROM "BatchGroup" b WHERE b."groupId" = g.id) IS NULL`;
  const sum = (pick: (row: Row) => number) => rows.reduce((total, row) => total + pick(row), 0);
  return {
    recent: sum((row) => row.recent) + (waiting?.n ?? 0),
    all: sum((row) => row.n),
    unpaid: rows,
  };
}

/** Micro-credits that work under way may cost yet. Groups to be made are taken at their longest: every rollout as long as it may be. */
async function costOf(tx: Tx, runId: string, { unpaid }: Work): Promise<number> {
  let cost = 0;
  for (const { revision, promised, generated, measured } of unpaid) {
    const { generation, prices } = await specOf(tx, runId, revision);
    const longest = promised * generation.groupSize * generation.maxOutputTokens;
    cost += (longest + generated) * prices.generatedToken + (longest + measured) * prices.measuredToken;
  }
  return cost;
}

/** Evaluations that are wanted up to the version this batch makes, and not paid yet. */
async function evaluationsDue(tx: Tx, run: StartedRun, spec: RunSpec, batch: Batch): Promise<number> {
  const wanted = wantedVersions(spec, batch.step, { final: batch.step >= run.stepLimit });
  if (wanted.length === 0) return 0;
  const done = await tx.evaluation.count({
    where: { runId: run.id, suite: spec.evaluation.suite, version: { in: wanted } },
  });
  return wanted.length - done;
}

/** Of one evaluation at its longest. */
function evaluationPrice({ evaluation, generation, prices }: RunSpec): number {
  return evaluation.examples * generation.maxOutputTokens * prices.evaluatedToken;
}
