import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { request } from "node:http";
import { connect } from "node:net";
import { toTypeId } from "@muster/protocol";
import { parse, print } from "graphql";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { appendEvents } from "../src/events/append.ts";
import { asCoded } from "../src/graphql/errors.ts";
import { documentsFile } from "../src/graphql/persisted.ts";
import { createLogger } from "../src/log.ts";
import { clientDocuments } from "../src/print-documents.ts";
import {
  type Caller,
  operatorToken,
  startTestServer,
  type TestOrganization,
  type TestServer,
  until,
} from "./testkit.ts";

let server: TestServer;
let organization: TestOrganization;
const lines: string[] = [];
beforeAll(async () => {
  server = await startTestServer({
    log: createLogger("debug", { write: (line: string) => void lines.push(line) }),
  });
  organization = await server.organization();
});
afterAll(() => server.stop());

const dashboard = () => new URL(server.config.dashboardUrl).origin;
const post = (body: string, headers: Record<string, string> = {}, path = "/graphql") =>
  fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body,
  });
/** The code of a refusal: GraphQL's answers have their own form. */
const codeOf = async (response: Response) => {
  const { error, errors } = (await response.json()) as {
    error?: { code: string };
    errors?: { extensions: { code: string } }[];
  };
  return error?.code ?? errors?.[0]?.extensions.code;
};

describe("requests", () => {
  test("GraphQL is asked with POST and JSON only", async () => {
    expect((await fetch(`${server.url}/graphql?query={me{kind}}`)).status).toBe(400);
    const form = await fetch(`${server.url}/graphql`, {
      method: "POST",
      body: new URLSearchParams({ query: "{me{kind}}" }),
    });
    expect([form.status, await codeOf(form)]).toEqual([400, "INPUT_INVALID"]);
    const plain = await post('{"query":"{me{kind}}"}', { "content-type": "text/plain" });
    expect([plain.status, await codeOf(plain)]).toEqual([400, "INPUT_INVALID"]);
    for (const body of ["{", "[]", "null", "3"])
      expect(await codeOf(await post(body)), body).toBe("INPUT_INVALID");
  });

  test("a body beyond the limit is refused, announced or not", async () => {
    const big = JSON.stringify({
      query: "{me{kind}}",
      variables: { x: "x".repeat(server.config.maxBodyBytes) },
    });
    const announced = await post(big);
    expect([announced.status, await codeOf(announced)]).toEqual([413, "REQUEST_TOO_LARGE"]);
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const sending = request(
        `${server.url}/graphql`,
        { method: "POST", headers: { "content-type": "application/json" } },
        (response) => {
          response.resume();
          resolve(response.statusCode);
        },
      );
      sending.on("error", reject);
      // In two writes, so that it is sent in chunks without a length.
      sending.write(big.slice(0, 1000));
      sending.end(big.slice(1000));
    });
    expect(status).toBe(413);
  });

  test("every answer carries a request id, the client's own when it is one", async () => {
    const own = await post('{"query":"{ node(id: \\"nonsense\\") { id } }"}', {
      "x-request-id": "my-request-1",
    });
    expect(own.headers.get("x-request-id")).toBe("my-request-1");
    expect(await own.json()).toMatchObject({
      errors: [{ extensions: { code: "INPUT_INVALID", requestId: "my-request-1", retryable: false } }],
    });
    const odd = await fetch(`${server.url}/nothing`, { headers: { "x-request-id": "a\tb c" } });
    expect(odd.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect([odd.status, await codeOf(odd)]).toEqual([404, "NOT_FOUND"]);
  });

  test("what fails inside is answered without a word about the inside, and logged with the request's id", async () => {
    const { pool } = server.services.db;
    await pool.query('ALTER TABLE "NodeChallenge" RENAME TO "NodeChallengeAway"');
    try {
      const mutation = `mutation { createNodeChallenge(input: { publicKey: "${"ab".repeat(32)}" }) { challenge } }`;
      const answer = await server.graphql(mutation);
      expect(answer.errors?.[0]?.extensions).toMatchObject({ code: "INTERNAL", retryable: true });
      expect(JSON.stringify(answer)).not.toMatch(/prisma|table|NodeChallenge\b.*not exist/i);
      const id = answer.errors?.[0]?.extensions.requestId ?? "none";
      expect(lines.filter((line) => line.includes(id) && line.includes("a request failed"))).toHaveLength(1);
    } finally {
      await pool.query('ALTER TABLE "NodeChallengeAway" RENAME TO "NodeChallenge"');
    }
  });

  test("tokens, keys and cookies never reach the log", async () => {
    const node = await server.node();
    const key = await server.apiKey(organization);
    for (const caller of [node, key, organization.owner]) await server.ask("{ me { kind } }", {}, caller);
    const log = createLogger("info", { write: (line: string) => void lines.push(line) });
    log.info(
      {
        req: {
          headers: { authorization: `Bearer ${node.token}`, cookie: organization.owner.headers.cookie },
        },
        token: node.token,
      },
      "careless",
    );
    const all = lines.join("\n");
    expect(all).toContain("careless");
    for (const secret of [
      node.token,
      key.key,
      decodeURIComponent(organization.owner.headers.cookie?.split("=")[1] ?? ""),
    ])
      expect(all).not.toContain(secret);
  });

  test("a client that asks too fast is told when to come back, others are not slowed", async () => {
    const slow = await startTestServer({ sharing: server, loops: [], config: { requestsPerTenSeconds: 3 } });
    // A node may ask ten times as often as a person: it asks for each task.
    const node = await slow.node();
    const answers = [];
    for (let i = 0; i < 32; i++) {
      answers.push(
        await fetch(`${slow.url}/graphql`, {
          method: "POST",
          headers: { "content-type": "application/json", ...node.headers },
          body: '{"query":"{me{kind}}"}',
        }),
      );
    }
    expect(answers.map(({ status }) => status)).toEqual([...Array(30).fill(200), 429, 429]);
    expect(Number(answers[31]?.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await slow.graphql("{ me { kind } }", {}, organization.owner)).status).toBe(200);
    await slow.stop();
  });
});

