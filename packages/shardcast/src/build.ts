import { createHash } from "node:crypto";
import { encodeManifest, type Manifest, manifestBytes, type UnsignedManifest } from "@muster/protocol";

/** One file of a checkpoint, whole in memory. */
export type CheckpointFile = { name: string; bytes: Uint8Array<ArrayBuffer> };
/** A piece to be stored under its hash; `bytes` is a view into its file. */
export type Shard = { sha256: string; bytes: Uint8Array<ArrayBuffer> };
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
 * @returns the manifest to be signed and every distinct shard, in order.
 */
export function buildManifest(
  input: Pick<UnsignedManifest, "run" | "version" | "parent" | "created" | "tensors" | "trainer"> & {
    files: readonly CheckpointFile[];
    shardBytes?: number;
  },
): { manifest: UnsignedManifest; shards: Shard[] } {
  const shards = new Map<string, Shard>();
  const files = input.files.map(({ name, bytes }) => {
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
  });
  const weights = files.find(({ name }) => name === "model.safetensors");
  if (!weights) throw new TypeError("A checkpoint has a file called model.safetensors.");
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
      whole: weights.sha256,
      trainer,
    },
    shards: [...shards.values()],
  };
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
