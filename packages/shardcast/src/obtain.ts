import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Manifest } from "@muster/protocol";
import {
  assemble,
  type Cache,
  type Checkpoint,
  cachedCheckpoint,
  checkpointsIn,
  forget,
  isKept,
  keepCopy,
  keepShard,
  newTmp,
  partialDownloads,
  partialPath,
  partialsOf,
  readKept,
} from "./cache.ts";
import { applyDelta } from "./delta.ts";
import { isDiskFull, requireRoom } from "./disk.ts";
import { ShardcastError } from "./error.ts";
import { choosePath, type Path } from "./path.ts";
import type { Transfer } from "./transfer.ts";
import { openManifest } from "./verify.ts";

// From a manifest's hash to its files: what is on this machine is not fetched, a delta is tried where that takes fewer bytes, and
// everything that was verified stays verified whichever way is taken in the end.

type ShardOf = { sha256: string; size: number };
export type ObtainProgress = { manifest: string; version: number; verifiedBytes: number; totalBytes: number };

export type ObtainInput = {
  cache: Cache;
  /** Of the manifest. */
  hash: string;
  signal: AbortSignal;
  /** A way to the blobs of the checkpoint with this manifest. */
  transferOf: (manifestHash: string) => Transfer;
  /** Checks a manifest whose hash is right. */
  read: (bytes: Uint8Array) => Promise<Manifest>;
  onProgress: (progress: ObtainProgress) => void;
};

type Job = ObtainInput & {
  manifest: Manifest;
  manifestBytes: Uint8Array;
  /** Checkpoints on this machine, by manifest hash. */
  present: ReadonlyMap<string, Checkpoint>;
  /** Shards of this download that are kept. */
  kept: Set<string>;
  /** Where else on this machine a shard is said to be. */
  elsewhere: Map<string, { path: string; offset: number }>;
};

const WEIGHTS = "model.safetensors";

/** Puts the checkpoint into its place in the cache. */
export async function obtain(
  input: ObtainInput,
): Promise<{ dir: string; manifest: Manifest; layout: "FULL" | "DELTA" }> {
  const { cache, hash } = input;
  const transfer = input.transferOf(hash);
  const manifestBytes = await manifestOf(input, hash, transfer);
  const manifest = await input.read(manifestBytes);
  const job: Job = { ...input, manifest, manifestBytes, ...(await look(input)) };
  const path = choosePath({
    manifest,
    cached: (ancestor) => job.present.has(ancestor),
    bytesToFetch: (shards) => sum(unique(shards).filter((shard) => !isHere(job, shard))),
  });
  const weights = newTmp(cache);
  try {
    if (path.layout === "DELTA" && (await patch(job, path, transfer, weights))) {
      return { layout: "DELTA", manifest, dir: await finish(job, new Map([[WEIGHTS, weights]])) };
    }
  } finally {
    await rm(weights, { force: true });
  }
  const shards = unique(manifest.files.flatMap((file) => file.shards));
  await requireRoom(cache, {
    checkpoint: hash,
    bytes: sum(manifest.files) + sum(shards.filter(({ sha256 }) => !job.kept.has(sha256))),
    keep: new Set(),
  });
  await gather(job, shards, transfer, counter(job, shards));
  return { layout: "FULL", manifest, dir: await finish(job, new Map()) };
}

/** The manifest's bytes, from what was kept of the download or from afar; their hash is right, and nothing else is known. */
async function manifestOf(
  { cache, hash: download }: ObtainInput,
  hash: string,
  transfer: Transfer,
): Promise<Uint8Array> {
  if (await isKept(cache, download, hash)) return await readFile(partialPath(cache, download, hash));
  let found: Uint8Array | undefined;
  await transfer.fetch([{ sha256: hash, size: undefined }], async (_, bytes) => {
    await keepShard(cache, download, hash, bytes);
    found = bytes;
  });
  if (found === undefined) throw new Error("A transfer ended without its blob.");
  return found;
}

/** What is on this machine. */
async function look({ cache, hash }: ObtainInput): Promise<Pick<Job, "present" | "kept" | "elsewhere">> {
  const present = await checkpointsIn(cache);
  const elsewhere: Job["elsewhere"] = new Map();
  for (const { dir, manifest } of present.values()) {
    for (const file of manifest.files) {
      let offset = 0;
      for (const { sha256, size } of file.shards) {
        elsewhere.set(sha256, { path: join(dir, file.name), offset });
        offset += size;
      }
    }
  }
  const kept = new Set<string>();
  for (const download of await partialDownloads(cache)) {
    for (const sha256 of await partialsOf(cache, download)) {
      if (download !== hash) elsewhere.set(sha256, { path: partialPath(cache, download, sha256), offset: 0 });
      else if (await isKept(cache, hash, sha256)) kept.add(sha256);
    }
  }
  return { present, kept, elsewhere };
}