describe("persisted documents", () => {
  const ask = (body: Record<string, unknown>) => post(JSON.stringify(body));
  const byHash = (sha256Hash: string) => ({ extensions: { persistedQuery: { version: 1, sha256Hash } } });

  test("a document of our own clients is asked by its hash alone", async () => {
    const text = print(parse("query Environments { environments { slug hash title description } }"));
    const hash = createHash("sha256").update(text).digest("hex");
    const [named, written] = await Promise.all([ask(byHash(hash)), ask({ query: text })]);
    expect(named.status).toBe(200);
    const answer = (await named.json()) as { data: { environments: unknown[] } };
    expect(answer.data.environments.length).toBeGreaterThan(0);
    expect(answer).toEqual(await written.json());
  });

  test("one that is not known is asked for, and so is one that is missing", async () => {
    const unknown = await ask(byHash("0".repeat(64)));
    expect(await unknown.json()).toEqual({
      errors: [
        {
          message: expect.stringContaining("Send its text"),
          extensions: {
            code: "DOCUMENT_UNKNOWN",
            retryable: false,
            requestId: unknown.headers.get("x-request-id"),
          },
        },
      ],
    });
    expect(await codeOf(await ask({ variables: {} }))).toBe("QUERY_REFUSED");
  });

  test("the list is that of the clients' sources", async () => {
    const listed: unknown = JSON.parse(await readFile(documentsFile, "utf8"));
    expect(Object.keys(await clientDocuments()).length).toBeGreaterThan(20);
    expect(listed, "run: node apps/api/src/print-documents.ts").toEqual(await clientDocuments());
  });
});

test("transactions of a burst wait for a connection, longer than the library's two seconds", async () => {
  const narrow = await startTestServer({ sharing: server, loops: [], config: { poolSize: 1 } });
  // Six of half a second, one after the other: the last one waits longer than the two seconds that are the library's default.
  const work = () => narrow.prisma.$transaction((tx) => tx.$queryRaw`SELECT pg_sleep(0.5)::text`);
  const outcomes = await Promise.allSettled(Array.from({ length: 6 }, work));
  expect(outcomes.map(({ status }) => status)).toEqual(Array(6).fill("fulfilled"));
  await narrow.stop();
});

