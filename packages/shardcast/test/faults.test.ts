// Everything that may go wrong between a trainer and a worker, with relays and clients as they are. Whatever happens, a client ends with the
// right bytes or with an error that says why, and a fault costs at most one shard a connection.
import { execFileSync, spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import {
  type CachedCheckpoint,
  createDownloader,
  type Downloader,
  type DownloaderOptions,
  type Fault,
  type Receipt,
  type Relay,
  type Source,
} from "../src/index.ts";
import {
  assignmentOf,
  checkpointOf,
  createStage,
  gate,
  held,
  type Published,
  relayId,
  relay as relayName,
  run,
  sha,
  type TestSource,
  ticketFor,
  until,
} from "./relaykit.ts";

const stage = createStage();
afterEach(() => stage.end());
const shardBytes = 200_000;
const connections = 4;

type Client = Downloader & { faults: Fault[]; receipts: Receipt[]; cacheDir: string };

/** A worker's client of these sources. */
async function client(
  relays: readonly Source[],
  origin: TestSource | undefined,
  more: Partial<DownloaderOptions> = {},
): Promise<Client> {
  const faults: Fault[] = [];
  const receipts: Receipt[] = [];
  const cacheDir = more.cacheDir ?? (await stage.folder());
  const downloader = createDownloader({
    cacheDir,
    connections,
    stallMs: 500,
    relays: async () => relays,
    async origin({ sha256, signal }) {
      if (!origin) throw new Error("The origin is away.");
      const response = await fetch(`${origin.url}/blobs/${sha256}`, signal ? { signal } : {});
      if (!response.ok) throw new Error(`The origin answered ${response.status}.`);
      return new Uint8Array(await response.arrayBuffer());
    },
    onFault: (fault) => faults.push(fault),
    onReceipt: (receipt) => receipts.push(receipt),
    ...more,
  });
  return { ...downloader, faults, receipts, cacheDir };
}

/** A relay as the coordinator names it to a client. */
const sourceOf = ({ url }: Pick<Relay, "url">, id = relayId()): Source => ({ id, url, token: ticketFor() });

async function expectWhole(found: CachedCheckpoint, { weights }: Published): Promise<void> {
  expect(sha(await readFile(found.path("model.safetensors")))).toBe(sha(weights));
}

const open = (downloader: Downloader, { checkpoint }: Published) =>
  downloader.open({ manifestHash: checkpoint.hash });

/** A relay that holds the checkpoint. */
async function honestRelay(published: Published) {
  const relay = await stage.relay({ origin: await stage.source(published) });
  relay.assign(assignmentOf([published]));
  await held(relay, published);
  return relay;
}

const isShard = ({ shards }: Published, sha256: string) => shards.some((shard) => shard.sha256 === sha256);

/** Sends every shard with one byte changed. */
function corrupting(source: TestSource, published: Published): TestSource {
  source.instead = (_req, res, sha256) => {
    if (!isShard(published, sha256)) return false;
    const wrong = Uint8Array.from(source.blobs.get(sha256) ?? [], (byte, i) => (i === 1 ? byte ^ 1 : byte));
    return res.writeHead(200, { "content-length": wrong.length }).end(wrong);
  };
  return source;
}

/** Sends the first half of every shard, and then does as it is told. */
function halting(
  source: TestSource,
  published: Published,
  then: (res: Parameters<TestSource["instead"]>[1]) => void = () => {},
): TestSource {
  source.instead = (_req, res, sha256) => {
    const bytes = source.blobs.get(sha256);
    if (!bytes || bytes.length < 1_000 || !isShard(published, sha256)) return false;
    res.writeHead(200, { "content-length": bytes.length });
    res.write(bytes.subarray(0, bytes.length / 2), () => then(res));
    return true;
  };
  return source;
}

describe("a relay that corrupts", () => {
  test("is named by its clients, and costs them a shard a connection at most", async () => {
    const published = await checkpointOf(0, { size: 4_000_000 });
    const honest = sourceOf(await honestRelay(published));
    const liar = sourceOf(corrupting(await stage.source(published), published));
    const worker = await client([liar, honest], undefined);
    await expectWhole(await open(worker, published), published);
    expect(worker.faults.length).toBeGreaterThan(0);
    for (const { source, fault } of worker.faults) expect([source, fault]).toEqual([liar.id, "CORRUPT"]);
    expect(worker.receipts[0]?.wastedBytes).toBeLessThanOrEqual(connections * shardBytes);
    expect(worker.receipts[0]?.sources.map(({ relay }) => relay)).toEqual([honest.id]);
  });

  test("above an honest one makes that one no liar: nobody below it completes a wrong shard", async () => {
    const published = await checkpointOf(0, { size: 4_000_000 });
    const origin = await stage.source(published);
    const liar = corrupting(await stage.source(published), published);
    const liarId = relayId();
    const middle = await stage.relay({ origin });
    const lower = await stage.relay({ origin });
    middle.assign(assignmentOf([published], { id: liarId, url: liar.url }));
    lower.assign(assignmentOf([published], { id: relayName, url: middle.url }));
    const worker = await client([sourceOf(lower)], origin);
    await expectWhole(await open(worker, published), published);
    await held(middle, published);
    await held(lower, published);
    const corrupt = [...middle.events, ...lower.events, ...worker.faults].filter(
      (event) => "fault" in event && event.fault === "CORRUPT",
    );
    expect(corrupt.length).toBeGreaterThan(0);
    for (const event of corrupt) expect(event).toMatchObject({ source: liarId });
    expect(wasted(middle)).toBeLessThanOrEqual(connections * shardBytes);
    expect(wasted(lower)).toBeLessThanOrEqual(connections * shardBytes);
  });
});

describe("a relay that dies", () => {
  test("in the middle of its shards is replaced by others", async () => {
    const published = await checkpointOf(0, { size: 4_000_000 });
    const honest = sourceOf(await honestRelay(published));
    // it has half of each shard and waits for the rest when it is killed
    const upstream = halting(await stage.source(published), published);
    const child = spawn(
      process.execPath,
      [
        fileURLToPath(new URL("relay-process.ts", import.meta.url)),
        await stage.folder(),
        upstream.url,
        JSON.stringify(assignmentOf([published])),
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    stage.onEnd(async () => child.kill("SIGKILL"));
    const [first] = (await once(child.stdout, "data")) as [Buffer];
    const dying = sourceOf({ url: first.toString().trim() });
    await until(() => upstream.asked.some(({ sha256 }) => isShard(published, sha256)));
    const worker = await client([dying, honest], undefined, { stallMs: 5_000 });
    // with a shard of somebody's here, the dying one is in the middle of its own
    const opening = worker.open({
      manifestHash: published.checkpoint.hash,
      onProgress: ({ verifiedBytes }) => void (verifiedBytes > 0 && child.kill("SIGKILL")),
    });
    await expectWhole(await opening, published);
    expect(child.killed).toBe(true);
    for (const { source, fault } of worker.faults) expect([source, fault]).toEqual([dying.id, "UNREACHABLE"]);
    expect(worker.receipts[0]?.wastedBytes).toBeLessThanOrEqual(connections * shardBytes);
  });

  test("leaves its children what they have, and they get the rest from the origin", async () => {
    const published = await checkpointOf(0, { size: 4_000_000 });
    const origin = await stage.source(published);
    const dead = await stage.source(published);
    halting(dead, published, (res) => res.destroy());
    const relay = await stage.relay({ origin });
    relay.assign(assignmentOf([published], dead));
    const worker = await client([sourceOf(relay)], undefined, { stallMs: 5_000 });
    await expectWhole(await open(worker, published), published);
    await held(relay, published);
    // it went on in the middle of the shards that were under way, so nothing was for nothing
    expect(wasted(relay)).toBe(0);
    expect(origin.asked.some(({ range }) => range === "bytes=100000-")).toBe(true);
  });
});

describe("a relay that stalls", () => {
  test("is left by its clients", async () => {
    const published = await checkpointOf(0, { size: 4_000_000 });
    const honest = sourceOf(await honestRelay(published));
    const upstream = halting(await stage.source(published), published);
    const stalling = sourceOf(upstream);
    const worker = await client([stalling, honest], undefined);
    await expectWhole(await open(worker, published), published);
    expect(upstream.asked.length).toBeGreaterThan(0);
    for (const { source, fault } of worker.faults) expect([source, fault]).toEqual([stalling.id, "STALLED"]);
    expect(worker.receipts[0]?.wastedBytes).toBeLessThanOrEqual(connections * shardBytes);
  });

  test("is left by its children", async () => {
    const published = await checkpointOf(0);
    const origin = await stage.source(published);
    const stalling = halting(await stage.source(published), published);
    const relay = await stage.relay({ origin, stallMs: 200, parentAttempts: 2 });
    relay.assign(assignmentOf([published], stalling));
    await held(relay, published);
    expect(wasted(relay)).toBe(0);
    const worker = await client([sourceOf(relay)], undefined);
    await expectWhole(await open(worker, published), published);
  });
});

describe("a disk that is full", () => {
  /** A file system of so many bytes; undefined where that is not allowed. */
  async function tinyDisk(bytes: number): Promise<string | undefined> {
    const dir = await stage.folder();
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", dir], { stdio: "ignore" });
    } catch {
      return undefined;
    }
    stage.onEnd(async () => execFileSync("umount", ["-l", dir]));
    return dir;
  }

  test("is told to the worker, and what was verified is not fetched again", async ({ skip }) => {
    const cacheDir = await tinyDisk(4_500_000);
    if (cacheDir === undefined) return skip("a tmpfs may not be mounted here");
    const published = await checkpointOf(0, { size: 2_000_000 });
    const origin = await stage.source(published);
    origin.instead = (_req, _res, sha256) => {
      // there was room before it began
      if (sha256 === published.shards[4]?.sha256)
        execFileSync("fallocate", ["-l", "3600000", join(cacheDir, "other")]);
      return false;
    };
    const relay = await stage.relay({ origin, connections: 1 });
    relay.assign(assignmentOf([published]));
    const worker = await client([sourceOf(relay)], undefined, { cacheDir, connections: 1 });
    await expect(open(worker, published)).rejects.toMatchObject({ code: "DISK_FULL" });
    await rm(join(cacheDir, "other"));
    await held(relay, published);
    await expectWhole(await open(worker, published), published);
    expect(worker.faults).toEqual([]);
  });

  test("stops a relay until there is room", async ({ skip }) => {
    const dir = await tinyDisk(2_000_000);
    if (dir === undefined) return skip("a tmpfs may not be mounted here");
    const published = await checkpointOf(0, { size: 1_200_000 });
    const origin = await stage.source(published);
    await writeFile(join(dir, "other"), Buffer.alloc(1_500_000));
    const relay = await stage.relay({ origin, dir, diskAgainMs: 100 });
    relay.assign(assignmentOf([published]));
    await until(() => relay.events.some(({ type }) => type === "disk"));
    const worker = await client([sourceOf(relay)], origin);
    await expectWhole(await open(worker, published), published);
    await rm(join(dir, "other"));
    await held(relay, published);
    expect(relay.events.filter(({ type }) => type === "fault")).toEqual([]);
  });
});

describe("a manifest that is not the one", () => {
  test.each([
    ["truncated", ({ checkpoint }: Published) => checkpoint.bytes.subarray(0, 400)],
    ["an old one, replayed", (_new: Published, old: Published) => old.checkpoint.bytes],
    [
      "signed by somebody else",
      ({ checkpoint }: Published) =>
        Buffer.from(
          Buffer.from(checkpoint.bytes)
            .toString()
            .replace(/"signature":"\w{8}/, '"signature":"00000000'),
        ),
    ],
  ])("because it is %s is used by nobody", async (_what, lie) => {
    const old = await checkpointOf(0);
    const published = await checkpointOf(1);
    const origin = await stage.source(published, old);
    const liar = await stage.source(published, old);
    liar.instead = (_req, res, sha256) =>
      sha256 === published.checkpoint.hash ? res.end(lie(published, old)) : false;
    const liarId = relayId();
    const relay = await stage.relay({ origin });
    relay.assign(assignmentOf([published], { id: liarId, url: liar.url }));
    await held(relay, published);
    expect(relay.events).toContainEqual(
      expect.objectContaining({ source: liarId, sha256: published.checkpoint.hash, fault: "CORRUPT" }),
    );
    const worker = await client([{ id: liarId, url: liar.url }], origin);
    await expectWhole(await open(worker, published), published);
    expect(worker.faults).toMatchObject([{ source: liarId, fault: "CORRUPT" }]);
    expect(worker.receipts[0]?.version).toBe(1);
  });

  test("whose signature is wrong under its own hash, or that is of another version, is an error", async () => {
    const forged = await checkpointOf(1, { key: generateKeyPairSync("ed25519").privateKey });
    const old = await checkpointOf(0);
    const origin = await stage.source(forged, old);
    const worker = await client([sourceOf(origin)], origin);
    await expect(open(worker, forged)).rejects.toMatchObject({ code: "BAD_SIGNATURE" });
    await expect(worker.open({ manifestHash: old.checkpoint.hash, run, version: 1 })).rejects.toMatchObject({
      name: "ShardcastError",
    });
  });
});

test("a tree that is cut in half grows together: who is told moves, and who is not asks the origin", async () => {
  const published = await checkpointOf(0, { size: 4_000_000 });
  const origin = await stage.source(published);
  const cut = gate();
  const started = new Set<string>();
  origin.instead = (_req, res, sha256) => {
    const bytes = origin.blobs.get(sha256);
    if (!bytes || started.has(sha256) || !isShard(published, sha256)) return false;
    started.add(sha256);
    res.writeHead(200, { "content-length": bytes.length });
    res.write(bytes.subarray(0, bytes.length / 2));
    void cut.opened.then(() => res.end(bytes.subarray(bytes.length / 2)));
    return true;
  };
  const top = await stage.relay({ origin });
  const [told, untold, leaf] = [
    await stage.relay({ origin }),
    await stage.relay({ origin }),
    await stage.relay({ origin }),
  ];
  const under = (relay: Relay) => assignmentOf([published], { id: relayName, url: relay.url });
  top.assign(assignmentOf([published]));
  told.assign(under(top));
  untold.assign(under(top));
  leaf.assign(under(untold));
  const workers = await Promise.all(
    [told, untold, leaf].map((relay) => client([sourceOf(relay)], origin, { stallMs: 5_000 })),
  );
  const opening = Promise.all(workers.map((worker) => open(worker, published)));
  await until(() => [told, untold, leaf].every((relay) => received(relay) > connections * 50_000));
  await top.close();
  cut.open();
  told.assign(assignmentOf([published]));
  for (const found of await opening) await expectWhole(found, published);
  for (const relay of [told, untold, leaf]) {
    await held(relay, published);
    expect(wasted(relay)).toBeLessThanOrEqual(connections * shardBytes);
  }
  for (const { receipts } of workers)
    expect(receipts[0]?.wastedBytes).toBeLessThanOrEqual(connections * shardBytes);
});

test("what one client holds against an honest relay is nothing to another", async () => {
  const published = await checkpointOf(0);
  const relay = await honestRelay(published);
  const id = relayId();
  // somebody between the first client and the relay changes bytes: in its eyes the relay lies
  const between = corrupting(await stage.source(published), published);
  const origin = await stage.source(published);
  const slanderer = await client([{ id, url: between.url }], origin);
  await expectWhole(await open(slanderer, published), published);
  expect(slanderer.faults.map(({ source, fault }) => [source, fault])).toContainEqual([id, "CORRUPT"]);
  const other = await client([sourceOf(relay, id)], undefined);
  await expectWhole(await open(other, published), published);
  expect(other.faults).toEqual([]);
  expect(other.receipts[0]?.sources).toEqual([{ relay: id, bytes: 1_200_002 }]);
});

function metric(relay: Relay, name: string): number {
  const lines = relay.metrics().matchAll(new RegExp(`^muster_relay_${name}(?:{[^}]*})? (\\d+)$`, "gm"));
  return [...lines].reduce((sum, [, value]) => sum + Number(value), 0);
}
const wasted = (relay: Relay) => metric(relay, "wasted_bytes_total");
const received = (relay: Relay) => metric(relay, "received_bytes_total");
