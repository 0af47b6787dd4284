import { open } from "node:fs/promises";
import { decodeCheckpoint, type ModelConfig } from "@muster/policy";
import type { Manifest } from "@muster/protocol";
import type { MusterClient } from "@muster/sdk";
import { createDownloader } from "@muster/shardcast";
import { type OwnRelay, openBroadcast } from "./broadcast.ts";
import type { Log } from "./log.ts";

/** A policy version on this machine, every byte checked. */
export type LocalCheckpoint = {
  manifestHash: string;
  manifest: Manifest;
  model: ModelConfig;
  /** `config.json` and `tokenizer.json` as they are. */
  config: Uint8Array<ArrayBuffer>;
  tokenizer: Uint8Array<ArrayBuffer>;
  /** The flat parameters, read from disk. @throws CheckpointError, for example `NOT_FINITE`. */
  weights(): Promise<Float32Array>;
  /** `model.safetensors` as it is, read from disk. */
  weightsFile(): Promise<Uint8Array<ArrayBuffer>>;
};

export type Checkpoints = {
  /**
   * The checkpoint with this manifest hash: from the disk, relays or, when no relay is left, the coordinator, which is told what relays
   * did wrong and, once a checkpoint is here, who brought it.
   * @param input.run the run its manifest must name, when it must be one of this run's.
   * @throws ShardcastError for bytes that are not the ones named.
   */
  open(input: { manifest: string; run?: string; signal: AbortSignal }): Promise<LocalCheckpoint>;
  /** How far the download under way is, in bytes of shards; undefined when there is none. */
  progress(): { version: number; verifiedBytes: number; totalBytes: number } | undefined;
};

/** Limits on what a coordinator may make this node fetch and keep. */
export type CheckpointLimits = {
  /** Bytes of one checkpoint; 16 GiB. */
  maxBytes?: number;
  /** Bytes of all checkpoints kept on disk; 4 GiB. A larger checkpoint is refused. */
  budgetBytes?: number;
  /** This node's own relay: what it should hold is fetched through it, and the coordinator is not asked for others first. */
  ownRelay?: OwnRelay;
};

const MOST_TEXT_BYTES = 64 * 2 ** 20;

export function openCheckpoints(
  options: CheckpointLimits & {
    client: MusterClient;
    cacheDir: string;
    readModelConfig(bytes: Uint8Array): ModelConfig;
    log: Log;
  },
): Checkpoints {
  const broadcast = openBroadcast(options);
  const downloader = createDownloader({
    cacheDir: options.cacheDir,
    origin: (input) => options.client.blobs.get(input),
    budgetBytes: options.budgetBytes ?? 4 * 2 ** 30,
    maxBytes: options.maxBytes ?? 16 * 2 ** 30,
    relays: broadcast.relays,
    onFault: broadcast.onFault,
    onReceipt: broadcast.onReceipt,
    onProgress: broadcast.onProgress,
  });
  return {
    progress: broadcast.progress,
    async open({ manifest: manifestHash, run, signal }) {
      const found = await downloader
        .open({ manifestHash, signal, ...(run === undefined ? {} : { run }) })
        .finally(() => broadcast.ended(manifestHash));
      broadcast.opened(manifestHash);
      const { manifest } = found;
      const config = await readLimited(found.path("config.json"), 2 ** 20);
      const tokenizer = await readLimited(found.path("tokenizer.json"), MOST_TEXT_BYTES);
      const model = options.readModelConfig(config);
      const weightsFile = () => readLimited(found.path("model.safetensors"), Number.MAX_SAFE_INTEGER);
      return {
        manifestHash,
        manifest,
        model,
        config,
        tokenizer,
        weightsFile,
        weights: async () => decodeCheckpoint(await weightsFile(), model),
      };
    },
  };
}

async function readLimited(path: string, most: number): Promise<Uint8Array<ArrayBuffer>> {
  await using file = await open(path, "r");
  const { size } = await file.stat();
  if (size > most) throw new Error(`${path} has ${size} bytes; at most ${most} are read.`);
  return new Uint8Array(await file.readFile());
}
