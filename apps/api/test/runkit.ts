import { createHash } from "node:crypto";
import type { Role, TaskKind } from "@muster/db";
import { encodeCheckpoint, encodeSafetensors, type ModelConfig, parameterLayout } from "@muster/policy/graph";
import {
  type BatchPack,
  decodeBatchPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  encodeSamplesPack,
  environment,
  evaluatePayloadSchema,
  type FinishReason,
  type GeneratePayload,
  generatePayloadSchema,
  groupAdvantages,
  heldOutExample,
  type Manifest,
  newId,
  parseManifest,
  parseRunSpec,
  type RunSpec,
  shardsRoot,
  submissionBytes,
  toTypeId,
  trainPayloadSchema,
} from "@muster/protocol";
import { buildManifest, signManifest } from "@muster/shardcast";
import { createRun } from "../src/runs/create-run.ts";
import { advanceRun } from "../src/runs/planner.ts";
import { claimTasks, type Lease } from "../src/tasks/claim.ts";
import { acceptSubmission, completeTask } from "../src/tasks/lease.ts";
import type { SubmissionOutcome } from "../src/tasks/submission.ts";
import { submitEvaluation } from "../src/training/submit-evaluation.ts";
import { type StepInput, submitStep } from "../src/training/submit-step.ts";
import type { TestNode, TestOrganization, TestServer } from "./testkit.ts";

// A run small enough to be walked through by hand, and the moves of its nodes. Rollouts here are made up and accepted as they are:
// what makes them acceptable is tested where they are judged.

export type SpecOverrides = {
  batch?: Partial<RunSpec["batch"]>;
  limits?: Partial<RunSpec["limits"]>;
  training?: Partial<RunSpec["training"]>;
  evaluation?: Partial<RunSpec["evaluation"]>;
  generation?: Partial<Pick<RunSpec["generation"], "groupSize" | "groupsPerTask">>;
  open?: boolean;
  leaseSeconds?: number;
  disputeWindowSeconds?: number;
  verification?: {
    form?: "f32" | "bf16";
    topK?: number;
    thresholds?: Partial<RunSpec["verification"]["thresholds"]>;
    audit?: Partial<RunSpec["verification"]["audit"]>;
  };
  base?: RunSpec["base"];
  prices?: Partial<RunSpec["prices"]>;
};

/** A complete spec: groups of 2, tasks of 2 groups, batches of 4 groups, 2 steps, nothing to evaluate but the last version. */
export function smallSpec(over: SpecOverrides = {}): RunSpec {
  const parsed = parseRunSpec({
    name: "Small run",
    environment: "muster/sort-digits@1",
    seed: "5".repeat(64),
    model: { hiddenSize: 8, layers: 1, heads: 1, maxPositions: 14 },
    ...over,
    generation: { groupSize: 2, groupsPerTask: 2, ...over.generation },
    batch: { signalGroups: 4, settledGroups: 4, minSignalGroups: 1, asyncLevel: 1, ...over.batch },
    limits: { steps: 2, ...over.limits },
    evaluation: { examples: 8, versions: [], ...over.evaluation },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.issues));
  return parsed.spec;
}

export type TestRun = {
  readonly id: string;
  readonly typeId: string;
  readonly spec: RunSpec;
  readonly organization: TestOrganization;
  readonly trainer: TestNode;
  readonly validator: TestNode;
  readonly worker: TestNode;
};

/** Creates a run and starts it; `trainer` is TRAINER, `validator` VALIDATOR and EVALUATOR, `worker` nothing. */
export async function startRun(
  server: TestServer,
  over: SpecOverrides = {},
  {
    credits = 1_000_000_000n,
    start = true,
    organization: given,
  }: { credits?: bigint; start?: boolean; organization?: TestOrganization } = {},
): Promise<TestRun> {
  const organization = given ?? (await server.organization());
  const spec = smallSpec(over);
  const outcome = await createRun(server.ctx(organization.owner), {
    organizationId: organization.id,
    spec,
    credits,
    start,
  });
  if (outcome.kind !== "created") throw new Error(outcome.message);
  const [trainer, validator, worker] = await Promise.all([server.node(), server.node(), server.node()]);
  await Promise.all([
    grant(server, outcome.runId, trainer, "TRAINER"),
    grant(server, outcome.runId, validator, "VALIDATOR"),
    grant(server, outcome.runId, validator, "EVALUATOR"),
  ]);
  return {
    id: outcome.runId,
    typeId: toTypeId("run", outcome.runId),
    spec,
    organization,
    trainer,
    validator,
    worker,
  };
}

