import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { newId, toTypeId } from "@muster/protocol";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import {
  buildManifest,
  type Checkpoint,
  createDownloader,
  type DownloaderOptions,
  type FetchBlob,
  type OpenCheckpoint,
  openManifest,
  shardBytesFor,
  signManifest,
} from "../src/index.ts";

const run = toTypeId("run", newId("run"));
const keys = generateKeyPairSync("ed25519");
const other = generateKeyPairSync("ed25519");
const rawHex = (key: KeyObject) => key.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");
const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** What the server holds, by hash, and what it was asked for. */
const store = new Map<string, Uint8Array>();
let requests: string[] = [];
/** Replaces an answer; throwing breaks the connection off in the middle. */
let meddle: (hash: string, bytes: Uint8Array, nth: number) => Uint8Array = (_hash, bytes) => bytes;
let server: Server;
let url: string;
let cacheDir: string;

beforeAll(async () => {
  server = createServer((request, response) => {
    const hash = request.url?.slice(1) ?? "";
    requests.push(hash);
    const bytes = store.get(hash);
    if (!bytes) return void response.writeHead(404).end();
    try {
      response.end(meddle(hash, bytes, requests.filter((asked) => asked === hash).length));
    } catch {
      response.writeHead(200, { "content-length": String(bytes.length) });
      response.write(bytes.subarray(0, bytes.length >> 1), () => request.socket.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => new Promise((resolve) => server.close(resolve)));
beforeEach(async () => {
  requests = [];
  meddle = (_hash, bytes) => bytes;
  cacheDir = await mkdtemp(join(tmpdir(), "muster-shardcast-"));
});
afterEach(() => rm(cacheDir, { recursive: true, force: true }));

const fetchBlob: FetchBlob = async ({ sha256, signal }) => {
  const response = await fetch(`${url}/${sha256}`, signal ? { signal } : {});
  if (!response.ok) throw new Error(`${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
};

async function publish(version: number, options: { size?: number; key?: typeof keys } = {}) {
  const size = options.size ?? 400_000;
  const weights = new Uint8Array(randomBytes(size));
  const { manifest, shards } = buildManifest({
    run,
    version,
    parent: version === 0 ? null : version - 1,
    created: "2026-01-01T00:00:00.000Z",
    tensors: [{ name: "w", dtype: "F32", shape: [size / 4], offset: 0, size }],
    trainer: rawHex(keys.publicKey),
    files: [
      { name: "model.safetensors", bytes: weights },
      { name: "config.json", bytes: new TextEncoder().encode("{}") },
    ],
    shardBytes: 100_000,
  });
  const checkpoint = await signManifest(manifest, (bytes) =>
    sign(null, bytes, (options.key ?? keys).privateKey),
  );
  for (const shard of shards) store.set(shard.sha256, shard.bytes);
  store.set(checkpoint.hash, checkpoint.bytes);
  return { checkpoint, weights, shards };
}

const download = (
  checkpoint: Checkpoint,
  options: Partial<DownloaderOptions> = {},
  request: Partial<OpenCheckpoint> = {},
) =>
  createDownloader({ origin: fetchBlob, cacheDir, ...options }).open({
    manifestHash: checkpoint.hash,
    ...request,
  });

test("a checkpoint arrives whole, and the second time from the disk", async () => {
  const { checkpoint, weights, shards } = await publish(0);
  const progress: number[] = [];
  const found = await download(checkpoint, { onProgress: (at) => progress.push(at.verifiedBytes) });
  expect(found.manifest).toEqual(checkpoint.manifest);
  expect(sha(await readFile(found.path("model.safetensors")))).toBe(sha(weights));
  expect(await readFile(found.path("config.json"), "utf8")).toBe("{}");
  expect(progress.at(-1)).toBe(400_002);
  expect(requests.toSorted()).toEqual([checkpoint.hash, ...shards.map(({ sha256 }) => sha256)].toSorted());
  requests = [];
  expect((await download(checkpoint)).dir).toBe(found.dir);
  expect(requests).toEqual([]);
  expect(await readdir(join(cacheDir, "partial"))).toEqual([]);
  expect(await readdir(join(cacheDir, "tmp"))).toEqual([]);
});

test("a shard that arrives damaged once is fetched again; damaged twice, nothing is used", async () => {
  const { checkpoint, weights, shards } = await publish(0);
  const bad = shards[1]?.sha256 ?? "";
  const flip = (bytes: Uint8Array) => bytes.map((byte, i) => (i === 7 ? byte ^ 1 : byte));
  meddle = (hash, bytes) => (hash === bad ? flip(bytes) : bytes);
  await expect(download(checkpoint)).rejects.toMatchObject({ code: "SHARD_MISMATCH" });
  expect(await readdir(join(cacheDir, "checkpoints"))).toEqual([]);
  requests = [];
  meddle = (hash, bytes, nth) => (hash === bad && nth === 1 ? flip(bytes) : bytes);
  const found = await download(checkpoint);
  expect(sha(await readFile(found.path("model.safetensors")))).toBe(sha(weights));
  expect(requests.filter((hash) => hash === bad)).toHaveLength(2);
});

test("a shard that arrives too short is not used", async () => {
  const { checkpoint, shards } = await publish(0);
  meddle = (hash, bytes) => (hash === shards[2]?.sha256 ? bytes.subarray(0, 99_999) : bytes);
  await expect(download(checkpoint)).rejects.toMatchObject({ code: "SHARD_MISMATCH" });
});

test("an interrupted download goes on from the shards it had verified", async () => {
  const { checkpoint, weights, shards } = await publish(0);
  const last = shards.at(-2)?.sha256 ?? "";
  meddle = (hash, bytes) => {
    if (hash === last) throw new Error("cut");
    return bytes;
  };
  await expect(download(checkpoint, { connections: 1 })).rejects.toThrow();
  meddle = (_hash, bytes) => bytes;
  requests = [];
  const found = await download(checkpoint, { connections: 1 });
  expect(sha(await readFile(found.path("model.safetensors")))).toBe(sha(weights));
  const fetched = shards.filter(({ sha256 }) => requests.includes(sha256)).map(({ sha256 }) => sha256);
  expect(fetched).toEqual(shards.slice(-2).map(({ sha256 }) => sha256));
});

test("a shard that rotted on disk between two attempts is fetched again", async () => {
  const { checkpoint, weights, shards } = await publish(0);
  const first = shards[0]?.sha256 ?? "";
  const last = shards.at(-1)?.sha256 ?? "";
  meddle = (hash, bytes) => {
    if (hash === last) throw new Error("cut");
    return bytes;
  };
  await expect(download(checkpoint, { connections: 1 })).rejects.toThrow();
  await writeFile(join(cacheDir, "partial", checkpoint.hash, first), new Uint8Array(100_000));
  meddle = (_hash, bytes) => bytes;
  requests = [];
  const found = await download(checkpoint);
  expect(sha(await readFile(found.path("model.safetensors")))).toBe(sha(weights));
  expect(requests).toContain(first);
});

test("a cached file that was changed is noticed and replaced", async () => {
  const { checkpoint, weights } = await publish(0);
  const found = await download(checkpoint);
  await writeFile(found.path("model.safetensors"), new Uint8Array(400_000));
  const again = await download(checkpoint);
  expect(sha(await readFile(again.path("model.safetensors")))).toBe(sha(weights));
});

test("another manifest than the one named is refused", async () => {
  const [mine, theirs] = [await publish(0), await publish(0)];
  meddle = (hash, bytes) => (hash === mine.checkpoint.hash ? theirs.checkpoint.bytes : bytes);
  await expect(download(mine.checkpoint)).rejects.toMatchObject({ code: "MANIFEST_MISMATCH" });
});

test("a manifest signed by another key, or for another trainer, is refused", async () => {
  const forged = await publish(0, { key: other });
  await expect(download(forged.checkpoint)).rejects.toMatchObject({ code: "BAD_SIGNATURE" });
  const genuine = await publish(0);
  await expect(download(genuine.checkpoint, {}, { trainer: rawHex(other.publicKey) })).rejects.toMatchObject({
    code: "WRONG_TRAINER",
  });
  await download(genuine.checkpoint, {}, { trainer: rawHex(keys.publicKey) });
  await expect(download(genuine.checkpoint, {}, { trainer: rawHex(other.publicKey) })).rejects.toMatchObject({
    code: "WRONG_TRAINER",
  });
});

test("a checkpoint larger than allowed is refused before a shard is fetched", async () => {
  const { checkpoint } = await publish(0);
  await expect(download(checkpoint, { maxBytes: 1_000 })).rejects.toMatchObject({ code: "TOO_LARGE" });
  expect(requests).toEqual([checkpoint.hash]);
});

test("the least recently used checkpoints leave when the budget is spent", async () => {
  const versions = [await publish(0), await publish(1), await publish(2), await publish(3)];
  const hashes = versions.map(({ checkpoint }) => checkpoint.hash);
  for (const [i, { checkpoint }] of versions.slice(0, 3).entries()) {
    const { dir } = await download(checkpoint);
    const then = new Date(Date.now() - (10 - i) * 60_000);
    await utimes(dir, then, then);
  }
  // version 0 is asked for again, so 1 is now the oldest
  await download(versions[0]?.checkpoint as Checkpoint);
  await download(versions[3]?.checkpoint as Checkpoint, { budgetBytes: 1_250_000 });
  expect((await readdir(join(cacheDir, "checkpoints"))).toSorted()).toEqual(
    [hashes[0], hashes[2], hashes[3]].toSorted(),
  );
});

test("two downloads of one checkpoint at the same time both succeed", async () => {
  const { checkpoint, weights } = await publish(0);
  const found = await Promise.all([download(checkpoint), download(checkpoint), download(checkpoint)]);
  for (const each of found) expect(sha(await readFile(each.path("model.safetensors")))).toBe(sha(weights));
});

test("an aborted download stops", async () => {
  const { checkpoint } = await publish(0);
  const stop = new AbortController();
  meddle = (hash, bytes) => {
    if (hash !== checkpoint.hash) stop.abort();
    return bytes;
  };
  await expect(download(checkpoint, { connections: 1 }, { signal: stop.signal })).rejects.toThrow(/abort/i);
  expect(requests.length).toBeLessThan(4);
});

test("shards cover a file exactly, whatever its size", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5_000 }), fc.integer({ min: 1, max: 700 }), (size, shardBytes) => {
      const bytes = new Uint8Array(randomBytes(size));
      const { manifest, shards } = buildManifest({
        run,
        version: 0,
        parent: null,
        created: "2026-01-01T00:00:00.000Z",
        tensors: [],
        trainer: rawHex(keys.publicKey),
        files: [{ name: "model.safetensors", bytes }],
        shardBytes,
      });
      const byHash = new Map(shards.map((shard) => [shard.sha256, shard.bytes]));
      const joined = Buffer.concat(
        (manifest.files[0]?.shards ?? []).map(({ sha256 }) => byHash.get(sha256) as Uint8Array),
      );
      expect(joined.equals(bytes)).toBe(true);
      expect(manifest.whole).toBe(sha(bytes));
    }),
    { numRuns: 50 },
  );
});

test("shards of large files have at most 50 MB, small files few of them", () => {
  expect(shardBytesFor(30_000_000_000)).toBe(50_000_000);
  expect(Math.ceil(383_000 / shardBytesFor(383_000))).toBe(2);
  expect(shardBytesFor(0)).toBe(256 * 1024);
});

test("a changed byte anywhere in a manifest is refused", async () => {
  const { checkpoint } = await publish(0);
  for (const at of [0, 30, checkpoint.bytes.length - 5]) {
    const bytes = checkpoint.bytes.map((byte, i) => (i === at ? byte ^ 1 : byte));
    await expect(openManifest({ bytes, hash: checkpoint.hash })).rejects.toMatchObject({
      code: "MANIFEST_MISMATCH",
    });
    await expect(openManifest({ bytes, hash: sha(bytes) })).rejects.toMatchObject({ name: "ShardcastError" });
  }
});
