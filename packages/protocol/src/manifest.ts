import { utf8ToBytes } from "@noble/hashes/utils.js";
import { z } from "zod";
import { canonicalJson, hashHex } from "./canonical.ts";
import { merkleRoot } from "./merkle.ts";
import { ProtocolError } from "./protocol-error.ts";
import { signed } from "./signing.ts";

const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/);
const size = z.int().min(0);

const dtypeBytes = { F32: 4, F16: 2, BF16: 2 } as const;

const tensorSchema = z.strictObject({
  /** As in Hugging Face's Llama and Qwen 2 causal LMs. */
  name: z.string().min(1).max(256),
  dtype: z.enum(["F32", "F16", "BF16"]),
  shape: z.array(z.int().min(0)).max(8),
  /** First byte in `model.safetensors`, counted from the start of the file. */
  offset: size,
  /** Bytes. */
  size,
});

/** Bytes of the largest shard: a receiver holds one in memory for each of its connections. */
export const maxShardBytes = 64 * 2 ** 20;

const fileSchema = z.strictObject({
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/),
  /** Bytes. */
  size,
  sha256: sha256Hex,
  /** The file cut into consecutive pieces, in order; a small file is one shard. */
  shards: z
    .array(z.strictObject({ index: z.int().min(0), size: size.max(maxShardBytes), sha256: sha256Hex }))
    .min(1)
    .max(100_000),
});

/** Deltas that may follow each other before a checkpoint is fetched whole again. */
export const maxDeltaChain = 16;

const deltaSchema = z.strictObject({
  codec: z.literal("muster/delta/v1"),
  /**
   * The checkpoints it can be made from, newest first. The first is the one that this delta changes; each further one is what the delta of
   * the one before it changes.
   */
  chain: z
    .array(
      z.strictObject({
        /** Policy version. */
        version: z.int().min(0),
        /** Its manifest's hash. */
        manifest: sha256Hex,
        /** Bytes of the delta that leads from this checkpoint to the one before it in the list; of the first, of this delta. */
        bytes: z.int().min(1),
      }),
    )
    .min(1)
    .max(maxDeltaChain),
  /** What changed in `model.safetensors`. It is not one of the checkpoint's files: they describe the whole checkpoint. */
  file: fileSchema.extend({ name: z.literal("model.safetensors.delta") }),
});

/** What a checkpoint is made of. Its file is its canonical JSON, and its name everywhere is that file's SHA-256. */
export const manifestSchema = z.strictObject({
  schema: z.literal("muster/checkpoint/v1"),
  /** TypeID of the run. */
  run: z.string().regex(/^run_[0-7][0-9a-z]{25}$/),
  /** Policy version; 0 is the base. */
  version: z.int().min(0),
  /** Version this one was made from; null for a base. A rollback is a new version with an older parent. */
  parent: z.int().min(0).nullable(),
  created: z.iso.datetime(),
  tensors: z.array(tensorSchema).min(1).max(100_000),
  files: z.array(fileSchema).min(1).max(64),
  /** How to get `model.safetensors` from an earlier version's; null when it is only to be had whole. */
  delta: deltaSchema.nullable(),
  /** {@link merkleRoot} over the shards of all files, in order, then the delta's. */
  root: sha256Hex,
  /** SHA-256 of `model.safetensors`. */
  whole: sha256Hex,
  /** Ed25519 public key, raw 32 bytes in hexadecimal. */
  trainer: sha256Hex,
  /** Ed25519 signature over `manifestBytes`, hexadecimal. */
  signature: z.string().regex(/^[0-9a-f]{128}$/),
});

export type Manifest = z.output<typeof manifestSchema>;
/** A manifest before its trainer has signed it. */
export type UnsignedManifest = Omit<Manifest, "signature">;

/** What `root` of a manifest with these files and this delta must be. */
export function shardsRoot({ files, delta }: Pick<Manifest, "files" | "delta">): string {
  const all = delta === null ? files : [...files, delta.file];
  return merkleRoot(all.flatMap(({ shards }) => shards.map(({ sha256 }) => sha256)));
}

/** The bytes the trainer signs: `"muster/manifest/v1\0"` and the canonical JSON of everything but the signature. */
export function manifestBytes(manifest: UnsignedManifest | Manifest): Uint8Array {
  const { signature: _, ...unsigned }: UnsignedManifest & { signature?: string } = manifest;
  return signed("muster/manifest/v1", unsigned);
}

