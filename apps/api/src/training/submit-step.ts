import type { Batch, Run } from "@muster/db";
import { newId, type RunSpec, toTypeId, trainPayloadSchema } from "@muster/protocol";
import { dropUploadNotes } from "../blobs/upload.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { payNode } from "../ledger/ledger.ts";
import { lockRun, nudgeRun } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { acceptSubmission, completeTask } from "../tasks/lease.ts";
import { answeredBefore, refuseSubmission } from "../tasks/refusal.ts";
import { openSubmission, type SignedSubmission, type SubmissionOutcome } from "../tasks/submission.ts";
import { checkCheckpoint, type SoundCheckpoint } from "./check-checkpoint.ts";
import { UnsoundFile } from "./safetensors.ts";

export type StepInput = {
  readonly taskId: string;
  readonly attempt: number;
  /** SHA-256 of `manifest.json`; the signature covers it as the pack. */
  readonly manifest: string;
  /** SHA-256 of the optimizer state. */
  readonly state: string;
  readonly signature: string;
  readonly metrics: unknown;
  readonly cpuSeconds?: number;
};

/**
 * Publishes a policy version: version 0 for a BASE task, the next one for a TRAIN task. Weights and state are checked to the byte before
 * the transaction that makes the version AVAILABLE, its batch TRAINED and its trainer paid.
 */
export async function submitStep(ctx: Ctx, input: StepInput): Promise<SubmissionOutcome> {
  if (!/^[0-9a-f]{64}$/.test(input.state))
    throw new CodedError("INPUT_INVALID", "`state` must be a SHA-256 in lower-case hexadecimal.");
  const submission = await openSubmission(ctx, { ...input, pack: input.manifest });
  const { task } = submission;
  if (task.kind !== "BASE" && task.kind !== "TRAIN")
    throw new CodedError(
      "INPUT_INVALID",
      `This task is ${task.kind}, not BASE or TRAIN. Submit its result with the mutation of its kind.`,
    );
  // An answered attempt is answered the same again, without reading the weights a second time.
  const before = answeredBefore(submission, input.manifest);
  if (before !== undefined) return before;

  const spec = await specOf(ctx.prisma, task.runId, task.revision);
  const step = task.kind === "TRAIN" ? trainPayloadSchema.parse(task.payload) : null;
  let checkpoint: SoundCheckpoint;
  try {
    checkpoint = await checkCheckpoint(ctx, {
      manifestHash: input.manifest,
      stateHash: input.state,
      expected: {
        runId: task.runId,
        run: toTypeId("run", task.runId),
        version: step?.version ?? 0,
        parent: task.policyVersion,
        trainer: await publicKeyOf(ctx, submission.nodeId),
        spec,
        parentManifest: step?.manifest ?? null,
      },
    });
  } catch (error) {
    if (error instanceof UnsoundFile)
      return refuseSubmission(ctx, submission, {
        pack: input.manifest,
        what: "checkpoint",
        message: error.message,
      });
    throw error;
  }

  const publish = (pay: "paid" | "unpaid") =>
    ctx.prisma.$transaction((tx) =>
      publishVersion(tx, submission, input, { spec, step: step?.step ?? null, checkpoint, pay }),
    );
  let outcome: SubmissionOutcome;
  try {
    outcome = await publish("paid");
  } catch (error) {
    // The planner keeps a step's price free, but prices may be revised under way. Work that was done is never lost for money.
    if (!(error instanceof CodedError) || error.code !== "BUDGET_EXHAUSTED") throw error;
    ctx.log.warn(
      { run: task.runId, task: task.id },
      "a step was published unpaid: the budget does not cover it",
    );
    outcome = await publish("unpaid");
  }
  nudgeRun(ctx, task.runId);
  ctx.bus.publish(`relays:${task.runId}`);
  return outcome;
}

type Publication = {
  readonly spec: RunSpec;
  /** Training step; null for the base. */
  readonly step: number | null;
  readonly checkpoint: SoundCheckpoint;
  readonly pay: "paid" | "unpaid";
};

