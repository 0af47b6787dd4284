import { createHash } from "node:crypto";
import {
  type CheckpointFiles,
  decodeCheckpoint,
  encodeCheckpoint,
  type ModelConfig,
  type Trainer,
} from "@muster/policy";
import {
  type BatchPack,
  type BatchRollout,
  characterTokenizer,
  decodeBatchPack,
  environment,
  trainingSpecSchema,
} from "@muster/protocol";
import type { Lease } from "@muster/sdk";
import { buildManifest, signManifest } from "@muster/shardcast";
import type { LocalCheckpoint } from "../checkpoints.ts";
import type { Assignment, BlobKind, Executor, ExecutorContext, Outcome } from "../executor.ts";

// BASE publishes version 0, TRAIN every version after it. Weights and optimizer state leave the trainer together; the trainer stays
// open, and when the next step starts from exactly what it holds (by hash), nothing is read back.

const MOST_STATE_BYTES = 16 * 2 ** 30;

/** BASE: warm up, or take the weights of another run or an upload, and publish them as version 0. */
export function baseExecutor(): Executor<"BASE"> {
  return {
    batch: 1,
    execute: (ctx, assignments) => inTurn(assignments, (assignment) => base(ctx, assignment)),
  };
}

/** TRAIN: one optimizer step over a sealed batch. */
export function trainExecutor(): Executor<"TRAIN"> {
  return {
    batch: 1,
    execute: (ctx, assignments) => inTurn(assignments, (assignment) => train(ctx, assignment)),
  };
}

async function inTurn<T>(items: readonly T[], work: (item: T) => Promise<Outcome>): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const item of items) outcomes.push(await work(item));
  return outcomes;
}

async function base(ctx: ExecutorContext, assignment: Assignment<"BASE">): Promise<Outcome> {
  const { lease, payload, signal } = assignment;
  const { tokenizer } = environment(payload.environment);
  const parent =
    payload.parent === null ? undefined : await ctx.checkpoints.open({ manifest: payload.parent, signal });
  const { initSeed, ...shape } = payload.model;
  const model: ModelConfig = parent?.model ?? {
    ...shape,
    vocabularySize: tokenizer.vocabularySize,
    eos: tokenizer.eos,
  };
  if (model.vocabularySize !== tokenizer.vocabularySize || model.eos !== tokenizer.eos) {
    return { kind: "failed", reason: `The checkpoint's vocabulary is not that of ${payload.environment}.` };
  }
  const training = trainingSpecSchema.parse({});
  const { trainer } = await ctx.engines.trainer({ model, training, temperature: 1 });
  ctx.engines.standAt(undefined);
  const metrics = await prepare();
  const { flat, state } = await trainer.export();
  const files = encodeCheckpoint(model, flat, tokenizer);
  return publish(ctx, { lease, version: 0, parentVersion: null, metrics, files, state });

  async function prepare(): Promise<Record<string, unknown>> {
    switch (payload.base.kind) {
      case "warmup": {
        const { kind: _, ...warmup } = payload.base;
        await trainer.init(initSeed ?? payload.seed);
        const { loss, seconds } = await trainer.warmup({
          ...warmup,
          corpus: corpusOf(payload.environment, payload.seed, warmup.batchSize),
          signal,
          onProgress: ({ step }) => assignment.progress(step, warmup.steps),
        });
        return { loss, seconds };
      }
      case "checkpoint": {
        if (!parent) throw new Error("The task starts from a checkpoint and names none.");
        await trainer.load(await parent.weights());
        return {};
      }
      case "upload": {
        const bytes = await ctx.client.blobs.get({
          sha256: payload.base.sha256,
          maxBytes: MOST_STATE_BYTES,
          signal,
        });
        await trainer.load(decodeCheckpoint(bytes, model));
        return {};
      }
    }
  }
}

/** Step i's pairs of the environment's warm-up corpus, as token ids; EOS ends every answer. */
function corpusOf(slug: string, seed: string, batchSize: number) {
  const env = environment(slug);
  const { encode, eos } = env.tokenizer;
  const bytes = new Uint8Array(Buffer.from(seed, "hex"));
  return (step: number) =>
    env.corpus(bytes, step * batchSize, batchSize).map(({ prompt, answer }) => ({
      prompt: Int32Array.from(encode(prompt)),
      tokens: Int32Array.from([...encode(answer), eos]),
    }));
}

