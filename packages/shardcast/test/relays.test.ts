import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  blobUrl,
  type CachedCheckpoint,
  createDownloader,
  type DownloaderOptions,
  type Fault,
  type Receipt,
  type ShardcastError,
  type Source,
} from "../src/index.ts";
import { type Published, publish, type Store, sha, startSource, type TestSource } from "./published.ts";

let store: Store;
let cacheDir: string;
let stack: AsyncDisposableStack;
let faults: Fault[];
let receipts: Receipt[];

beforeEach(async () => {
  store = new Map();
  faults = [];
  receipts = [];
  stack = new AsyncDisposableStack();
  cacheDir = await mkdtemp(join(tmpdir(), "muster-relays-"));
  stack.defer(() => rm(cacheDir, { recursive: true, force: true }));
});
afterEach(() => stack.disposeAsync());

const source = async (bytesPerSecond?: number): Promise<TestSource> =>
  stack.use(await startSource(store, bytesPerSecond));
const named = (sources: Record<string, TestSource>): Source[] =>
  Object.entries(sources).map(([id, { url }]) => ({ id, url }));

/** The origin, which counts what it is asked for. */
function origin() {
  const asked: string[] = [];
  return {
    asked,
    async get({ sha256 }: { sha256: string }) {
      asked.push(sha256);
      const bytes = store.get(sha256);
      if (!bytes) throw new Error("the origin does not have it");
      return bytes;
    },
  };
}

function downloader(relays: Source[], more: Partial<DownloaderOptions> = {}) {
  return createDownloader({
    cacheDir,
    origin: async () => {
      throw new Error("the origin is away");
    },
    relays: async () => relays,
    stallMs: 400,
    onFault: (fault) => faults.push(fault),
    onReceipt: (receipt) => receipts.push(receipt),
    ...more,
  });
}

async function expectWhole(found: CachedCheckpoint, { weights }: Published): Promise<void> {
  expect(sha(await readFile(found.path("model.safetensors")))).toBe(sha(weights));
}

test("a source's url is a folder of blobs or a template", () => {
  const hash = "ab".repeat(32);
  expect(blobUrl("https://relay.example/x/", hash)).toBe(`https://relay.example/x/blobs/${hash}`);
  expect(blobUrl("https://cdn.example/{ab}/{sha256}.bin?v=1", hash)).toBe(
    `https://cdn.example/ab/${hash}.bin?v=1`,
  );
});

test("relays are asked in proportion to what they bring, and the origin not at all", async () => {
  const published = await publish(store, { size: 12_800_000, shardBytes: 131_072 });
  const [slow, middle, fast] = [await source(2e6), await source(4e6), await source(8e6)];
  const found = await downloader(named({ slow, middle, fast })).open({
    manifestHash: published.checkpoint.hash,
  });
  await expectWhole(found, published);
  const share = (one: TestSource) => one.sentBytes / 12_800_000;
  expect(share(slow)).toBeLessThan(share(middle));
  expect(share(middle)).toBeLessThan(share(fast));
  expect(share(fast)).toBeGreaterThan(0.4);
  expect(share(slow)).toBeGreaterThan(0.04);
  const [receipt] = receipts;
  expect(receipt).toMatchObject({ layout: "FULL", bytes: 12_800_012, manifest: published.checkpoint.hash });
  const total = receipt?.sources.reduce((sum, { bytes }) => sum + bytes, 0);
  expect(total).toBe(receipt?.bytes);
  expect(faults).toEqual([]);
});

test("a relay that corrupts is named, loses at most a shard a connection, and is not asked again", async () => {
  const published = await publish(store, { size: 2_000_000 });
  const [liar, honest] = [await source(), await source()];
  liar.meddle = (_request, response, hash) => {
    const bytes = Uint8Array.from(store.get(hash) ?? []);
    bytes[5] = (bytes[5] ?? 0) ^ 1;
    response.writeHead(200, { "content-length": bytes.length }).end(bytes);
    return true;
  };
  const client = downloader(named({ liar, honest }));
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(faults.every(({ source, fault }) => source === "liar" && fault === "CORRUPT")).toBe(true);
  expect(liar.asked.length).toBeLessThanOrEqual(4);
  expect(receipts[0]?.wastedBytes).toBeLessThanOrEqual(4 * 100_000);
  expect(receipts[0]?.sources).toEqual([{ relay: "honest", bytes: 2_000_012 }]);
});

