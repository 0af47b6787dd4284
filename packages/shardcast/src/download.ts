import { join } from "node:path";
import type { Manifest } from "@muster/protocol";
import { assemble, cachedCheckpoint, evict, keepShard, openCache, verifiedShard } from "./cache.ts";
import { ShardcastError } from "./error.ts";
import { openManifest, type VerifySignature } from "./verify.ts";

/** Brings the bytes with this hash from wherever they are; it need not be trusted. */
export type FetchBlob = (input: {
  sha256: string;
  maxBytes: number;
  signal?: AbortSignal;
}) => Promise<Uint8Array>;

export type DownloadInput = {
  manifestHash: string;
  fetchBlob: FetchBlob;
  /** Folder of the cache; made when missing, shared by any number of processes. */
  cacheDir: string;
  /** Bytes of checkpoints kept in the cache, the one asked for included and never removed; 2 GiB. */
  budgetBytes?: number;
  /** Bytes above which a checkpoint is refused before anything of it is fetched; 64 GiB. */
  maxBytes?: number;
  /** The trainer's public key in hexadecimal, when it is known from elsewhere than the manifest. */
  trainer?: string;
  verify?: VerifySignature;
  /** Shards fetched at once; 4. */
  concurrency?: number;
  signal?: AbortSignal;
  onProgress?: (verifiedBytes: number, totalBytes: number) => void;
};

/** A checkpoint on disk, every byte of which was checked. */
export type CachedCheckpoint = {
  manifest: Manifest;
  manifestHash: string;
  /** Folder with `manifest.json` and the files. */
  dir: string;
  /** Path of one of its files. */
  path(name: string): string;
};

const MOST_MANIFEST_BYTES = 16 * 2 ** 20;

/**
 * The checkpoint that a task names: from the cache, or fetched shard by shard. A shard is used only after its hash was checked; what was
 * verified before an interruption is not fetched again; the checkpoint appears in the cache whole or not at all.
 * @throws ShardcastError when something is not what it should be. What `fetchBlob` throws is passed on.
 */
export async function downloadCheckpoint(input: DownloadInput): Promise<CachedCheckpoint> {
  // It becomes the name of a folder.
  if (!/^[0-9a-f]{64}$/.test(input.manifestHash))
    throw new ShardcastError(
      "MANIFEST_INVALID",
      "A manifest is named by a SHA-256 in lower-case hexadecimal; this task names something else.",
    );
  const cache = await openCache(input.cacheDir);
  const present = await cachedCheckpoint(cache, input.manifestHash, input);
  if (present) return checkpointAt(present.dir, present.manifest, input.manifestHash);

  const bytes = await input.fetchBlob({
    sha256: input.manifestHash,
    maxBytes: MOST_MANIFEST_BYTES,
    ...(input.signal ? { signal: input.signal } : {}),
  });
  const manifest = await openManifest({
    bytes,
    hash: input.manifestHash,
    trainer: input.trainer,
    verify: input.verify,
  });
  const shards = new Map(
    manifest.files.flatMap((file) => file.shards.map((shard) => [shard.sha256, shard] as const)),
  );
  const total = [...shards.values()].reduce((sum, { size }) => sum + size, 0);
  const most = input.maxBytes ?? 64 * 2 ** 30;
  if (total > most) {
    throw new ShardcastError(
      "TOO_LARGE",
      `Checkpoint ${input.manifestHash} has ${total} bytes; ${most} are allowed.`,
    );
  }

  let verified = 0;
  await eachOf([...shards.values()], input.concurrency ?? 4, async (shard) => {
    input.signal?.throwIfAborted();
    if (!(await verifiedShard(cache, input.manifestHash, shard))) await fetchShard(shard);
    verified += shard.size;
    input.onProgress?.(verified, total);
  });

  async function fetchShard(shard: { sha256: string; size: number }): Promise<void> {
    // twice: what arrives may have been damaged on the way, and the second time it may come from elsewhere
    for (let attempt = 0; attempt < 2; attempt++) {
      const piece = await input.fetchBlob({
        sha256: shard.sha256,
        maxBytes: shard.size,
        ...(input.signal ? { signal: input.signal } : {}),
      });
      if (await keepShard(cache, input.manifestHash, shard, piece)) return;
    }
    throw new ShardcastError(
      "SHARD_MISMATCH",
      `Shard ${shard.sha256} of checkpoint ${input.manifestHash} arrived damaged twice; it was not used.`,
    );
  }

  const dir = await assemble(cache, input.manifestHash, manifest, bytes).catch(async (cause: unknown) => {
    // another process that shares the cache may have finished the same checkpoint and tidied up its shards
    const theirs = await cachedCheckpoint(cache, input.manifestHash, input);
    if (!theirs) throw cause;
    return theirs.dir;
  });
  await evict(cache, input.budgetBytes ?? 2 * 2 ** 30, input.manifestHash);
  return checkpointAt(dir, manifest, input.manifestHash);
}

function checkpointAt(dir: string, manifest: Manifest, manifestHash: string): CachedCheckpoint {
  return {
    manifest,
    manifestHash,
    dir,
    path(name) {
      if (!manifest.files.some((file) => file.name === name)) {
        throw new TypeError(`Checkpoint ${manifestHash} has no file ${name}.`);
      }
      return join(dir, name);
    },
  };
}

/** Runs `work` on every item, at most `width` at once; the first failure stops what has not begun and is thrown after the rest ended. */
async function eachOf<Item>(
  items: readonly Item[],
  width: number,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failure: { cause: unknown } | undefined;
  const lane = async () => {
    while (failure === undefined && next < items.length) {
      const item = items[next++] as Item; // in range by the loop's condition
      await work(item).catch((cause: unknown) => {
        failure ??= { cause };
      });
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane));
  if (failure !== undefined) throw (failure as { cause: unknown }).cause;
}
