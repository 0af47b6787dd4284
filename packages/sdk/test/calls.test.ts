import { createHash, randomBytes } from "node:crypto";
import type { ServerResponse } from "node:http";
import { afterEach, expect, test } from "vitest";
import { ApiError, createClient } from "../src/index.ts";
import { refusal, startCoordinator } from "./coordinator.ts";

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]();
});
async function start(options: Parameters<typeof startCoordinator>[0]) {
  const coordinator = await startCoordinator(options);
  open.push(coordinator);
  return coordinator;
}
const health = {
  protocol: 1,
  version: "0.1.0",
  serverTime: "2026-01-01T00:00:00Z",
  startedAt: "2026-01-01T00:00:00Z",
};
const failureOf = (promise: Promise<unknown>) =>
  promise.then(() => undefined).catch((thrown: unknown) => thrown);

test("a call answers typed data", async () => {
  const { url } = await start({ root: { health: () => health } });
  expect(await createClient({ url }).health()).toEqual(health);
});

test("lists are read page by page, only as far as the reader goes", async () => {
  const asked: (string | null)[] = [];
  const { url } = await start({
    root: {
      nodes: ({ after }: { after: string | null }) => {
        asked.push(after);
        const from = Number(after ?? 0);
        const edges = [from, from + 1].map((n) => ({
          cursor: String(n),
          node: {
            id: `node_${n}`,
            name: "n",
            publicKey: "k",
            software: "s",
            protocol: 1,
            hardware: {},
            liveness: "ACTIVE",
            lastSeenAt: "x",
            createdAt: "x",
          },
        }));
        return {
          edges,
          pageInfo: {
            hasNextPage: true,
            hasPreviousPage: false,
            startCursor: null,
            endCursor: String(from + 2),
          },
        };
      },
    },
  });
  const ids: string[] = [];
  for await (const node of createClient({ url }).nodes.list()) {
    ids.push(node.id);
    if (ids.length === 4) break;
  }
  expect(ids).toEqual(["node_0", "node_1", "node_2", "node_3"]);
  expect(asked).toEqual([null, "2"]);
});

test("a refusal is an ApiError with code, message and request id, and is not repeated", async () => {
  let calls = 0;
  const { url } = await start({
    root: {
      health: () => {
        calls++;
        throw refusal("UPGRADE_REQUIRED");
      },
    },
  });
  const error = await failureOf(createClient({ url }).health());
  expect(error).toBeInstanceOf(ApiError);
  expect(error).toMatchObject({
    code: "UPGRADE_REQUIRED",
    message: "refused with UPGRADE_REQUIRED",
    retryable: false,
    requestId: "req-1",
  });
  expect(calls).toBe(1);
});

test("a query is repeated after failures that may pass; a claim is not", async () => {
  let queries = 0;
  let claims = 0;
  const { url } = await start({
    root: {
      health: () => {
        if (++queries < 3) throw refusal("SERIALIZATION", { retryable: true });
        return health;
      },
      claimTasks: () => {
        claims++;
        throw refusal("SERIALIZATION", { retryable: true });
      },
    },
  });
  const client = createClient({ url });
  await client.health();
  expect(queries).toBe(3);
  expect(await failureOf(client.tasks.claim({ kinds: ["GENERATE"], max: 1 }))).toMatchObject({
    retryable: true,
  });
  expect(claims).toBe(1);
});

test("a submission is repeated until there is an answer", async () => {
  let drops = 2;
  const { url } = await start({
    http: (request) => {
      if (drops-- <= 0) return false;
      request.socket.destroy();
      return true;
    },
    root: { submitRollouts: () => ({ __typename: "LeaseLost", task: "task_x", message: "claim again" }) },
  });
  const result = await createClient({ url }).tasks.submitRollouts({
    task: "task_x",
    attempt: 1,
    pack: "00",
    signature: "00",
  });
  expect(result).toEqual({ __typename: "LeaseLost", task: "task_x", message: "claim again" });
});

test("a proxy's error page is UNAVAILABLE and may be repeated", async () => {
  const { url } = await start({
    http: (_request, response) => {
      response.writeHead(502, { "content-type": "text/html" }).end("<h1>Bad gateway</h1>");
      return true;
    },
  });
  const error = await failureOf(createClient({ url }).nodes.renewSession());
  expect(error).toMatchObject({ code: "UNAVAILABLE", status: 502, retryable: true });
});

test("nobody listening is NETWORK; an aborted call is ABORTED; a slow one is TIMEOUT", async () => {
  const { url } = await start({
    http: () => new Promise<boolean>(() => {}),
  });
  expect(await failureOf(createClient({ url: "http://127.0.0.1:1" }).nodes.renewSession())).toMatchObject({
    code: "NETWORK",
    retryable: true,
  });
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 20);
  expect(await failureOf(createClient({ url }).health({ signal: stop.signal }))).toMatchObject({
    code: "ABORTED",
    retryable: false,
  });
  expect(await failureOf(createClient({ url, timeout: 30 }).nodes.renewSession())).toMatchObject({
    code: "TIMEOUT",
    retryable: true,
  });
});