export async function grant(server: TestServer, runId: string, node: TestNode, role: Role): Promise<void> {
  const { organizationId } = await server.prisma.run.findUniqueOrThrow({ where: { id: runId } });
  await server.prisma.roleGrant.create({ data: { organizationId, runId, nodeId: node.id, role } });
}

/** Claims one task of a run; fails the test when there is none. */
export async function claim(
  server: TestServer,
  run: { id: string },
  node: TestNode,
  kind: TaskKind,
): Promise<Lease> {
  const [lease] = await claimTasks(server.ctx(node), { kinds: [kind], max: 1, runId: run.id });
  if (lease === undefined) throw new Error(`no ${kind} task to claim`);
  return lease;
}

export const plan = (server: TestServer, run: { id: string }): Promise<void> =>
  advanceRun(server.ctx(), run.id);

/** Publishes version 0 and plans. */
export async function publishBase(server: TestServer, run: TestRun): Promise<void> {
  const outcome = await publishStep(server, run, await claim(server, run, run.trainer, "BASE"));
  if (outcome.kind !== "submitted") throw new Error(JSON.stringify(outcome));
  await plan(server, run);
}

/** Trains the sealed batch and plans. */
export async function trainStep(server: TestServer, run: TestRun): Promise<void> {
  const outcome = await publishStep(server, run, await claim(server, run, run.trainer, "TRAIN"));
  if (outcome.kind !== "submitted") throw new Error(JSON.stringify(outcome));
  await plan(server, run);
}

/** Trains until the run has done so many steps. */
export async function trainTo(server: TestServer, run: TestRun, steps: number): Promise<void> {
  while ((await runRow(server, run)).step < steps) {
    if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
    else await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
  }
}

/** A run whose batch 1 is sealed. */
export async function sealedRun(server: TestServer, over: SpecOverrides = {}): Promise<TestRun> {
  const run = await startRun(server, over);
  await publishBase(server, run);
  while ((await countTasks(server, run, "TRAIN")).OPEN === undefined) {
    await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
  }
  return run;
}

export const runRow = (server: TestServer, run: { id: string }) =>
  server.prisma.run.findUniqueOrThrow({ where: { id: run.id } });

export const groupState = async (server: TestServer, id: string | undefined) =>
  (await server.prisma.group.findUniqueOrThrow({ where: { id: id ?? "" } })).state;

export type StepFault = {
  /** Edits the flat weights. */
  weights?: (flat: Float32Array) => void;
  parent?: number | null;
  version?: number;
  /** Signs the manifest with another node's key. */
  signer?: TestNode;
  /** Leaves the shards out. */
  withoutShards?: boolean;
  /** Describes what changed since the parent, and then edits that before it is signed; what is put in its place is uploaded, too. */
  delta?: (delta: NonNullable<Manifest["delta"]>) => { delta: Manifest["delta"]; blobs?: Uint8Array[] };
  config?: (config: Record<string, unknown>) => void;
  state?: "nan" | "short";
  metrics?: unknown;
};

/** Makes a checkpoint, PUTs it and submits it, as a trainer would. */
export async function publishStep(
  server: TestServer,
  run: TestRun,
  lease: Lease,
  fault: StepFault = {},
): Promise<SubmissionOutcome> {
  return submitStep(server.ctx(run.trainer), await prepareStep(server, run, lease, fault));
}