async function publishVersion(
  tx: Tx,
  { task, nodeId }: SignedSubmission,
  input: StepInput,
  publication: Publication,
): Promise<SubmissionOutcome> {
  const run = await lockRun(tx, task.runId);
  if (run === null) throw new Error(`run ${task.runId} is gone`);
  const fence = await acceptSubmission(tx, {
    taskId: task.id,
    attempt: input.attempt,
    nodeId,
    packHash: input.manifest,
  });
  if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
  if (fence.kind === "duplicate") return { kind: "submitted", taskId: task.id, duplicate: true };
  if (input.cpuSeconds !== undefined)
    await tx.attempt.update({ where: { id: fence.attempt.id }, data: { cpuSeconds: input.cpuSeconds } });

  const { checkpoint, step } = publication;
  await storeCheckpoint(tx, run, { taskId: task.id, nodeId, input, checkpoint });
  if (step !== null)
    await recordStep(tx, run, {
      ...publication,
      step,
      taskId: task.id,
      nodeId,
      metrics: numbersIn(input.metrics),
    });
  await completeTask(tx, task);
  return { kind: "submitted", taskId: task.id, duplicate: false };
}

async function storeCheckpoint(
  tx: Tx,
  run: Run,
  {
    taskId,
    nodeId,
    input,
    checkpoint,
  }: { taskId: string; nodeId: string; input: StepInput; checkpoint: SoundCheckpoint },
): Promise<void> {
  const { manifest, shards, chain, size } = checkpoint;
  // There is one attempt at a version at a time: whatever earlier ones sent is of no use now.
  await dropUploadNotes(tx, run.id);
  const owner = { organizationId: run.organizationId, runId: run.id };
  const id = newId("ckpt");
  await tx.checkpoint.create({
    data: {
      id,
      ...owner,
      version: manifest.version,
      parentVersion: manifest.parent,
      manifestHash: input.manifest,
      stateHash: input.state,
      size: BigInt(size),
      state: "AVAILABLE",
      trainerNodeId: nodeId,
      taskId,
      availableAt: new Date(),
    },
  });
  // The checkpoint's id as their subject, also for deltas of earlier versions that lead to it: retention drops a version's references at once, and shards it shares with another version stay.
  await tx.packReference.createMany({
    data: [
      { ...owner, subject: id, sha256: input.manifest, kind: "MANIFEST" as const },
      { ...owner, subject: id, sha256: input.state, kind: "STATE" as const },
      ...[...new Set([...shards, ...chain.shards])].map((sha256) => ({
        ...owner,
        subject: id,
        sha256,
        kind: "SHARD" as const,
      })),
      ...chain.manifests.map((sha256) => ({ ...owner, subject: id, sha256, kind: "MANIFEST" as const })),
    ],
  });
  // Only the newest state is ever trained from.
  await tx.packReference.deleteMany({ where: { runId: run.id, kind: "STATE", subject: { not: id } } });
  await tx.checkpoint.updateMany({
    where: { runId: run.id, version: { lt: manifest.version } },
    data: { stateHash: null },
  });
  await tx.run.update({ where: { id: run.id }, data: { currentVersion: manifest.version } });
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId: run.organizationId,
      type: "checkpoint.available",
      subject: toTypeId("ckpt", id),
      data: {
        version: manifest.version,
        parent: manifest.parent,
        manifest: input.manifest,
        size,
        trainer: toTypeId("node", nodeId),
      },
    },
  ]);
}