test.each([
  ["truncated", (bytes: Uint8Array) => bytes.subarray(0, 300)],
  ["another one, replayed", () => new Uint8Array()],
])("a manifest that is %s names its source, and the next one is asked", async (_what, lie) => {
  const old = await publish(store, { version: 0 });
  const published = await publish(store, { version: 1 });
  const [liar, honest] = [await source(), await source()];
  liar.meddle = (_request, response, hash) => {
    if (hash !== published.checkpoint.hash) return false;
    const bytes = lie(store.get(hash) ?? new Uint8Array());
    response.end(bytes.length === 0 ? old.checkpoint.bytes : bytes);
    return true;
  };
  for (let i = 0; !liar.asked.includes(published.checkpoint.hash); i++) {
    const found = await downloader(named({ liar, honest }), { cacheDir: join(cacheDir, String(i)) }).open({
      manifestHash: published.checkpoint.hash,
    });
    await expectWhole(found, published);
    expect(i).toBeLessThan(100);
  }
  expect(faults).toEqual([
    {
      source: "liar",
      manifest: published.checkpoint.hash,
      sha256: published.checkpoint.hash,
      fault: "CORRUPT",
    },
  ]);
  expect(liar.asked.at(-1)).toBe(published.checkpoint.hash);
});

test("a manifest of another run or version than the task's is refused before anything of it is fetched", async () => {
  const published = await publish(store, { version: 3 });
  const relay = await source();
  const client = downloader(named({ relay }));
  const manifestHash = published.checkpoint.hash;
  const refused = { code: "WRONG_CHECKPOINT" };
  await expect(client.open({ manifestHash, version: 4 })).rejects.toMatchObject(refused);
  await expect(client.open({ manifestHash, run: "run_other" })).rejects.toMatchObject(refused);
  expect(relay.asked).toEqual([manifestHash]);
  await client.open({ manifestHash, version: 3 });
  await expect(client.open({ manifestHash, version: 4 })).rejects.toMatchObject(refused);
});

test("a connection that stalls is given up, and the shard comes from elsewhere", async () => {
  const published = await publish(store, { size: 1_000_000 });
  const [stuck, honest] = [await source(), await source(4e6)];
  stuck.meddle = (_request, response, hash) => {
    const bytes = store.get(hash) ?? new Uint8Array();
    response.writeHead(200, { "content-length": bytes.length });
    response.write(bytes.subarray(0, 10_000));
    return true;
  };
  const client = downloader(named({ stuck, honest }), { connections: 2 });
  for (let i = 0; faults.length === 0 && i < 20; i++) {
    await rm(cacheDir, { recursive: true, force: true });
    await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  }
  expect(faults[0]).toMatchObject({ source: "stuck", fault: "STALLED" });
  for (const { wastedBytes } of receipts) expect(wastedBytes).toBeLessThanOrEqual(20 * 10_000);
});

test("what a relay that drips was asked for is asked for a second time at the end", async () => {
  const published = await publish(store, { size: 3_000_000 });
  const [drips, honest] = [await source(30_000), await source(6e6)];
  const started = performance.now();
  const client = downloader(named({ drips, honest }), { stallMs: 8_000 });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  // its shard alone takes it three seconds, and four of them twelve
  expect(performance.now() - started).toBeLessThan(3_000);
  expect(drips.asked.length).toBeLessThanOrEqual(4);
  expect(faults).toEqual([]);
  const twice = drips.asked.filter((hash) => honest.asked.includes(hash));
  const whole = (hash: string) => store.get(hash)?.length === 100_000;
  expect(twice.filter(whole)).toEqual(drips.asked.filter(whole));
  expect(receipts[0]?.wastedBytes).toBeLessThanOrEqual(4 * 100_000);
});

