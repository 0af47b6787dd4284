import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeCheckpoint, initialParameters, type ModelConfig } from "@muster/policy";
import { environment, modelSpecSchema } from "@muster/protocol";
import { createClient } from "@muster/sdk";
import { buildManifest, type Checkpoint, signManifest } from "@muster/shardcast";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type CheckpointLimits, createLog, openCheckpoints, readModelConfig } from "../src/index.ts";
import { type MiniCoordinator, run, startCoordinator } from "./coordinator.ts";

// What a worker's downloads ask of the coordinator and tell it.

const { tokenizer } = environment("muster/sort-digits@1");
const { initSeed: _, ...shape } = modelSpecSchema.parse({
  hiddenSize: 16,
  layers: 1,
  heads: 2,
  maxPositions: 32,
});
const model: ModelConfig = { ...shape, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
const keys = generateKeyPairSync("ed25519");

let coordinator: MiniCoordinator;
let folder: string;
let published: { checkpoint: Checkpoint; size: number };
let stack: AsyncDisposableStack;

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  coordinator = stack.use(await startCoordinator());
  folder = await mkdtemp(join(tmpdir(), "muster-broadcast-"));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  published = await publish();
});
afterEach(() => stack.disposeAsync());

async function publish() {
  const files = encodeCheckpoint(model, initialParameters(model, [1, 2]), tokenizer);
  const plain = (bytes: Uint8Array) => new Uint8Array(bytes);
  const { manifest, shards } = buildManifest({
    run,
    version: 4,
    parent: 3,
    created: "2026-01-02T03:04:05.678Z",
    tensors: files.tensors.flatMap(({ dtype, ...place }) =>
      dtype === "I64" ? [] : [{ ...place, dtype, shape: [...place.shape] }],
    ),
    trainer: keys.publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex"),
    files: [
      { name: "model.safetensors", bytes: plain(files.model) },
      { name: "config.json", bytes: plain(files.config) },
      { name: "tokenizer.json", bytes: plain(files.tokenizer) },
    ],
    shardBytes: 4_096,
  });
  const checkpoint = await signManifest(manifest, (bytes) => sign(null, bytes, keys.privateKey));
  for (const { sha256, bytes } of shards) coordinator.blobs.set(sha256, bytes);
  coordinator.blobs.set(checkpoint.hash, checkpoint.bytes);
  return { checkpoint, size: shards.reduce((sum, { bytes }) => sum + bytes.length, 0) };
}

