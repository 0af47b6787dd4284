import { canonicalJson, environment, type Manifest, manifestBytes, type RunSpec } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { verifyEd25519 } from "../tasks/submission.ts";
import { type ChainBlobs, checkDelta } from "./check-delta.ts";
import { checkFileHash, fileChunks, fileOf, readManifest } from "./manifest-files.ts";
import { assertGiven } from "./provenance.ts";
import { scanSafetensors, UnsoundFile } from "./safetensors.ts";

export type Expected = {
  /** Id of the run, and the same as TypeID. */
  readonly runId: string;
  readonly run: string;
  readonly version: number;
  readonly parent: number | null;
  /** Ed25519 public key of the submitting node, hexadecimal. */
  readonly trainer: string;
  readonly spec: RunSpec;
  /** Manifest hash of the version it was made from; null for a base. */
  readonly parentManifest: string | null;
};

export type SoundCheckpoint = {
  readonly manifest: Manifest;
  /** Distinct shards of all files and of the delta. */
  readonly shards: readonly string[];
  /** What its delta's chain needs of earlier versions. */
  readonly chain: ChainBlobs;
  /** Bytes of all files. */
  readonly size: number;
};

/**
 * Checks a checkpoint and its optimizer state before they are published: signed by its trainer, of this run and version, complete to the
 * byte, the run's own model and vocabulary, and finite. Reads every byte once, streaming.
 * @throws UnsoundFile when it may not be published
 * @throws CodedError `BLOB_NOT_FOUND` when something was not uploaded
 */
export async function checkCheckpoint(
  ctx: Ctx,
  input: { manifestHash: string; stateHash: string; expected: Expected },
): Promise<SoundCheckpoint> {
  const { runId } = input.expected;
  await assertGiven(ctx, runId, "MANIFEST", [input.manifestHash]);
  await assertGiven(ctx, runId, "STATE", [input.stateHash]);
  const manifest = await readManifest(ctx, input.manifestHash);
  const flaw = wrongIdentity(manifest, input.expected);
  if (flaw !== undefined) throw new UnsoundFile(flaw);
  if (!verifyEd25519(manifest.trainer, manifestBytes(manifest), manifest.signature))
    throw new UnsoundFile("The manifest's signature is not its trainer's.");
  const shards = await checkShards(ctx, runId, manifest);
  const { parentManifest } = input.expected;
  const parent =
    parentManifest === null
      ? null
      : { hash: parentManifest, manifest: await readManifest(ctx, parentManifest) };

  for (const file of manifest.files) if (file.name !== "model.safetensors") await checkFileHash(ctx, file);
  await checkDescription(ctx, manifest, { spec: input.expected.spec, parent: parent?.manifest ?? null });
  const weights = await scanSafetensors(fileChunks(ctx, fileOf(manifest, "model.safetensors")));
  if (weights.sha256 !== manifest.whole)
    throw new UnsoundFile("The shards of model.safetensors do not have the hash that the manifest names.");
  if (
    canonicalJson(weights.tensors.map(place)) !==
    canonicalJson([...manifest.tensors].sort((a, b) => a.offset - b.offset || a.size - b.size).map(place))
  )
    throw new UnsoundFile("The tensors of model.safetensors are not those of the manifest.");
  await checkState(ctx, input.stateHash, weights.tensors);
  const chain = await checkDelta(ctx, manifest, parent);
  return { manifest, shards, chain, size: manifest.files.reduce((sum, file) => sum + file.size, 0) };
}

function wrongIdentity(manifest: Manifest, { run, version, parent, trainer }: Expected): string | undefined {
  if (manifest.run !== run) return `The manifest is for ${manifest.run}, the task for ${run}.`;
  if (manifest.version !== version)
    return `The manifest is for version ${manifest.version}, the task for ${version}.`;
  if (manifest.parent !== parent)
    return `The manifest names parent ${manifest.parent}; the task starts from ${parent}.`;
  if (manifest.trainer !== trainer)
    return "The manifest names another trainer than the node that submits it.";
  return undefined;
}