test("nothing is asked for twice while everybody does what is expected", async () => {
  const published = await publish(store, { size: 4_000_000 });
  const [a, b, c] = [await source(4e6), await source(4e6), await source(4e6)];
  await downloader(named({ a, b, c })).open({ manifestHash: published.checkpoint.hash });
  const asked = [...a.asked, ...b.asked, ...c.asked];
  expect(asked).toHaveLength(new Set(asked).size);
  expect(receipts[0]?.wastedBytes).toBe(0);
});

test("relays that are gone are told of once each they were tried, and the origin brings the rest", async () => {
  const published = await publish(store, { size: 2_000_000 });
  const { url } = await (async () => {
    await using gone = await startSource(store);
    return gone;
  })();
  const { asked, get } = origin();
  const client = downloader([{ id: "gone", url }], { origin: get });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(new Set(faults.map(({ fault }) => fault))).toEqual(new Set(["UNREACHABLE"]));
  // it rests after three failures in a row instead of being tried for each shard
  expect(faults.length).toBeLessThan(12);
  expect(asked).toHaveLength(published.shards.length + 1);
  expect(receipts[0]?.sources).toEqual([{ relay: null, bytes: 2_000_012 }]);
});

test("a relay's Retry-After is respected, and it is not failed for it", async () => {
  const published = await publish(store, { size: 500_000 });
  const relay = await source();
  const times: number[] = [];
  relay.meddle = (_request, response) => {
    times.push(performance.now());
    if (times.length !== 2) return false;
    response.writeHead(503, { "retry-after": "1" }).end();
    return true;
  };
  const { asked, get } = origin();
  const client = downloader(named({ relay }), { origin: get, connections: 1 });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect((times[2] ?? 0) - (times[1] ?? 0)).toBeGreaterThan(990);
  expect(asked).toEqual([]);
  expect(faults).toEqual([]);
});

test("a relay that mostly asks to wait does not set the pace: the origin brings the rest", async () => {
  const published = await publish(store, { size: 1_000_000 });
  const relay = await source();
  relay.meddle = (_request, response) => {
    if (relay.asked.length % 4 === 1) return false;
    response.writeHead(503, { "retry-after": "5" }).end();
    return true;
  };
  const started = performance.now();
  const client = downloader(named({ relay }), { origin: origin().get });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(performance.now() - started).toBeLessThan(4_000);
  expect(faults).toEqual([]);
});

test("a relay that sends just enough not to stall is left for the origin, if that is faster", async () => {
  const published = await publish(store, { size: 1_200_000 });
  const relay = await source(44_000);
  const { asked, get } = origin();
  const started = performance.now();
  const client = downloader(named({ relay }), { origin: get });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  // alone it needs 27 seconds
  expect(performance.now() - started).toBeLessThan(10_000);
  expect(asked.length).toBeGreaterThan(6);
});

test("the same relay brings everything when there is no origin", async () => {
  const published = await publish(store, { size: 160_000, shardBytes: 80_000 });
  const relay = await source(60_000);
  let asked = 0;
  const get = async () => {
    asked++;
    throw new Error("The origin is away.");
  };
  const client = downloader(named({ relay }), { origin: get, stallMs: 200 });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(asked).toBe(1);
  expect(receipts[0]?.sources).toEqual([{ relay: "relay", bytes: 160_012 }]);
});

test("a redirect, a refusal and an encoded answer are refusals; 404 only says that it is not there", async () => {
  const published = await publish(store, { size: 300_000 });
  const [sends, refuses, zips, lacks] = [await source(), await source(), await source(), await source()];
  sends.meddle = (_request, response) => {
    response.writeHead(302, { location: `${lacks.url}/elsewhere` }).end();
    return true;
  };
  refuses.meddle = (_request, response) => {
    response.writeHead(403).end();
    return true;
  };
  zips.meddle = (_request, response) => {
    response.writeHead(200, { "content-encoding": "gzip" }).end("x");
    return true;
  };
  lacks.meddle = (_request, response) => {
    response.writeHead(404).end();
    return true;
  };
  const { get } = origin();
  const client = downloader(named({ sends, refuses, zips, lacks }), { origin: get });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(faults.some(({ source }) => source === "lacks")).toBe(false);
  expect(new Set(faults.map(({ source, fault }) => `${source} ${fault}`))).toEqual(
    new Set(["sends REFUSED", "refuses REFUSED", "zips REFUSED"]),
  );
  expect(lacks.requests.every(({ url }) => url?.startsWith("/blobs/"))).toBe(true);
});

