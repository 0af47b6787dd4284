import { createHash } from "node:crypto";
import { canonicalJson, type Manifest } from "@muster/protocol";
import { mostDeltaBytes, patched, ShardcastError } from "@muster/shardcast";
import type { Ctx } from "../context.ts";
import { checkFileHash, fileChunks, fileOf, readManifest } from "./manifest-files.ts";
import { UnsoundFile } from "./safetensors.ts";

/** Blobs of earlier versions that whoever comes along the chain has to fetch. */
export type ChainBlobs = { readonly manifests: readonly string[]; readonly shards: readonly string[] };

/** Files up to here are made from the delta once before it is published; above, whoever applies it finds out. */
const mostAppliedBytes = 64 * 2 ** 20;

/**
 * Checks a manifest's delta: it starts from the version the task starts from, continues that version's own chain and saves something; and
 * where that is cheap, it is applied and must make the weights. A wrong one could harm nobody, it would only be fetched in vain.
 * @param parent the version the task starts from; null for a base.
 * @returns what the version needs beside its own shards as long as it is kept: the deltas before its own, which may belong to versions
 * that retire earlier.
 * @throws UnsoundFile
 */
export async function checkDelta(
  ctx: Ctx,
  manifest: Manifest,
  parent: { readonly hash: string; readonly manifest: Manifest } | null,
): Promise<ChainBlobs> {
  const { delta } = manifest;
  if (delta === null) return { manifests: [], shards: [] };
  const [from, ...rest] = delta.chain;
  if (parent === null || from === undefined || from.manifest !== parent.hash)
    throw new UnsoundFile("The delta does not start from the version that the task starts from.");
  const known = (parent.manifest.delta?.chain ?? []).slice(0, rest.length);
  if (canonicalJson(rest) !== canonicalJson(known))
    throw new UnsoundFile(`The delta's chain does not continue as that of version ${from.version} does.`);
  const weights = fileOf(manifest, "model.safetensors");
  const before = fileOf(parent.manifest, "model.safetensors");
  if (delta.file.size > mostDeltaBytes(weights.size) || before.size !== weights.size)
    throw new UnsoundFile(
      `A delta of ${delta.file.size} bytes is not worth publishing beside ${weights.size} bytes of weights.`,
    );
  await checkFileHash(ctx, delta.file);
  if (weights.size <= mostAppliedBytes) await checkResult(ctx, { manifest, before, delta });
  return earlierDeltas(ctx, delta.chain);
}

async function checkResult(
  ctx: Ctx,
  input: {
    manifest: Manifest;
    before: Manifest["files"][number];
    delta: NonNullable<Manifest["delta"]>;
  },
): Promise<void> {
  const hash = createHash("sha256");
  try {
    const blocks = patched({ old: fileChunks(ctx, input.before), delta: fileChunks(ctx, input.delta.file) });
    for await (const block of blocks) hash.update(block);
  } catch (error) {
    if (error instanceof ShardcastError) throw new UnsoundFile(error.message, { cause: error });
    throw error;
  }
  if (hash.digest("hex") !== input.manifest.whole)
    throw new UnsoundFile("The delta does not make the weights that the manifest names.");
}

/** From every checkpoint of the chain but the last its own delta is needed; from the last one only that somebody has it. */
async function earlierDeltas(ctx: Ctx, chain: NonNullable<Manifest["delta"]>["chain"]): Promise<ChainBlobs> {
  const manifests = chain.slice(0, -1).map((ancestor) => ancestor.manifest);
  const shards: string[] = [];
  for (const hash of manifests) {
    const { delta } = await readManifest(ctx, hash);
    shards.push(...(delta?.file.shards ?? []).map(({ sha256 }) => sha256));
  }
  return { manifests, shards };
}
