import type { Batch } from "@muster/db";
import {
  type BatchRollout,
  decodeMeasurementPack,
  encodeBatchPack,
  groupOf,
  hashHex,
  type PackedRollout,
  permuteAdvantages,
  type RunSpec,
  toTypeId,
} from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { readRolloutPack } from "../rollouts/decoded-packs.ts";
import { lockRun } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { openTask } from "../tasks/lease.ts";
import { awaitsVerdict } from "../verification/acceptance.ts";
import { restsOnLostTrust } from "../verification/undecided.ts";

/** A BATCH pack in the blob store, and the groups it was made of. */
export type WrittenBatch = {
  readonly batchId: string;
  readonly runId: string;
  readonly groupIds: readonly string[];
  readonly sha256: string;
  readonly size: number;
};

/**
 * Writes the BATCH pack of a full batch: its groups with signal in the order of their places. Tokens come from the workers' packs,
 * old log-probabilities from the validators' measurements, advantages and rewards from the coordinator's own rows. Groups that were
 * trusted unmeasured carry none: the trainer computes them at the version that generated. The worker's own claims never stand in.
 * @returns null when the run has ended meanwhile and took the batch with it.
 * @throws Error when a group was accepted by audit without a measurement
 */
export async function writeBatchPack(ctx: Ctx, batchId: string): Promise<WrittenBatch | null> {
  const batch = await ctx.prisma.batch.findUnique({ where: { id: batchId }, include: { run: true } });
  if (batch === null) return null;
  const spec = await specOf(ctx.prisma, batch.runId, batch.run.revision);
  const places = await ctx.prisma.batchGroup.findMany({
    where: { batchId, signal: true },
    orderBy: { position: "asc" },
    include: {
      group: {
        include: {
          task: { select: { revision: true } },
          rollouts: { orderBy: { index: "asc" } },
          verifications: { orderBy: { createdAt: "desc" }, take: 1 },
        },
      },
    },
  });
  const rollouts: BatchRollout[] = [];
  for (const { group } of places) {
    const pack = await readRolloutPack(ctx, group.packHash);
    // The spec may have been revised since the group was made.
    const { generation } = await specOf(ctx.prisma, batch.runId, group.task.revision);
    const packed = groupOf(pack, group.index, generation.groupSize);
    const logprobs = await measuredLogprobs(ctx, group);
    if (packed.length !== group.rollouts.length || (logprobs !== null && logprobs.length !== packed.length))
      throw new Error(
        `group ${group.id}: ${packed.length} rollouts in its pack, ${group.rollouts.length} rows, ${logprobs?.length ?? "none"} measured`,
      );
    for (const [i, row] of group.rollouts.entries()) {
      if (row.advantage === null) throw new Error(`rollout ${row.id} has no advantage`);
      rollouts.push({
        group: toTypeId("group", group.id),
        ...tokensOf(packed, i),
        logprobs: logprobs?.[i] ?? new Float32Array(),
        advantage: row.advantage,
        reward: row.reward,
        policyVersion: group.policyVersion,
      });
    }
  }
  const bytes = encodeBatchPack({
    header: {
      kind: "batch",
      version: 1,
      run: toTypeId("run", batch.runId),
      step: batch.step,
      batch: toTypeId("batch", batch.id),
    },
    rollouts: spec.training.permuteAdvantages ? permuted(rollouts, spec, batch.step) : rollouts,
  });
  const sha256 = await ctx.blobs.putBytes(bytes);
  return {
    batchId,
    runId: batch.runId,
    groupIds: places.map((place) => place.groupId),
    sha256,
    size: bytes.length,
  };
}

/**
 * FILLING → SEALED, and opens its TRAIN task. Checks again what was true when the pack was written.
 * @returns false when something changed since; the planner starts over.
 */