test("a ticket is shown to its relay, and sources are asked for again when it is refused", async () => {
  const published = await publish(store, { size: 300_000 });
  const relay = await source();
  relay.meddle = ({ headers }, response) => {
    if (headers.authorization === "Bearer fresh") return false;
    response.writeHead(401).end();
    return true;
  };
  let asked = 0;
  const { get } = origin();
  const client = createDownloader({
    cacheDir,
    origin: get,
    connections: 1,
    relays: async () => [{ id: "relay", url: relay.url, token: asked++ === 0 ? "old" : "fresh" }],
  });
  await client.open({ manifestHash: published.checkpoint.hash });
  await rm(cacheDir, { recursive: true });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(relay.requests.at(-1)?.headers.authorization).toBe("Bearer fresh");
});

test("when nobody has a shard, the error lists what each source did", async () => {
  const published = await publish(store, { size: 300_000 });
  const [lacks, breaks] = [await source(), await source()];
  const missing = published.shards[1]?.sha256 ?? "";
  store.delete(missing);
  breaks.meddle = (request, _response, hash) => {
    if (hash === missing) request.socket.destroy();
    return hash === missing;
  };
  const failure = downloader(named({ lacks, breaks })).open({ manifestHash: published.checkpoint.hash });
  const error = await failure.then(
    () => undefined,
    (cause: ShardcastError) => cause,
  );
  expect(error?.code).toBe("NO_SOURCE");
  expect(error?.message).toContain("the origin is away");
  expect(error?.message).toMatch(/lacks [^;]*did not have it \(2 times\)/);
  expect(error?.message).toMatch(/breaks [^;]*UNREACHABLE/);
  const kept = await readdir(join(cacheDir, "partial", published.checkpoint.hash));
  expect(kept).not.toContain(missing);
});

test("when nobody says who relays, the origin brings everything", async () => {
  const published = await publish(store, { size: 300_000 });
  const { asked, get } = origin();
  const client = createDownloader({
    cacheDir,
    origin: get,
    relays: () => Promise.reject(new Error("the coordinator is busy")),
  });
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  expect(asked).toHaveLength(published.shards.length + 1);
});

test("several callers share one download, and one that leaves does not end it", async () => {
  const published = await publish(store, { size: 1_000_000 });
  const relay = await source(5e6);
  const client = downloader(named({ relay }));
  const stop = new AbortController();
  const manifestHash = published.checkpoint.hash;
  const left = client.open({ manifestHash, signal: stop.signal, onProgress: () => stop.abort() });
  const stays = [client.open({ manifestHash }), client.open({ manifestHash })];
  await expect(left).rejects.toThrow(/abort/i);
  for (const found of await Promise.all(stays)) await expectWhole(found, published);
  expect(relay.asked).toHaveLength(published.shards.length + 1);
  expect(receipts).toHaveLength(1);
});

/** The same weights, a little changed. */
function changed(weights: Uint8Array, every: number): Uint8Array<ArrayBuffer> {
  const next = Uint8Array.from(weights);
  for (let i = 0; i < next.length; i += every) next[i] = (next[i] ?? 0) ^ 1;
  return next;
}

test("the next version comes as a delta; files that stay are not fetched again", async () => {
  const first = await publish(store, { version: 0, size: 2_000_000 });
  const second = await publish(store, {
    version: 1,
    weights: changed(first.weights, 4_000),
    from: first.asParent,
  });
  const relay = await source();
  const client = downloader(named({ relay }));
  await client.open({ manifestHash: first.checkpoint.hash });
  relay.asked.length = 0;
  const found = await client.open({ manifestHash: second.checkpoint.hash });
  await expectWhole(found, second);
  const delta = second.checkpoint.manifest.delta?.file.shards.map(({ sha256 }) => sha256) ?? [];
  expect(relay.asked).toEqual([second.checkpoint.hash, ...delta]);
  expect(receipts[1]).toMatchObject({
    layout: "DELTA",
    bytes: second.checkpoint.manifest.delta?.file.size,
    wastedBytes: 0,
  });
  expect(await readdir(join(cacheDir, "partial"))).toEqual([]);
  expect(await readdir(join(cacheDir, "tmp"))).toEqual([]);
});

