import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, request } from "node:http";
import type { AddressInfo } from "node:net";
import {
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { newId, toTypeId } from "@muster/protocol";
import { createClient } from "@muster/sdk";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createS3Store } from "../src/blobs/s3.ts";
import { readConfig } from "../src/config.ts";
import { createLogger } from "../src/log.ts";
import { smallSpec } from "./runkit.ts";
import { startS3, type TestS3 } from "./s3kit.ts";
import { startTestServer, type TestNode, type TestOrganization, type TestServer, until } from "./testkit.ts";

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const keyOf = (sha256: string) => `${sha256.slice(0, 2)}/${sha256}`;

let s3: TestS3;
let gate: Gate;
beforeAll(async () => {
  s3 = await startS3();
  gate = await openGate(s3.options().endpoint);
});
afterEach(() => gate.calm());
afterAll(async () => {
  await gate?.close();
  await s3?.stop();
});

type Passed = { method: string; path: string; query: string; headers: IncomingHttpHeaders };
type Gate = Awaited<ReturnType<typeof openGate>>;

/** A proxy before the store that hears what is asked, can hold a request back, cut its answer short, and answer in the store's stead. */
async function openGate(endpoint: string) {
  const passed: Passed[] = [];
  const calmly = async (
    _: Passed,
  ): Promise<{ status: number; body: string } | { cutAfter: number } | undefined> => undefined;
  let before = calmly;
  const server = createServer((req: IncomingMessage, res) => {
    const [path = "", query = ""] = (req.url ?? "").split("?");
    const seen = { method: req.method ?? "", path, query, headers: req.headers };
    passed.push(seen);
    before(seen).then(
      (told) => {
        if (told !== undefined && "status" in told) {
          req.resume().once("end", () => res.writeHead(told.status).end(told.body));
          return;
        }
        // The Host header stays: it is signed.
        const onward = request(
          endpoint + req.url,
          { method: seen.method, headers: req.headers },
          (answer) => {
            res.writeHead(answer.statusCode ?? 500, answer.headers);
            if (told === undefined) return answer.pipe(res);
            answer.once("data", (chunk: Buffer) =>
              res.write(chunk.subarray(0, told.cutAfter), () => res.destroy()),
            );
          },
        );
        onward.on("error", () => res.destroy());
        req.pipe(onward);
      },
      () => res.destroy(),
    );
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    passed,
    /** Hears of each request before it goes on. */
    onRequest(listener: typeof calmly) {
      before = listener;
    },
    calm() {
      before = calmly;
      passed.length = 0;
    },
    async close() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

const newStore = (prefix: string) => createS3Store({ ...s3.options(prefix), publicEndpoint: gate.url });

describe("the S3 store", () => {
  test("a blob of many parts comes back whole and in ranges", async () => {
    const store = await newStore("parts/");
    const bytes = randomBytes(33 * 1024 * 1024 + 17);
    const sha256 = hashOf(bytes);
    async function* pieces() {
      for (let at = 0; at < bytes.length; at += 1_000_000) yield bytes.subarray(at, at + 1_000_000);
    }
    expect(await store.put(sha256, pieces(), { maxBytes: bytes.length })).toEqual({ size: bytes.length });
    expect(await store.size(sha256)).toBe(bytes.length);
    expect(hashOf(await store.read(sha256))).toBe(sha256);
    const { size, stream } = await store.open(sha256, { start: 16_777_200, end: 16_777_300 });
    expect(size).toBe(bytes.length);
    expect(Buffer.concat(await stream.toArray())).toEqual(bytes.subarray(16_777_200, 16_777_301));
    expect(await readdir(s3.options().drafts)).toEqual([]);
  });

  test("a store that is asked to keep what was not received says so, and nothing is visible", async () => {
    const store = await newStore("other/");
    const [bytes, other] = [randomBytes(500), randomBytes(500)];
    const put = store.put(hashOf(other), streamOf(bytes), { maxBytes: 500 });
    await expect(put).rejects.toMatchObject({ code: "BLOB_HASH_MISMATCH" });
    const long = store.put(hashOf(bytes), streamOf(bytes), { maxBytes: 499 });
    await expect(long).rejects.toMatchObject({ code: "BLOB_TOO_LARGE" });
    expect([await store.has(hashOf(other)), await store.has(hashOf(bytes))]).toEqual([false, false]);
    expect(await readdir(s3.options().drafts)).toEqual([]);
  });

  test("every object names its hash for the store to check, and a strict one refuses others", async () => {
    const store = await createS3Store({ ...s3.options("sums/"), endpoint: gate.url });
    gate.calm();
    const bytes = randomBytes(20 * 1024 * 1024);
    await store.put(hashOf(bytes), streamOf(bytes), { maxBytes: bytes.length });
    const sent = gate.passed.filter(({ method }) => method === "PUT");
    const parts = [bytes.subarray(0, 16 * 1024 * 1024), bytes.subarray(16 * 1024 * 1024)];
    expect(
      sent.map(({ headers }) => [headers["x-amz-checksum-sha256"], headers["x-amz-content-sha256"]]),
    ).toEqual(parts.map((part) => [Buffer.from(hashOf(part), "hex").toString("base64"), hashOf(part)]));
    if (!s3.strict) return;
    const wrong = new PutObjectCommand({
      Bucket: s3.bucket,
      Key: "wrong",
      Body: "abc",
      ChecksumSHA256: createHash("sha256").update("abd").digest("base64"),
    });
    await expect(s3.client.send(wrong)).rejects.toMatchObject({ name: "BadDigest" });
  });

  test("more blobs than a page of the store's list holds are all listed, with others' objects left out", async () => {
    const store = await newStore("list/");
    const hashes = Array.from({ length: 1_005 }, (_, i) => hashOf(Buffer.from(String(i))));
    const Bucket = s3.bucket;
    await s3.client.send(new PutObjectCommand({ Bucket, Key: "list/readme.txt", Body: "not a blob" }));
    await s3.client.send(
      new PutObjectCommand({ Bucket, Key: `list/00/${"f".repeat(64)}`, Body: "nor this" }),
    );
    for (let at = 0; at < hashes.length; at += 50)
      await Promise.all(
        hashes
          .slice(at, at + 50)
          .map((sha256) =>
            s3.client.send(new PutObjectCommand({ Bucket, Key: `list/${keyOf(sha256)}`, Body: "1" })),
          ),
      );
    const found: string[] = [];
    for await (const { sha256, storedAt } of store.list()) {
      found.push(sha256);
      expect(Math.abs(storedAt.getTime() - Date.now())).toBeLessThan(120_000);
    }
    expect(found.sort()).toEqual(hashes.sort());
  });

  test("an object with other bytes than its name is not taken for the blob", async () => {
    const store = await newStore("forged/");
    const sha256 = await store.putBytes(randomBytes(100));
    await s3.client.send(
      new PutObjectCommand({ Bucket: s3.bucket, Key: `forged/${keyOf(sha256)}`, Body: randomBytes(100) }),
    );
    await expect(store.read(sha256)).rejects.toThrow("other bytes");
  });

  test("a name that is no hash never becomes a key", async () => {
    const store = await newStore("names/");
    for (const name of ["../../../etc/passwd", "", "A".repeat(64), `${"a".repeat(63)}/`])
      await expect(store.read(name)).rejects.toMatchObject({ code: "BLOB_NOT_FOUND" });
    await expect(store.read("a".repeat(64))).rejects.toMatchObject({ code: "BLOB_NOT_FOUND" });
  });

  test("a signed address is good for its blob for ten minutes, without a word of who signed it in any header", async () => {
    const store = await newStore("signed/");
    const bytes = randomBytes(1_000);
    const url = new URL((await store.signedUrl?.(await store.putBytes(bytes))) ?? "");
    expect(url.origin).toBe(gate.url);
    expect(Number(url.searchParams.get("X-Amz-Expires"))).toBeLessThanOrEqual(900);
    const answer = await fetch(url);
    expect(Buffer.from(await answer.arrayBuffer())).toEqual(bytes);
    expect(answer.headers.get("content-disposition")).toBe(`attachment; filename="${hashOf(bytes)}"`);
    if (!s3.strict) return;
    const other = new URL(url);
    other.pathname = other.pathname.replace(hashOf(bytes), hashOf(Buffer.from("other")));
    expect((await fetch(other)).status).toBe(403);
  });
});

describe("deleting from S3", () => {
  const later = () => new Date(Date.now() + 5_000);

  test("a blob stored again while it is being deleted is there in the end", async () => {
    const store = await createS3Store({ ...s3.options("race/"), endpoint: gate.url });
    const bytes = randomBytes(400);
    const sha256 = await store.putBytes(bytes);
    const { held, release } = hold(({ method, path }) => method === "DELETE" && path.endsWith(keyOf(sha256)));
    const deleted = store.deleteOlder(sha256, later());
    await held;
    let said = false;
    const stored = store.put(sha256, streamOf(bytes), { maxBytes: 400 }).then(() => {
      said = true;
    });
    // It has been sent, and would be taken away again: so it is not said to be stored.
    const looks = () =>
      gate.passed.filter(({ method, path }) => method === "HEAD" && path.includes("/deleting/"));
    await until(() => looks().length === 3);
    expect(said).toBe(false);
    release();
    expect(await deleted).toBe(true);
    await stored;
    expect(Buffer.from(await store.read(sha256))).toEqual(bytes);
  });

  test("a blob stored again before its time is looked at stays", async ({ skip }) => {
    if (s3.strict) skip("Its objects cannot be made older.");
    const deleter = await createS3Store({ ...s3.options("race/"), endpoint: gate.url });
    const store = await newStore("race/");
    const bytes = randomBytes(400);
    const sha256 = await store.putBytes(bytes);
    await s3.age(`race/${keyOf(sha256)}`, new Date(Date.now() - 7_200_000));
    const { held, release } = hold(({ method, path }) => method === "PUT" && path.includes("/deleting/"));
    const deleted = deleter.deleteOlder(sha256, new Date(Date.now() - 3_600_000));
    await held;
    await store.put(sha256, streamOf(bytes), { maxBytes: 400 });
    release();
    expect(await deleted).toBe(false);
    expect(await store.has(sha256)).toBe(true);
  });

  test("what is old goes, what is gone is gone, what is young stays, and no note stays", async () => {
    const store = await newStore("old/");
    const sha256 = await store.putBytes(randomBytes(10));
    expect(await store.deleteOlder(sha256, new Date(Date.now() - 3_600_000))).toBe(false);
    expect(await store.deleteOlder(sha256, later())).toBe(true);
    expect(await store.has(sha256)).toBe(false);
    expect(await store.deleteOlder(sha256, later())).toBe(true);
    expect(await store.sweep(-60_000)).toBe(0);
  });

  test("parts of an upload that never ended are swept", async ({ skip }) => {
    if (!s3.strict) skip("It has no list of uploads; a bucket's lifecycle ends them.");
    const store = await newStore("swept/");
    const target = { Bucket: s3.bucket, Key: `swept/${keyOf("a".repeat(64))}` };
    const { UploadId } = await s3.client.send(new CreateMultipartUploadCommand(target));
    await s3.client.send(new UploadPartCommand({ ...target, UploadId, PartNumber: 1, Body: "part" }));
    expect(await store.sweep(3_600_000)).toBe(0);
    expect(await store.sweep(-60_000)).toBe(1);
    const { Uploads = [] } = await s3.client.send(new ListMultipartUploadsCommand({ Bucket: s3.bucket }));
    expect(Uploads).toEqual([]);
  });

  function hold(which: (passed: Passed) => boolean) {
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const held = new Promise<void>((resolve) => {
      gate.onRequest(async (passed) => {
        if (!which(passed)) return undefined;
        resolve();
        await released;
        return undefined;
      });
    });
    return { held, release };
  }
});

describe("when the store fails", () => {
  test("what it says becomes a code, and neither secret nor request is quoted", async () => {
    const store = await createS3Store({ ...s3.options("down/"), endpoint: gate.url });
    const sha256 = await store.putBytes(randomBytes(10));
    const { secretAccessKey } = s3.options();
    const says = (status: number, code: string) =>
      gate.onRequest(async ({ headers }) => ({
        status,
        body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>no: ${secretAccessKey}</Message><StringToSign>${headers.authorization}</StringToSign></Error>`,
      }));
    const failures: unknown[] = [];
    const failure = async (work: Promise<unknown>) => {
      const error = await work.then(
        () => new Error("it went well"),
        (error: unknown) => error,
      );
      failures.push(error);
      return error;
    };
    says(403, "SignatureDoesNotMatch");
    const refused = { code: "NOT_READY", retryable: true, status: 503 };
    expect(await failure(store.putBytes(randomBytes(10)))).toMatchObject(refused);
    expect(await failure(store.read(sha256))).toMatchObject(refused);
    expect(await failure(store.size(sha256))).toMatchObject(refused);
    says(507, "XMinioStorageFull");
    expect(await failure(store.putBytes(randomBytes(10)))).toMatchObject({
      code: "STORAGE_FULL",
      retryable: true,
    });
    says(404, "NoSuchBucket");
    expect(await failure(store.read(sha256))).toMatchObject(refused);
    gate.onRequest(async () => ({ cutAfter: 5 }));
    const { stream } = await store.open(sha256);
    expect(await failure(stream.toArray())).toMatchObject(refused);
    const lines: string[] = [];
    const log = createLogger("trace", { write: (line: string) => void lines.push(line) });
    for (const error of failures) log.error({ err: error }, "failed");
    expect(lines.join()).toContain("SignatureDoesNotMatch");
    expect(lines.join()).not.toContain(secretAccessKey);
    expect(lines.join()).not.toContain("Signature=");
  });

  test("a disk without room for what is on its way is told as STORAGE_FULL", async () => {
    const store = await newStore("full/");
    const bytes = randomBytes(1_000);
    async function* source() {
      yield bytes.subarray(0, 500);
      // What the system says when a write finds no room.
      throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
    }
    await expect(store.put(hashOf(bytes), source(), { maxBytes: 1_000 })).rejects.toMatchObject({
      code: "STORAGE_FULL",
      retryable: true,
    });
    expect(await readdir(s3.options().drafts)).toEqual([]);
  });

  test("a coordinator with a wrong store says in one line which variable to set, and no secret", async () => {
    const refusal = async (change: Partial<ReturnType<TestS3["options"]>>) => {
      const { message } = await createS3Store({ ...s3.options(), ...change }).then(
        () => new Error("it went well"),
        (error: Error) => error,
      );
      expect(message).not.toMatch(/\n|guessed-wrong|S3RVER-secret/);
      return message;
    };
    expect(await refusal({ bucket: "nobody-has-this" })).toMatch(
      /^S3_BUCKET: there is no bucket nobody-has-this .* \(NoSuchBucket\)\. Make it/,
    );
    expect(await refusal({ accessKeyId: "nobody" })).toMatch(/^S3_ACCESS_KEY_ID: .* does not know the key/);
    expect(await refusal({ endpoint: "http://127.0.0.1:9" })).toMatch(
      /^S3_ENDPOINT: .* cannot be reached \(ECONNREFUSED\)\. Start/,
    );
    if (s3.strict) {
      expect(await refusal({ secretAccessKey: "guessed-wrong" })).toMatch(/^S3_SECRET_ACCESS_KEY: /);
      expect(await refusal({ region: "eu-west-1" })).toMatch(/^S3_REGION: /);
    }
    gate.onRequest(async ({ method }) =>
      method === "DELETE"
        ? { status: 403, body: "<Error><Code>AccessDenied</Code><Message>no</Message></Error>" }
        : undefined,
    );
    expect(await refusal({ endpoint: gate.url })).toMatch(/may not s3:DeleteObject on .* policy in docs/);
  });

  test("half a configuration is refused, and names what is missing", () => {
    const env = { DATABASE_URL: "postgresql://x", MUSTER_SECRET: "a secret for tests that nobody else uses" };
    expect(() => readConfig({ ...env, S3_BUCKET: "b", S3_ACCESS_KEY_ID: "id" })).toThrow(
      /S3_ENDPOINT: set it as well, because S3_BUCKET is set\nS3_SECRET_ACCESS_KEY: set it as well/,
    );
    const whole = {
      ...env,
      S3_ENDPOINT: "https://s3.example/",
      S3_BUCKET: "b",
      S3_ACCESS_KEY_ID: "id",
      S3_SECRET_ACCESS_KEY: "secret",
    };
    expect(readConfig({ ...whole, S3_PREFIX: "muster/blobs" })).toMatchObject({
      s3Endpoint: "https://s3.example",
      s3Prefix: "muster/blobs/",
      s3Region: "us-east-1",
      s3Presign: true,
    });
    expect(() => readConfig({ ...whole, S3_ENDPOINT: "https://id:key@s3.example" })).toThrow(
      "S3_ENDPOINT: leave the key out of the URL",
    );
    expect(() => readConfig({ ...whole, S3_PREFIX: "../x" })).toThrow("S3_PREFIX: ");
  });
});

describe("a coordinator whose blobs are in S3", () => {
  let server: TestServer;
  let organization: TestOrganization;
  let node: TestNode;
  const lines: string[] = [];
  beforeAll(async () => {
    server = await startTestServer({
      config: { ...s3.config("run/"), s3PublicEndpoint: gate.url },
      loops: [],
      log: createLogger("trace", { write: (line: string) => void lines.push(line) }),
    });
    organization = await server.organization();
    node = await server.node();
  });
  afterAll(() => server?.stop());

  /** What a node uploads for a task it holds, and then any node of the run may read. */
  async function upload(bytes: Buffer<ArrayBuffer>): Promise<string> {
    const run = await server.prisma.run.create({
      data: {
        organizationId: organization.id,
        slug: newId(),
        name: "run",
        environment: "muster/sort-digits@1",
        baseKind: "warmup",
        stepLimit: 1,
        open: true,
        revisions: {
          create: {
            organizationId: organization.id,
            number: 1,
            spec: JSON.parse(JSON.stringify(smallSpec())),
            hash: "none",
          },
        },
      },
    });
    const of = { organizationId: organization.id, runId: run.id };
    const leaseUntil = new Date(Date.now() + 60_000);
    const lease = { leaseNodeId: node.id, leaseUntil, revision: 1, attempt: 1, payload: {} };
    const task = await server.prisma.task.create({
      data: { ...of, ...lease, kind: "TRAIN", state: "LEASED" },
    });
    await server.prisma.attempt.create({
      data: { ...of, taskId: task.id, number: 1, nodeId: node.id, leaseUntil },
    });
    const client = createClient({ url: server.url, token: node.token });
    const at = { task: toTypeId("task", task.id), attempt: 1 };
    const sha256 = await client.blobs.put({ body: bytes, lease: at, kind: "SHARD" });
    await server.prisma.packReference.create({ data: { ...of, sha256, subject: run.id, kind: "SHARD" } });
    return sha256;
  }

  test("what a node uploads, another downloads from the store, which hears nothing of its token", async () => {
    const bytes = randomBytes(3_000_000);
    const sha256 = await upload(bytes);
    const reader = await server.node();
    const client = createClient({ url: server.url, token: reader.token });
    gate.calm();
    expect(Buffer.from(await client.blobs.get({ sha256 }))).toEqual(bytes);
    expect(gate.passed).toHaveLength(1);
    const [{ path, query, headers }] = gate.passed as [Passed];
    expect(path).toBe(`/${s3.bucket}/run/${keyOf(sha256)}`);
    expect(query).toContain("X-Amz-Signature=");
    expect(headers.authorization).toBeUndefined();
    expect(JSON.stringify(headers)).not.toContain(reader.token);
  });

  test("a download that breaks off goes on where it stopped, and other bytes than those named are refused", async () => {
    const bytes = randomBytes(500_000);
    const sha256 = await upload(bytes);
    const client = createClient({ url: server.url, token: node.token });
    let cut = false;
    gate.onRequest(async ({ headers }) => {
      if (cut || headers.range !== undefined) return undefined;
      cut = true;
      return { cutAfter: 10_000 };
    });
    expect(Buffer.from(await client.blobs.get({ sha256 }))).toEqual(bytes);
    expect(gate.passed.map(({ headers }) => headers.range)).toEqual([undefined, "bytes=10000-"]);
    await s3.client.send(
      new PutObjectCommand({ Bucket: s3.bucket, Key: `run/${keyOf(sha256)}`, Body: randomBytes(500_000) }),
    );
    await expect(client.blobs.get({ sha256 })).rejects.toMatchObject({ code: "HASH_MISMATCH" });
  });

  test("who may not read gets no address; what is there already, HEAD, API keys and scripts are answered here", async () => {
    const bytes = randomBytes(1_000);
    const sha256 = await upload(bytes);
    const ask = (headers: Record<string, string>, method = "GET") =>
      fetch(`${server.url}/blobs/${sha256}`, { method, headers, redirect: "manual" });
    const stranger = await server.organization();
    expect((await ask({})).status).toBe(401);
    expect((await ask(stranger.owner.headers)).status).toBe(404);
    const sent = await ask(node.headers);
    expect([sent.status, sent.headers.get("cache-control")]).toEqual([307, "no-store"]);
    expect(sent.headers.get("location")).toContain(`${gate.url}/${s3.bucket}/run/${keyOf(sha256)}?`);
    expect((await ask({ ...node.headers, "if-none-match": `"${sha256}"` })).status).toBe(304);
    const head = await ask(node.headers, "HEAD");
    expect([head.status, head.headers.get("content-length")]).toEqual([200, "1000"]);
    const { key } = await server.apiKey(organization, ["run:read"]);
    const byKey = await ask({ "x-api-key": key });
    expect(Buffer.from(await byKey.arrayBuffer())).toEqual(bytes);
    const part = await ask({ "x-api-key": key, range: "bytes=-10" });
    expect([part.status, part.headers.get("content-range")]).toEqual([206, "bytes 990-999/1000"]);
    expect(Buffer.from(await part.arrayBuffer())).toEqual(bytes.subarray(990));
    expect((await ask(organization.owner.headers)).status).toBe(200);
    expect((await rawStatus({ ...organization.owner.headers, "sec-fetch-mode": "navigate" })).status).toBe(
      307,
    );

    /** `fetch` sets this header itself. */
    async function rawStatus(headers: Record<string, string>) {
      const asked = request(`${server.url}/blobs/${sha256}`, { headers });
      asked.end();
      const [answer] = (await once(asked, "response")) as [IncomingMessage];
      answer.resume();
      return { status: answer.statusCode };
    }
  });

  test("a blob that is not in the store is answered as gone, not as an address", async () => {
    const sha256 = await upload(randomBytes(100));
    await server.services.blobs.deleteOlder(sha256, new Date(Date.now() + 5_000));
    const client = createClient({ url: server.url, token: node.token });
    await expect(client.blobs.get({ sha256 })).rejects.toMatchObject({ code: "BLOB_NOT_FOUND" });
  });

  test("clients are kept from an address that they cannot reach, or that is not as well protected as this one", async () => {
    const signs = async (config: object) => {
      const one = await startTestServer({ config: { ...s3.config("signs/"), ...config } });
      try {
        return one.services.blobs.signedUrl !== undefined;
      } finally {
        await one.stop();
      }
    };
    expect(await signs({})).toBe(true);
    expect(await signs({ s3Presign: false })).toBe(false);
    expect(await signs({ publicUrl: "https://muster.example" })).toBe(false);
    const plain = { publicUrl: "https://muster.example", s3PublicEndpoint: "http://s3.example" };
    expect(await signs(plain)).toBe(false);
    expect(await signs({ ...plain, s3PublicEndpoint: "https://s3.example" })).toBe(true);
  });

  test("nothing that could open the store is in the log", () => {
    expect(lines.length).toBeGreaterThan(0);
    const { secretAccessKey } = s3.options();
    expect(lines.join()).not.toContain(secretAccessKey);
    expect(lines.join()).not.toContain("X-Amz-Signature");
  });
});

async function* streamOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
