import { BatchState, CheckpointState } from "@muster/db";
import { fromTypeId } from "@muster/protocol";
import { LRUCache } from "lru-cache";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { ComputeNode } from "../nodes/schema.ts";
import { Run } from "../runs/schema.ts";
import { maySeeRun } from "../runs/visibility.ts";
import { nodeOf } from "../tasks/lease.ts";
import {
  cost,
  SubmissionResult,
  SubmitPackInput,
  submissionInput,
  submissionResult,
} from "../tasks/schema.ts";
import { inTurn } from "../tasks/turns.ts";
import { type MetricBucket, type TrainStepBucket, trainStepBuckets } from "./buckets.ts";
import { bootstrap, type Interval, pairedGain } from "./interval.ts";
import { submitEvaluation } from "./submit-evaluation.ts";
import { submitStep } from "./submit-step.ts";

const BatchStateEnum = builder.enumType(BatchState, { name: "BatchState" });
const CheckpointStateEnum = builder.enumType(CheckpointState, { name: "CheckpointState" });

builder.prismaNode("Batch", {
  id: { field: "id" },
  authScopes: (batch, { actor }) => allows(actor, "run:read", batch.organizationId),
  fields: (t) => ({
    step: t.exposeInt("step"),
    state: t.expose("state", { type: BatchStateEnum }),
    signalGroups: t.exposeInt("signalGroups"),
    settledGroups: t.exposeInt("settledGroups"),
    packHash: t.exposeString("packHash", {
      nullable: true,
      description: "SHA-256 of the BATCH pack, once sealed.",
    }),
    sealedAt: t.expose("sealedAt", { type: "DateTime", nullable: true }),
    trainedAt: t.expose("trainedAt", { type: "DateTime", nullable: true }),
  }),
});

