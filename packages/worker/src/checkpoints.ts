import { open } from "node:fs/promises";
import { decodeCheckpoint, type ModelConfig } from "@muster/policy";
import type { Manifest } from "@muster/protocol";
import type { MusterClient } from "@muster/sdk";
import { downloadCheckpoint } from "@muster/shardcast";

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
};

export type Checkpoints = {
  /**
   * The checkpoint with this manifest hash, from the disk or the coordinator.
   * @param input.run the run its manifest must name, when it must be one of this run's.
   * @throws ShardcastError for bytes that are not the ones named.
   */
  open(input: { manifest: string; run?: string; signal: AbortSignal }): Promise<LocalCheckpoint>;
};

/** Limits on what a coordinator may make this node fetch and keep. */
export type CheckpointLimits = {
  /** Bytes of one checkpoint; 16 GiB. */
  maxBytes?: number;
  /** Bytes of all checkpoints kept on disk; 4 GiB. */
  budgetBytes?: number;
};

const MOST_TEXT_BYTES = 64 * 2 ** 20;

export function openCheckpoints(
  options: CheckpointLimits & {
    client: MusterClient;
    cacheDir: string;
    readModelConfig(bytes: Uint8Array): ModelConfig;
  },
): Checkpoints {
  return {
    async open({ manifest: manifestHash, run, signal }) {
      const found = await downloadCheckpoint({
        manifestHash,
        cacheDir: options.cacheDir,
        fetchBlob: (input) => options.client.blobs.get(input),
        budgetBytes: options.budgetBytes ?? 4 * 2 ** 30,
        maxBytes: options.maxBytes ?? 16 * 2 ** 30,
        signal,
      });
      const { manifest } = found;
      if (run !== undefined && manifest.run !== run) {
        throw new Error(
          `Manifest ${manifestHash} belongs to ${manifest.run}, not to ${run}; it was not used.`,
        );
      }
      const config = await readLimited(found.path("config.json"), 2 ** 20);
      const tokenizer = await readLimited(found.path("tokenizer.json"), MOST_TEXT_BYTES);
      const model = options.readModelConfig(config);
      return {
        manifestHash,
        manifest,
        model,
        config,
        tokenizer,
        weights: async () =>
          decodeCheckpoint(
            await readLimited(found.path("model.safetensors"), Number.MAX_SAFE_INTEGER),
            model,
          ),
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