describe("browsers", () => {
  test("only the dashboard's origin may call with cookies", async () => {
    const preflight = (origin: string) =>
      fetch(`${server.url}/graphql`, {
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "content-type",
        },
      });
    const trusted = await preflight(dashboard());
    expect([
      trusted.status,
      trusted.headers.get("access-control-allow-origin"),
      trusted.headers.get("access-control-allow-credentials"),
    ]).toEqual([204, dashboard(), "true"]);
    const foreign = await preflight("https://evil.example");
    expect(foreign.headers.get("access-control-allow-origin")).toBeNull();
  });

  test("a cookie from a foreign origin is refused, from none it cannot change anything", async () => {
    const { cookie = "" } = organization.owner.headers;
    const foreign = await post('{"query":"{me{kind}}"}', { cookie, origin: "https://evil.example" });
    expect([foreign.status, await codeOf(foreign)]).toEqual([403, "ORIGIN_REFUSED"]);
    const server_side: Caller = { headers: { cookie }, actor: organization.owner.actor };
    expect(await server.ask("{ me { kind } }", {}, server_side)).toEqual({ me: { kind: "PERSON" } });
    const mutation = `mutation { createApiKey(input: { organization: "${organization.typeId}", name: "x", scopes: ["run:read"] }) { key } }`;
    expect((await server.graphql(mutation, {}, server_side)).errors?.[0]?.extensions.code).toBe(
      "ORIGIN_REFUSED",
    );
    expect(await server.prisma.apiKey.count({ where: { name: "x" } })).toBe(0);
  });

  test("a socket with a cookie opens from the dashboard only", async () => {
    const { cookie = "" } = organization.owner.headers;
    const open = (headers: Record<string, string>) =>
      new Promise<string>((resolve) => {
        const socket = new WebSocket(`${server.url.replace("http", "ws")}/graphql`, "graphql-transport-ws", {
          headers,
        });
        socket.on("open", () => {
          resolve("open");
          socket.close();
        });
        socket.on("unexpected-response", (_req, res) => {
          resolve(String(res.statusCode));
          socket.terminate();
        });
        socket.on("error", () => {});
      });
    expect(await open({ cookie, origin: dashboard() })).toBe("open");
    expect(await open({ cookie, origin: "https://evil.example" })).toBe("403");
    expect(await open({ origin: "https://elsewhere.example" })).toBe("open");
  });

  test("the explorer comes from our own origin with nothing inline", async () => {
    const page = await fetch(`${server.url}/graphiql`);
    const html = await page.text();
    expect(page.status).toBe(200);
    expect(page.headers.get("content-security-policy")).toContain("default-src 'self'");
    expect(html).not.toMatch(/<script>|<style>|https?:\/\//);
    for (const [, path] of html.matchAll(/(?:src|href)="(\/[^"]+)"/g)) {
      const asset = await fetch(`${server.url}${path}`, { headers: { "accept-encoding": "identity" } });
      expect([asset.status, Number(asset.headers.get("content-length")) > 1_000], path).toEqual([200, true]);
      await asset.body?.cancel();
    }
    const without = await startTestServer({ sharing: server, loops: [], config: { graphiql: false } });
    expect((await fetch(`${without.url}/graphiql`)).status).toBe(404);
    await without.stop();
  });
});