export const Checkpoint = builder.prismaNode("Checkpoint", {
  id: { field: "id" },
  include: { run: { select: { id: true, organizationId: true, open: true } } },
  authScopes: (checkpoint, ctx) => maySeeRun(ctx, checkpoint.run),
  fields: (t) => ({
    version: t.exposeInt("version"),
    parentVersion: t.exposeInt("parentVersion", { nullable: true }),
    manifestHash: t.exposeString("manifestHash"),
    size: t.expose("size", { type: "BigInt" }),
    state: t.expose("state", { type: CheckpointStateEnum }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    availableAt: t.expose("availableAt", { type: "DateTime", nullable: true }),
    trainer: t.field({
      type: ComputeNode,
      authScopes: { can: "run:read" },
      resolve: (checkpoint, _args, ctx) =>
        ctx.prisma.node.findUniqueOrThrow({ where: { id: checkpoint.trainerNodeId } }),
    }),
  }),
});

const MetricBucketRef = builder.objectRef<MetricBucket>("MetricBucket").implement({
  authScopes: { can: "run:read" },
  fields: (t) => ({
    name: t.exposeString("name"),
    min: t.exposeFloat("min"),
    max: t.exposeFloat("max"),
    last: t.exposeFloat("last"),
  }),
});

const TrainStepBucketRef = builder.objectRef<TrainStepBucket>("TrainStepBucket").implement({
  description: "A bucket of training steps; with n = 1 it is the step itself.",
  authScopes: { can: "run:read" },
  fields: (t) => ({
    fromStep: t.exposeInt("fromStep"),
    toStep: t.exposeInt("toStep"),
    n: t.exposeInt("n"),
    at: t.expose("at", { type: "DateTime" }),
    metrics: t.field({ type: [MetricBucketRef], resolve: (bucket) => [...bucket.metrics] }),
  }),
});

builder.prismaNode("Evaluation", {
  id: { field: "id" },
  authScopes: (evaluation, { actor }) => allows(actor, "run:read", evaluation.organizationId),
  fields: (t) => ({
    version: t.exposeInt("version"),
    suite: t.exposeString("suite"),
    n: t.exposeInt("n", { description: "Held-out examples." }),
    mean: t.exposeFloat("mean"),
    ciLow: t.float({
      description: "Lower end of the mean's 95 % interval, by bootstrap over the prompts.",
      resolve: (evaluation) => intervalOf(evaluation).low,
    }),
    ciHigh: t.float({ resolve: (evaluation) => intervalOf(evaluation).high }),
    gain: t.float({
      nullable: true,
      description:
        "Mean minus the base's mean on the same examples; null for the base and while it is not evaluated.",
      resolve: async (evaluation, _args, ctx) => (await gainOf(ctx, evaluation))?.mean ?? null,
    }),
    gainLow: t.float({
      nullable: true,
      resolve: async (evaluation, _args, ctx) => (await gainOf(ctx, evaluation))?.low ?? null,
    }),
    gainHigh: t.float({
      nullable: true,
      resolve: async (evaluation, _args, ctx) => (await gainOf(ctx, evaluation))?.high ?? null,
    }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  checkpoints: t.relatedConnection("checkpoints", {
    cursor: "id",
    description: "Policy versions, newest first.",
    query: { orderBy: { id: "desc" } },
  }),
  batches: t.relatedConnection("batches", {
    cursor: "id",
    description: "Batches, newest first.",
    authScopes: { can: "run:read" },
    query: { orderBy: { id: "desc" } },
  }),
  trainSteps: t.field({
    extensions: { cost: 500 },
    type: [TrainStepBucketRef],
    description:
      "Training steps in at most `buckets` buckets (min, max, last of each metric); raw when there are fewer.",
    authScopes: { can: "run:read" },
    select: { id: true },
    args: {
      from: t.arg.int({ required: false }),
      to: t.arg.int({ required: false }),
      buckets: t.arg.int({ required: false, description: "Default 500, at most 2,000." }),
    },
    resolve: (run, { from, to, buckets }, ctx) =>
      trainStepBuckets(ctx, run.id, {
        ...(from == null ? {} : { from }),
        ...(to == null ? {} : { to }),
        ...(buckets == null ? {} : { buckets }),
      }),
  }),
  evaluations: t.relation("evaluations", {
    authScopes: { can: "run:read" },
    query: { orderBy: [{ suite: "asc" }, { version: "asc" }] },
  }),
}));

const SubmitStepInput = builder.inputType("SubmitStepInput", {
  fields: (t) => ({
    task: t.id(),
    attempt: t.int(),
    manifest: t.string({ description: "SHA-256 of `manifest.json`, PUT before with every shard it names." }),
    state: t.string({ description: "SHA-256 of the optimizer state, PUT before." }),
    signature: t.string({
      description: "Ed25519 over `submissionBytes` with the manifest's hash as the pack, hexadecimal.",
    }),
    metrics: t.field({ type: "JSON", description: "Numbers by name." }),
    cpuSeconds: t.float({ required: false, description: "CPU-seconds spent, for the cost figures only." }),
  }),
});

builder.mutationFields((t) => ({
  submitStep: t.field({
    type: SubmissionResult,
    description: "Publishes a policy version: the base for a BASE task, the next one for a TRAIN task.",
    authScopes: { node: true },
    args: { input: t.arg({ type: SubmitStepInput }) },
    resolve: async (_root, { input }, ctx) => {
      const { task, metrics, cpuSeconds, ...rest } = input;
      return submissionResult(
        ctx,
        await submitStep(ctx, { ...rest, metrics, taskId: fromTypeId(task, "task"), ...cost(cpuSeconds) }),
      );
    },
  }),
  submitEvaluation: t.field({
    type: SubmissionResult,
    description: "Hands in the samples of an EVALUATE task.",
    authScopes: { node: true },
    args: { input: t.arg({ type: SubmitPackInput }) },
    resolve: async (_root, { input }, ctx) =>
      submissionResult(ctx, await inTurn(nodeOf(ctx), () => submitEvaluation(ctx, submissionInput(input)))),
  }),
}));

type Evaluated = { id: string; runId: string; version: number; suite: string; rewards: number[] };

// Rewards of an evaluation never change, so its intervals are resampled once a process.
const intervals = new LRUCache<string, Interval>({ max: 1000 });

function intervalOf(evaluation: Evaluated): Interval {
  return remembered(`mean ${evaluation.id}`, () => bootstrap(evaluation.rewards));
}

async function gainOf(ctx: Ctx, evaluation: Evaluated): Promise<Interval | null> {
  if (evaluation.version === 0) return null;
  const key = `gain ${evaluation.id}`;
  const known = intervals.get(key);
  if (known !== undefined) return known;
  const base = await ctx.prisma.evaluation.findUnique({
    where: { runId_version_suite: { runId: evaluation.runId, version: 0, suite: evaluation.suite } },
    select: { rewards: true },
  });
  return base === null ? null : remembered(key, () => pairedGain(evaluation.rewards, base.rewards));
}

function remembered(key: string, make: () => Interval): Interval {
  const known = intervals.get(key) ?? make();
  intervals.set(key, known);
  return known;
}
