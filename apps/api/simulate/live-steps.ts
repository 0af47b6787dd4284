import { newId, toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../src/context.ts";
import { appendEvents } from "../src/events/append.ts";
import { lockRun } from "../src/runs/lifecycle.ts";
import { type CheckpointBytes, makeCheckpoint } from "./checkpoints.ts";
import { eventOf, fillingBatch, type Live } from "./live-run.ts";
import { sha256Of } from "./random.ts";

export type PreparedStep = CheckpointBytes & {
  manifest: string;
  stateHash: string;
  packs: { sha256: string; kind: "MANIFEST" | "SHARD" | "STATE"; size: bigint }[];
};

/** The next version's bytes, stored. */
export async function prepareStep({ blobs }: Ctx, live: Live): Promise<PreparedStep> {
  const version = live.version.number + 1;
  const made = await makeCheckpoint(live.spec, {
    run: toTypeId("run", live.runId),
    version,
    parent: version - 1,
    created: new Date().toISOString(),
    trainer: live.trainer,
  });
  const packs: PreparedStep["packs"] = [];
  const put = async (kind: PreparedStep["packs"][number]["kind"], bytes: Uint8Array): Promise<string> => {
    const sha256 = await blobs.putBytes(bytes);
    if (!packs.some((pack) => pack.sha256 === sha256))
      packs.push({ sha256, kind, size: BigInt(bytes.length) });
    return sha256;
  };
  for (const { bytes } of made.shards) await put("SHARD", bytes);
  return {
    ...made,
    manifest: await put("MANIFEST", made.checkpoint.bytes),
    stateHash: await put("STATE", made.state),
    packs,
  };
}

/** The batch under way is trained: a step, a version, and the versions before it as retention leaves them. */
export async function trainStep(tx: Tx, live: Live, made: PreparedStep): Promise<void> {
  await lockRun(tx, live.runId);
  const { organizationId, runId, spec } = live;
  const owner = { organizationId, runId };
  const batch = await fillingBatch(tx, live);
  const step = live.step + 1;
  const version = live.version.number + 1;
  const now = new Date();
  const packHash = sha256Of(`batch ${runId} ${step}`);
  await tx.batch.update({
    where: { id: batch.id },
    data: { state: "TRAINED", sealedAt: now, trainedAt: now, packHash },
  });
  const [figures] = await tx.$queryRaw<{ reward: number | null; tokens: number | null }[]>`
    SELECT avg(r.reward) AS reward, sum(r.tokens)::float8 AS tokens FROM "BatchGroup" b JOIN "Rollout" r ON r."groupId" = b."groupId" WHERE b."batchId" = ${batch.id}::uuid`;
  const meanReward = figures?.reward ?? null;
  const metrics = live.series(step, { reward: meanReward ?? 0, tokens: figures?.tokens ?? 0, lagMean: 0 });
  const lag = { "0": batch.settledGroups };
  const stepId = newId("step");
  await tx.trainStep.create({
    data: {
      id: stepId,
      ...owner,
      step,
      version,
      batchId: batch.id,
      meanReward,
      metrics: { ...metrics, lag },
    },
  });
  const id = newId("ckpt");
  const size = made.checkpoint.manifest.files.reduce((sum, file) => sum + file.size, 0);
  await tx.pack.createMany({ data: made.packs, skipDuplicates: true });
  await tx.checkpoint.updateMany({ where: { runId }, data: { stateHash: null } });
  await tx.packReference.deleteMany({ where: { runId, kind: "STATE", taskId: null } });
  await tx.checkpoint.create({
    data: {
      id,
      ...owner,
      version,
      parentVersion: version - 1,
      manifestHash: made.manifest,
      stateHash: made.stateHash,
      size: BigInt(size),
      state: "AVAILABLE",
      trainerNodeId: live.trainer.id,
      taskId: newId("task"),
      availableAt: now,
    },
  });
  await tx.packReference.createMany({
    data: made.packs.map(({ sha256, kind }) => ({ ...owner, sha256, subject: id, kind })),
  });
  await retire(tx, live, version);
  await tx.run.update({
    where: { id: runId },
    data: { step, currentVersion: version, stepLimit: Math.max(spec.limits.steps, step + 1) },
  });
  const data = { step, signalGroups: batch.signalGroups, settledGroups: batch.settledGroups, lag };
  const news = [
    eventOf(live, "batch.sealed", toTypeId("batch", batch.id), { ...data, pack: packHash }),
    eventOf(live, "checkpoint.available", toTypeId("ckpt", id), {
      version,
      parent: version - 1,
      manifest: made.manifest,
      size,
      trainer: toTypeId("node", live.trainer.id),
    }),
    eventOf(live, "step.trained", toTypeId("step", stepId), { ...data, ...metrics, version, meanReward }),
  ];
  await appendEvents(tx, news);
  live.events += news.length;
  live.steps++;
  live.step = step;
  live.version = { id, number: version };
  live.missing = [...live.present];
  live.placed = 0;
}

/** As training/retention.ts: what the newest versions, evaluations and unfinished work do not need. */
async function retire(tx: Tx, { runId, spec }: Live, newest: number): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Checkpoint" c SET state = 'RETIRED' WHERE c."runId" = ${runId}::uuid AND c.state = 'AVAILABLE' AND c.version > 0
      AND c.version < ${newest - spec.batch.asyncLevel - 1} AND c.version % ${Math.max(1, spec.evaluation.every)} <> 0
      AND NOT EXISTS (SELECT 1 FROM "Evaluation" e WHERE e."runId" = c."runId" AND e.version = c.version)
      AND NOT EXISTS (SELECT 1 FROM "Task" t WHERE t."runId" = c."runId" AND t.state IN ('OPEN', 'LEASED', 'SUBMITTED') AND t."manifestHash" = c."manifestHash")
      AND NOT EXISTS (SELECT 1 FROM "Case" k JOIN "Group" g ON g.id = k."groupId" WHERE k."runId" = c."runId" AND k.state = 'OPEN' AND g."policyVersion" = c.version)`;
  await tx.$executeRaw`
    DELETE FROM "PackReference" p USING "Checkpoint" c
    WHERE p."runId" = ${runId}::uuid AND c."runId" = p."runId" AND p.subject = c.id AND c.state = 'RETIRED'`;
}