describe("operation limits", () => {
  const refusal = async (query: string) => {
    const { errors } = await server.graphql(query, {}, organization.owner);
    return errors?.[0]?.extensions.code;
  };

  test("too deep, too many aliases, too many tokens, too costly: refused before anything runs", async () => {
    const deep = `{ node(id: "x") { ${"... on Organization { ".repeat(14)} id ${"}".repeat(14)} } }`;
    expect(await refusal(deep)).toBe("QUERY_REFUSED");
    expect(await refusal(`{ ${Array.from({ length: 40 }, (_, i) => `a${i}: me { kind }`).join(" ")} }`)).toBe(
      "QUERY_REFUSED",
    );
    expect(await refusal(`{ me { ${"kind ".repeat(2_500)} } }`)).toBe("QUERY_REFUSED");
    expect(await refusal("{ me {")).toBe("QUERY_REFUSED");
    expect(await refusal("{ me { nonsense } }")).toBe("QUERY_REFUSED");
    const listInList = (first: string) =>
      `query${first.startsWith("$") ? "($first: Int)" : ""} { runs(first: ${first}) { edges { node { groups(first: ${first}) { edges { node { id rollouts { id } } } } } } } }`;
    expect(await refusal(listInList("200"))).toBe("QUERY_REFUSED");
    expect(await refusal(listInList("$first"))).toBe("QUERY_REFUSED");
    expect(await refusal(listInList("20"))).toBeUndefined();
    expect(await refusal("{ nodes(first: 200) { edges { node { id } } } }")).toBeUndefined();
  });

  test("a page is never longer than 200", async () => {
    await server.prisma.node.createMany({
      data: Array.from({ length: 205 }, (_, i) => ({
        publicKey: `page ${i}`,
        name: "n",
        software: "s",
        protocol: 1,
        hardware: {},
        worksFor: [organization.id],
      })),
    });
    const { nodes } = await server.ask<{ nodes: { edges: unknown[]; pageInfo: { hasNextPage: boolean } } }>(
      "{ nodes(first: 100000) { edges { node { id } } pageInfo { hasNextPage } } }",
      {},
      organization.owner,
    );
    expect([nodes.edges.length, nodes.pageInfo.hasNextPage]).toEqual([200, true]);
  });

  test("introspection works: the API is public", async () => {
    const { errors } = await server.graphql(
      "{ __schema { types { name fields { name type { name ofType { name ofType { name } } } } } } }",
    );
    expect(errors).toBeUndefined();
  });
});

describe("streams over HTTP", () => {
  test("a subscription works over server-sent events", async () => {
    const run = await server.prisma.run.create({
      data: {
        organizationId: organization.id,
        slug: "sse",
        name: "run",
        environment: "muster/sort-digits@1",
        baseKind: "warmup",
        stepLimit: 1,
      },
    });
    const abort = new AbortController();
    const response = await fetch(`${server.url}/graphql`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "text/event-stream",
        ...organization.owner.headers,
      },
      body: JSON.stringify({
        query: "subscription($s: ID!) { events(stream: $s, after: 0) { events { seq } } }",
        variables: { s: toTypeId("run", run.id) },
      }),
      signal: abort.signal,
    });
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    const reader = response.body?.getReader();
    let text = "";
    await server.prisma.$transaction((tx) =>
      appendEvents(tx, [{ stream: `run:${run.id}`, type: "run.progress", subject: "x", data: {} }]),
    );
    server.services.bus.publish("events");
    while (!text.includes('"seq":"1"')) text += new TextDecoder().decode((await reader?.read())?.value);
    expect(text).toContain("event: next");
    abort.abort();
    await until(async () => (await server.services.metrics.subscriptions.get()).values[0]?.value === 0);
  });
});

describe("sockets", () => {
  const close = (params: Record<string, unknown>, on: TestServer = server) =>
    new Promise<{ code: number; reason: string }>((resolve) => {
      const socket = new WebSocket(`${on.url.replace("http", "ws")}/graphql`, "graphql-transport-ws");
      socket.on("open", () => socket.send(JSON.stringify({ type: "connection_init", payload: params })));
      socket.on("close", (code, reason) => resolve({ code, reason: String(reason) }));
    });

  test("a bad token closes with 4401, an old protocol with 4426", async () => {
    expect(await close({ authorization: "Bearer nothing" })).toMatchObject({ code: 4401 });
    expect(await close({ apiKey: "muster_nothing" })).toMatchObject({ code: 4401 });
    expect(await close({ protocol: 0 })).toMatchObject({
      code: 4426,
      reason: expect.stringContaining("npm install"),
    });
  });

  test("a socket ends with its session", async () => {
    const short = await startTestServer({ sharing: server, loops: [], config: { sessionSeconds: 0.6 } });
    const node = await short.node();
    expect(await close({ authorization: node.headers.authorization }, short)).toMatchObject({ code: 1012 });
    expect(await close({ authorization: node.headers.authorization }, short)).toMatchObject({ code: 4401 });
    await short.stop();
  });

  test("an operation that is refused says so with its code and leaves the socket open", async () => {
    const node = await server.node();
    const client = server.client(node);
    const query = (text: string) => client.iterate({ query: text }).next();
    await expect(query("{ nonsense }")).rejects.toMatchObject([{ extensions: { code: "QUERY_REFUSED" } }]);
    expect((await query("{ me { kind } }")).value).toMatchObject({ data: { me: { kind: "NODE" } } });
  });

  test("queries and mutations work over a socket as over HTTP", async () => {
    const node = await server.node();
    const { value } = await server
      .client(node)
      .iterate({ query: "mutation { heartbeat(input: {}) { leases { task } } }" })
      .next();
    expect(value).toEqual({ data: { heartbeat: { leases: [] } } });
  });
});

