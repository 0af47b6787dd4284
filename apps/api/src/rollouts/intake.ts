import {
  decodeRolloutPack,
  type Environment,
  type Example,
  environment,
  exampleSeed,
  type GeneratePayload,
  generatePayloadSchema,
  groupOf,
  newId,
  PackError,
  type PackedRollout,
  type RolloutPack,
  type RunSpec,
  toTypeId,
} from "@muster/protocol";
import { auditRate, checkForm, windowFingerprints } from "@muster/verification";
import type { Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { appendEvents, type NewEvent, runStream } from "../events/append.ts";
import { specOf } from "../runs/spec.ts";
import { acceptSubmission, completeTask, openTasks } from "../tasks/lease.ts";
import { answeredBefore, refuseSubmission } from "../tasks/refusal.ts";
import {
  openSubmission,
  type SignedSubmission,
  type SubmissionInput,
  type SubmissionOutcome,
} from "../tasks/submission.ts";
import { currentEpoch, groupIdOf, secretDraws } from "../verification/audit.ts";
import { writeBlindPack } from "../verification/blind.ts";
import { joinRun, lockStandings, recordOutcome, standingOf } from "../verification/trust.ts";
import { acceptTrusted } from "../verification/trusted.ts";
import { rememberPack } from "./decoded-packs.ts";

// Intake judges a pack without a model: who sent it, that it is well formed, that it answers the examples it was given.
// Rewards are computed here and nowhere else; the secret audit draw is made here, after the pack is committed.

/** Takes a worker's rollouts. A pack that cannot be what the task asked for is refused with its reason and the task opens again. */
export async function submitRollouts(ctx: Ctx, input: SubmissionInput): Promise<SubmissionOutcome> {
  const submission = await openSubmission(ctx, input);
  const { task } = submission;
  if (task.kind !== "GENERATE")
    throw new CodedError(
      "INPUT_INVALID",
      `This task is ${task.kind}, not GENERATE. Submit its result with the mutation of its kind.`,
    );
  // An answered attempt is answered the same again, without judging the pack a second time.
  const before = answeredBefore(submission, input.pack);
  if (before !== undefined) return before;

  const spec = await specOf(ctx.prisma, task.runId, task.revision);
  const payload = generatePayloadSchema.parse(task.payload);
  const bytes = await ctx.blobs.read(input.pack);
  const judged = judge(bytes, { spec, payload, taskId: task.id, runId: task.runId });
  if (judged.kind === "refused") return refuse(ctx, submission, input, spec, judged.message);
  rememberPack(input.pack, judged.pack, bytes.length);
  // The draw follows from the pack: whoever sends several, each to another process, must not win with the one that is audited least.
  const committed = await ctx.prisma.attempt.updateMany({
    where: { id: submission.attempt.id, OR: [{ packHash: null }, { packHash: input.pack }] },
    data: { packHash: input.pack },
  });
  if (committed.count === 0)
    return {
      kind: "lost",
      taskId: task.id,
      message: "Another pack was submitted; only the first one counts.",
    };

  const outcome = await store(ctx, submission, input, { spec, payload, pack: judged.pack });
  ctx.bus.publish("events");
  ctx.bus.publish("offers:VERIFY");
  ctx.bus.publish(`run:${task.runId}`);
  await acceptTrusted(ctx, task.runId);
  return outcome;
}

type Formed = { readonly spec: RunSpec; readonly payload: GeneratePayload; readonly pack: RolloutPack };

/** Draws the audits and stores the groups. The draws are compared with the rate that is in force when the groups are stored, not before. */
async function store(
  ctx: Ctx,
  submission: SignedSubmission,
  input: SubmissionInput,
  formed: Formed,
): Promise<SubmissionOutcome> {
  const { task, nodeId } = submission;
  const { runId, organizationId } = task;
  const audit = formed.spec.verification.audit;
  const key = { runId_nodeId: { runId, nodeId } };
  for (let turn = 0; turn < turns; turn++) {
    const before = standingOf(await ctx.prisma.nodeTrust.findUnique({ where: key }));
    // Blind packs are written outside of the transaction; should the node fall meanwhile, there would be too few of them.
    const prepared = await prepareGroups(ctx, submission, input, formed, auditRate(before, audit));
    const outcome = await ctx.prisma.$transaction(async (tx): Promise<SubmissionOutcome | "changed"> => {
      const standing = standingOf((await lockStandings(tx, runId, [nodeId])).get(nodeId));
      if (auditRate(standing, audit) !== auditRate(before, audit)) return "changed";
      const fence = await acceptSubmission(tx, {
        taskId: task.id,
        attempt: input.attempt,
        nodeId,
        packHash: input.pack,
        signature: input.signature,
      });
      if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
      if (fence.kind === "duplicate") return { kind: "submitted", taskId: task.id, duplicate: true };
      if (input.cpuSeconds !== undefined)
        await tx.attempt.update({
          where: { id: fence.attempt.id },
          data: { cpuSeconds: input.cpuSeconds },
        });
      await joinRun(tx, { runId, nodeId, organizationId });
      await storeGroups(tx, submission, input, prepared);
      await completeTask(tx, task);
      return { kind: "submitted", taskId: task.id, duplicate: false };
    });
    if (outcome !== "changed") return outcome;
  }
  throw new CodedError("STATE_CONFLICT", "The node's standing changed again and again. Submit once more.");
}

/** Preparations until a standing holds still. */
const turns = 5;

type Judged = { kind: "refused"; message: string } | { kind: "formed"; pack: RolloutPack };

function judge(
  bytes: Uint8Array,
  asked: { spec: RunSpec; payload: GeneratePayload; taskId: string; runId: string },
): Judged {
  const { spec, payload } = asked;
  const rollouts = payload.prompts.length * payload.groupSize;
  let pack: RolloutPack;
  try {
    pack = decodeRolloutPack(bytes, { bytes: bytes.length, rollouts, tokens: spec.model.maxPositions });
  } catch (error) {
    if (error instanceof PackError)
      return { kind: "refused", message: `The pack does not read: ${error.message}` };
    throw error;
  }
  const form = checkForm({
    spec,
    pack,
    task: {
      run: toTypeId("run", asked.runId),
      task: toTypeId("task", asked.taskId),
      manifest: payload.manifest,
      promptTokens: payload.prompts.flatMap((prompt) => Array<number[]>(payload.groupSize).fill(prompt)),
    },
  });
  return form.verdict === "PASS" ? { kind: "formed", pack } : { kind: "refused", message: form.note };
}

async function refuse(
  ctx: Ctx,
  submission: SignedSubmission,
  input: SubmissionInput,
  spec: RunSpec,
  message: string,
): Promise<SubmissionOutcome> {
  const { runId, organizationId } = submission.task;
  const { nodeId } = submission;
  return refuseSubmission(
    ctx,
    submission,
    { pack: input.pack, what: "pack", message },
    async (tx) => {
      await joinRun(tx, { runId, nodeId, organizationId });
      await recordOutcome(tx, { runId, nodeId, organizationId, outcome: "REFUSED", spec, reason: message });
    },
    // The standing before the task, as everywhere.
    async (tx) => void (await lockStandings(tx, runId, [nodeId])),
  );
}

type PreparedGroup = {
  id: string;
  index: number;
  seed: string;
  example: Example;
  rollouts: { packed: PackedRollout; text: string; reward: number; parts: Record<string, number> }[];
  epoch: number;
  auditRate: number;
  duplicate: boolean;
  fingerprints: string[];
  /** What a validator gets; null when the draw trusts the group. */
  blind: { sha256: string; size: number } | null;
};

async function prepareGroups(
  ctx: Ctx,
  { task, run, attempt }: SignedSubmission,
  input: SubmissionInput,
  { spec, payload, pack }: Formed,
  rate: number,
): Promise<PreparedGroup[]> {
  const env = environment(spec.environment);
  const epoch = await currentEpoch(ctx, run);
  const fingerprints = windowFingerprints(pack);
  const seen = await seenBefore(
    ctx,
    task,
    input.pack,
    fingerprints.map((window) => window.sha256),
  );
  const groups: PreparedGroup[] = [];
  for (let index = 0; index < payload.prompts.length; index++) {
    const id = groupIdOf(attempt, input.pack, index);
    const packed = groupOf(pack, index, payload.groupSize);
    const seed = exampleSeed(spec.seed, toTypeId("task", task.id), index);
    const example = env.example(seed, "train");
    const first = index * payload.groupSize;
    const own = fingerprints.filter(({ rollout }) => rollout >= first && rollout < first + payload.groupSize);
    const hashes = [...new Set(own.map((window) => window.sha256))];
    const duplicate = seen === "all" || hashes.some((hash) => seen.has(hash));
    const draws = secretDraws(epoch.key, { id, packHash: input.pack });
    const audited = duplicate || draws.audit < rate;
    groups.push({
      id,
      index,
      seed: Buffer.from(seed).toString("hex"),
      example,
      rollouts: packed.map((rollout) => scored(env, example, rollout)),
      epoch: epoch.number,
      auditRate: rate,
      duplicate,
      fingerprints: hashes,
      blind: audited
        ? await writeBlindPack(ctx, {
            spec,
            taskId: task.id,
            manifest: payload.manifest,
            eos: env.tokenizer.eos,
            rollouts: packed,
          })
        : null,
    });
  }
  return groups;
}

function scored(
  env: Environment,
  example: Example,
  packed: PackedRollout,
): PreparedGroup["rollouts"][number] {
  const output = packed.finish === "eos" ? packed.tokens.subarray(0, -1) : packed.tokens;
  const text = env.tokenizer.decode([...output]);
  const score = env.score(example, text, { finishReason: packed.finish });
  return { packed, text, reward: score.reward, parts: score.parts };
}

/** Which of these windows another task of the run showed before; "all" when the very pack was. */
async function seenBefore(
  ctx: Ctx,
  task: { id: string; runId: string },
  packHash: string,
  hashes: readonly string[],
): Promise<Set<string> | "all"> {
  const samePack = await ctx.prisma.group.findFirst({
    where: { packHash, taskId: { not: task.id } },
    select: { id: true },
  });
  if (samePack !== null) return "all";
  const known = await ctx.prisma.windowFingerprint.findMany({
    where: { runId: task.runId, hash: { in: [...new Set(hashes)] }, taskId: { not: task.id } },
    select: { hash: true },
  });
  return new Set(known.map((row) => row.hash));
}

async function storeGroups(
  tx: Tx,
  { task, attempt, nodeId }: SignedSubmission,
  input: SubmissionInput,
  groups: readonly PreparedGroup[],
): Promise<void> {
  const owner = { organizationId: task.organizationId, runId: task.runId };
  const policyVersion = task.policyVersion;
  if (policyVersion === null || task.manifestHash === null)
    throw new Error(`GENERATE task ${task.id} names no policy version`);
  const manifestHash = task.manifestHash;
  const audited = groups.flatMap((group) => (group.blind === null ? [] : [{ group, blind: group.blind }]));
  const verifyTaskIds = await openTasks(
    tx,
    audited.map(({ blind }) => ({
      ...owner,
      kind: "VERIFY" as const,
      revision: task.revision,
      policyVersion,
      manifestHash,
      payload: { kind: "VERIFY" as const, manifest: manifestHash, blind: blind.sha256 },
      excludedNodes: [nodeId],
    })),
  );
  const verifyTaskOf = new Map(audited.map(({ group }, i) => [group.id, verifyTaskIds[i] ?? null]));
  const rows = groups.map((group) => ({
    id: group.id,
    ...owner,
    taskId: task.id,
    attemptId: attempt.id,
    nodeId,
    index: group.index,
    exampleSeed: group.seed,
    prompt: group.example.prompt,
    policyVersion,
    packHash: input.pack,
    state: group.blind === null ? ("SUBMITTED" as const) : ("VERIFYING" as const),
    meanReward: group.rollouts.reduce((sum, rollout) => sum + rollout.reward, 0) / group.rollouts.length,
    tokens: group.rollouts.reduce((sum, rollout) => sum + rollout.packed.tokens.length, 0),
    auditRate: group.auditRate,
    epoch: group.epoch,
    duplicate: group.duplicate,
    verifyTaskId: verifyTaskOf.get(group.id) ?? null,
    blindHash: group.blind?.sha256 ?? null,
  }));
  const references = [
    { sha256: input.pack, taskId: task.id, kind: "ROLLOUTS" as const },
    ...audited.map(({ blind }, i) => ({
      sha256: blind.sha256,
      taskId: verifyTaskIds[i] ?? task.id,
      kind: "BLIND" as const,
    })),
  ];
  await tx.pack.createMany({
    data: audited.map(({ blind }) => ({
      sha256: blind.sha256,
      size: BigInt(blind.size),
      kind: "BLIND" as const,
    })),
    skipDuplicates: true,
  });
  await tx.packReference.createMany({
    data: references.map((reference) => ({ ...owner, ...reference, subject: reference.taskId })),
    skipDuplicates: true,
  });
  await tx.group.createMany({ data: rows });
  // Hundreds of rows a pack: as one JSON parameter they cost a tenth of what createMany does.
  const rollouts = groups.flatMap((group) =>
    group.rollouts.map((rollout) => ({
      id: newId("rollout"),
      groupId: group.id,
      index: rollout.packed.index,
      preview: rollout.text.slice(0, 200),
      tokens: rollout.packed.tokens.length,
      finishReason: rollout.packed.finish,
      reward: rollout.reward,
      rewardParts: rollout.parts,
    })),
  );
  await tx.$executeRaw`
    INSERT INTO "Rollout" (id, "organizationId", "runId", "groupId", index, preview, tokens, "finishReason", reward, "rewardParts")
    SELECT id, ${owner.organizationId}::uuid, ${owner.runId}::uuid, "groupId", index, preview, tokens, "finishReason", reward, "rewardParts"
    FROM jsonb_to_recordset(${JSON.stringify(rollouts)}::jsonb) AS r(id uuid, "groupId" uuid, index int, preview text, tokens int,
      "finishReason" text, reward float8, "rewardParts" jsonb)`;
  const windows = groups.flatMap((group) => group.fingerprints.map((hash) => ({ hash, groupId: group.id })));
  await tx.$executeRaw`
    INSERT INTO "WindowFingerprint" ("runId", hash, "taskId", "groupId")
    SELECT ${owner.runId}::uuid, w.hash, ${task.id}::uuid, w."groupId"
    FROM jsonb_to_recordset(${JSON.stringify(windows)}::jsonb) AS w(hash text, "groupId" uuid)
    ON CONFLICT DO NOTHING`;
  await appendEvents(
    tx,
    rows.map(
      (group): NewEvent => ({
        stream: runStream(task.runId),
        organizationId: task.organizationId,
        type: "group.submitted",
        subject: toTypeId("group", group.id),
        data: {
          node: toTypeId("node", nodeId),
          version: policyVersion,
          meanReward: group.meanReward,
          audited: group.verifyTaskId !== null,
          duplicate: group.duplicate,
        },
      }),
    ),
  );
}