/** The same without the submission. */
export async function prepareStep(
  server: TestServer,
  run: TestRun,
  lease: Lease,
  fault: StepFault = {},
): Promise<StepInput> {
  const step = lease.kind === "TRAIN" ? trainPayloadSchema.parse(lease.payload) : null;
  const version = fault.version ?? step?.version ?? 0;
  const parent = fault.parent === undefined ? lease.policyVersion : fault.parent;
  const model = modelOf(run.spec);
  const flat = weightsOf(model, version);
  const files = encodeCheckpoint(model, flat, environment(run.spec.environment).tokenizer);
  // After encoding, which refuses what is not finite: the coordinator has to find it itself.
  const offset = files.tensors[0]?.offset ?? 0;
  const copy = new Float32Array(files.model.slice(offset).buffer);
  fault.weights?.(copy);
  files.model.set(new Uint8Array(copy.buffer), offset);
  let { config } = files;
  if (fault.config !== undefined) {
    const parsed = JSON.parse(new TextDecoder().decode(config)) as Record<string, unknown>;
    fault.config(parsed);
    config = new TextEncoder().encode(JSON.stringify(parsed));
  }
  const from = fault.delta === undefined || step === null ? null : await parentOf(server, step.manifest);
  const built = buildManifest({
    ...(from ? { from } : {}),
    run: run.typeId,
    version,
    parent,
    created: "2026-01-01T00:00:00.000Z",
    tensors: files.tensors.map(({ dtype, shape, ...place }) => ({
      ...place,
      shape: [...shape],
      dtype: dtype as "F32",
    })),
    trainer: run.trainer.publicKey,
    files: [
      { name: "model.safetensors", bytes: files.model.slice() },
      { name: "config.json", bytes: config.slice() },
      { name: "tokenizer.json", bytes: files.tokenizer.slice() },
    ],
    shardBytes: 4096,
  });
  const edited =
    built.manifest.delta === null ? undefined : fault.delta?.(structuredClone(built.manifest.delta));
  const unsigned = { ...built.manifest, ...(edited ? { delta: edited.delta } : {}) };
  const signer = fault.signer ?? run.trainer;
  const checkpoint = await signManifest({ ...unsigned, root: shardsRoot(unsigned) }, (bytes) =>
    Buffer.from(signer.sign(bytes), "hex"),
  );
  const total = flat.length;
  const state = stateBytes(fault.state === "short" ? total - 1 : total, version, fault.state === "nan");
  if (fault.withoutShards !== true)
    await Promise.all(built.shards.map(({ bytes }) => put(server, run.trainer, lease, "SHARD", bytes)));
  for (const blob of edited?.blobs ?? []) await put(server, run.trainer, lease, "SHARD", blob);
  const manifest = await put(server, run.trainer, lease, "MANIFEST", checkpoint.bytes);
  return {
    taskId: lease.taskId,
    attempt: lease.attempt,
    manifest,
    state: await put(server, run.trainer, lease, "STATE", state),
    signature: signed(run, run.trainer, lease, manifest),
    metrics: fault.metrics ?? { loss: 0.5, entropy: 1.25, gradNorm: 0.75, learningRate: 1e-3 },
    cpuSeconds: 2,
  };
}

async function parentOf(server: TestServer, hash: string) {
  const { blobs } = server.ctx();
  const manifest = parseManifest(await blobs.read(hash));
  const shards = manifest.files.find(({ name }) => name === "model.safetensors")?.shards ?? [];
  const parts: Uint8Array[] = [];
  for (const { sha256 } of shards) parts.push(await blobs.read(sha256));
  return { manifest, manifestHash: hash, weights: Buffer.concat(parts) };
}

/** PUTs a blob under a lease over HTTP. Returns its hash. */
export async function put(
  server: TestServer,
  node: TestNode,
  lease: Lease,
  kind: string,
  bytes: Uint8Array,
): Promise<string> {
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const query = `task=${toTypeId("task", lease.taskId)}&attempt=${lease.attempt}&kind=${kind}`;
  const response = await fetch(`${server.url}/blobs/${sha256}?${query}`, {
    method: "PUT",
    headers: node.headers,
    body: bytes.slice(),
  });
  if (!response.ok) throw new Error(`PUT answered ${response.status}: ${await response.text()}`);
  return sha256;
}

export function signed(run: { typeId: string }, node: TestNode, lease: Lease, pack: string): string {
  return node.sign(
    submissionBytes({ run: run.typeId, task: toTypeId("task", lease.taskId), attempt: lease.attempt, pack }),
  );
}

