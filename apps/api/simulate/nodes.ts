import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import type { PackKind, TaskKind } from "@muster/db";
import {
  decodeBlindPack,
  encodeRolloutPack,
  encodeSamplesPack,
  environment,
  evaluatePayloadSchema,
  generatePayloadSchema,
  heldOutExample,
  type PackedRollout,
  type RunSpec,
  submissionBytes,
  toTypeId,
  trainPayloadSchema,
  verifyPayloadSchema,
} from "@muster/protocol";
import { buildProofF32, windowsOf } from "@muster/toploc";
import { storeUpload } from "../src/blobs/upload.ts";
import type { Ctx } from "../src/context.ts";
import { CodedError } from "../src/errors.ts";
import { submitRollouts } from "../src/rollouts/intake.ts";
import { claimTasks, type Lease } from "../src/tasks/claim.ts";
import { releaseTask } from "../src/tasks/lease.ts";
import type { SubmissionInput, SubmissionOutcome } from "../src/tasks/submission.ts";
import { submitEvaluation } from "../src/training/submit-evaluation.ts";
import { submitStep } from "../src/training/submit-step.ts";
import { submitMeasurements } from "../src/verification/measurement.ts";
import { makeCheckpoint } from "./checkpoints.ts";
import { drawRollouts, type Machine, measureBlind, type Reading } from "./policy.ts";
import type { Random } from "./random.ts";
import type { Cheat, SimulatedNode } from "./world.ts";

// What nodes do, through the functions that the mutations call: each claims as itself, uploads under its lease and signs with its key.

/** The run that nodes work in. */
export type Work = {
  readonly runId: string;
  readonly run: string;
  readonly spec: RunSpec;
  /** How a policy version reads. */
  reading(version: number): Reading;
  readonly random: Random;
};

/** The context of a request that this node makes. */
export function ctxOf(ctx: Ctx, node: SimulatedNode): Ctx {
  return { ...ctx, actor: { kind: "node", nodeId: node.id, sessionId: node.id }, requestId: "simulation" };
}

/** Claims tasks; none for a node that may not, or has to rest. */
export async function claim(
  ctx: Ctx,
  { runId }: Work,
  node: SimulatedNode,
  kind: TaskKind,
  max = 1,
): Promise<Lease[]> {
  try {
    return await claimTasks(ctxOf(ctx, node), { kinds: [kind], max, runId });
  } catch (error) {
    if (
      error instanceof CodedError &&
      ["NODE_QUARANTINED", "RATE_LIMITED", "ROLE_NOT_GRANTED"].includes(error.code)
    )
      return [];
    throw error;
  }
}

/** Does a GENERATE task as the node's character has it. @returns groups handed in */
export async function generate(ctx: Ctx, work: Work, node: SimulatedNode, lease: Lease): Promise<number> {
  const { random, spec } = work;
  const payload = generatePayloadSchema.parse(lease.payload);
  const task = toTypeId("task", lease.taskId);
  const machine: Machine = { jitter: random };
  const flaw = node.character === "flaky" ? random.next() : 1;
  if (flaw < 0.1) {
    // As if the machine had been switched off: its time is over, and the sweeper ends the lease.
    await ctx.db.pool.query(`UPDATE "Task" SET "leaseUntil" = now() - interval '1 second' WHERE id = $1`, [
      lease.taskId,
    ]);
    return 0;
  }
  if (flaw < 0.2) {
    const reason = "out of memory: the machine is needed for something else";
    await releaseTask(ctxOf(ctx, node), {
      taskId: lease.taskId,
      attempt: lease.attempt,
      reason,
      failed: true,
    });
    return 0;
  }
  const cheat =
    node.character !== "honest" && node.character !== "flaky" && random.chance(0.5) ? node.character : null;
  const version = lease.policyVersion ?? 0;
  const rollouts = drawRollouts(spec, payload, {
    task,
    seed: cheat === "lucky-draws" ? "7".repeat(64) : payload.seed,
    reading: work.reading(cheat === "older-policy" ? Math.max(0, version - 1) : version),
    machine,
  });
  const { form, topK, manifest } = payload;
  const bytes = encodeRolloutPack({
    header: { kind: "rollouts", version: 1, run: work.run, task, manifest, form, topK },
    rollouts: rollouts.map((rollout) => forged(spec, rollout, cheat, topK)),
  });
  const pack = await upload(
    ctx,
    node,
    lease,
    "ROLLOUTS",
    flaw < 0.24 ? bytes.slice(0, bytes.length >> 1) : bytes,
  );
  const outcome = await submitRollouts(ctxOf(ctx, node), {
    ...signed(work, node, lease, pack),
    cpuSeconds: Math.round(400 * (0.5 + random.next())) / 100 / node.speed,
  });
  return outcome.kind === "submitted" ? payload.prompts.length : 0;
}