describe("the process", () => {
  test("health, readiness and metrics tell the state", async () => {
    expect(await (await fetch(`${server.url}/healthz`)).json()).toEqual({ ok: true });
    const ready = await fetch(`${server.url}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([
      200,
      { ready: true, checks: { database: "ok", migrations: "ok", blobs: "ok" } },
    ]);
    const { pool } = server.services.db;
    await pool.query(
      "INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at) SELECT 'kept', checksum, migration_name || ' (kept)', finished_at FROM _prisma_migrations LIMIT 1",
    );
    await pool.query("UPDATE _prisma_migrations SET finished_at = NULL WHERE id <> 'kept'");
    // The answer is remembered for a moment.
    const behind = await until(async () => {
      const response = await fetch(`${server.url}/readyz`);
      return response.status === 503 ? response : undefined;
    });
    expect(await behind.json()).toMatchObject({
      ready: false,
      checks: { migrations: expect.stringContaining("0001_init") },
    });
    await pool.query("UPDATE _prisma_migrations SET finished_at = now()");
    await server.ask("{ me { kind } }");
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/muster_http_request_seconds_count\{route="\/graphql",status="200"\} [1-9]/);
    expect(metrics).toMatch(/muster_graphql_operations_total\{kind="query",outcome="ok"\} [1-9]/);
  });

  test("a database connection cut in the middle of its work is told as NOT_READY, and the server goes on", async () => {
    for (const cut of [
      () => server.prisma.$transaction((tx) => tx.$queryRaw`SELECT pg_terminate_backend(pg_backend_pid())`),
      () => server.services.db.pool.query("SELECT pg_terminate_backend(pg_backend_pid())"),
    ]) {
      const error = await cut().then(
        () => undefined,
        (failure: unknown) => failure,
      );
      expect(asCoded(error)).toMatchObject({ code: "NOT_READY", retryable: true });
    }
    await until(async () => (await server.graphql("{ health { startedAt } }")).errors === undefined);
    await until(async () => (await fetch(`${server.url}/readyz`)).status === 200);
  });

  test("metrics behind a proxy need the operator's token", async () => {
    const proxied = await startTestServer({ sharing: server, loops: [], config: { trustProxy: true } });
    expect((await fetch(`${proxied.url}/metrics`)).status).toBe(403);
    expect(
      (await fetch(`${proxied.url}/metrics`, { headers: { authorization: `Bearer ${operatorToken}` } }))
        .status,
    ).toBe(200);
    await proxied.stop();
  });

  test("stopping sends sockets away with 1001, lets a request under way end, and takes no new ones", async () => {
    const own = await startTestServer({ sharing: server });
    const node = await own.node();
    const closed = close1001(own);
    await until(async () => (await own.services.metrics.sockets.get()).values[0]?.value === 1);
    // A request of which half has been sent.
    const body = JSON.stringify({ query: "{ me { kind } }" });
    const { port } = new URL(own.url);
    const socket = connect(Number(port), "127.0.0.1");
    let answer = "";
    socket.on("data", (chunk) => {
      answer += String(chunk);
    });
    socket.write(
      `POST /graphql HTTP/1.1\r\nHost: x\r\nAuthorization: ${node.headers.authorization}\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
    );
    await until(() => answer.includes("100 Continue"));
    const stopping = own.stop();
    expect(await closed).toBe(1001);
    socket.write(body.slice(5));
    await stopping;
    expect(answer).toContain('{"data":{"me":{"kind":"NODE"}}}');
    await expect(fetch(`${own.url}/healthz`)).rejects.toThrow();
    await own.stop();
  });
});

function close1001(on: TestServer): Promise<number> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${on.url.replace("http", "ws")}/graphql`, "graphql-transport-ws");
    socket.on("open", () => socket.send(JSON.stringify({ type: "connection_init" })));
    socket.on("close", (code) => resolve(code));
  });
}