/** Evaluates the leased version with answers that are right for the first `right` prompts, and submits. */
export async function evaluate(
  server: TestServer,
  run: TestRun,
  lease: Lease,
  right: number,
): Promise<SubmissionOutcome> {
  const payload = evaluatePayloadSchema.parse(lease.payload);
  const env = environment(run.spec.environment);
  const bytes = encodeSamplesPack({
    header: {
      kind: "samples",
      version: 1,
      run: run.typeId,
      suite: payload.suite,
      manifest: payload.manifest,
      policyVersion: lease.policyVersion ?? -1,
    },
    samples: payload.prompts.map((prompt, index) => {
      const answer = index < right ? env.answer(heldOutExample(env, payload.suite, index)) : "";
      return {
        index,
        prompt: Int32Array.from(prompt),
        tokens: Int32Array.from([...env.tokenizer.encode(answer), env.tokenizer.eos]),
        finish: "eos" as FinishReason,
      };
    }),
  });
  const pack = await put(server, run.validator, lease, "SAMPLES", bytes);
  return submitEvaluation(server.ctx(run.validator), {
    taskId: lease.taskId,
    attempt: lease.attempt,
    pack,
    signature: signed(run, run.validator, lease, pack),
  });
}

/** Rewards of a group that has signal, and of groups that have none. */
export const signal = [1, 0];
export const allRight = [1, 1];
export const allWrong = [0, 0];

/** Claims a GENERATE task and has its groups accepted with these rewards. Returns the groups' ids. */
export async function acceptTask(
  server: TestServer,
  run: TestRun,
  rewards: readonly (readonly number[])[],
): Promise<string[]> {
  return acceptLease(server, run, await claim(server, run, run.worker, "GENERATE"), rewards);
}

/** The same for a task that is leased. */
export async function acceptLease(
  server: TestServer,
  run: TestRun,
  lease: Lease,
  rewards: readonly (readonly number[])[],
): Promise<string[]> {
  const payload = generatePayloadSchema.parse(lease.payload);
  const packHash = await storePack(server, "ROLLOUTS", rolloutPack(run, lease, payload));
  const groups = await Promise.all(
    payload.prompts.map(async (_, index) => ({
      id: newId("group"),
      index,
      rewards: rewards[index] ?? signal,
      measurementHash: await storePack(server, "MEASUREMENT", measurementPack(payload, index)),
    })),
  );
  const owner = { organizationId: run.organization.id, runId: run.id };
  await server.prisma.$transaction(async (tx) => {
    const fence = await acceptSubmission(tx, {
      taskId: lease.taskId,
      attempt: lease.attempt,
      nodeId: run.worker.id,
      packHash,
    });
    if (fence.kind !== "fresh") throw new Error(`the lease was ${fence.kind}`);
    await completeTask(tx, fence.task);
    await tx.nodeTrust.createMany({ data: [{ ...owner, nodeId: run.worker.id }], skipDuplicates: true });
    for (const group of groups) {
      await tx.group.create({
        data: {
          id: group.id,
          ...owner,
          taskId: lease.taskId,
          attemptId: fence.attempt.id,
          nodeId: run.worker.id,
          index: group.index,
          exampleSeed: "00".repeat(32),
          prompt: "made up",
          policyVersion: lease.policyVersion ?? 0,
          packHash,
          state: "ACCEPTED",
          acceptance: "AUDITED",
          advantagesReady: true,
          meanReward: group.rewards.reduce((sum, reward) => sum + reward, 0) / group.rewards.length,
          tokens: 2 * group.rewards.length,
          epoch: 1,
          decidedAt: new Date(),
        },
      });
      const advantages = groupAdvantages(group.rewards, run.spec.training.advantageEpsilon);
      await tx.rollout.createMany({
        data: group.rewards.map((reward, i) => ({
          id: newId("rollout"),
          ...owner,
          groupId: group.id,
          index: group.index * payload.groupSize + i,
          preview: "",
          tokens: 2,
          finishReason: "eos",
          reward,
          rewardParts: {},
          advantage: advantages[i] ?? 0,
        })),
      });
      await tx.verification.create({
        data: {
          id: newId("verif"),
          ...owner,
          groupId: group.id,
          taskId: newId("task"),
          validatorNodeId: run.validator.id,
          measurementHash: group.measurementHash,
          verdict: "ACCEPTED",
          checks: [],
          tokens: 2 * group.rewards.length,
          startedAt: new Date(),
        },
      });
    }
  });
  return groups.map((group) => group.id);
}