/** What the coordinator's door answers before it looks at a request. */
function door(response: ServerResponse, status: number, error: Record<string, unknown>): true {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ error }));
  return true;
}
const limited = (retryAfterSeconds: number) => ({
  code: "RATE_LIMITED",
  message: "more slowly",
  retryable: true,
  retryAfterSeconds,
});

test("a limited call waits as long as it is told and goes through; each try is told of", async () => {
  let calls = 0;
  const { url } = await start({
    http: (_request, response) => ++calls === 1 && door(response, 429, limited(1)),
    root: { health: () => health },
  });
  const attempts: (string | undefined)[] = [];
  const client = createClient({ url, onAttempt: ({ error }) => void attempts.push(error?.code) });
  const began = performance.now();
  expect(await client.health()).toEqual(health);
  expect(performance.now() - began).toBeGreaterThanOrEqual(1_000);
  expect(performance.now() - began).toBeLessThan(2_500);
  expect(attempts).toEqual(["RATE_LIMITED", undefined]);
});

test("a limit inside a GraphQL answer counts as well, and so does a blob route's Retry-After", async () => {
  const calls: number[] = [];
  const { url } = await start({
    http: (request, response) => {
      if (request.method !== "PUT") return false;
      calls.push(performance.now());
      response.writeHead(calls.length === 1 ? 429 : 201, { "retry-after": "1" }).end();
      return true;
    },
    root: {
      health: () => {
        calls.push(performance.now());
        if (calls.length === 1) throw refusal("RATE_LIMITED", { retryable: true, retryAfterSeconds: 1 });
        return health;
      },
    },
  });
  const waited = () => {
    const [first, second] = calls.splice(0);
    return (second ?? 0) - (first ?? 0);
  };
  const client = createClient({ url });
  await client.health();
  expect(waited()).toBeGreaterThanOrEqual(990);
  await client.blobs.put({ body: new Uint8Array(3) });
  expect(waited()).toBeGreaterThanOrEqual(990);
});

test("whoever would have to wait too long is told at once how long", async () => {
  let calls = 0;
  const { url } = await start({
    http: (_request, response) => {
      calls++;
      return door(response, 429, limited(3_600));
    },
  });
  const began = performance.now();
  expect(await failureOf(createClient({ url }).health())).toMatchObject({
    code: "RATE_LIMITED",
    retryAfterSeconds: 3_600,
  });
  expect(performance.now() - began).toBeLessThan(900);
  expect(calls).toBe(1);
});

test("a coordinator that stays unready is given up; a claim is given up at once", async () => {
  let calls = 0;
  const { url } = await start({
    http: (_request, response) => {
      calls++;
      return door(response, 503, { code: "NOT_READY", message: "going away", retryable: true });
    },
  });
  const client = createClient({ url });
  expect(await failureOf(client.health())).toMatchObject({ code: "NOT_READY", status: 503 });
  expect(calls).toBe(5);
  expect(await failureOf(client.tasks.claim({ kinds: ["GENERATE"], max: 1 }))).toMatchObject({
    code: "NOT_READY",
  });
  expect(calls).toBe(6);
});

test("a coordinator that is not there yet is found when it comes", async () => {
  const gone = await startCoordinator({});
  await gone[Symbol.asyncDispose]();
  let refusals = 0;
  const attempts: Promise<unknown>[] = [];
  const client = createClient({
    url: gone.url,
    onAttempt({ error }) {
      if (error?.code !== "NETWORK" || ++refusals > 1) return;
      attempts.push(start({ port: Number(new URL(gone.url).port), root: { health: () => health } }));
    },
  });
  expect(await client.health()).toEqual(health);
  expect(refusals).toBeGreaterThanOrEqual(1);
  await Promise.all(attempts);
});

test("what is refused at the coordinator's door keeps its code", async () => {
  const { url } = await start({
    http: (_request, response) => door(response, 401, { code: "UNAUTHENTICATED", message: "no such key" }),
  });
  expect(await failureOf(createClient({ url, apiKey: "mk_wrong" }).health())).toMatchObject({
    code: "UNAUTHENTICATED",
    message: "no such key",
    retryable: false,
    status: 401,
  });
});

test("an expired token is renewed once and the call goes through", async () => {
  const { url } = await start({ root: { health: () => health }, refuse: (token) => token !== "new" });
  const asked: (string | undefined)[] = [];
  const client = createClient({
    url,
    getToken: ({ refused }) => {
      asked.push(refused);
      return asked.includes("old") ? "new" : "old";
    },
  });
  expect(await client.health()).toEqual(health);
  expect(asked).toContain("old");
});