export async function sealBatch(tx: Tx, written: WrittenBatch): Promise<boolean> {
  const run = await lockRun(tx, written.runId);
  const batch = await tx.batch.findUnique({ where: { id: written.batchId } });
  if (run === null || run.state !== "RUNNING" || run.currentVersion === null) return false;
  if (batch === null || batch.state !== "FILLING" || batch.step !== run.step + 1) return false;
  const places = await tx.batchGroup.findMany({
    where: { batchId: batch.id, signal: true },
    orderBy: { position: "asc" },
    select: { groupId: true },
  });
  if (places.map((place) => place.groupId).join() !== written.groupIds.join()) return false;
  const unsure = await tx.group.count({
    where: { batchGroup: { batchId: batch.id }, OR: [restsOnLostTrust(run.id), awaitsVerdict] },
  });
  // They are taken back and measured before anybody trains on them.
  if (unsure > 0) return false;
  const spec = await specOf(tx, run.id, run.revision);
  const checkpoint = await tx.checkpoint.findUniqueOrThrow({
    where: { runId_version: { runId: run.id, version: run.currentVersion } },
  });
  const { manifestHash, stateHash } = checkpoint;
  if (stateHash === null)
    throw new Error(`version ${checkpoint.version} of run ${run.id} has no optimizer state`);

  const reference = spec.training.klCoefficient > 0 ? await manifestOfBase(tx, run.id) : null;

  const owner = { organizationId: run.organizationId, runId: run.id };
  await tx.batch.update({
    where: { id: batch.id },
    data: { state: "SEALED", sealedAt: new Date(), packHash: written.sha256 },
  });
  await tx.pack.createMany({
    data: [{ sha256: written.sha256, kind: "BATCH", size: BigInt(written.size) }],
    skipDuplicates: true,
  });
  const taskId = await openTask(tx, {
    ...owner,
    kind: "TRAIN",
    revision: run.revision,
    policyVersion: run.currentVersion,
    manifestHash,
    payload: {
      kind: "TRAIN",
      step: batch.step,
      totalSteps: run.stepLimit,
      version: run.currentVersion + 1,
      manifest: manifestHash,
      state: stateHash,
      batch: written.sha256,
      reference,
      training: spec.training,
      temperature: spec.generation.sampling.temperature,
    },
  });
  await tx.packReference.createMany({
    data: [
      { ...owner, taskId, subject: taskId, sha256: written.sha256, kind: "BATCH" },
      { ...owner, taskId, subject: taskId, sha256: stateHash, kind: "STATE" },
    ],
  });
  await appendEvents(tx, [
    {
      stream: runStream(run.id),
      organizationId: run.organizationId,
      type: "batch.sealed",
      subject: toTypeId("batch", batch.id),
      data: { ...(await sealedFigures(tx, batch)), pack: written.sha256, task: toTypeId("task", taskId) },
    },
  ]);
  return true;
}

/** A group's log-probabilities as a validator measured them; null for one that was trusted. */
async function measuredLogprobs(
  ctx: Ctx,
  group: {
    readonly acceptance: string | null;
    /** The last one: what an earlier one found was void, or the group would not have been measured again. */
    readonly verifications: readonly { readonly verdict: string; readonly measurementHash: string }[];
  },
): Promise<Float32Array[] | null> {
  // Trusted: nobody measured it, or a validator did that turned out not to measure.
  if (group.acceptance !== "AUDITED") return null;
  const [verification] = group.verifications;
  // Besides those, one whose rejection was overturned: the measurement that accused it is not one to train on.
  if (verification?.verdict !== "ACCEPTED") return null;
  const measurement = decodeMeasurementPack(await ctx.blobs.read(verification.measurementHash));
  return measurement.rollouts.map((rollout) => rollout.logprobs);
}

/** Manifest of version 0. */
async function manifestOfBase(tx: Tx, runId: string): Promise<string> {
  const base = await tx.checkpoint.findUniqueOrThrow({
    where: { runId_version: { runId, version: 0 } },
    select: { manifestHash: true },
  });
  return base.manifestHash;
}

async function sealedFigures(tx: Tx, batch: Batch) {
  const lags = await tx.batchGroup.groupBy({
    by: ["policyLag"],
    where: { batchId: batch.id },
    _count: true,
    orderBy: { policyLag: "asc" },
  });
  return {
    step: batch.step,
    signalGroups: batch.signalGroups,
    settledGroups: batch.settledGroups,
    lag: Object.fromEntries(lags.map((row) => [String(row.policyLag ?? 0), row._count])),
  };
}

function tokensOf(packed: readonly PackedRollout[], i: number): Pick<BatchRollout, "prompt" | "tokens"> {
  const rollout = packed[i];
  if (rollout === undefined) throw new Error(`rollout ${i} is not in its pack`);
  return { prompt: rollout.prompt, tokens: rollout.tokens };
}

/** The control experiment: every advantage on some other rollout of the batch. */
function permuted(rollouts: readonly BatchRollout[], spec: RunSpec, step: number): BatchRollout[] {
  const advantages = permuteAdvantages(
    rollouts.map((rollout) => rollout.advantage),
    hashHex(`muster/control/v1\0${spec.seed}\0${step}`),
  );
  return rollouts.map((rollout, i) => ({ ...rollout, advantage: advantages[i] ?? 0 }));
}