/** The BATCH pack of a step. */
export async function batchPack(server: TestServer, run: { id: string }, step: number): Promise<BatchPack> {
  const { packHash } = await server.prisma.batch.findUniqueOrThrow({
    where: { runId_step: { runId: run.id, step } },
  });
  return decodeBatchPack(await server.services.blobs.read(packHash ?? ""));
}

export async function countTasks(
  server: TestServer,
  run: { id: string },
  kind: TaskKind,
): Promise<Record<string, number>> {
  const rows = await server.prisma.task.groupBy({
    by: ["state"],
    where: { runId: run.id, kind },
    _count: true,
  });
  return Object.fromEntries(rows.map((row) => [row.state, row._count]));
}

export async function eventsOf(server: TestServer, run: { id: string }, type?: string) {
  return server.prisma.event.findMany({
    where: { stream: `run:${run.id}`, ...(type === undefined ? {} : { type }) },
    orderBy: { id: "asc" },
  });
}

/** Two tokens a rollout: a digit that tells which one it is, then the end. */
function rolloutPack(run: TestRun, lease: Lease, payload: GeneratePayload): Uint8Array {
  return encodeRolloutPack({
    header: {
      kind: "rollouts",
      version: 1,
      manifest: payload.manifest,
      form: payload.form,
      topK: payload.topK,
      run: run.typeId,
      task: toTypeId("task", lease.taskId),
    },
    rollouts: payload.prompts.flatMap((prompt, group) =>
      Array.from({ length: payload.groupSize }, (_, i) => ({
        index: group * payload.groupSize + i,
        prompt: Int32Array.from(prompt),
        tokens: Int32Array.of(
          (group * payload.groupSize + i) % 10,
          environment(run.spec.environment).tokenizer.eos,
        ),
        logprobs: Float32Array.of(-9, -9),
        finish: "eos" as FinishReason,
        proofs: [],
      })),
    ),
  });
}

/** Log-probabilities that tell which rollout of which group was measured. */
function measurementPack(payload: GeneratePayload, group: number): Uint8Array {
  return encodeMeasurementPack({
    header: {
      kind: "measurement",
      version: 1,
      manifest: payload.manifest,
      form: "f32",
      topK: payload.topK,
      blind: "0".repeat(64),
    },
    rollouts: Array.from({ length: payload.groupSize }, (_, i) => ({
      logprobs: Float32Array.of(-(group + 1), -(i + 1)),
      argmax: Int32Array.of(0, 0),
      margins: Float32Array.of(0, 0),
      windows: [{ indices: Uint32Array.of(0), values: Float32Array.of(1) }],
    })),
  });
}

async function storePack(
  server: TestServer,
  kind: "ROLLOUTS" | "MEASUREMENT",
  bytes: Uint8Array,
): Promise<string> {
  const sha256 = await server.services.blobs.putBytes(bytes);
  await server.prisma.pack.createMany({
    data: [{ sha256, kind, size: BigInt(bytes.length) }],
    skipDuplicates: true,
  });
  return sha256;
}

function stateBytes(parameters: number, updates: number, broken: boolean): Uint8Array {
  const moments = new Float32Array(parameters);
  if (broken) moments[parameters - 1] = Number.NaN;
  const bytes = (values: Float32Array | BigInt64Array) => new Uint8Array(values.buffer);
  return encodeSafetensors([
    { name: "m", dtype: "F32", shape: [parameters], data: bytes(moments) },
    { name: "v", dtype: "F32", shape: [parameters], data: bytes(new Float32Array(parameters)) },
    { name: "t", dtype: "I64", shape: [1], data: bytes(BigInt64Array.of(BigInt(updates))) },
  ]).bytes;
}

/** The weights that `publishStep` publishes as this version. */
export function weightsOf(model: ModelConfig, version: number): Float32Array {
  return Float32Array.from({ length: parameterLayout(model).total }, (_, i) => Math.sin(i + version));
}

/** The decoder of a run. */
export function modelOf({ model, environment: slug }: RunSpec): ModelConfig {
  const { tokenizer } = environment(slug);
  const { initSeed: _, ...sizes } = model;
  return { ...sizes, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
}