async function relay(id: string, listener: RequestListener, ticket: string | null = "ticket") {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  stack.defer(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const expiresAt = ticket === null ? null : new Date(Date.now() + 900_000).toISOString();
  coordinator.relays.push({ relay: `relay_${id}`, url, ticket, expiresAt });
  return url;
}

const serving: RequestListener = (request, response) => {
  if (request.headers.authorization !== "Bearer ticket") return void response.writeHead(401).end();
  response.end(coordinator.blobs.get(request.url?.split("/")[2] ?? ""));
};

function checkpoints(options: CheckpointLimits = {}) {
  const token = randomBytes(8).toString("hex");
  coordinator.tokens.add(token);
  const client = stack.use(createClient({ url: coordinator.url, token }));
  const log = createLog({ level: "silent" });
  return openCheckpoints({ client, log, cacheDir: join(folder, token), readModelConfig, ...options });
}
const open = (from: ReturnType<typeof checkpoints>) =>
  from.open({ manifest: published.checkpoint.hash, run, signal: new AbortController().signal });

test("a checkpoint comes over the relays that the coordinator names, with their tickets; the receipt says so, once", async () => {
  await relay("a", serving);
  const mine = checkpoints();
  const found = await open(mine);
  expect(found.model).toMatchObject({ hiddenSize: 16, layers: 1 });
  expect(coordinator.fetched).toEqual([]);
  await expect.poll(() => coordinator.receipts).toHaveLength(1);
  expect(coordinator.receipts[0]).toEqual({
    manifest: published.checkpoint.hash,
    layout: "FULL",
    seconds: expect.any(Number),
    bytes: String(published.size),
    wastedBytes: "0",
    sources: [{ relay: "relay_a", bytes: String(published.size) }],
  });
  await open(mine);
  expect(coordinator.receipts).toHaveLength(1);
  expect(mine.progress()).toBeUndefined();
});

test("a lying relay is reported once, and the checkpoint comes from elsewhere", async () => {
  await relay("liar", (request, response) => {
    const bytes = Uint8Array.from(coordinator.blobs.get(request.url?.split("/")[2] ?? "") ?? []);
    bytes[0] = (bytes[0] ?? 0) ^ 1;
    response.end(bytes);
  });
  await open(checkpoints());
  await expect.poll(() => coordinator.reports).toHaveLength(1);
  expect(coordinator.reports[0]).toMatchObject({
    relay: "relay_liar",
    fault: "CORRUPT",
    manifest: published.checkpoint.hash,
  });
  expect(coordinator.fetched).toContain(published.checkpoint.hash);
});

test("a coordinator that names no relays, or will not hear of them, brings the checkpoint itself", async () => {
  coordinator.before = (name) => {
    if (["CheckpointSources", "ReceiptCheckpoint"].includes(name)) throw new Error("not now");
  };
  const found = await open(checkpoints());
  expect(createHash("sha256").update(found.config).digest("hex")).toBe(
    published.checkpoint.manifest.files[1]?.sha256,
  );
  expect(coordinator.fetched).toHaveLength(new Set(coordinator.fetched).size);
});

test("through a relay of its own a node asks nobody else, and its receipt names who brought the bytes to that", async () => {
  const url = await relay("own", serving);
  coordinator.relays.length = 0;
  coordinator.before = (name) => {
    if (name === "CheckpointSources") throw new Error("it was asked");
  };
  // the relay has had twice as much as this node needs of it
  const brought = new Map([
    ["relay_a", published.size],
    [null, published.size / 2],
    ["https://chosen.example", published.size / 2],
  ]);
  const own = { source: () => ({ id: "own", url, token: "ticket" }), broughtBy: () => brought };
  await open(checkpoints({ ownRelay: own }));
  expect(coordinator.fetched).toEqual([]);
  await expect.poll(() => coordinator.receipts).toHaveLength(1);
  expect(coordinator.receipts[0]).toMatchObject({
    bytes: String(published.size),
    sources: [
      { relay: "relay_a", bytes: String(Math.floor(published.size / 2)) },
      { relay: null, bytes: String(Math.floor(published.size / 4)) },
    ],
  });
});

test("what a relay of its own is not to hold, a node fetches like any other", async () => {
  await relay("a", serving);
  await open(checkpoints({ ownRelay: { source: () => undefined, broughtBy: () => undefined } }));
  expect(coordinator.fetched).toEqual([]);
  await expect.poll(() => coordinator.receipts).toHaveLength(1);
  expect(coordinator.receipts[0]).toMatchObject({
    sources: [{ relay: "relay_a", bytes: String(published.size) }],
  });
});

test("how far a download is can be asked while it lasts", async () => {
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const last = published.checkpoint.manifest.files[2]?.shards.at(-1)?.sha256;
  await relay("slow", async (request, response) => {
    if (request.url?.endsWith(last ?? "-")) await held;
    serving(request, response);
  });
  const mine = checkpoints();
  const opening = open(mine);
  const tail = published.checkpoint.manifest.files[2]?.shards.at(-1)?.size ?? 0;
  await expect
    .poll(() => mine.progress())
    .toEqual({ version: 4, verifiedBytes: published.size - tail, totalBytes: published.size });
  release();
  await opening;
  expect(mine.progress()).toBeUndefined();
});