async function recordStep(
  tx: Tx,
  run: Run,
  input: {
    step: number;
    taskId: string;
    nodeId: string;
    metrics: Record<string, number>;
    spec: RunSpec;
    checkpoint: SoundCheckpoint;
    pay: "paid" | "unpaid";
  },
): Promise<void> {
  const { step, spec } = input;
  const batch = await tx.batch.findUniqueOrThrow({ where: { runId_step: { runId: run.id, step } } });
  if (batch.state !== "SEALED")
    throw new CodedError("STATE_CONFLICT", `Batch ${step} is ${batch.state}, not SEALED.`);
  await tx.batch.update({ where: { id: batch.id }, data: { state: "TRAINED", trainedAt: new Date() } });
  const figures = await batchFigures(tx, batch);
  const version = input.checkpoint.manifest.version;
  // The coordinator's own count overrides what the trainer says.
  const metrics = { ...input.metrics, tokens: figures.tokens, lagMean: figures.lagMean };
  const id = newId("step");
  await tx.trainStep.create({
    data: {
      id,
      organizationId: run.organizationId,
      runId: run.id,
      step,
      version,
      batchId: batch.id,
      meanReward: figures.meanReward,
      metrics: { ...metrics, lag: figures.lag },
    },
  });
  await tx.run.update({ where: { id: run.id }, data: { step } });
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId: run.organizationId,
      type: "step.trained",
      subject: toTypeId("step", id),
      data: {
        step,
        version,
        meanReward: figures.meanReward,
        signalGroups: batch.signalGroups,
        settledGroups: batch.settledGroups,
        ...metrics,
        lag: figures.lag,
      },
    },
  ]);
  if (input.pay === "unpaid") return;
  await payNode(tx, {
    organizationId: run.organizationId,
    runId: run.id,
    nodeId: input.nodeId,
    amount: BigInt(figures.tokens) * BigInt(spec.prices.trainedToken),
    key: `pay:${input.taskId}`,
    memo: `Training step ${step}`,
    taskId: input.taskId,
  });
}

/** What a batch consisted of: mean reward over all its settled groups, output tokens trained on, groups by policy lag. */
async function batchFigures(
  tx: Tx,
  batch: Batch,
): Promise<{ meanReward: number | null; tokens: number; lag: Record<string, number>; lagMean: number }> {
  const [sums] = await tx.$queryRaw<{ meanReward: number | null; tokens: number }[]>`
    SELECT avg(r.reward) AS "meanReward", COALESCE(sum(r.tokens) FILTER (WHERE b.signal), 0)::float8 AS tokens
    FROM "BatchGroup" b JOIN "Rollout" r ON r."groupId" = b."groupId" WHERE b."batchId" = ${batch.id}::uuid`;
  const lags = await tx.batchGroup.groupBy({
    by: ["policyLag"],
    where: { batchId: batch.id },
    _count: true,
    orderBy: { policyLag: "asc" },
  });
  const groups = lags.reduce((sum, row) => sum + row._count, 0);
  return {
    meanReward: sums?.meanReward ?? null,
    tokens: sums?.tokens ?? 0,
    lag: Object.fromEntries(lags.map((row) => [String(row.policyLag ?? 0), row._count])),
    lagMean: lags.reduce((sum, row) => sum + (row.policyLag ?? 0) * row._count, 0) / Math.max(1, groups),
  };
}

/** A trainer's metrics: up to 64 finite numbers by name. Anything else is left out; a step is not lost for a bad figure. */
function numbersIn(metrics: unknown): Record<string, number> {
  if (typeof metrics !== "object" || metrics === null) return {};
  const numbers = Object.entries(metrics).flatMap(([name, value]): [string, number][] =>
    typeof value === "number" &&
    Number.isFinite(value) &&
    /^[A-Za-z][A-Za-z0-9_]{0,39}$/.test(name) &&
    !reserved.has(name)
      ? [[name, value]]
      : [],
  );
  return Object.fromEntries(numbers.slice(0, 64));
}

/** Names the coordinator gives. */
const reserved = new Set([
  "step",
  "version",
  "meanReward",
  "signalGroups",
  "settledGroups",
  "lag",
  "lagMean",
]);

async function publicKeyOf(ctx: Ctx, nodeId: string): Promise<string> {
  const node = await ctx.prisma.node.findUniqueOrThrow({
    where: { id: nodeId },
    select: { publicKey: true },
  });
  return node.publicKey;
}
