import { generateKeyPairSync, sign, verify } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  canonicalJson,
  encodeManifest,
  hashHex,
  type Manifest,
  manifestBytes,
  manifestHash,
  newId,
  parseManifest,
  toTypeId,
  type UnsignedManifest,
} from "../src/index.ts";

const { publicKey, privateKey } = generateKeyPairSync("ed25519");
const shard = (index: number, size: number) => ({ index, size, sha256: hashHex(`${index}`) });
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
  files: [
    { name: "model.safetensors", size: 2632, sha256: hashHex("w"), shards: [shard(0, 2000), shard(1, 632)] },
    { name: "config.json", size: 5, sha256: hashHex("c"), shards: [shard(0, 5)] },
  ],
  whole: hashHex("w"),
  trainer: publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex"),
};
const manifest: Manifest = {
  ...unsigned,
  signature: sign(null, manifestBytes(unsigned), privateKey).toString("hex"),
};
const encode = (value: unknown) => new TextEncoder().encode(canonicalJson(value));
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
    encode({
      ...manifest,
      files: [
        ...manifest.files,
        ...names.map((name) => ({ name, size: 1, sha256: hashHex(name), shards: [shard(0, 1)] })),
      ],
    });
  expect(() => parseManifest(extra("notes.txt"))).not.toThrow();
  expect(() => parseManifest(extra("Config.json"))).toThrow("same name");
  expect(() => parseManifest(extra("Manifest.json"))).toThrow("manifest.json");
});
