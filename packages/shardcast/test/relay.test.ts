import { spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { newId, toTypeId } from "@muster/protocol";
import { afterEach, describe, expect, test } from "vitest";
import { parseRange } from "../src/index.ts";
import {
  ask,
  askBlob,
  assignmentOf,
  checkpointOf,
  createStage,
  gate,
  held,
  relayId,
  relay as relayName,
  run,
  sha,
  ticketFor,
  until,
} from "./relaykit.ts";

const stage = createStage();
afterEach(() => stage.end());
const withheld = 64 * 1024;

/** A relay that holds the checkpoint, and the origin it has it from. */
async function holding(
  published: Awaited<ReturnType<typeof checkpointOf>>,
  options: Parameters<typeof stage.relay>[0] = {},
) {
  const origin = await stage.source(published);
  const relay = await stage.relay({ origin, ...options });
  relay.assign(assignmentOf([published]));
  await held(relay, published);
  return { origin, relay };
}

describe("serving", () => {
  test("every blob of an assigned version is there, as RFC 9110 has it", async () => {
    const published = await checkpointOf(0);
    const { relay, origin } = await holding(published);
    expect(origin.asked.map(({ sha256 }) => sha256).toSorted()).toEqual(
      [published.checkpoint.hash, ...published.shards.map(({ sha256 }) => sha256)].toSorted(),
    );
    for (const [sha256, bytes] of origin.blobs) {
      const { status, bytes: got } = await askBlob(relay, sha256);
      expect([status, sha(got)]).toEqual([200, sha(bytes)]);
    }
    const { sha256, bytes } = published.shards[0] ?? { sha256: "", bytes: new Uint8Array() };
    const whole = await askBlob(relay, sha256);
    expect(whole.headers).toMatchObject({
      etag: `"${sha256}"`,
      "accept-ranges": "bytes",
      "content-length": "200000",
      "cache-control": "private, max-age=31536000, immutable",
      "content-type": "application/octet-stream",
    });
    const part = await askBlob(relay, sha256, { headers: { range: "bytes=100-199" } });
    expect([part.status, part.headers["content-range"]]).toEqual([206, "bytes 100-199/200000"]);
    expect(part.bytes).toEqual(Buffer.from(bytes.subarray(100, 200)));
    const other = await askBlob(relay, sha256, { headers: { range: "bytes=0-9", "if-range": '"other"' } });
    expect([other.status, other.bytes.length]).toEqual([200, 200_000]);
    const beyond = await askBlob(relay, sha256, { headers: { range: "bytes=200000-" } });
    expect([beyond.status, beyond.headers["content-range"]]).toEqual([416, "bytes */200000"]);
    const known = await askBlob(relay, sha256, { headers: { "if-none-match": `"x", W/"${sha256}"` } });
    expect([known.status, known.bytes.length]).toEqual([304, 0]);
    const head = await askBlob(relay, sha256, { method: "HEAD", headers: { range: "bytes=0-9" } });
    expect([head.status, head.headers["content-length"], head.bytes.length]).toEqual([200, "200000", 0]);
  });

  test("ranges are read as RFC 9110 says", () => {
    const cases: [string | undefined, ReturnType<typeof parseRange>][] = [
      [undefined, "all"],
      ["bytes=0-0", { start: 0, end: 0 }],
      ["Bytes=5-", { start: 5, end: 9 }],
      ["bytes=5-500", { start: 5, end: 9 }],
      ["bytes=-3", { start: 7, end: 9 }],
      ["bytes=-300", { start: 0, end: 9 }],
      ["bytes=-0", "unsatisfiable"],
      ["bytes=10-", "unsatisfiable"],
      ["bytes=7-3", "all"],
      ["bytes=0-1,3-4", "all"],
      ["lines=0-1", "all"],
      ["bytes=-", "all"],
    ];
    for (const [header, expected] of cases) expect(parseRange(header, 10), header).toEqual(expected);
  });

  test("only a ticket of the coordinator for a run of this relay opens it, and only to that run's blobs", async () => {
    const published = await checkpointOf(0);
    const { relay } = await holding(published);
    const { hash } = published.checkpoint;
    const otherRun = toTypeId("run", newId("run"));
    const statuses = await Promise.all([
      ask(`${relay.url}/blobs/${hash}`),
      askBlob(relay, hash, { ticket: "abc" }),
      askBlob(relay, hash, { ticket: ticketFor({ inSeconds: -120 }) }),
      askBlob(relay, hash, { ticket: ticketFor({ key: generateKeyPairSync("ed25519").privateKey }) }),
      askBlob(relay, hash, { ticket: ticketFor({ run: otherRun }) }),
      // shown to somebody else, who would spend it here
      askBlob(relay, hash, { ticket: ticketFor({ relay: relayId() }) }),
    ]);
    expect(statuses.map(({ status }) => status)).toEqual([401, 401, 401, 401, 401, 401]);
    relay.assign(assignmentOf([], undefined, { run: otherRun }));
    expect((await askBlob(relay, hash, { ticket: ticketFor({ run: otherRun }) })).status).toBe(404);
    expect((await askBlob(relay, hash)).status).toBe(200);
    expect((await askBlob(relay, sha(new Uint8Array()))).status).toBe(404);
  });

  test("nothing but blobs, health and metrics is answered, and none of it lists what is here", async () => {
    const published = await checkpointOf(3);
    const { relay } = await holding(published);
    const { hash } = published.checkpoint;
    for (const path of ["/", "/blobs", "/blobs/", `/blobs/${hash}/..`, "/blobs/..%2f..%2fboot", "/tmp"])
      expect((await ask(relay.url + path)).status, path).toBe(404);
    for (const method of ["PUT", "POST", "DELETE", "OPTIONS"])
      expect((await askBlob(relay, hash, { method })).status, method).toBe(405);
    await askBlob(relay, hash);
    // the bytes are counted once the system has taken them, which the client may see before
    await until(() => relay.health().sentBytes > 0);
    const health = await ask(`${relay.url}/healthz`);
    expect(JSON.parse(health.bytes.toString())).toEqual({
      status: "ok",
      versionsHeld: 1,
      newestVersion: 3,
      heldBytes: 1_200_002 + published.checkpoint.bytes.length,
      sentBytes: published.checkpoint.bytes.length,
      clients: 1,
    });
    const metrics = (await ask(`${relay.url}/metrics`)).bytes.toString();
    expect(metrics).toContain(
      `muster_relay_received_bytes_total{from="origin"} ${1_200_002 + published.checkpoint.bytes.length}\n`,
    );
    expect(metrics).toContain('muster_relay_answers_total{status="200"} 1\n');
    for (const secret of [hash, run, ...published.shards.map(({ sha256 }) => sha256)])
      expect(metrics).not.toContain(secret);
  });

  test("before its first assignment it says that it will take a moment", async () => {
    const relay = await stage.relay();
    const { status, headers } = await askBlob(relay, sha(new Uint8Array()));
    expect([status, headers["retry-after"]]).toEqual([503, "1"]);
  });

  test("one client has so many requests and bytes under way, another one its own", async () => {
    const published = await checkpointOf(0, { size: 24_000_000, shardBytes: 12_000_000 });
    const [first, second] = published.shards.map(({ sha256 }) => sha256);
    for (const limits of [{ requestsPerSubject: 1 }, { bytesPerSubject: 20_000_000 }]) {
      const { relay } = await holding(published, { limits });
      const mine = ticketFor({ subject: "a".repeat(32) });
      const slow = connect(Number(new URL(relay.url).port), "127.0.0.1");
      slow.write(`GET /blobs/${first} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${mine}\r\n\r\n`);
      await once(slow, "readable");
      const refused = await askBlob(relay, second ?? "", { ticket: mine });
      expect([refused.status, refused.headers["retry-after"]]).toEqual([429, "1"]);
      const other = ticketFor({ subject: "b".repeat(32) });
      expect((await askBlob(relay, second ?? "", { ticket: other })).status).toBe(200);
      slow.destroy();
      await until(async () => (await askBlob(relay, second ?? "", { ticket: mine })).status === 200);
    }
  });

  test("with all connections in use it says so; those over which nothing is sent give way", async () => {
    const published = await checkpointOf(0, { size: 20_000_000, shardBytes: 20_000_000 });
    const { relay } = await holding(published, { limits: { connections: 3 } });
    const dial = () => connect(Number(new URL(relay.url).port), "127.0.0.1").on("error", () => {});
    const [{ sha256 } = { sha256: "" }] = published.shards;
    const slow = Array.from({ length: 3 }, dial);
    for (const [i, socket] of slow.entries()) {
      const ticket = ticketFor({ subject: String(i).repeat(32) });
      socket.write(`GET /blobs/${sha256} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ticket}\r\n\r\n`);
      await once(socket, "readable");
    }
    const refused = await askBlob(relay, published.checkpoint.hash);
    expect([refused.status, refused.headers["retry-after"]]).toEqual([503, "1"]);
    for (const socket of slow.slice(1)) socket.destroy();
    await until(() => relay.metrics().includes("requests_under_way 1\n"));
    const strangers = Array.from({ length: 12 }, dial);
    await Promise.all(strangers.map((socket) => once(socket, "connect")));
    expect((await askBlob(relay, published.checkpoint.hash)).status).toBe(200);
    expect(slow[0]?.destroyed).toBe(false);
    for (const socket of [...slow, ...strangers]) socket.destroy();
  });

  test("a client that takes nothing is cut off", async () => {
    const published = await checkpointOf(0, { size: 24_000_000, shardBytes: 24_000_000 });
    const { relay } = await holding(published, { limits: { slowReaderMs: 150 } });
    const { sha256 } = published.shards[0] ?? { sha256: "" };
    const slow = connect(Number(new URL(relay.url).port), "127.0.0.1");
    slow.write(`GET /blobs/${sha256} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ticketFor()}\r\n\r\n`);
    await once(slow, "readable");
    const metrics = () => relay.metrics().match(/requests_under_way (\d)/)?.[1];
    expect(metrics()).toBe("1");
    await until(() => metrics() === "0");
    slow.destroy();
  });
});

describe("a shard under way", () => {
  /** An origin that sends `sha256` up to a byte and goes on when told. */
  async function halting(published: Awaited<ReturnType<typeof checkpointOf>>, sha256: string, upTo: number) {
    const origin = await stage.source(published);
    const go = gate();
    origin.instead = (_req, res, asked) => {
      const bytes = origin.blobs.get(asked);
      if (asked !== sha256 || !bytes) return false;
      res.writeHead(200, { "content-length": bytes.length });
      res.write(bytes.subarray(0, upTo));
      void go.opened.then(() => res.end(bytes.subarray(upTo)));
      return true;
    };
    return { origin, go: go.open };
  }

  test("is passed on while it arrives, through two relays, but for its last 64 KiB", async () => {
    const published = await checkpointOf(0, { size: 1_200_000, shardBytes: 400_000 });
    const { sha256 = "", bytes = new Uint8Array() } = published.shards[0] ?? {};
    const { origin, go } = await halting(published, sha256, 399_999);
    const upper = await stage.relay({ origin });
    const lower = await stage.relay({ origin });
    upper.assign(assignmentOf([published]));
    lower.assign(assignmentOf([published], { id: relayName, url: upper.url }));
    let arrived = 0;
    const whole = askBlob(lower, sha256, {
      onBytes: (piece) => {
        arrived += piece.length;
      },
    });
    await until(() => arrived === 400_000 - withheld);
    const end = askBlob(lower, sha256, { headers: { range: "bytes=300000-" } });
    const head = await askBlob(lower, sha256, { method: "HEAD" });
    expect([head.status, head.headers["content-length"]]).toEqual([200, "400000"]);
    expect(arrived).toBe(400_000 - withheld);
    go();
    const got = await whole;
    expect([got.status, got.complete, sha(got.bytes)]).toEqual([200, true, sha256]);
    const rest = await end;
    expect([rest.status, rest.headers["content-range"]]).toEqual([206, "bytes 300000-399999/400000"]);
    expect(rest.bytes).toEqual(Buffer.from(bytes.subarray(300_000)));
    await held(lower, published);
    expect(origin.asked.filter((asked) => asked.sha256 === sha256)).toHaveLength(1);
  });

  /** A server that sends a wrong shard, its second half when told. */
  async function lying(published: Awaited<ReturnType<typeof checkpointOf>>, sha256: string) {
    const liar = await stage.source(published);
    const go = gate();
    liar.instead = (_req, res, asked) => {
      if (asked !== sha256) return false;
      const wrong = Uint8Array.from(liar.blobs.get(asked) ?? [], (byte, i) => (i === 7 ? byte ^ 1 : byte));
      res.writeHead(200, { "content-length": wrong.length });
      res.write(wrong.subarray(0, 200_000));
      void go.opened.then(() => res.end(wrong.subarray(200_000)));
      return true;
    };
    return { id: relayId(), url: liar.url, go: go.open };
  }

  test("is never completed when it is not what it should be, nor is a part of it", async () => {
    const published = await checkpointOf(0, { size: 1_200_000, shardBytes: 400_000 });
    const { sha256 = "" } = published.shards[1] ?? {};
    const liar = await lying(published, sha256);
    const honest = await stage.source(published);
    const relay = await stage.relay({ origin: honest });
    relay.assign(assignmentOf([published], liar));
    let arrived = 0;
    const whole = askBlob(relay, sha256, {
      onBytes: (piece) => {
        arrived += piece.length;
      },
    });
    const parts = ["bytes=0-99", "bytes=0-99999"].map((range) =>
      askBlob(relay, sha256, { headers: { range } }),
    );
    await until(() => arrived > 100_000 && relay.metrics().includes("requests_under_way 3\n"));
    liar.go();
    const got = await Promise.all([whole, ...parts]);
    expect(got.map(({ status, complete }) => [status, complete])).toEqual([
      [200, false],
      [206, false],
      [206, false],
    ]);
    expect(got[0]?.bytes.length).toBeLessThanOrEqual(400_000 - withheld);
    await held(relay, published);
    expect(sha((await askBlob(relay, sha256)).bytes)).toBe(sha256);
    expect(relay.events.filter(({ type }) => type === "fault")).toMatchObject([
      { source: liar.id, sha256, fault: "CORRUPT", manifest: published.checkpoint.hash },
    ]);
    expect(relay.metrics()).toContain("muster_relay_wasted_bytes_total 400000\n");
  });

  test("that a parent was cheated with costs its children that shard, and the origin nothing", async () => {
    const published = await checkpointOf(0, { size: 1_200_000, shardBytes: 400_000 });
    const { sha256 = "" } = published.shards[1] ?? {};
    const liar = await lying(published, sha256);
    const middle = await stage.relay({ origin: await stage.source(published) });
    middle.assign(assignmentOf([published], liar));
    const origin = await stage.source(published);
    const lower = await stage.relay({ origin });
    lower.assign(assignmentOf([published], { id: relayName, url: middle.url }));
    let arrived = 0;
    const reader = askBlob(lower, sha256, {
      onBytes: (piece) => {
        arrived += piece.length;
        if (arrived > 100_000) liar.go();
      },
    });
    expect((await reader).complete).toBe(false);
    await held(lower, published);
    expect(origin.asked).toEqual([]);
    expect(lower.events.filter((event) => event.type === "fault" && event.fault === "CORRUPT")).toEqual([]);
    expect(lower.broughtBy(published.checkpoint.hash)).toEqual(new Map([[relayName, 1_200_002]]));
    expect([...(middle.broughtBy(published.checkpoint.hash)?.keys() ?? [])].toSorted()).toEqual(
      [liar.id, null].toSorted(),
    );
  });

  test("goes on where a parent broke off, and its readers do not notice", async () => {
    const published = await checkpointOf(0, { size: 1_200_000, shardBytes: 400_000 });
    const { sha256 = "" } = published.shards[0] ?? {};
    const parent = await stage.source(published);
    const reading = gate();
    let broken = 0;
    parent.instead = (_req, res, asked) => {
      const bytes = parent.blobs.get(asked);
      if (asked !== sha256 || !bytes || broken++ > 0) return false;
      res.writeHead(200, { "content-length": bytes.length });
      res.write(bytes.subarray(0, 150_000), () => void reading.opened.then(() => res.destroy()));
      return true;
    };
    const relay = await stage.relay();
    relay.assign(assignmentOf([published], parent));
    let arrived = 0;
    const got = await askBlob(relay, sha256, {
      onBytes: (piece) => {
        arrived += piece.length;
        if (arrived === 150_000) reading.open();
      },
    });
    expect([got.complete, sha(got.bytes)]).toEqual([true, sha256]);
    expect(parent.asked.filter((asked) => asked.sha256 === sha256).map(({ range }) => range)).toEqual([
      undefined,
      "bytes=150000-",
    ]);
    await held(relay, published);
    expect(relay.metrics()).toContain("muster_relay_wasted_bytes_total 0\n");
  });

  test("that was not begun comes next when somebody asks for it", async () => {
    const published = await checkpointOf(0);
    const first = published.shards[0]?.sha256 ?? "";
    const last = published.shards[5]?.sha256 ?? "";
    const { origin, go } = await halting(published, first, 10);
    const relay = await stage.relay({ origin, connections: 1 });
    relay.assign(assignmentOf([published]));
    await until(() => origin.asked.some(({ sha256 }) => sha256 === first));
    const got = askBlob(relay, last);
    // the request is there before the first shard is through
    await until(() => relay.metrics().includes("requests_under_way 1"));
    go();
    expect(sha((await got).bytes)).toBe(last);
    const shards = origin.asked
      .map(({ sha256 }) => sha256)
      .filter((hash) => hash !== published.checkpoint.hash);
    expect(shards.slice(0, 2)).toEqual([first, last]);
  });

  test("that does not begin in time is answered with when to ask again", async () => {
    const published = await checkpointOf(0);
    const first = published.shards[0]?.sha256 ?? "";
    const { origin } = await halting(published, first, 10);
    const relay = await stage.relay({ origin, connections: 1, limits: { waitMs: 50 } });
    relay.assign(assignmentOf([published]));
    await until(() => origin.asked.some(({ sha256 }) => sha256 === first));
    const { status, headers } = await askBlob(relay, published.shards[5]?.sha256 ?? "");
    expect([status, headers["retry-after"]]).toEqual([503, "1"]);
  });
});

describe("where it pulls from", () => {
  test("a parent is shown its ticket, the origin the node's token, renewed when it is refused", async () => {
    const published = await checkpointOf(0);
    const parent = await stage.source(published);
    const origin = await stage.source(published);
    parent.instead = (_req, res) => res.writeHead(403).end();
    origin.instead = (req, res) =>
      req.headers.authorization === "Bearer fresh" ? false : res.writeHead(401).end();
    const relay = await stage.relay({
      origin: { url: origin.url, token: (refused) => (refused === "stale" ? "fresh" : "stale") },
      connections: 1,
      parentAttempts: 2,
    });
    const assignment = assignmentOf([published], parent);
    relay.assign(assignment);
    await held(relay, published);
    expect(parent.asked.map(({ authorization }) => authorization)).toEqual([
      `Bearer ${assignment.ticket}`,
      `Bearer ${assignment.ticket}`,
    ]);
    expect(relay.events).toContainEqual(expect.objectContaining({ type: "fault", fault: "REFUSED" }));
  });

  test("an origin may send it to a bucket, which does not see the token", async () => {
    const published = await checkpointOf(0);
    const bucket = await stage.source(published);
    const origin = await stage.source();
    origin.instead = (_req, res, sha256) =>
      res.writeHead(307, { location: `${bucket.url}/some/where/${sha256}` }).end();
    const relay = await stage.relay({ origin: { url: origin.url, token: () => "secret" } });
    relay.assign(assignmentOf([published]));
    await held(relay, published);
    expect(new Set(origin.asked.map(({ authorization }) => authorization))).toEqual(
      new Set(["Bearer secret"]),
    );
    expect(new Set(bucket.asked.map(({ authorization }) => authorization))).toEqual(new Set([undefined]));
  });

  test("a manifest of another run, or with a signature that is not its trainer's, is not relayed", async () => {
    const foreign = await checkpointOf(0, { run: toTypeId("run", newId("run")) });
    const forged = await checkpointOf(1, { key: generateKeyPairSync("ed25519").privateKey });
    const origin = await stage.source(foreign, forged);
    const relay = await stage.relay({ origin });
    relay.assign(assignmentOf([forged, foreign]));
    await until(() => relay.events.length >= 2);
    expect(relay.events.map((event) => event.type === "fault" && event.fault)).toEqual([
      "CORRUPT",
      "CORRUPT",
    ]);
    expect(relay.health()).toMatchObject({ newestVersion: null, heldBytes: 0 });
    expect(new Set(origin.asked.map(({ sha256 }) => sha256))).toEqual(
      new Set([foreign.checkpoint.hash, forged.checkpoint.hash]),
    );
  });
});

describe("what it keeps", () => {
  test("the newest versions within the budget; what they share stays; what is being read goes afterwards", async () => {
    const versions = [await checkpointOf(0)];
    for (let version = 1; version < 4; version++)
      versions.push(await checkpointOf(version, { ...(versions[0] ? { like: versions[0] } : {}) }));
    const [v0, v1, v2, v3] = versions as [
      (typeof versions)[0],
      (typeof versions)[0],
      (typeof versions)[0],
      (typeof versions)[0],
    ];
    const origin = await stage.source(...versions);
    const relay = await stage.relay({ origin, maxVersions: 2 });
    relay.assign(assignmentOf([v1, v0]));
    await held(relay, v0);
    await held(relay, v1);
    const own = v0.shards[5]?.sha256 ?? "";
    const shared = v0.shards[0]?.sha256 ?? "";
    expect((await askBlob(relay, own)).status).toBe(200);
    relay.assign(assignmentOf([v2, v1, v0]));
    await held(relay, v2);
    expect((await askBlob(relay, own)).status).toBe(404);
    expect((await askBlob(relay, v0.checkpoint.hash)).status).toBe(404);
    expect((await askBlob(relay, shared)).status).toBe(200);
    expect(origin.asked.filter(({ sha256 }) => sha256 === shared)).toHaveLength(1);
    expect(relay.events.filter(({ type }) => type === "dropped")).toMatchObject([{ version: 0 }]);
    // one version and the odd shard of another: no room for two
    const tight = await stage.relay({ origin, budgetBytes: 1_300_000 });
    tight.assign(assignmentOf([v3, v2]));
    await held(tight, v3);
    await until(() => tight.events.some(({ type }) => type === "too-large"));
    expect(tight.health()).toMatchObject({ newestVersion: 3 });
    expect(tight.health().heldBytes).toBeLessThan(1_300_000);
  });

  test("a blob that goes while it is read is read to its end", async () => {
    const old = await checkpointOf(0, { size: 24_000_000, shardBytes: 24_000_000 });
    const next = await checkpointOf(1);
    const { relay, origin } = await holding(old, { maxVersions: 1 });
    for (const [sha256, bytes] of (await stage.source(next)).blobs) origin.blobs.set(sha256, bytes);
    const { sha256 = "" } = old.shards[0] ?? {};
    const socket = connect(Number(new URL(relay.url).port), "127.0.0.1");
    socket.write(`GET /blobs/${sha256} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ticketFor()}\r\n\r\n`);
    await once(socket, "readable");
    relay.assign(assignmentOf([next, old]));
    await held(relay, next);
    expect((await askBlob(relay, sha256)).status).toBe(404);
    let length = 0;
    for await (const piece of socket as AsyncIterable<Buffer>) {
      length += piece.length;
      if (length > 24_000_000) break;
    }
    expect(length).toBeGreaterThan(24_000_000);
    await until(() => relay.health().heldBytes < 2_000_000);
  });

  test("after kill -9 what was verified is there, and nothing else", async () => {
    const published = await checkpointOf(0);
    const origin = await stage.source(published);
    const dir = await stage.folder();
    const third = published.shards[2]?.sha256 ?? "";
    origin.instead = (_req, res, sha256) => {
      const bytes = origin.blobs.get(sha256);
      if (sha256 !== third || !bytes) return false;
      res.writeHead(200, { "content-length": bytes.length });
      res.write(bytes.subarray(0, 190_000));
      return true;
    };
    const child = spawn(
      process.execPath,
      [
        fileURLToPath(new URL("relay-process.ts", import.meta.url)),
        dir,
        origin.url,
        JSON.stringify(assignmentOf([published])),
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    const [first] = (await once(child.stdout, "data")) as [Buffer];
    await until(() => origin.asked.some(({ sha256 }) => sha256 === third));
    let arrived = 0;
    const reader = askBlob({ url: first.toString().trim() }, third, {
      onBytes: (piece) => {
        arrived += piece.length;
      },
    });
    await until(() => arrived === 200_000 - withheld);
    child.kill("SIGKILL");
    await once(child, "exit");
    expect((await reader).complete).toBe(false);
    expect(await readdir(join(dir, "tmp"))).toHaveLength(1);
    // what nobody wrote here under its hash is not served either
    await writeFile(join(dir, "blobs", "stray"), "stray");
    const before = origin.asked.length;
    origin.instead = () => false;
    const relay = await stage.relay({ dir, origin });
    expect(await readdir(join(dir, "tmp"))).toEqual([]);
    relay.assign(assignmentOf([published]));
    await held(relay, published);
    const again = origin.asked.slice(before).map(({ sha256 }) => sha256);
    const kept = [published.checkpoint.hash, ...published.shards.slice(0, 2).map(({ sha256 }) => sha256)];
    expect(again.filter((sha256) => kept.includes(sha256))).toEqual([]);
    expect(again).toContain(third);
    for (const [sha256, bytes] of origin.blobs)
      expect((await askBlob(relay, sha256)).bytes.equals(bytes)).toBe(true);
    // any static server can have the folder
    const path = join(dir, "blobs", third.slice(0, 2), third);
    expect(sha(await readFile(path))).toBe(third);
    expect((await stat(path)).mode & 0o044).toBe(0o044);
  });

  test("after a loss of power everything is hashed again, and what is damaged is fetched", async () => {
    const published = await checkpointOf(0);
    const dir = await stage.folder();
    const { relay, origin } = await holding(published, { dir });
    await relay.close();
    const damaged = published.shards[1]?.sha256 ?? "";
    const path = join(dir, "blobs", damaged.slice(0, 2), damaged);
    const bytes = await readFile(path);
    bytes[9] = (bytes[9] ?? 0) ^ 1;
    await writeFile(path, bytes);
    // as a relay of an earlier boot leaves it that did not end in order
    await writeFile(join(dir, "boot"), "1000");
    const before = origin.asked.length;
    const later = await stage.relay({ dir, origin });
    later.assign(assignmentOf([published]));
    await held(later, published);
    expect(origin.asked.slice(before).map(({ sha256 }) => sha256)).toEqual([damaged]);
  });
});
