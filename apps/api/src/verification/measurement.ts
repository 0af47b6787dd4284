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
  type RolloutPack,
  type RunSpec,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import { type GroupDecision, verifyGroup } from "@muster/verification";
import type { Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { holdForGroups, payNodes } from "../ledger/ledger.ts";
import { specOf } from "../runs/spec.ts";
import { acceptSubmissions, completeTasks } from "../tasks/lease.ts";
import { answeredBefore, refuseSubmission } from "../tasks/refusal.ts";
import {
  openSubmissions,
  type SignedSubmission,
  type SubmissionInput,
  type SubmissionOutcome,
} from "../tasks/submission.ts";
import { epochKeyOf, secretDraws } from "./audit.ts";
import { decidedEvents } from "./decided.ts";
import { retryElsewhere } from "./inconclusive.ts";
import { recordOutcome } from "./trust.ts";

// A validator measures, the coordinator decides: the verdict comes from packages/verification over the worker's pack and the
// blind measurement, and every number it rests on is stored with it. Verdicts are applied in sets: a validator measures up to
// sixteen groups in one prefill, and a transaction for each took longer than the checks themselves.

/** Most measurements in one call: what a validator may claim at once. */
export const maxMeasurements = 16;

/** Takes a validator's measurements, one a group, and issues the verdicts. Outcomes come in the order of the inputs. */
export async function submitMeasurements(
  ctx: Ctx,
  inputs: readonly SubmissionInput[],
): Promise<SubmissionOutcome[]> {
  if (inputs.length === 0 || inputs.length > maxMeasurements)
    throw new CodedError("INPUT_INVALID", `Submit 1 to ${maxMeasurements} measurements at once.`);
  if (new Set(inputs.map((input) => input.taskId)).size !== inputs.length)
    throw new CodedError("INPUT_INVALID", "A task stands twice in one call. Submit each once.");
  const submissions = await openSubmissions(ctx, inputs);
  const outcomes = new Map<string, SubmissionOutcome>();
  const open: Opened[] = [];
  for (const [i, submission] of submissions.entries()) {
    const input = inputs[i];
    const { task } = submission;
    if (input === undefined) continue;
    if (task.kind !== "VERIFY")
      throw new CodedError(
        "INPUT_INVALID",
        `This task is ${task.kind}, not VERIFY. Submit its result with the mutation of its kind.`,
      );
    // An answered attempt is answered the same again, without judging the pack a second time.
    const before = answeredBefore(submission, input.pack);
    if (before === undefined) open.push({ submission, input });
    else outcomes.set(task.id, before);
  }
  const judged = await judgeAll(ctx, open);
  for (const each of judged) {
    if (each.kind !== "refused") continue;
    const refusal = { pack: each.input.pack, what: "measurement", message: each.message };
    outcomes.set(each.submission.task.id, await refuseSubmission(ctx, each.submission, refusal));
  }
  const sound = judged.flatMap((each) => (each.kind === "judged" ? [each] : []));
  if (sound.length > 0) {
    for (const outcome of await ctx.prisma.$transaction((tx) => apply(tx, sound), { timeout: 30_000 }))
      outcomes.set(outcome.taskId, outcome);
  }
  ctx.bus.publish("events");
  for (const runId of new Set(submissions.map(({ task }) => task.runId))) ctx.bus.publish(`run:${runId}`);
  if (judged.some((each) => each.kind === "refused" || each.verdict.verdict === "INCONCLUSIVE"))
    ctx.bus.publish("offers:VERIFY");
  return submissions.map(({ task }) => {
    const outcome = outcomes.get(task.id);
    if (outcome === undefined) throw new Error(`task ${task.id} was submitted and not answered`);
    return outcome;
  });
}

type Opened = { readonly submission: SignedSubmission; readonly input: SubmissionInput };
type Refused = Opened & { readonly kind: "refused"; readonly message: string };
type JudgedGroup = Opened & {
  readonly kind: "judged";
  readonly group: Group;
  readonly spec: RunSpec;
  readonly rollouts: readonly { id: string; reward: number }[];
  readonly verdict: GroupDecision;
};

async function judgeAll(ctx: Ctx, open: readonly Opened[]): Promise<(Refused | JudgedGroup)[]> {
  const groups = await ctx.prisma.group.findMany({
    where: { verifyTaskId: { in: open.map(({ submission }) => submission.task.id) } },
    include: { rollouts: { orderBy: { index: "asc" }, select: { id: true, reward: true } } },
  });
  const packs = new Map<string, Promise<RolloutPack>>();
  const packOf = (sha256: string) => {
    const known = packs.get(sha256) ?? ctx.blobs.read(sha256).then((bytes) => decodeRolloutPack(bytes));
    packs.set(sha256, known);
    return known;
  };
  return Promise.all(
    open.map(async ({ submission, input }): Promise<Refused | JudgedGroup> => {
      const { task } = submission;
      const found = groups.find((group) => group.verifyTaskId === task.id);
      // The group was given to another validator, or decided, since this attempt began.
      if (found === undefined)
        return {
          submission,
          input,
          kind: "refused",
          message: "The group is no longer measured by this task.",
        };
      const { rollouts, ...group } = found;
      const spec = await specOf(ctx.prisma, task.runId, task.revision);
      const measurement = await readMeasurement(ctx, input.pack, spec);
      if (typeof measurement === "string")
        return { submission, input, kind: "refused", message: measurement };
      const pack = await packOf(group.packHash);
      const verdict = await verdictOf(ctx, {
        group,
        spec,
        pack,
        measurement,
        rewards: rollouts.map((rollout) => rollout.reward),
      });
      if (verdict.measurementFault) return { submission, input, kind: "refused", message: explain(verdict) };
      return { submission, input, kind: "judged", group, spec, rollouts, verdict };
    }),
  );
}

/** The measurement, or why it does not read. */
async function readMeasurement(ctx: Ctx, sha256: string, spec: RunSpec): Promise<MeasurementPack | string> {
  const bytes = await ctx.blobs.read(sha256);
  try {
    return decodeMeasurementPack(bytes, {
      bytes: bytes.length,
      rollouts: spec.generation.groupSize,
      tokens: spec.model.maxPositions,
    });
  } catch (error) {
    if (error instanceof PackError) return `The measurement does not read: ${error.message}`;
    throw error;
  }
}

async function verdictOf(
  ctx: Ctx,
  input: {
    group: Group;
    spec: RunSpec;
    pack: RolloutPack;
    measurement: MeasurementPack;
    rewards: readonly number[];
  },
): Promise<GroupDecision> {
  const { group, spec, pack, measurement, rewards } = input;
  const rollouts = groupOf(pack, group.index, spec.generation.groupSize);
  const env = environment(spec.environment);
  const example = env.example(Buffer.from(group.exampleSeed, "hex"), "train");
  const prompt = env.tokenizer.encode(example.prompt);
  const task = toTypeId("task", group.taskId);
  const key = await epochKeyOf(ctx, group.runId, group.epoch);
  return verifyGroup({
    spec,
    task: {
      policyVersion: group.policyVersion,
      manifest: pack.header.manifest,
      promptTokens: rollouts.map(() => prompt),
      keys: rollouts.map((rollout) => rolloutKey(spec.seed, task, rollout.index)),
      ...(group.blindHash === null ? {} : { blind: group.blindHash }),
      example,
      rewards,
    },
    rollouts,
    measurement,
    decoyKey: secretDraws(key, group).decoys,
  });
}

/** The first check that did not pass, in a sentence. */
function explain(verdict: GroupDecision): string {
  const telling =
    verdict.checks.find((check) => check.verdict === "FAIL") ??
    verdict.checks.find((check) => check.verdict !== "PASS");
  return telling === undefined
    ? ""
    : telling.note === ""
      ? telling.plain
      : `${telling.plain} ${telling.note}`;
}

/** Applies verdicts whose submissions still hold their leases: groups, standing, money and advantages change together or not at all. */
async function apply(tx: Tx, judged: readonly JudgedGroup[]): Promise<SubmissionOutcome[]> {
  const fences = await acceptSubmissions(
    tx,
    judged.map(({ submission, input }) => ({
      taskId: submission.task.id,
      attempt: input.attempt,
      nodeId: submission.nodeId,
      packHash: input.pack,
    })),
  );
  const fresh = judged.filter((_, i) => fences[i]?.kind === "fresh");
  if (fresh.length > 0) {
    await storeVerifications(tx, fresh);
    await accept(
      tx,
      fresh.filter(({ verdict }) => verdict.verdict === "ACCEPTED"),
    );
    for (const each of fresh) {
      if (each.verdict.verdict === "REJECTED") await reject(tx, each);
      if (each.verdict.verdict === "INCONCLUSIVE")
        await retryElsewhere(tx, {
          ...each,
          validatorNodeId: each.submission.nodeId,
          note: explain(each.verdict),
        });
    }
    await completeTasks(
      tx,
      fresh.map(({ submission }) => submission.task.id),
    );
    await payNodes(
      tx,
      fresh.map(({ submission: { task, nodeId }, group, spec }) => ({
        organizationId: task.organizationId,
        runId: task.runId,
        nodeId,
        amount: BigInt(group.tokens) * BigInt(spec.prices.measuredToken),
        key: `pay:${task.id}`,
        memo: "Measured group",
        taskId: task.id,
      })),
    );
  }
  return judged.map(({ submission: { task } }, i): SubmissionOutcome => {
    const fence = fences[i];
    if (fence === undefined || fence.kind === "lost")
      return { kind: "lost", taskId: task.id, message: fence?.message ?? "" };
    return { kind: "submitted", taskId: task.id, duplicate: fence.kind === "duplicate" };
  });
}

async function storeVerifications(tx: Tx, judged: readonly JudgedGroup[]): Promise<void> {
  await tx.verification.createMany({
    data: judged.map(({ submission: { task, attempt, nodeId }, input, group, verdict }) => ({
      id: newId("verif"),
      organizationId: task.organizationId,
      runId: task.runId,
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
    })),
  });
  await tx.packReference.createMany({
    data: judged.map(({ submission: { task }, input }) => ({
      organizationId: task.organizationId,
      runId: task.runId,
      sha256: input.pack,
      taskId: task.id,
      subject: task.id,
      kind: "MEASUREMENT" as const,
    })),
    skipDuplicates: true,
  });
}

async function accept(tx: Tx, judged: readonly JudgedGroup[]): Promise<void> {
  if (judged.length === 0) return;
  const changed = await tx.group.updateManyAndReturn({
    where: { id: { in: judged.map(({ group }) => group.id) }, state: "VERIFYING" },
    data: { state: "ACCEPTED", acceptance: "AUDITED", advantagesReady: true, decidedAt: new Date() },
    select: { id: true },
  });
  const ids = new Set(changed.map((group) => group.id));
  const accepted = judged.filter(({ group }) => ids.has(group.id));
  if (accepted.length === 0) return;
  await storeAdvantages(tx, accepted);
  await setFinality(tx, accepted);
  await holdForGroups(
    tx,
    accepted.map(({ group, spec }) => ({
      organizationId: group.organizationId,
      runId: group.runId,
      nodeId: group.nodeId,
      groupId: group.id,
      amount: BigInt(group.tokens) * BigInt(spec.prices.generatedToken),
    })),
  );
  await decidedEvents(
    tx,
    accepted.map(({ group }) => group),
    "ACCEPTED",
    null,
  );
}

async function storeAdvantages(tx: Tx, accepted: readonly JudgedGroup[]): Promise<void> {
  const rows = accepted.flatMap(({ rollouts, spec }) => {
    const advantages = groupAdvantages(
      rollouts.map((rollout) => rollout.reward),
      spec.training.advantageEpsilon,
    );
    return rollouts.map(({ id }, i) => ({ id, advantage: advantages[i] ?? 0 }));
  });
  await tx.$executeRaw`
    UPDATE "Rollout" r SET advantage = v.advantage
    FROM unnest(${rows.map((row) => row.id)}::uuid[], ${rows.map((row) => row.advantage)}::float8[]) AS v(id, advantage) WHERE r.id = v.id`;
}

/** Counts the groups for their nodes. A group is final only once its node has shown as many audited-valid ones again as make a lucky miss unlikely. */
async function setFinality(tx: Tx, accepted: readonly JudgedGroup[]): Promise<void> {
  const finality: { id: string; after: number }[] = [];
  // In the order of their ids: two batches lock the standings of the same nodes in the same order.
  for (const nodeId of [...new Set(accepted.map(({ group }) => group.nodeId))].sort()) {
    const own = accepted.filter(({ group }) => group.nodeId === nodeId);
    const [first] = own;
    if (first === undefined) continue;
    const { runId, organizationId } = first.group;
    const trust = await recordOutcome(tx, {
      runId,
      nodeId,
      organizationId,
      outcome: "ACCEPTED",
      count: own.length,
      spec: first.spec,
    });
    const before = trust.accepted - own.length;
    for (const [i, { group }] of own.entries())
      finality.push({ id: group.id, after: before + i + 1 + Math.ceil(3 / group.auditRate) });
  }
  await tx.$executeRaw`
    UPDATE "Group" g SET "finalAfter" = v.after
    FROM unnest(${finality.map((row) => row.id)}::uuid[], ${finality.map((row) => row.after)}::int[]) AS v(id, after) WHERE g.id = v.id`;
}

async function reject(tx: Tx, { group, spec, verdict }: JudgedGroup): Promise<void> {
  const reason = explain(verdict);
  const changed = await tx.group.updateMany({
    where: { id: group.id, state: "VERIFYING" },
    data: { state: "REJECTED", reason, decidedAt: new Date() },
  });
  if (changed.count === 0) return;
  const { runId, nodeId, organizationId } = group;
  await recordOutcome(tx, { runId, nodeId, organizationId, outcome: "REJECTED", spec, reason });
  await decidedEvents(tx, [group], "REJECTED", reason);
}