test("a client two versions behind follows the chain", async () => {
  const first = await publish(store, { version: 0, size: 2_000_000 });
  const second = await publish(store, {
    version: 1,
    weights: changed(first.weights, 9_000),
    from: first.asParent,
  });
  const third = await publish(store, {
    version: 2,
    weights: changed(second.weights, 7_000),
    from: second.asParent,
  });
  const relay = await source();
  const client = downloader(named({ relay }));
  await client.open({ manifestHash: first.checkpoint.hash });
  await expectWhole(await client.open({ manifestHash: third.checkpoint.hash }), third);
  expect(receipts[1]?.layout).toBe("DELTA");
  expect(receipts[1]?.bytes).toBeLessThan(100_000);
  expect(await readdir(join(cacheDir, "tmp"))).toEqual([]);
});

test("a delta that does not give the right file costs its bytes: the checkpoint comes whole", async () => {
  const first = await publish(store, { version: 0, size: 2_000_000 });
  const other = await publish(store, { version: 0, weights: changed(first.weights, 50) });
  // signed, but made from other bytes than it says
  const second = await publish(store, {
    version: 1,
    weights: changed(first.weights, 4_000),
    from: { ...first.asParent, weights: other.weights },
  });
  const relay = await source();
  const client = downloader(named({ relay }));
  await client.open({ manifestHash: first.checkpoint.hash });
  await expectWhole(await client.open({ manifestHash: second.checkpoint.hash }), second);
  expect(receipts[1]?.layout).toBe("FULL");
  expect(await readdir(join(cacheDir, "tmp"))).toEqual([]);
});

test("shards inside a cached checkpoint are copied, not fetched, unless they rotted there", async () => {
  const first = await publish(store, { version: 0, size: 1_000_000 });
  const tail = Uint8Array.from(first.weights);
  tail.fill(7, 950_000);
  const second = await publish(store, { version: 1, weights: tail });
  const relay = await source();
  const client = downloader(named({ relay }));
  const { dir } = await client.open({ manifestHash: first.checkpoint.hash });
  const rotten = Uint8Array.from(first.weights);
  rotten[150_000] = (rotten[150_000] ?? 0) ^ 1;
  await writeFile(join(dir, "model.safetensors"), rotten);
  relay.asked.length = 0;
  await expectWhole(await client.open({ manifestHash: second.checkpoint.hash }), second);
  const [model] = second.checkpoint.manifest.files;
  expect(new Set(relay.asked)).toEqual(
    new Set([second.checkpoint.hash, model?.shards[1]?.sha256, model?.shards[9]?.sha256]),
  );
});

test("a checkpoint whose shards are all here is put together without a byte", async () => {
  const first = await publish(store, { version: 0, size: 500_000 });
  const second = await publish(store, { version: 1, weights: first.weights });
  const relay = await source();
  const client = downloader(named({ relay }));
  await client.open({ manifestHash: first.checkpoint.hash });
  const progress: number[] = [];
  await client.open({
    manifestHash: second.checkpoint.hash,
    onProgress: ({ verifiedBytes, totalBytes }) => progress.push(verifiedBytes / totalBytes),
  });
  expect(receipts[1]).toMatchObject({ layout: "LOCAL", bytes: 0, sources: [] });
  expect(progress.at(-1)).toBe(1);
});

test("a checkpoint that the cache may not hold is refused before a shard is fetched", async () => {
  const published = await publish(store, { size: 500_000 });
  const relay = await source();
  const client = downloader(named({ relay }), { budgetBytes: 400_000 });
  await expect(client.open({ manifestHash: published.checkpoint.hash })).rejects.toMatchObject({
    code: "DISK_FULL",
    message: expect.stringMatching(/500012 bytes.*may hold 400000/),
  });
  expect(relay.asked).toEqual([published.checkpoint.hash]);
});

/** A file system of so many bytes; undefined where that is not allowed. */
function tinyDisk(bytes: number): string | undefined {
  const dir = execFileSync("mktemp", ["-d", join(tmpdir(), "muster-disk-XXXXXX")], {
    encoding: "utf8",
  }).trim();
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", dir], { stdio: "ignore" });
  } catch {
    return undefined;
  }
  stack.defer(() => void execFileSync("umount", ["-l", dir]));
  return dir;
}