async function checkShards(ctx: Ctx, runId: string, manifest: Manifest): Promise<string[]> {
  const files = manifest.delta === null ? manifest.files : [...manifest.files, manifest.delta.file];
  const sizes = new Map(files.flatMap((file) => file.shards.map((shard) => [shard.sha256, shard.size])));
  await assertGiven(ctx, runId, "SHARD", [...sizes.keys()]);
  const known = await ctx.prisma.pack.findMany({
    where: { sha256: { in: [...sizes.keys()] } },
    select: { sha256: true, size: true },
  });
  for (const pack of known) {
    if (Number(pack.size) !== sizes.get(pack.sha256))
      throw new UnsoundFile(`Shard ${pack.sha256} has ${pack.size} bytes, not ${sizes.get(pack.sha256)}.`);
  }
  return [...sizes.keys()];
}

/** Nodes learn model and vocabulary from these two files, so a trainer may not change them under way. */
async function checkDescription(
  ctx: Ctx,
  manifest: Manifest,
  { spec, parent }: { spec: RunSpec; parent: Manifest | null },
): Promise<void> {
  if (parent !== null) {
    for (const name of ["config.json", "tokenizer.json"]) {
      if (fileOf(manifest, name).sha256 !== fileOf(parent, name).sha256)
        throw new UnsoundFile(`${name} is not that of version ${parent.version}.`);
    }
    return;
  }
  const { tokenizer } = environment(spec.environment);
  const { model } = spec;
  const config = await readJson(ctx, fileOf(manifest, "config.json"));
  const wanted: Record<string, unknown> = {
    hidden_size: model.hiddenSize,
    intermediate_size: model.intermediateSize,
    num_hidden_layers: model.layers,
    num_attention_heads: model.heads,
    num_key_value_heads: model.kvHeads,
    vocab_size: tokenizer.vocabularySize,
    eos_token_id: tokenizer.eos,
    tie_word_embeddings: model.tiedHead,
    model_type: model.qkvBias ? "qwen2" : "llama",
  };
  for (const [name, value] of Object.entries(wanted)) {
    if (config[name] !== value)
      throw new UnsoundFile(
        `config.json has ${name} ${JSON.stringify(config[name])}; the run's spec has ${JSON.stringify(value)}.`,
      );
  }
  const vocabulary = await readJson(ctx, fileOf(manifest, "tokenizer.json"));
  if (canonicalJson(vocabulary) !== canonicalJson(tokenizer.toJSON()))
    throw new UnsoundFile(`tokenizer.json is not that of ${spec.environment}.`);
}

async function checkState(
  ctx: Ctx,
  stateHash: string,
  weights: readonly { size: number; dtype: string }[],
): Promise<void> {
  const { stream } = await ctx.blobs.open(stateHash);
  const { tensors } = await scanSafetensors(stream);
  const parameters = weights.reduce((sum, tensor) => sum + tensor.size / (tensor.dtype === "F32" ? 4 : 2), 0);
  const moments = tensors.filter((tensor) => tensor.name === "m" || tensor.name === "v");
  const count = tensors.find((tensor) => tensor.name === "t");
  if (
    tensors.length !== 3 ||
    count?.size !== 8 ||
    !moments.every((tensor) => tensor.dtype === "F32" && tensor.size === 4 * parameters)
  )
    throw new UnsoundFile(`The state must hold m and v (${parameters} float32 each) and t (one int64).`);
}

const mostJsonBytes = 64 * 2 ** 20;

async function readJson(ctx: Ctx, file: Manifest["files"][number]): Promise<Record<string, unknown>> {
  if (file.size > mostJsonBytes)
    throw new UnsoundFile(`${file.name} has ${file.size} bytes; at most ${mostJsonBytes} are read.`);
  const parts: Uint8Array[] = [];
  for await (const chunk of fileChunks(ctx, file)) parts.push(chunk);
  try {
    const value: unknown = JSON.parse(Buffer.concat(parts).toString("utf8"));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  } catch {
    // Told below: whatever is wrong with it, it is not what was asked for.
  }
  throw new UnsoundFile(`${file.name} is not a JSON object.`);
}

function place({
  name,
  dtype,
  shape,
  offset,
  size,
}: {
  name: string;
  dtype: string;
  shape: readonly number[];
  offset: number;
  size: number;
}) {
  return { name, dtype, shape: [...shape], offset, size };
}
