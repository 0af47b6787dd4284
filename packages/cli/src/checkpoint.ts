// A policy's weights, from a folder, a file or a coordinator.
import { readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { CheckpointError, checkpointFiles, type ModelConfig, readCheckpoint } from "@muster/policy/graph";
import { canonicalJson, environment, hashHex, type Manifest, type RunSpec } from "@muster/protocol";
import type { MusterClient } from "@muster/sdk";
import { openManifest } from "@muster/shardcast";
import { Failure, systemCode } from "./failure.ts";

const names = ["model.safetensors", "config.json"] as const;

/**
 * The files of a checkpoint on this machine.
 * @param path a folder that has `model.safetensors` and `config.json`, or the first of the two.
 * @throws Failure `FILE_UNREADABLE`
 */
export async function checkpointAt(path: string): Promise<Map<string, Uint8Array>> {
  const folder = await isFolder(path);
  const [weights, config] = names;
  return new Map([
    [weights, await readBytes(folder ? join(path, weights) : path)],
    [config, await readBytes(join(folder ? path : dirname(path), config))],
  ]);
}

/** The files of the checkpoint that a manifest on the coordinator names, every hash checked. */
export async function fetchCheckpoint(
  client: MusterClient,
  hash: string,
  signal: AbortSignal,
): Promise<{ manifest: Manifest; files: Map<string, Uint8Array> }> {
  const manifest = await openManifest({ bytes: await client.blobs.get({ sha256: hash, signal }), hash });
  const shards: Uint8Array[] = [];
  for (const { sha256, size } of manifest.files.flatMap((file) => file.shards))
    shards.push(await client.blobs.get({ sha256, maxBytes: size, signal }));
  return { manifest, files: checkpointFiles(manifest, shards) };
}

/** @throws CheckpointError when a file is not the one that the manifest names. */
export function requireFilesOf(manifest: Manifest, files: ReadonlyMap<string, Uint8Array>): void {
  for (const name of names) {
    const bytes = files.get(name);
    const expected = manifest.files.find((file) => file.name === name)?.sha256;
    if (bytes === undefined || hashHex(bytes) !== expected) {
      throw new CheckpointError(
        "WRONG_FILE",
        `${name} is not that of version ${manifest.version} of ${manifest.run}, whose SHA-256 is ${expected ?? "unknown"}.`,
      );
    }
  }
}

/** The model that a spec describes. */
export function modelOf(spec: RunSpec): ModelConfig {
  const { tokenizer } = environment(spec.environment);
  const { initSeed: _, ...shape } = spec.model;
  return { ...shape, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
}

/**
 * The weights of a run's policy.
 * @throws CheckpointError, Failure `WRONG_MODEL` when they are those of another model.
 */
export function readPolicy(
  spec: RunSpec,
  files: ReadonlyMap<string, Uint8Array>,
): { model: ModelConfig; parameters: Float32Array } {
  const found = readCheckpoint(files);
  if (canonicalJson(found.model) === canonicalJson(modelOf(spec))) return found;
  throw new Failure({
    exit: "failed",
    code: "WRONG_MODEL",
    what: "The checkpoint's config.json describes another model than the run's spec.",
  });
}

export async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): Failure {
  const why = systemCode(error) === "ENOENT" ? "there is no such file" : messageOf(error);
  return new Failure({
    exit: "usage",
    code: "FILE_UNREADABLE",
    what: `${path} cannot be read: ${why}.`,
    cause: error,
  });
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    throw unreadable(path, error);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