/** Brings shards into what is kept of the download: from elsewhere on this machine, and the rest from afar. */
async function gather(
  job: Job,
  shards: readonly ShardOf[],
  transfer: Transfer,
  count: (shard: ShardOf) => void,
): Promise<void> {
  const { cache, hash, kept, elsewhere } = job;
  const missing: ShardOf[] = [];
  for (const shard of shards) {
    job.signal.throwIfAborted();
    const from = elsewhere.get(shard.sha256);
    if (kept.has(shard.sha256) || (from && (await keepCopy(cache, hash, shard, from)))) {
      kept.add(shard.sha256);
      count(shard);
    } else missing.push(shard);
  }
  await transfer.fetch(missing, async ({ sha256 }, bytes) => {
    await keepShard(cache, hash, sha256, bytes);
    kept.add(sha256);
    count({ sha256, size: bytes.length });
  });
}

/** Makes the weights at `out` from those that are here; false when that does not give the right ones. */
async function patch(
  job: Job,
  path: Extract<Path, { layout: "DELTA" }>,
  transfer: Transfer,
  out: string,
): Promise<boolean> {
  const { cache, hash, manifest } = job;
  const others = unique(manifest.files.filter(({ name }) => name !== WEIGHTS).flatMap((file) => file.shards));
  const between: string[] = [];
  try {
    const steps = await stepsOf(job, path, transfer);
    const deltas = steps.flatMap((step) => step.shards);
    const all = unique([...others, ...deltas]);
    const weights = manifest.files.find(({ name }) => name === WEIGHTS)?.size ?? 0;
    await requireRoom(cache, {
      checkpoint: hash,
      bytes:
        sum(others) +
        sum(all.filter(({ sha256 }) => !job.kept.has(sha256))) +
        weights * Math.min(2, steps.length),
      keep: new Set([path.from]),
    });
    const count = counter(job, all);
    await gather(job, others, transfer, count);
    for (const step of steps) await gather(job, unique(step.shards), step.transfer, count);

    const base = job.present.get(path.from);
    let old = base === undefined ? "" : join(base.dir, WEIGHTS);
    for (const [i, step] of steps.entries()) {
      job.signal.throwIfAborted();
      const next = i === steps.length - 1 ? out : newTmp(cache);
      if (next !== out) between.push(next);
      const delta = readKept(cache, hash, step.shards);
      const made = await applyDelta({ old, delta, out: next, signal: job.signal });
      if (made.sha256 !== step.whole) {
        await rm(next, { force: true });
        return false;
      }
      old = next;
    }
    return true;
  } catch (cause) {
    job.signal.throwIfAborted();
    // the way over the whole checkpoint needs more room, not less
    if (isDiskFull(cause) || (cause instanceof ShardcastError && cause.code === "DISK_FULL")) throw cause;
    return false;
  } finally {
    for (const file of between) await rm(file, { force: true });
  }
}

type Step = { shards: readonly ShardOf[]; whole: string; transfer: Transfer };

/** The deltas to be applied, oldest first. @throws when they do not follow each other */
async function stepsOf(
  job: Job,
  path: Extract<Path, { layout: "DELTA" }>,
  transfer: Transfer,
): Promise<Step[]> {
  const steps: Step[] = [];
  let from = path.from;
  for (const hash of path.steps) {
    const own = hash === job.hash ? transfer : job.transferOf(hash);
    const manifest =
      hash === job.hash
        ? job.manifest
        : await openManifest({ hash, bytes: await manifestOf(job, hash, own) });
    const { delta, whole } = manifest;
    if (delta?.chain[0]?.manifest !== from) {
      throw new ShardcastError(
        "DELTA_INVALID",
        `The delta of checkpoint ${hash} does not start from ${from}.`,
      );
    }
    steps.push({ shards: delta.file.shards, whole, transfer: own });
    from = hash;
  }
  return steps;
}

async function finish(job: Job, ready: ReadonlyMap<string, string>): Promise<string> {
  const { cache, hash, manifest, manifestBytes, signal } = job;
  try {
    return await assemble(cache, { hash, manifest, manifestBytes, ready, signal });
  } catch (cause) {
    signal.throwIfAborted();
    // another process that shares the cache may have finished the same checkpoint and tidied up its shards
    const theirs = await cachedCheckpoint(cache, hash, {});
    if (!theirs) throw cause;
    await forget(cache, hash);
    return theirs.dir;
  }
}

function counter(job: Job, shards: readonly ShardOf[]): (shard: ShardOf) => void {
  const {
    hash: manifest,
    manifest: { version },
  } = job;
  const totalBytes = sum(shards);
  const counted = new Set<string>();
  let verifiedBytes = 0;
  return ({ sha256, size }) => {
    if (counted.has(sha256)) return;
    counted.add(sha256);
    verifiedBytes += size;
    job.onProgress({ manifest, version, verifiedBytes, totalBytes });
  };
}

function isHere({ kept, elsewhere }: Job, { sha256 }: ShardOf): boolean {
  return kept.has(sha256) || elsewhere.has(sha256);
}

function unique<T extends ShardOf>(shards: readonly T[]): T[] {
  return [...new Map(shards.map((shard) => [shard.sha256, shard])).values()];
}

function sum(sized: readonly { size: number }[]): number {
  return sized.reduce((total, { size }) => total + size, 0);
}
