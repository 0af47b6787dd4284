import type { Group, Prisma } from "@muster/db";
import {
  decodeMeasurementPack,
  decodeRolloutPack,
  environment,
  groupAdvantages,
  groupOf,
  type MeasurementPack,
  newId,
  PackError,
  type RunSpec,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import { type GroupDecision, verifyGroup } from "@muster/verification";
import type { Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { holdForGroup, payNode } from "../ledger/ledger.ts";
import { specOf } from "../runs/spec.ts";
import { acceptSubmission, completeTask, reopenTask } from "../tasks/lease.ts";
import { openSubmission, type SignedSubmission, type SubmissionInput, type SubmissionOutcome } from "../tasks/submission.ts";
import { decidedEvent } from "./decided.ts";
import { epochKeyOf, secretDraws } from "./audit.ts";
import { retryElsewhere } from "./inconclusive.ts";
import { recordOutcome } from "./trust.ts";

// A validator measures, the coordinator decides: the verdict comes from packages/verification over the worker's pack and the
// blind measurement, and every number it rests on is stored with it.

/** Takes a validator's measurement of one group and issues the verdict. */
export async function submitMeasurement(ctx: Ctx, input: SubmissionInput): Promise<SubmissionOutcome> {
  const submission = await openSubmission(ctx, input);
  const { task, attempt } = submission;
  if (task.kind !== "VERIFY")
    throw new CodedError("INPUT_INVALID", `This task is ${task.kind}, not VERIFY. Submit its result with the mutation of its kind.`);
  if (attempt.state === "SUBMITTED" && attempt.packHash === input.pack)
    return attempt.reason === null
      ? { kind: "submitted", taskId: task.id, duplicate: true }
      : { kind: "refused", taskId: task.id, code: "PACK_INVALID", message: attempt.reason };

  const group = await ctx.prisma.group.findFirstOrThrow({ where: { verifyTaskId: task.id } });
  const spec = await specOf(ctx.prisma, task.runId, task.revision);
  const bytes = await ctx.blobs.read(input.pack);
  const judged = await judge(ctx, group, spec, bytes);
  if (judged.kind === "refused") return refuse(ctx, submission, input, judged.message);

  const outcome = await ctx.prisma.$transaction(async (tx): Promise<SubmissionOutcome> => {
    const fence = await acceptSubmission(tx, { taskId: task.id, attempt: input.attempt, nodeId: submission.nodeId, packHash: input.pack });
    if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
    if (fence.kind === "duplicate") return { kind: "submitted", taskId: task.id, duplicate: true };
    await storeVerification(tx, submission, input, group, judged.verdict);
    await decide(tx, { group, spec, verdict: judged.verdict, validatorNodeId: submission.nodeId });
    await completeTask(tx, fence.task);
    await payNode(tx, {
      organizationId: task.organizationId,
      runId: task.runId,
      nodeId: submission.nodeId,
      amount: BigInt(group.tokens) * BigInt(spec.prices.measuredToken),
      key: `pay:${task.id}`,
      memo: "Measured group",
      taskId: task.id,
    });
    return { kind: "submitted", taskId: task.id, duplicate: false };
  });
  ctx.bus.publish("events");
  ctx.bus.publish(`run:${task.runId}`);
  return outcome;
}

type Judged = { kind: "refused"; message: string } | { kind: "judged"; verdict: GroupDecision };

async function judge(ctx: Ctx, group: Group, spec: RunSpec, bytes: Uint8Array): Promise<Judged> {
  let measurement: MeasurementPack;
  try {
    measurement = decodeMeasurementPack(bytes, {
      bytes: bytes.length,
      rollouts: spec.generation.groupSize,
      tokens: spec.model.maxPositions,
    });
  } catch (error) {
    if (error instanceof PackError) return { kind: "refused", message: `The measurement does not read: ${error.message}` };
    throw error;
  }
  const pack = decodeRolloutPack(await ctx.blobs.read(group.packHash));
  const rollouts = groupOf(pack, group.index, spec.generation.groupSize);
  const env = environment(spec.environment);
  const example = env.example(Buffer.from(group.exampleSeed, "hex"), "train");
  const prompt = env.tokenizer.encode(example.prompt);
  const task = toTypeId("task", group.taskId);
  const rewards = await ctx.prisma.rollout.findMany({ where: { groupId: group.id }, orderBy: { index: "asc" }, select: { reward: true } });
  const key = await epochKeyOf(ctx, group.runId, group.epoch);
  const verdict = verifyGroup({
    spec,
    task: {
      policyVersion: group.policyVersion,
      manifest: pack.header.manifest,
      promptTokens: rollouts.map(() => prompt),
      keys: rollouts.map((rollout) => rolloutKey(spec.seed, task, rollout.index)),
      ...(group.blindHash === null ? {} : { blind: group.blindHash }),
      example,
      rewards: rewards.map((row) => row.reward),
    },
    rollouts,
    measurement,
    decoyKey: secretDraws(key, group).decoys,
  });
  return verdict.measurementFault ? { kind: "refused", message: explain(verdict) } : { kind: "judged", verdict };
}

/** The first check that did not pass, in a sentence. */
function explain(verdict: GroupDecision): string {
  const telling = verdict.checks.find((check) => check.verdict === "FAIL") ?? verdict.checks.find((check) => check.verdict !== "PASS");
  return telling === undefined ? "" : telling.note === "" ? telling.plain : `${telling.plain} ${telling.note}`;
}

async function refuse(
  ctx: Ctx,
  { task, nodeId }: SignedSubmission,
  input: SubmissionInput,
  message: string,
): Promise<SubmissionOutcome> {
  const outcome = await ctx.prisma.$transaction(async (tx): Promise<SubmissionOutcome> => {
    const fence = await acceptSubmission(tx, { taskId: task.id, attempt: input.attempt, nodeId, packHash: input.pack });
    if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
    if (fence.kind === "fresh") {
      await tx.attempt.update({ where: { id: fence.attempt.id }, data: { reason: message } });
      await reopenTask(tx, fence.task, `measurement refused: ${message}`);
    }
    return { kind: "refused", taskId: task.id, code: "PACK_INVALID", message };
  });
  ctx.bus.publish("events");
  ctx.bus.publish("offers:VERIFY");
  return outcome;
}

async function storeVerification(
  tx: Tx,
  { task, attempt, nodeId }: SignedSubmission,
  input: SubmissionInput,
  group: Group,
  verdict: GroupDecision,
): Promise<void> {
  const owner = { organizationId: task.organizationId, runId: task.runId };
  await tx.verification.create({
    data: {
      id: newId("verif"),
      ...owner,
      groupId: group.id,
      taskId: task.id,
      validatorNodeId: nodeId,
      measurementHash: input.pack,
      verdict: verdict.verdict,
      // Plain numbers, strings and nulls by construction: what packages/verification reports is JSON.
      checks: verdict.checks as unknown as Prisma.InputJsonValue,
      tokens: group.tokens,
      cost: input.cpuSeconds ?? null,
      startedAt: attempt.claimedAt,
    },
  });
  await tx.packReference.createMany({
    data: [{ ...owner, sha256: input.pack, taskId: task.id, subject: task.id, kind: "MEASUREMENT" }],
    skipDuplicates: true,
  });
}

/** Applies a verdict to a group that is still being verified; a group decided meanwhile stays as it is. */
async function decide(
  tx: Tx,
  input: { group: Group; spec: RunSpec; verdict: GroupDecision; validatorNodeId: string },
): Promise<void> {
  const { group, spec, verdict } = input;
  switch (verdict.verdict) {
    case "ACCEPTED":
      return accept(tx, group, spec);
    case "REJECTED":
      return reject(tx, group, spec, explain(verdict));
    case "INCONCLUSIVE":
      return retryElsewhere(tx, { group, spec, validatorNodeId: input.validatorNodeId, note: explain(verdict) });
  }
}

async function accept(tx: Tx, group: Group, spec: RunSpec): Promise<void> {
  const changed = await tx.group.updateMany({
    where: { id: group.id, state: "VERIFYING" },
    data: { state: "ACCEPTED", acceptance: "AUDITED", advantagesReady: true, decidedAt: new Date() },
  });
  if (changed.count === 0) return;
  const rollouts = await tx.rollout.findMany({ where: { groupId: group.id }, orderBy: { index: "asc" }, select: { id: true, reward: true } });
  const advantages = groupAdvantages(
    rollouts.map((rollout) => rollout.reward),
    spec.training.advantageEpsilon,
  );
  await tx.$executeRaw`
    UPDATE "Rollout" r SET advantage = v.advantage
    FROM unnest(${rollouts.map((rollout) => rollout.id)}::uuid[], ${advantages}::float8[]) AS v(id, advantage) WHERE r.id = v.id`;
  const { runId, nodeId, organizationId } = group;
  const trust = await recordOutcome(tx, { runId, nodeId, organizationId, outcome: "ACCEPTED", spec });
  // Final only once the node has shown as many audited-valid groups again as make a lucky miss unlikely.
  await tx.group.update({ where: { id: group.id }, data: { finalAfter: trust.accepted + Math.ceil(3 / group.auditRate) } });
  await holdForGroup(tx, {
    organizationId: group.organizationId,
    runId: group.runId,
    nodeId: group.nodeId,
    groupId: group.id,
    amount: BigInt(group.tokens) * BigInt(spec.prices.generatedToken),
  });
  await decidedEvent(tx, group, "ACCEPTED", null);
}

async function reject(tx: Tx, group: Group, spec: RunSpec, reason: string): Promise<void> {
  const changed = await tx.group.updateMany({
    where: { id: group.id, state: "VERIFYING" },
    data: { state: "REJECTED", reason, decidedAt: new Date() },
  });
  if (changed.count === 0) return;
  const { runId, nodeId, organizationId } = group;
  await recordOutcome(tx, { runId, nodeId, organizationId, outcome: "REJECTED", spec, reason });
  await decidedEvent(tx, group, "REJECTED", reason);
}
