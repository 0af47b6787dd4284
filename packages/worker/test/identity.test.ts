import { createPublicKey, generateKeyPairSync, verify } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { huggingFaceConfig, type ModelConfig } from "@muster/policy/graph";
import { afterEach, beforeEach, expect, test } from "vitest";
import { describeHardware, openIdentity, readModelConfig } from "../src/index.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "muster-worker-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test("the key is made on the first start, for its owner's eyes, and stays", async () => {
  const stateDir = join(folder, "state");
  const first = await openIdentity(stateDir);
  expect(first.publicKey).toMatch(/^[0-9a-f]{64}$/);
  expect((await stat(join(stateDir, "node.key"))).mode & 0o777).toBe(0o600);
  expect(await readFile(join(stateDir, "node.key"), "utf8")).toContain("BEGIN PRIVATE KEY");
  expect((await openIdentity(stateDir)).publicKey).toBe(first.publicKey);
  expect(await readdir(stateDir)).toEqual(["node.key"]);
});

test("processes that start together become the same node", async () => {
  const all = await Promise.all(Array.from({ length: 8 }, () => openIdentity(folder)));
  expect(new Set(all.map(({ publicKey }) => publicKey)).size).toBe(1);
  expect((await openIdentity(folder)).publicKey).toBe(all[0]?.publicKey);
  expect(await readdir(folder)).toEqual(["node.key"]);
});

test("what it signs verifies under its public key", async () => {
  const { publicKey, sign, signHex } = await openIdentity(folder);
  const message = new TextEncoder().encode("hello");
  const x = Buffer.from(publicKey, "hex").toString("base64url");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  expect(verify(null, message, key, sign(message))).toBe(true);
  expect(signHex(message)).toBe(Buffer.from(sign(message)).toString("hex"));
});

test("a damaged or foreign key file is not replaced", async () => {
  const path = join(folder, "node.key");
  await writeFile(path, "nonsense");
  await expect(openIdentity(folder)).rejects.toThrow(/not a private key/);
  const rsa = generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export({
    format: "pem",
    type: "pkcs8",
  });
  await writeFile(path, rsa);
  await expect(openIdentity(folder)).rejects.toThrow(/rsa key/);
  expect(await readFile(path, "utf8")).toBe(rsa);
});

const model: ModelConfig = {
  vocabularySize: 18,
  eos: 3,
  hiddenSize: 16,
  layers: 1,
  heads: 2,
  kvHeads: 1,
  intermediateSize: 32,
  maxPositions: 32,
  tiedHead: true,
  qkvBias: false,
  ropeTheta: 10_000,
  rmsNormEps: 1e-5,
};
const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

test("a model is read from the config.json that was written for it", () => {
  for (const each of [model, { ...model, qkvBias: true, tiedHead: false, kvHeads: 2 }]) {
    expect(readModelConfig(json(huggingFaceConfig(each)))).toEqual(each);
  }
});

test("a config.json of another kind is refused, not guessed at", () => {
  const config = huggingFaceConfig(model);
  for (const wrong of [
    { ...config, model_type: "gpt2" },
    { ...config, hidden_size: "16" },
    { ...config, eos_token_id: null },
    { ...config, num_key_value_heads: 3 },
    { ...config, rope_scaling: { type: "yarn" } },
    [],
    null,
  ]) {
    expect(() => readModelConfig(json(wrong))).toThrow(/config\.json cannot be used/);
  }
  expect(() => readModelConfig(new Uint8Array([0xff]))).toThrow(/not JSON/);
});

test("the hardware report names what was asked for", () => {
  const report = describeHardware({ providers: ["cpu"], threads: 2 });
  expect(report).toMatchObject({ providers: ["cpu"], threads: 2, node: process.version });
  expect(report.cores).toBeGreaterThan(0);
});
