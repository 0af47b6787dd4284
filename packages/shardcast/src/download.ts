import { join } from "node:path";
import type { Manifest } from "@muster/protocol";
import type { Standings } from "./balance.ts";
import { cachedCheckpoint, evict, forget, openCache } from "./cache.ts";
import { isDiskFull } from "./disk.ts";
import { ShardcastError } from "./error.ts";
import type { Source } from "./fetch-shard.ts";
import { obtain } from "./obtain.ts";
import { share } from "./share.ts";
import { type Fault, type FetchBlob, openTransfer, type Traffic } from "./transfer.ts";
import { openManifest, type VerifySignature } from "./verify.ts";

export type DownloaderOptions = {
  /** Folder of the cache; made when missing, shared by any number of processes. */
  cacheDir: string;
  /** Asked when no relay is left for a shard, or there are none. */
  origin: FetchBlob;
  /** Who has the checkpoint with this manifest. When it fails, those known before and the origin are asked. */
  relays?: (manifestHash: string) => Promise<readonly Source[]>;
  /** Bytes of checkpoints kept in the cache, the one asked for included; a larger one is refused. 2 GiB. */
  budgetBytes?: number;
  /** Bytes above which a checkpoint is refused before any shard of it is fetched; 64 GiB. */
  maxBytes?: number;
  verify?: VerifySignature;
  /** Shards fetched at once, each of them in memory; 4. */
  connections?: number;
  /** Milliseconds without a byte after which a relay's connection is given up; 10,000. */
  stallMs?: number;
  onFault?: (fault: Fault) => void;
  /** Hears of every checkpoint that was not here before, once it is. */
  onReceipt?: (receipt: Receipt) => void;
  onProgress?: (progress: Progress) => void;
};

export type OpenCheckpoint = {
  manifestHash: string;
  /** The trainer's public key in hexadecimal, when it is known from elsewhere than the manifest. */
  trainer?: string;
  /** The run and version it must be of, where the caller knows. */
  run?: string;
  version?: number;
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
};

/** How far a download is, counted over the shards of the way it takes; those found on this machine count as verified. */
export type Progress = { manifest: string; version: number; verifiedBytes: number; totalBytes: number };

