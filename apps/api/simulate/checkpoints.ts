import { encodeCheckpoint, encodeSafetensors, type ModelConfig, parameterLayout } from "@muster/policy/graph";
import { environment, type RunSpec, toTypeId } from "@muster/protocol";
import { buildManifest, type Checkpoint, type Shard, signManifest } from "@muster/shardcast";
import type { BlobStore } from "../src/blobs/store.ts";
import type { Loader } from "./copy.ts";
import type { Past } from "./history.ts";
import { manifestOf } from "./past-scene.ts";
import type { RunPlan } from "./plan.ts";
import type { SimulatedNode } from "./world.ts";

// Policy versions that can be fetched are whole: a signed manifest, shards with its hashes, an optimizer state for the newest.

export type CheckpointBytes = {
  readonly checkpoint: Checkpoint;
  readonly shards: readonly Shard[];
  readonly state: Uint8Array;
};

/** A version of a run's decoder, as its trainer would publish it. Same arguments, same bytes. */
export async function makeCheckpoint(
  spec: RunSpec,
  input: { run: string; version: number; parent: number | null; created: string; trainer: SimulatedNode },
): Promise<CheckpointBytes> {
  const { version, parent, trainer } = input;
  const model = modelOf(spec);
  const { total } = parameterLayout(model);
  const weights = Float32Array.from({ length: total }, (_, i) => Math.sin(i + version / 16));
  const files = encodeCheckpoint(model, weights, environment(spec.environment).tokenizer);
  const { manifest, shards } = buildManifest({
    run: input.run,
    version,
    parent,
    created: input.created,
    tensors: files.tensors.map(({ dtype, shape, ...place }) => ({
      ...place,
      shape: [...shape],
      // encodeCheckpoint writes nothing else.
      dtype: dtype as "F32",
    })),
    trainer: trainer.publicKey,
    files: [
      { name: "model.safetensors", bytes: files.model.slice() },
      { name: "config.json", bytes: files.config.slice() },
      { name: "tokenizer.json", bytes: files.tokenizer.slice() },
    ],
    shardBytes: 4_096,
  });
  const checkpoint = await signManifest(manifest, (bytes) => Buffer.from(trainer.sign(bytes), "hex"));
  const bytes = (values: Float32Array | BigInt64Array) => new Uint8Array(values.buffer);
  const state = encodeSafetensors([
    {
      name: "m",
      dtype: "F32",
      shape: [total],
      data: bytes(Float32Array.from({ length: total }, (_, i) => Math.cos(i + version))),
    },
    { name: "v", dtype: "F32", shape: [total], data: bytes(new Float32Array(total)) },
    { name: "t", dtype: "I64", shape: [1], data: bytes(BigInt64Array.of(BigInt(version))) },
  ]).bytes;
  return { checkpoint, shards, state };
}

/** The decoder of a run. */
export function modelOf({ model, environment: slug }: RunSpec): ModelConfig {
  const { tokenizer } = environment(slug);
  const { initSeed: _, ...sizes } = model;
  return { ...sizes, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
}

export type StoredVersion = {
  readonly hash: string;
  readonly size: number;
  /** By sha256, with kind and size. */
  readonly packs: readonly { sha256: string; kind: "MANIFEST" | "SHARD" | "STATE"; size: number }[];
  readonly state: string | null;
};

/** Stores the versions of a run that are still available: the base, those that are evaluated and the newest. */
export async function storeVersions(
  blobs: BlobStore,
  plan: RunPlan,
  input: { steps: number; trainer: SimulatedNode },
): Promise<Map<number, StoredVersion>> {
  const { steps, trainer } = input;
  const stored = new Map<number, StoredVersion>();
  if (plan.state === "DRAFT") return stored;
  for (const version of availableOf(plan, steps)) {
    const { checkpoint, shards, state } = await makeCheckpoint(plan.spec, {
      run: toTypeId("run", plan.id),
      version,
      parent: version === 0 ? null : version - 1,
      created: new Date(plan.createdAt).toISOString(),
      trainer,
    });
    const packs: StoredVersion["packs"][number][] = [
      { sha256: await blobs.putBytes(checkpoint.bytes), kind: "MANIFEST", size: checkpoint.bytes.length },
    ];
    for (const { bytes } of shards)
      packs.push({ sha256: await blobs.putBytes(bytes), kind: "SHARD", size: bytes.length });
    const newest = version === steps;
    const stateHash = newest ? await blobs.putBytes(state) : null;
    if (stateHash !== null) packs.push({ sha256: stateHash, kind: "STATE", size: state.length });
    const size = checkpoint.manifest.files.reduce((sum, file) => sum + file.size, 0);
    stored.set(version, { hash: checkpoint.hash, size, packs, state: stateHash });
  }
  return stored;
}

function availableOf({ spec }: RunPlan, steps: number): number[] {
  const kept = new Set([0]);
  for (let version = spec.evaluation.every; version <= steps; version += spec.evaluation.every)
    kept.add(version);
  for (let version = Math.max(0, steps - spec.batch.asyncLevel - 1); version <= steps; version++)
    kept.add(version);
  return [...kept].sort((a, b) => a - b);
}

/** Adds the rows of a run's versions. `known`: packs that have their row already. @returns ids by version */
export function addCheckpoints(
  loader: Loader,
  past: Past,
  input: { stored: ReadonlyMap<number, StoredVersion>; trainer: SimulatedNode; known: Set<string> },
): Map<number, string> {
  const { plan, log } = past;
  const { stored, trainer, known } = input;
  const owner = { organizationId: plan.organizationId, runId: plan.id };
  const ids = new Map<number, string>();
  const random = plan.random.fork("checkpoints");
  const usual = stored.get(0)?.size ?? 0;
  for (const { version, at, taskId } of past.versions) {
    const files = stored.get(version);
    const id = random.uuid(at);
    ids.set(version, id);
    const manifestHash = manifestOf(stored, plan.id, version);
    loader.add("Checkpoint", {
      id,
      ...owner,
      version,
      parentVersion: version === 0 ? null : version - 1,
      manifestHash,
      stateHash: files?.state ?? null,
      size: files?.size ?? usual,
      state: files === undefined ? "RETIRED" : "AVAILABLE",
      trainerNodeId: trainer.id,
      taskId,
      createdAt: new Date(at),
      availableAt: new Date(at),
      originBytes: (files?.size ?? usual) * (4 + (version % 5)),
    });
    if (!plan.long || files !== undefined)
      log.event("checkpoint.available", toTypeId("ckpt", id), at, {
        version,
        parent: version === 0 ? null : version - 1,
        manifest: manifestHash,
        size: files?.size ?? usual,
        trainer: toTypeId("node", trainer.id),
      });
    for (const { sha256, kind, size } of files?.packs ?? []) {
      if (!known.has(sha256)) loader.add("Pack", { sha256, kind, size, createdAt: new Date(at) });
      known.add(sha256);
    }
    const named = new Map((files?.packs ?? []).map((pack) => [`${pack.kind} ${pack.sha256}`, pack]));
    for (const { sha256, kind } of named.values())
      loader.add("PackReference", {
        id: random.uuid(at),
        ...owner,
        sha256,
        taskId: null,
        subject: id,
        kind,
        createdAt: new Date(at),
      });
  }
  return ids;
}
