import { createHash, generateKeyPairSync, sign, verify } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  canonicalJson,
  encodeManifest,
  hashHex,
  type Manifest,
  manifestBytes,
  manifestHash,
  maxDeltaChain,
  maxShardBytes,
  merkleRoot,
  newId,
  parseManifest,
  shardsRoot,
  toTypeId,
  type UnsignedManifest,
} from "../src/index.ts";

const { publicKey, privateKey } = generateKeyPairSync("ed25519");
const shard = (index: number, size: number) => ({ index, size, sha256: hashHex(`${index} of ${size}`) });
const files: Manifest["files"] = [
  { name: "model.safetensors", size: 2632, sha256: hashHex("w"), shards: [shard(0, 2000), shard(1, 632)] },
  { name: "config.json", size: 5, sha256: hashHex("c"), shards: [shard(0, 5)] },
];
const delta: Manifest["delta"] = {
  codec: "muster/delta/v1",
  chain: [
    { version: 2, manifest: hashHex("v2"), bytes: 70 },
    { version: 1, manifest: hashHex("v1"), bytes: 90 },
  ],
  file: {
    name: "model.safetensors.delta",
    size: 70,
    sha256: hashHex("d"),
    shards: [shard(0, 40), shard(1, 30)],
  },
};
const unsigned: UnsignedManifest = {
  schema: "muster/checkpoint/v1",
  run: toTypeId("run", newId()),
  version: 3,
  parent: 2,
  created: "2026-01-02T03:04:05.000Z",
  tensors: [
    { name: "model.norm.weight", dtype: "F32", shape: [64], offset: 72, size: 256 },
    { name: "model.embed_tokens.weight", dtype: "BF16", shape: [18, 64], offset: 328, size: 2304 },
  ],
  files,
  delta,
  root: shardsRoot({ files, delta }),
  whole: hashHex("w"),
  trainer: publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex"),
};
const manifest: Manifest = {
  ...unsigned,
  signature: sign(null, manifestBytes(unsigned), privateKey).toString("hex"),
};
const encode = (value: unknown) => new TextEncoder().encode(canonicalJson(value));
type Ancestor = NonNullable<Manifest["delta"]>["chain"][number];
const refused = expect.objectContaining({ code: "INVALID_MANIFEST" });

test("a manifest is what was signed, and its hash is that of its file", () => {
  const bytes = encodeManifest(manifest);
  const parsed = parseManifest(bytes);
  expect(parsed).toEqual(manifest);
  expect(manifestHash(parsed)).toBe(hashHex(bytes));
  const signature = Buffer.from(parsed.signature, "hex");
  expect(verify(null, manifestBytes(parsed), publicKey, signature)).toBe(true);
  expect(verify(null, manifestBytes({ ...parsed, version: 4 }), publicKey, signature)).toBe(false);
});