async function train(ctx: ExecutorContext, assignment: Assignment<"TRAIN">): Promise<Outcome> {
  const { lease, payload, signal, progress } = assignment;
  const checkpoint = await ctx.checkpoints.open({ manifest: payload.manifest, run: lease.run, signal });
  const batch = decodeBatchPack(await ctx.client.blobs.get({ sha256: payload.batch, signal }));
  if (batch.header.run !== lease.run || batch.header.step !== payload.step) {
    return {
      kind: "failed",
      reason: `The batch is that of step ${batch.header.step} of ${batch.header.run}.`,
    };
  }
  progress(0, batch.rollouts.length);
  const { training, temperature } = payload;
  const { trainer, at } = await ctx.engines.trainer({ model: checkpoint.model, training, temperature });
  // until the step is accepted, what the trainer holds has no name: neither half restored nor half stepped
  ctx.engines.standAt(undefined);
  if (at?.manifest !== payload.manifest || at.state !== payload.state) {
    ctx.log.info({ step: payload.step }, "the trainer's state is read from what was published");
    const state = await ctx.client.blobs.get({ sha256: payload.state, maxBytes: MOST_STATE_BYTES, signal });
    await trainer.restore(await checkpoint.weights(), state);
  }
  if (payload.reference !== null) {
    const reference = await ctx.checkpoints.open({ manifest: payload.reference, run: lease.run, signal });
    await trainer.setReference(await reference.weights());
  }
  const { step, totalSteps } = payload;
  const rollouts = await withOldLogprobs(ctx, { lease, batch, trainer, checkpoint, signal });
  const metrics = await trainer.step({ rollouts, step, totalSteps, signal });
  progress(batch.rollouts.length, batch.rollouts.length);
  const { flat, state } = await trainer.export();
  // the two text files stay the parent's to the byte, so this tokenizer is not used
  const { model, tensors } = encodeCheckpoint(checkpoint.model, flat, characterTokenizer("$"));
  return publish(ctx, {
    lease,
    state,
    version: payload.version,
    parentVersion: checkpoint.manifest.version,
    parent: checkpoint,
    metrics,
    files: { model, tensors, config: checkpoint.config, tokenizer: checkpoint.tokenizer },
  });
}

/** Old log-probabilities come from a validator or, where there are none, from this trainer at the version that generated: never from a worker. */
async function withOldLogprobs(
  ctx: ExecutorContext,
  input: {
    lease: Lease;
    batch: BatchPack;
    trainer: Trainer;
    checkpoint: LocalCheckpoint;
    signal: AbortSignal;
  },
): Promise<BatchRollout[]> {
  const { batch, trainer, signal } = input;
  const rollouts = batch.rollouts.slice();
  const missing = new Map<number, number[]>();
  rollouts.forEach(({ logprobs, tokens, policyVersion }, i) => {
    if (logprobs.length === 0 && tokens.length > 0)
      missing.set(policyVersion, [...(missing.get(policyVersion) ?? []), i]);
  });
  if (missing.size === 0) return rollouts;
  const manifests = await manifestsOf(ctx, input.lease.run, new Set(missing.keys()), signal);
  for (const [version, indices] of missing) {
    const manifest = manifests.get(version);
    if (manifest === undefined)
      throw new Error(`The batch has rollouts of version ${version}, whose checkpoint is gone.`);
    const generating =
      manifest === input.checkpoint.manifestHash
        ? input.checkpoint
        : await ctx.checkpoints.open({ manifest, run: input.lease.run, signal });
    const pairs = indices.flatMap((i) => rollouts[i] ?? []);
    const logprobs = await trainer.logprobs({ rollouts: pairs, flat: await generating.weights(), signal });
    indices.forEach((i, k) => {
      const [rollout, own] = [rollouts[i], logprobs[k]];
      if (rollout && own) rollouts[i] = { ...rollout, logprobs: own };
    });
  }
  return rollouts;
}

/** Manifest hashes of versions of a run, newest first until all are found. */
async function manifestsOf(
  ctx: ExecutorContext,
  run: string,
  versions: ReadonlySet<number>,
  signal: AbortSignal,
): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  for await (const { version, manifestHash } of ctx.client.runs.checkpoints({ run }, { signal })) {
    if (versions.has(version)) found.set(version, manifestHash);
    if (found.size === versions.size) break;
  }
  return found;
}

type Published = {
  lease: Lease;
  version: number;
  parentVersion: number | null;
  /** The checkpoint of `parentVersion`: workers that have it fetch only what changed. */
  parent?: LocalCheckpoint;
  metrics: Record<string, unknown>;
  files: CheckpointFiles;
  /** Optimizer state. */
  state: Uint8Array;
};

/** Everything a later step depends on, as blobs to store, and the step that names them. */
async function publish(ctx: ExecutorContext, input: Published): Promise<Outcome> {
  const { files, lease, parent } = input;
  const from = parent && {
    manifest: parent.manifest,
    manifestHash: parent.manifestHash,
    weights: await parent.weightsFile(),
  };
  const { manifest, shards } = buildManifest({
    ...(from ? { from } : {}),
    run: lease.run,
    version: input.version,
    parent: input.parentVersion,
    created: new Date().toISOString(),
    tensors: files.tensors.map(({ dtype, ...place }) => {
      if (dtype === "I64") throw new TypeError(`${place.name} holds integers; weights are floats.`);
      return { ...place, dtype, shape: [...place.shape] };
    }),
    trainer: ctx.identity.publicKey,
    files: [
      { name: "model.safetensors", bytes: owned(files.model) },
      { name: "config.json", bytes: owned(files.config) },
      { name: "tokenizer.json", bytes: owned(files.tokenizer) },
    ],
  });
  const checkpoint = await signManifest(manifest, ctx.identity.sign);
  const state = owned(input.state);
  const stateHash = createHash("sha256").update(state).digest("hex");
  return {
    kind: "step",
    blobs: [
      ...shards.map(({ sha256, bytes }) => ({ kind: "SHARD" as BlobKind, sha256, bytes })),
      { kind: "STATE", sha256: stateHash, bytes: state },
      { kind: "MANIFEST", sha256: checkpoint.hash, bytes: checkpoint.bytes },
    ],
    manifest: checkpoint.hash,
    state: stateHash,
    metrics: input.metrics,
    accepted: () => ctx.engines.standAt({ manifest: checkpoint.hash, state: stateHash }),
  };
}

function owned(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer
    ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    : new Uint8Array(bytes);
}
