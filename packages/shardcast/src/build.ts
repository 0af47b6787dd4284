import { createHash } from "node:crypto";
import {
  encodeManifest,
  type Manifest,
  manifestBytes,
  maxDeltaChain,
  shardsRoot,
  type UnsignedManifest,
} from "@muster/protocol";
import { encodeDelta } from "./delta.ts";

/** One file of a checkpoint, whole in memory. */
export type CheckpointFile = { name: string; bytes: Uint8Array<ArrayBuffer> };
/** A piece to be stored under its hash; `bytes` is a view into its file. */
export type Shard = { sha256: string; bytes: Uint8Array<ArrayBuffer> };
/** The version that another one was made from, with the bytes of its `model.safetensors`. */
export type Parent = { manifest: Manifest; manifestHash: string; weights: Uint8Array };
/** A signed manifest, its file and its hash (what tasks name). */
export type Checkpoint = { manifest: Manifest; bytes: Uint8Array<ArrayBuffer>; hash: string };

const MOST_SHARD_BYTES = 50_000_000;
const LEAST_SHARD_BYTES = 256 * 1024;

/**
 * Bytes of a shard of a file with `size` bytes: a sixteenth, so that one file can come from several sources at once, but from
 * 256 KiB to 50 MB, and a multiple of 64 KiB below that.
 */
export function shardBytesFor(size: number): number {
  const step = 64 * 1024;
  const wanted = Math.ceil(size / 16 / step) * step;
  return Math.min(MOST_SHARD_BYTES, Math.max(LEAST_SHARD_BYTES, wanted));
}

/**
 * Cuts a checkpoint's files into shards and describes them.
 * @param input.files `model.safetensors` among them; each is cut by itself.
 * @param input.shardBytes bytes of a shard; {@link shardBytesFor} of each file when left out.
 * @param input.from the version named by `parent`, when its weights are at hand: the manifest gets a delta from it if that has less than
 * nine tenths of the weights' bytes.
 * @returns the manifest to be signed and every distinct shard, in order.
 */
export function buildManifest(
  input: Pick<UnsignedManifest, "run" | "version" | "parent" | "created" | "tensors" | "trainer"> & {
    files: readonly CheckpointFile[];
    shardBytes?: number;
    from?: Parent;
  },
): { manifest: UnsignedManifest; shards: Shard[] } {
  const shards = new Map<string, Shard>();
  const files = input.files.map(cutFile);
  const weights = input.files.find(({ name }) => name === "model.safetensors");
  const whole = files.find(({ name }) => name === "model.safetensors")?.sha256;
  if (!weights || whole === undefined)
    throw new TypeError("A checkpoint has a file called model.safetensors.");
  const delta = input.from === undefined ? null : deltaFrom(input.from, weights.bytes);
  const { run, version, parent, created, tensors, trainer } = input;
  return {
    manifest: {
      schema: "muster/checkpoint/v1",
      run,
      version,
      parent,
      created,
      tensors,
      files,
      delta,
      root: shardsRoot({ files, delta }),
      whole,
      trainer,
    },
    shards: [...shards.values()],
  };

  function cutFile<Name extends string>({ name, bytes }: { name: Name; bytes: Uint8Array<ArrayBuffer> }) {
    const cut = input.shardBytes ?? shardBytesFor(bytes.length);
    const described: UnsignedManifest["files"][number]["shards"] = [];
    // an empty file is one empty shard
    for (let offset = 0; offset === 0 || offset < bytes.length; offset += cut) {
      const piece = bytes.subarray(offset, offset + cut);
      const sha256 = hashOf(piece);
      described.push({ index: described.length, size: piece.length, sha256 });
      if (!shards.has(sha256)) shards.set(sha256, { sha256, bytes: piece });
    }
    return { name, size: bytes.length, sha256: hashOf(bytes), shards: described };
  }

  function deltaFrom(from: Parent, next: Uint8Array): UnsignedManifest["delta"] {
    if (from.manifest.version !== input.parent)
      throw new TypeError(
        `The delta starts from version ${from.manifest.version}, the parent is ${input.parent}.`,
      );
    if (from.weights.length !== next.length) return null;
    // the smallest element decides: whatever is wider is several words
    const elementBytes = input.tensors.every(({ dtype }) => dtype === "F32") ? 4 : 2;
    const mostBytes = mostDeltaBytes(next.length);
    const bytes = encodeDelta(from.weights, next, elementBytes, { mostBytes });
    if (bytes === undefined) return null;
    const here = { version: from.manifest.version, manifest: from.manifestHash, bytes: bytes.length };
    return {
      codec: "muster/delta/v1",
      chain: [here, ...(from.manifest.delta?.chain ?? [])].slice(0, maxDeltaChain),
      file: cutFile({ name: "model.safetensors.delta", bytes }),
    };
  }
}

/** Most bytes of a delta beside `size` bytes of weights: one that hardly saves anything is not worth being kept everywhere. */
export function mostDeltaBytes(size: number): number {
  return Math.ceil(0.9 * size) - 1;
}

/** @param sign Ed25519 with the key that `manifest.trainer` names; answers 64 bytes. */
export async function signManifest(
  manifest: UnsignedManifest,
  sign: (bytes: Uint8Array) => Uint8Array | Promise<Uint8Array>,
): Promise<Checkpoint> {
  const signature = Buffer.from(await sign(manifestBytes(manifest))).toString("hex");
  const signed: Manifest = { ...manifest, signature };
  const bytes = new Uint8Array(encodeManifest(signed));
  return { manifest: signed, bytes, hash: hashOf(bytes) };
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