test("secrets never stand in an error or its cause", async () => {
  const secret = "muster_session_0123456789";
  const { url } = await start({
    root: {
      health: () => {
        throw new Error(`token ${secret} is unknown`);
      },
    },
  });
  const refused = await failureOf(createClient({ url, token: secret }).health());
  expect(String(refused)).toContain("[redacted]");
  const broken = await failureOf(
    createClient({
      url,
      token: secret,
      fetch: () =>
        Promise.reject(new TypeError("failed", { cause: new Error(`authorization: Bearer ${secret}`) })),
    }).nodes.renewSession(),
  );
  expect(broken).toBeInstanceOf(ApiError);
  const shown: string[] = [];
  for (let at: unknown = broken; at instanceof Error; at = at.cause) shown.push(at.message, at.stack ?? "");
  expect(shown.join("\n")).not.toContain(secret);
  expect(shown.join("\n")).toContain("[redacted]");
});

test("two kinds of credentials, or a URL that is none, are a TypeError", () => {
  expect(() => createClient({ url: "http://x", token: "a", apiKey: "b" })).toThrow(TypeError);
  expect(() => createClient({ url: "localhost:4000" })).toThrow(TypeError);
});

const blob = randomBytes(300_000);
const sha256 = createHash("sha256").update(blob).digest("hex");

test("a blob is stored under its hash with the lease that pays for it", async () => {
  const stored: { path: string; bytes: Buffer; authorization: string | undefined }[] = [];
  const { url } = await start({
    http: async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      stored.push({
        path: request.url ?? "",
        bytes: Buffer.concat(chunks),
        authorization: request.headers.authorization,
      });
      response.writeHead(stored.length === 1 ? 503 : 201).end();
      return true;
    },
  });
  const client = createClient({ url, token: "t" });
  const hash = await client.blobs.put({
    body: new Uint8Array(blob),
    lease: { task: "task_x", attempt: 2 },
    kind: "ROLLOUTS",
  });
  expect(hash).toBe(sha256);
  expect(stored).toHaveLength(2);
  expect(stored[1]).toEqual({
    path: `/blobs/${sha256}?task=task_x&attempt=2&kind=ROLLOUTS`,
    bytes: blob,
    authorization: "Bearer t",
  });
});

test("a download that breaks off goes on where it stopped", async () => {
  const ranges: (string | undefined)[] = [];
  const { url } = await start({
    http: (request, response) => {
      ranges.push(request.headers.range);
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { "content-length": String(blob.length - from) });
      if (ranges.length < 3)
        response.write(blob.subarray(from, from + 100_000), () =>
          setTimeout(() => request.socket.destroy(), 20),
        );
      else response.end(blob.subarray(from));
      return true;
    },
  });
  const bytes = await createClient({ url }).blobs.get({ sha256 });
  expect(Buffer.from(bytes).equals(blob)).toBe(true);
  expect(ranges).toEqual([undefined, "bytes=100000-", "bytes=200000-"]);
});

test("bytes that are not those named, or too many, are refused", async () => {
  const { url } = await start({
    http: (_request, response) => {
      response.end(blob.subarray(1));
      return true;
    },
  });
  const client = createClient({ url });
  expect(await failureOf(client.blobs.get({ sha256 }))).toMatchObject({ code: "HASH_MISMATCH" });
  expect(await failureOf(client.blobs.get({ sha256, maxBytes: 1_000 }))).toMatchObject({ code: "TOO_LARGE" });
});

test("a refused blob carries the coordinator's code", async () => {
  const { url } = await start({
    http: (_request, response) => {
      response
        .writeHead(403, { "content-type": "application/json" })
        .end(JSON.stringify({ code: "LEASE_LOST", message: "claim again" }));
      return true;
    },
  });
  const error = await failureOf(
    createClient({ url }).blobs.put({ body: new Uint8Array(3), lease: { task: "task_x", attempt: 1 } }),
  );
  expect(error).toMatchObject({ code: "LEASE_LOST", message: "claim again", retryable: false, status: 403 });
});

test("evidence is fetched whole, refused by its code, and not beyond what is allowed", async () => {
  const bundle = randomBytes(300_000);
  let drops = 1;
  const { url, seen } = await start({
    http: (request, response) => {
      if (request.url === "/evidence/group_a") {
        if (drops-- > 0) response.destroy();
        else response.end(bundle);
      } else {
        response.writeHead(404, { "content-type": "application/json" });
        response.end(JSON.stringify({ error: { code: "NOT_FOUND", message: "Its packs are gone." } }));
      }
      return true;
    },
  });
  const { evidence } = createClient({ url });
  expect(Buffer.from(await evidence.get({ group: "group_a" })).equals(bundle)).toBe(true);
  expect(await failureOf(evidence.get({ group: "group_a", maxBytes: 1_000 }))).toMatchObject({
    code: "TOO_LARGE",
  });
  expect(await failureOf(evidence.get({ group: "../blobs" }))).toMatchObject({
    code: "NOT_FOUND",
    message: "Its packs are gone.",
  });
  expect(seen.at(-1)).toBe("GET /evidence/..%2Fblobs");
});