/** What a cheat changes in an honest rollout. */
function forged(spec: RunSpec, rollout: PackedRollout, cheat: Cheat | null, topK: number): PackedRollout {
  const { hiddenSize } = spec.model;
  switch (cheat) {
    case "invented-logprobs":
      return { ...rollout, logprobs: rollout.logprobs.map((_, i) => -0.05 - 0.01 * (i % 3)) };
    case "forged-proofs": {
      // One value everywhere: it fits wherever somebody looks, and needs no model.
      const proofs = windowsOf(rollout.tokens.length).map(({ start, end }) =>
        buildProofF32(new Float32Array((end - start) * hiddenSize).fill(0.5), { topK }),
      );
      return { ...rollout, proofs };
    }
    case "lucky-draws":
    case "older-policy":
    case null:
      return rollout;
  }
}

/** Claims and measures up to 16 groups. @returns how many */
export async function measure(
  ctx: Ctx,
  work: Work,
  node: SimulatedNode,
  { looksAway = false }: { looksAway?: boolean } = {},
): Promise<number> {
  const leases = await claim(ctx, work, node, "VERIFY", 16);
  if (leases.length === 0) return 0;
  const inputs: SubmissionInput[] = [];
  for (const lease of leases) {
    const { blind } = verifyPayloadSchema.parse(lease.payload);
    const bytes = measureBlind(work.spec, decodeBlindPack(await ctx.blobs.read(blind)), {
      blind,
      reading: work.reading(lease.policyVersion ?? 0),
      machine: { jitter: work.random },
      looksAway,
    });
    const pack = await upload(ctx, node, lease, "MEASUREMENT", bytes);
    inputs.push({ ...signed(work, node, lease, pack), cpuSeconds: 0.02 + 0.02 * work.random.next() });
  }
  await submitMeasurements(ctxOf(ctx, node), inputs);
  return leases.length;
}

/** Publishes the version that a BASE or TRAIN task asks for, if there is one to claim. */
export async function train(
  ctx: Ctx,
  work: Work,
  node: SimulatedNode,
  kind: "BASE" | "TRAIN",
  metricsOf: (step: number) => Record<string, number>,
): Promise<boolean> {
  const [lease] = await claim(ctx, work, node, kind);
  if (lease === undefined) return false;
  const step = kind === "TRAIN" ? trainPayloadSchema.parse(lease.payload) : null;
  const { checkpoint, shards, state } = await makeCheckpoint(work.spec, {
    run: work.run,
    version: step?.version ?? 0,
    parent: lease.policyVersion,
    created: new Date().toISOString(),
    trainer: node,
  });
  for (const { bytes } of shards) await upload(ctx, node, lease, "SHARD", bytes);
  const manifest = await upload(ctx, node, lease, "MANIFEST", checkpoint.bytes);
  const stateHash = await upload(ctx, node, lease, "STATE", state);
  const { pack: _, ...rest } = signed(work, node, lease, manifest);
  const outcome = await submitStep(ctxOf(ctx, node), {
    ...rest,
    manifest,
    state: stateHash,
    metrics: metricsOf(step?.step ?? 0),
    cpuSeconds: 3,
  });
  return accepted(outcome);
}

/** Answers an EVALUATE task, if there is one; a share `right` of the answers is right. */
export async function evaluate(ctx: Ctx, work: Work, node: SimulatedNode, right: number): Promise<boolean> {
  const [lease] = await claim(ctx, work, node, "EVALUATE");
  if (lease === undefined) return false;
  const payload = evaluatePayloadSchema.parse(lease.payload);
  const env = environment(work.spec.environment);
  const bytes = encodeSamplesPack({
    header: {
      kind: "samples",
      version: 1,
      run: work.run,
      suite: payload.suite,
      manifest: payload.manifest,
      policyVersion: lease.policyVersion ?? 0,
    },
    samples: payload.prompts.map((prompt, index) => {
      const answer = work.random.chance(right) ? env.answer(heldOutExample(env, payload.suite, index)) : "";
      const tokens = Int32Array.from([...env.tokenizer.encode(answer), env.tokenizer.eos]);
      return { index, prompt: Int32Array.from(prompt), tokens, finish: "eos" as const };
    }),
  });
  const pack = await upload(ctx, node, lease, "SAMPLES", bytes);
  return accepted(await submitEvaluation(ctxOf(ctx, node), signed(work, node, lease, pack)));
}

function accepted(outcome: SubmissionOutcome): boolean {
  if (outcome.kind === "refused") throw new Error(`An honest node was refused: ${outcome.message}`);
  return outcome.kind === "submitted";
}

function signed(work: Work, node: SimulatedNode, { taskId, attempt }: Lease, pack: string) {
  const signature = node.sign(
    submissionBytes({ run: work.run, task: toTypeId("task", taskId), attempt, pack }),
  );
  return { taskId, attempt, pack, signature };
}

/** Uploads a blob as PUT /blobs does. @returns its hash */
async function upload(
  ctx: Ctx,
  node: SimulatedNode,
  lease: Lease,
  kind: PackKind,
  bytes: Uint8Array,
): Promise<string> {
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  await storeUpload(ctxOf(ctx, node), {
    sha256,
    size: bytes.length,
    source: Readable.from([Buffer.from(bytes)]),
    signal: new AbortController().signal,
    by: { taskId: lease.taskId, attempt: lease.attempt, kind },
  });
  return sha256;
}