describe("a manifest is refused", () => {
  const [weights, config] = unsigned.files;
  const [norm, embedding] = unsigned.tensors;
  const [two, one] = delta!.chain as [Ancestor, Ancestor];
  const longChain = Array.from({ length: maxDeltaChain + 1 }, (_, i) => ({ ...two, version: 29 - i }));
  const chained = (chain: Ancestor[]) => ({ delta: { ...delta!, chain } });
  const named = (name: string) => {
    const renamed = [weights!, { ...config!, name }];
    return { files: renamed, root: shardsRoot({ files: renamed, delta }) };
  };
  const refiled = (shards: (typeof files)[number]["shards"]) => {
    const size = shards.reduce((sum, one) => sum + one.size, 0);
    const recut = [{ ...weights!, size, shards }, config!];
    return { files: recut, root: shardsRoot({ files: recut, delta }) };
  };
  test.each<[string, Partial<Manifest>]>([
    ["when its parent is not older", { parent: 3 }],
    ["when a shard is missing", { files: [{ ...weights!, shards: [shard(0, 2000)] }, config!] }],
    [
      "when shards are out of order",
      { files: [{ ...weights!, shards: [shard(1, 2000), shard(0, 632)] }, config!] },
    ],
    ["when a file is named twice", { files: [weights!, config!, config!] }],
    ["when the weights are missing", { files: [config!] }],
    ["when the weights' hash is another", { whole: hashHex("x") }],
    ["when a tensor's size is not its shape's", { tensors: [{ ...norm!, shape: [65] }] }],
    ["when tensors overlap", { tensors: [norm!, { ...embedding!, offset: 320 }] }],
    ["when a tensor ends after the file", { tensors: [norm!, { ...embedding!, offset: 329 }] }],
    ["when a file name leaves its folder", { files: [weights!, { ...config!, name: "../config.json" }] }],
    ["when a shard is another than its root was made of", { root: hashHex("x") }],
    ["when a shard has two sizes", refiled([shard(0, 2000), { ...shard(0, 2000), index: 1, size: 632 }])],
    ["when a shard is larger than anyone has to hold", refiled([shard(0, maxShardBytes + 1)])],
    ["when its delta is left out", { delta: null }],
    ["when its delta starts elsewhere than its parent", chained([{ ...two, version: 1 }])],
    ["when its delta has another size than its chain says", chained([{ ...two, bytes: 71 }, one])],
    ["when its chain does not go back", chained([two, { ...one, version: 2 }])],
    ["when its chain is empty", chained([])],
    ["when its chain is too long", { ...chained(longChain), version: 30, parent: 29 }],
    ["when shards of its delta are missing", { delta: { ...delta!, file: { ...delta!.file, shards: [] } } }],
    [
      "when its delta is in another codec",
      { delta: { ...delta!, codec: "muster/delta/v2" as "muster/delta/v1" } },
    ],
    ["when the delta takes a file's name", named("model.safetensors.delta")],
    ["when it has a field more", { ...({ extra: 1 } as object) }],
  ])("%s", (_what, change) => {
    expect(() => parseManifest(encode({ ...manifest, ...change }))).toThrow(refused);
  });

  test("when it is spelled in any but the canonical way, so that one checkpoint has one hash", () => {
    expect(() => parseManifest(new TextEncoder().encode(JSON.stringify(manifest, null, 2)))).toThrow(refused);
    expect(() => parseManifest(new Uint8Array([0xef, 0xbb, 0xbf, ...encode(manifest)]))).toThrow(refused);
  });

  test("or is still the same, whatever bytes come", () => {
    const bytes = encodeManifest(manifest);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.nat(255), (at, value) => {
        const damaged = bytes.slice();
        damaged[at] = value;
        try {
          expect(encodeManifest(parseManifest(damaged))).toEqual(damaged);
        } catch (error) {
          expect(error).toEqual(refused);
        }
      }),
      { numRuns: 500 },
    );
  });
});

test("files keep off each other's names on any file system, and off the manifest's", () => {
  const extra = (...names: string[]) =>
    encode(
      withFiles([
        ...manifest.files,
        ...names.map((name) => ({ name, size: 1, sha256: hashHex(name), shards: [shard(0, 1)] })),
      ]),
    );
  const withFiles = (files: Manifest["files"]) => ({
    ...manifest,
    files,
    root: shardsRoot({ files, delta }),
  });
  expect(() => parseManifest(extra("notes.txt"))).not.toThrow();
  expect(() => parseManifest(extra("Config.json"))).toThrow("same name");
  expect(() => parseManifest(extra("Manifest.json"))).toThrow("manifest.json");
});

test("a chain has as many checkpoints as are allowed, and a manifest does without a delta", () => {
  const [two] = delta!.chain;
  const chain = Array.from({ length: maxDeltaChain }, (_, i) => ({ ...two!, version: 29 - i }));
  const long = { ...manifest, version: 30, parent: 29, delta: { ...delta!, chain } };
  expect(parseManifest(encode(long)).delta?.chain).toHaveLength(16);
  const plain = { ...manifest, delta: null, root: shardsRoot({ files, delta: null }) };
  expect(parseManifest(encode(plain)).delta).toBeNull();
});

test("the root of shards is the Merkle tree hash of RFC 6962", () => {
  const hash = (...parts: Uint8Array[]) => createHash("sha256").update(Buffer.concat(parts)).digest();
  const leaf = (hex: string) => hash(Buffer.of(0), Buffer.from(hex, "hex"));
  const node = (left: Uint8Array, right: Uint8Array) => hash(Buffer.of(1), left, right);
  const hashes = Array.from({ length: 7 }, (_, i) => hashHex(`shard ${i}`));
  const [a, b, c, d, e, f, g] = hashes.map(leaf) as [Buffer, Buffer, Buffer, Buffer, Buffer, Buffer, Buffer];
  expect(merkleRoot([])).toBe(hashHex(""));
  expect(merkleRoot(hashes.slice(0, 1))).toBe(a.toString("hex"));
  expect(merkleRoot(hashes.slice(0, 3))).toBe(node(node(a, b), c).toString("hex"));
  expect(merkleRoot(hashes)).toBe(node(node(node(a, b), node(c, d)), node(node(e, f), g)).toString("hex"));
});