test("a disk without room refuses first, and one that runs full keeps what was verified", async ({
  skip,
}) => {
  const disk = tinyDisk(2_400_000);
  if (disk === undefined) return skip("a tmpfs may not be mounted here");
  const large = await publish(store, { size: 2_000_000 });
  const relay = await source();
  const client = downloader(named({ relay }), { cacheDir: disk });
  const manifestHash = large.checkpoint.hash;
  await expect(client.open({ manifestHash })).rejects.toMatchObject({
    code: "DISK_FULL",
    message: expect.stringMatching(/needs 4000024 more bytes.* has \d+/),
  });
  expect(relay.asked).toEqual([manifestHash]);

  // there was room when it was looked at, and somebody else took it
  const small = await publish(store, { size: 1_000_000 });
  relay.meddle = (_request, _response, hash) => {
    if (hash === small.shards[3]?.sha256) execFileSync("fallocate", ["-l", "1600000", join(disk, "other")]);
    return false;
  };
  const one = downloader(named({ relay }), { cacheDir: disk, connections: 1 });
  await expect(one.open({ manifestHash: small.checkpoint.hash })).rejects.toMatchObject({
    code: "DISK_FULL",
  });
  const kept = await readdir(join(disk, "partial", small.checkpoint.hash));
  expect(kept.length).toBeGreaterThanOrEqual(4);
  await rm(join(disk, "other"));
  relay.asked.length = 0;
  await expectWhole(await one.open({ manifestHash: small.checkpoint.hash }), small);
  expect(relay.asked.filter((hash) => kept.includes(hash))).toEqual([]);
});

test("an old checkpoint leaves when its room is needed", async ({ skip }) => {
  const disk = tinyDisk(3_000_000);
  if (disk === undefined) return skip("a tmpfs may not be mounted here");
  const [old, next] = [await publish(store, { size: 1_200_000 }), await publish(store, { size: 1_200_000 })];
  const relay = await source();
  const client = downloader(named({ relay }), { cacheDir: disk });
  await client.open({ manifestHash: old.checkpoint.hash });
  await expectWhole(await client.open({ manifestHash: next.checkpoint.hash }), next);
  expect(await readdir(join(disk, "checkpoints"))).toEqual([next.checkpoint.hash]);
});

test("what a process left that died is swept away, what another one writes is not", async () => {
  const published = await publish(store, { size: 300_000 });
  const relay = await source();
  const tmp = join(cacheDir, "tmp");
  await mkdir(join(tmp, "dead"), { recursive: true });
  await writeFile(join(tmp, "dead", "model.safetensors"), "x");
  await writeFile(join(tmp, "alive"), "x");
  const long = new Date(Date.now() - 3_600_000);
  await utimes(join(tmp, "dead", "model.safetensors"), long, long);
  await utimes(join(tmp, "dead"), long, long);
  await downloader(named({ relay })).open({ manifestHash: published.checkpoint.hash });
  expect(await readdir(tmp)).toEqual(["alive"]);
});

test("a relay that stops being fast keeps one connection, not all of them", async () => {
  const published = await publish(store, { size: 6_000_000 });
  const [turns, honest] = [await source(20e6), await source(3e6)];
  let served = 0;
  turns.meddle = (_request, response, hash) => {
    const bytes = store.get(hash) ?? new Uint8Array();
    if (++served < 12) return false;
    // never less than what counts as starving
    response.writeHead(200, { "content-length": bytes.length });
    let at = 0;
    const timer = setInterval(() => {
      response.write(bytes.subarray(at, at + 1_000));
      at += 1_000;
    }, 100);
    response.once("close", () => clearInterval(timer));
    return true;
  };
  const client = downloader(named({ turns, honest }), { stallMs: 8_000 });
  const started = performance.now();
  await expectWhole(await client.open({ manifestHash: published.checkpoint.hash }), published);
  // ten seconds for a shard of the one, two for everything from the other
  expect(performance.now() - started).toBeLessThan(6_500);
  expect(faults).toEqual([]);
});