/** The bytes of `manifest.json`. Their SHA-256 is the manifest's hash. */
export function encodeManifest(manifest: Manifest): Uint8Array {
  return utf8ToBytes(canonicalJson(manifest));
}

/** SHA-256 of `manifest.json`, hexadecimal: what a task names. */
export function manifestHash(manifest: Manifest): string {
  return hashHex(encodeManifest(manifest));
}

/**
 * Reads `manifest.json`. Whoever calls has compared its hash with the task's; the signature is verified where the trainer's key is
 * known.
 * @throws ProtocolError `INVALID_MANIFEST` for anything but a canonical, self-consistent manifest of at most 16 MiB.
 */
export function parseManifest(bytes: Uint8Array): Manifest {
  if (bytes.length > maxManifestBytes)
    throw invalid(`it has ${bytes.length} bytes, more than ${maxManifestBytes}`);
  let json: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw invalid("it is not JSON", { cause });
  }
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw invalid(`${issue?.path.map(String).join(".") ?? ""}: ${issue?.code ?? "wrong"}`);
  }
  const manifest = parsed.data;
  const flaw = flawOf(manifest);
  if (flaw !== undefined) throw invalid(flaw);
  // One manifest, one hash: bytes that mean the same but are spelled differently would be another checkpoint.
  if (canonicalJson(manifest) !== text) throw invalid("it is not canonical JSON");
  return manifest;
}

const maxManifestBytes = 16 * 2 ** 20;

function flawOf(manifest: Manifest): string | undefined {
  const { version, parent, files, tensors, whole, delta, root } = manifest;
  if (parent !== null && parent >= version)
    return `its parent ${parent} is not older than version ${version}`;
  // As a file system that knows no case sees them: they end up in one folder, beside the manifest itself.
  const names = files.map(({ name }) => name.toLowerCase());
  if (new Set(names).size !== files.length) return "two of its files have the same name";
  if (names.includes("manifest.json")) return "one of its files is called manifest.json, as it is itself";
  if (names.includes("model.safetensors.delta")) return "one of its files has the name of the delta";
  if (new Set(tensors.map(({ name }) => name)).size !== tensors.length)
    return "two of its tensors have the same name";
  const described = delta === null ? files : [...files, delta.file];
  for (const file of described) {
    if (file.shards.some(({ index }, position) => index !== position))
      return `the shards of ${file.name} are not in order`;
    const total = file.shards.reduce((sum, shard) => sum + shard.size, 0);
    if (total !== file.size) return `the shards of ${file.name} add up to ${total} bytes, not ${file.size}`;
  }
  // One hash has one size. Otherwise whoever brings the right bytes would seem to lie.
  const sizes = new Map<string, number>();
  for (const shard of described.flatMap(({ shards }) => shards)) {
    if ((sizes.get(shard.sha256) ?? shard.size) !== shard.size) return `shard ${shard.sha256} has two sizes`;
    sizes.set(shard.sha256, shard.size);
  }
  const weights = files.find(({ name }) => name === "model.safetensors");
  if (weights === undefined) return "it has no model.safetensors";
  if (weights.sha256 !== whole) return "`whole` is not the hash of model.safetensors";
  if (delta !== null) {
    const [from] = delta.chain;
    if (from?.version !== parent) return "its delta does not start from its parent";
    if (from?.bytes !== delta.file.size) return "its chain has another size for the delta than the file";
    if (delta.chain.some(({ version }, i) => i > 0 && version >= (delta.chain[i - 1]?.version ?? 0)))
      return "the versions of its chain do not go back";
  }
  if (shardsRoot(manifest) !== root) return "`root` is not the Merkle root of its shards";
  let end = 0;
  for (const tensor of tensors.toSorted((a, b) => a.offset - b.offset)) {
    const expected = tensor.shape.reduce((product, n) => product * n, dtypeBytes[tensor.dtype]);
    if (tensor.size !== expected)
      return `${tensor.name} has ${tensor.size} bytes; its shape needs ${expected}`;
    if (tensor.offset < end) return `${tensor.name} overlaps another tensor`;
    end = tensor.offset + tensor.size;
  }
  return end > weights.size ? `its tensors end at byte ${end} of ${weights.size}` : undefined;
}

function invalid(why: string, options?: ErrorOptions): ProtocolError {
  return new ProtocolError(
    "INVALID_MANIFEST",
    `Not a manifest: ${why}. Fetch it again from another source.`,
    options,
  );
}