/** What a download took. */
export type Receipt = {
  /** Its hash. */
  manifest: string;
  run: string;
  version: number;
  /** LOCAL: every shard was found on this machine. */
  layout: "FULL" | "DELTA" | "LOCAL";
  /** From asking for it to having it in place. */
  seconds: number;
  /** Bytes of shards that arrived right: the sum over the sources. */
  bytes: number;
  /** Bytes that arrived and were of no use: damaged, broken off, or asked for twice at the end. */
  wastedBytes: number;
  /** `relay: null` is the origin. */
  sources: { relay: string | null; bytes: number }[];
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

export type Downloader = {
  /**
   * The checkpoint that a task names: from the cache, or fetched shard by shard from relays, whole or as deltas from one that is here,
   * whatever takes fewer bytes. A shard is used only after its hash was checked; what was verified before an interruption is not fetched
   * again; the checkpoint appears in the cache whole or not at all. Asked for by several at once, it is fetched once.
   * @throws ShardcastError when something is not what it should be, nobody has it, or it does not fit (`DISK_FULL`).
   */
  open(request: OpenCheckpoint): Promise<CachedCheckpoint>;
};

/** Downloads checkpoints; what it learns of sources holds for all of them. */
export function createDownloader(options: DownloaderOptions): Downloader {
  const settings = { ...options, standings: new Map() };
  const once = share<CachedCheckpoint>();
  return {
    async open(request) {
      const { manifestHash } = request;
      // It becomes the name of a folder.
      if (!/^[0-9a-f]{64}$/.test(manifestHash))
        throw new ShardcastError(
          "MANIFEST_INVALID",
          "A manifest is named by a SHA-256 in lower-case hexadecimal; this task names something else.",
        );
      return await once(
        [manifestHash, request.trainer, request.run, request.version].join(),
        (signal) => openOnce(settings, { ...request, signal }),
        request.signal,
      );
    },
  };
}

type Settings = DownloaderOptions & { standings: Standings };
type Asked = OpenCheckpoint & { signal: AbortSignal };

async function openOnce(settings: Settings, asked: Asked): Promise<CachedCheckpoint> {
  const { manifestHash: hash, signal } = asked;
  const startedAt = performance.now();
  const cache = await openCache(settings.cacheDir);
  const trust = { trainer: asked.trainer, verify: settings.verify };
  const present = await cachedCheckpoint(cache, hash, trust);
  if (present) {
    requireExpected(present.manifest, asked);
    // a process that died right after it had put it in place left its shards
    await forget(cache, hash);
    return checkpointAt(present.dir, present.manifest, hash);
  }
  const traffic: Traffic = { bytes: new Map(), wastedBytes: 0 };
  const transferOf = (manifest: string) =>
    openTransfer({
      manifest,
      traffic,
      signal,
      origin: settings.origin,
      relays: settings.relays,
      standings: settings.standings,
      connections: settings.connections ?? 4,
      stallMs: settings.stallMs ?? 10_000,
      onFault: settings.onFault,
    });
  try {
    const { dir, manifest, layout } = await obtain({
      cache,
      hash,
      signal,
      transferOf,
      read: async (bytes) => {
        const manifest = await openManifest({ bytes, hash, ...trust });
        requireExpected(manifest, asked);
        requireAllowed(settings, manifest, hash);
        return manifest;
      },
      onProgress: (progress) => {
        asked.onProgress?.(progress);
        settings.onProgress?.(progress);
      },
    });
    await evict(cache, settings.budgetBytes ?? BUDGET_BYTES, hash);
    settings.onReceipt?.(receiptOf({ hash, manifest, layout, traffic, startedAt }));
    return checkpointAt(dir, manifest, hash);
  } catch (cause) {
    if (!isDiskFull(cause)) throw cause;
    throw new ShardcastError(
      "DISK_FULL",
      `The disk under ${settings.cacheDir} ran full while checkpoint ${hash} was written. Free some room; what was verified is kept.`,
      { cause },
    );
  }
}

const BUDGET_BYTES = 2 * 2 ** 30;
const MOST_BYTES = 64 * 2 ** 30;

/** The hash names one manifest, so this fails only when a task names another run's or version's. */
function requireExpected(manifest: Manifest, { manifestHash, run, version }: OpenCheckpoint): void {
  if (run !== undefined && manifest.run !== run) {
    throw new ShardcastError(
      "WRONG_CHECKPOINT",
      `Manifest ${manifestHash} belongs to ${manifest.run}, not to ${run}; it was not used.`,
    );
  }
  if (version !== undefined && manifest.version !== version) {
    throw new ShardcastError(
      "WRONG_CHECKPOINT",
      `Manifest ${manifestHash} is that of version ${manifest.version}, not of ${version}; it was not used.`,
    );
  }
}

function requireAllowed(settings: Settings, { files }: Manifest, hash: string): void {
  const total = files.reduce((sum, { size }) => sum + size, 0);
  const most = settings.maxBytes ?? MOST_BYTES;
  if (total > most) {
    throw new ShardcastError("TOO_LARGE", `Checkpoint ${hash} has ${total} bytes; ${most} are allowed.`);
  }
  const budget = settings.budgetBytes ?? BUDGET_BYTES;
  if (total > budget) {
    throw new ShardcastError(
      "DISK_FULL",
      `Checkpoint ${hash} has ${total} bytes; the cache in ${settings.cacheDir} may hold ${budget}. Give it a larger budget.`,
    );
  }
}

function receiptOf(input: {
  hash: string;
  manifest: Manifest;
  layout: "FULL" | "DELTA";
  traffic: Traffic;
  startedAt: number;
}): Receipt {
  const sources = [...input.traffic.bytes].map(([relay, bytes]) => ({ relay, bytes }));
  const bytes = sources.reduce((sum, source) => sum + source.bytes, 0);
  return {
    manifest: input.hash,
    run: input.manifest.run,
    version: input.manifest.version,
    layout: bytes === 0 ? "LOCAL" : input.layout,
    seconds: (performance.now() - input.startedAt) / 1000,
    bytes,
    wastedBytes: input.traffic.wastedBytes,
    sources,
  };
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
