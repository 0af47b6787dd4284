import { generateKeyPairSync } from "node:crypto";
import { networkInterfaces } from "node:os";
import { toTypeId } from "@muster/protocol";
import { afterAll, describe, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import { claim, smallSpec, startRun } from "./runkit.ts";
import { tasksOf } from "./taskkit.ts";
import { anonymous, codes, startTestServer, until } from "./testkit.ts";

// What one client may do to all others: nothing.

const server = await startTestServer();
afterAll(() => server.stop());
const { openGenerate } = tasksOf(server);

describe("a question costs no more to refuse than to ask", () => {
  test("fragments that spread each other hundreds of times are judged in no time", async () => {
    const level = (name: string, next: string) => `fragment ${name} on Query{${`...${next} `.repeat(190)}}`;
    const query = `query{${"...a ".repeat(190)}} ${level("a", "b")} ${level("b", "c")} ${level("c", "d")} ${level("d", "e")} fragment e on Query{__typename}`;
    const started = performance.now();
    const answer = await server.graphql(query);
    expect(performance.now() - started).toBeLessThan(1_000);
    expect(codes(answer)).toEqual(["QUERY_REFUSED"]);
  });

  test("a fragment counts wherever it is spread, with the lists around it", async () => {
    const { owner } = await server.organization();
    const query = (first: number) =>
      `{ runs(first: ${first}) { edges { node { ...wide } } } } fragment wide on Run { groups(first: ${first}) { edges { node { id } } } }`;
    expect(codes(await server.graphql(query(200), {}, owner))).toEqual(["QUERY_REFUSED"]);
    expect(codes(await server.graphql(query(20), {}, owner))).toEqual([]);
  });

  test("each field of the root is a request", async () => {
    const slow = await startTestServer({ sharing: server, loops: [], config: { requestsPerTenSeconds: 50 } });
    const many = `{ ${Array.from({ length: 30 }, (_, i) => `a${i}: health { protocol }`).join(" ")} }`;
    expect(codes(await slow.graphql(many))).toEqual([]);
    expect(codes(await slow.graphql(many))).toEqual(["RATE_LIMITED"]);
    await slow.stop();
  });

  test("a demo of no steps is refused as what was asked, not as our failure", async () => {
    expect(codes(await server.graphql("{ demoRunSpec(steps: 0) }"))).toEqual(["INPUT_INVALID"]);
  });

  test("a kind named ninety thousand times is one kind", async () => {
    const node = await server.node();
    const offers = server.subscribe<{ taskOffers: { kinds: string[] } }>(
      "subscription($kinds: [TaskKind!]!) { taskOffers(kinds: $kinds) { kinds } }",
      { kinds: Array.from({ length: 90_000 }, () => "GENERATE") },
      node,
    );
    expect((await offers.next()).taskOffers.kinds).toEqual(["GENERATE"]);
    await offers.close();
  });

  test("an operation's id on a socket is short", async () => {
    const closed = new Promise<number>((resolve) => {
      const socket = new WebSocket(`${server.url.replace("http", "ws")}/graphql`, "graphql-transport-ws");
      const send = (message: object) => socket.send(JSON.stringify(message));
      socket.on("open", () => send({ type: "connection_init" }));
      socket.on("message", () =>
        send({ id: "x".repeat(65), type: "subscribe", payload: { query: "{ health { protocol } }" } }),
      );
      socket.on("close", (code) => resolve(code));
    });
    expect(await closed).toBe(4400);
  });
});

describe("who is counted", () => {
  test("wrong credentials are looked up only so often", async () => {
    const slow = await startTestServer({ sharing: server, loops: [], config: { requestsPerTenSeconds: 5 } });
    const guess = async (i: number) =>
      (await slow.graphql("{ me { kind } }", {}, { ...anonymous, headers: { "x-api-key": `muster_${i}` } }))
        .errors?.[0]?.extensions.code;
    const answers: (string | undefined)[] = [];
    for (let i = 0; i < 8; i++) answers.push(await guess(i));
    expect(answers).toEqual([...Array(5).fill("UNAUTHENTICATED"), ...Array(3).fill("RATE_LIMITED")]);
    await slow.stop();
  });

  test("keys that never registered are admitted a few a minute, known ones always", async () => {
    const strict = await startTestServer({ sharing: server, loops: [], config: { newNodesPerMinute: 2 } });
    const keys = generateKeyPairSync("ed25519");
    await strict.node({ keys });
    await strict.node();
    await expect(strict.node()).rejects.toMatchObject({ code: "RATE_LIMITED" });
    await strict.node({ keys });
    await strict.stop();
  });

  test("the nodes of one address have a limit together", async () => {
    const slow = await startTestServer({ sharing: server, loops: [], config: { requestsPerTenSeconds: 3 } });
    const nodes = await Promise.all([server.node(), server.node(), server.node()]);
    const outcomes: string[] = [];
    for (const node of nodes)
      for (let i = 0; i < 25; i++)
        outcomes.push(codes(await slow.graphql("{ me { kind } }", {}, node))[0] ?? "ok");
    expect(outcomes.filter((one) => one === "ok")).toHaveLength(60);
    await slow.stop();
  });

  test("an address holds so many sockets and no more", async () => {
    const strict = await startTestServer({ sharing: server, loops: [], config: { socketsPerAddress: 2 } });
    const open = () =>
      new Promise<WebSocket | number>((resolve) => {
        const socket = new WebSocket(`${strict.url.replace("http", "ws")}/graphql`, "graphql-transport-ws");
        socket.on("open", () => resolve(socket));
        socket.on("unexpected-response", (_, response) => resolve(response.statusCode ?? 0));
        socket.on("error", () => {});
      });
    const [first, second, third] = [await open(), await open(), await open()];
    expect([first instanceof WebSocket, second instanceof WebSocket, third]).toEqual([true, true, 429]);
    if (first instanceof WebSocket) first.terminate();
    await until(async () => (await open()) instanceof WebSocket);
    await strict.stop();
  });

  test("readiness is told in detail on this machine only", async () => {
    const proxied = await startTestServer({ sharing: server, loops: [], config: { trustProxy: true } });
    expect(await (await fetch(`${proxied.url}/readyz`)).json()).toEqual({ ready: true });
    await proxied.stop();
    const published = await startTestServer({
      sharing: server,
      loops: [],
      config: { publicUrl: "https://muster.example" },
    });
    expect((await fetch(`${published.url}/metrics`)).status).toBe(403);
    await published.stop();
  });

  test("renewing a session in a loop leaves a few rows", async () => {
    const node = await server.node();
    for (let i = 0; i < 12; i++) await server.ask("mutation { renewSession { token } }", {}, node);
    expect(await server.prisma.nodeSession.count({ where: { nodeId: node.id } })).toBe(8);
  });

  const [outside] = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .filter(({ internal, family }) => !internal && family === "IPv4");

  test.skipIf(outside === undefined)("nobody beyond this machine gets in without TLS", async () => {
    const reach = async (
      config: Parameters<typeof startTestServer>[0],
      headers: Record<string, string> = {},
    ) => {
      const exposed = await startTestServer({ sharing: server, loops: [], ...config });
      const { port } = new URL(exposed.url);
      const { status } = await fetch(`http://${outside?.address}:${port}/graphql`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: '{"query":"{ me { kind } }"}',
      });
      await exposed.stop();
      return status;
    };
    const https = { host: "0.0.0.0", publicUrl: "https://muster.example" };
    const forwarded = { "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1" };
    expect(await reach({ config: https })).toBe(403);
    expect(await reach({ config: https }, forwarded)).toBe(403);
    expect(await reach({ config: { ...https, trustProxy: true } }, forwarded)).toBe(200);
    expect(await reach({ config: { ...https, trustProxy: true } })).toBe(403);
    expect(await reach({ config: { host: "0.0.0.0", plainHttp: true } })).toBe(200);
  });

  test("a revoked key's open socket changes nothing any more", async () => {
    const organization = await server.organization();
    const key = await server.apiKey(organization);
    const strict = await startTestServer({ sharing: server, loops: [] });
    const socket = new WebSocket(`${strict.url.replace("http", "ws")}/graphql`, "graphql-transport-ws");
    const closed = new Promise<number>((resolve) => socket.on("close", (code) => resolve(code)));
    await new Promise((resolve) => socket.on("open", resolve));
    socket.send(JSON.stringify({ type: "connection_init", payload: { apiKey: key.key } }));
    await new Promise((resolve) => socket.once("message", resolve));
    await server.prisma.apiKey.deleteMany({ where: { id: key.id } });
    // Credentials are remembered for ten seconds, by another clock than this one, and for an hour at most.
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 2 * 3_600_000 });
    socket.send(JSON.stringify({ id: "1", type: "subscribe", payload: { query: "{ me { kind } }" } }));
    expect(await closed).toBe(1012);
    vi.useRealTimers();
    await strict.stop();
  });
});

describe("a heartbeat", () => {
  const beat = "mutation($progress: JSON) { heartbeat(input: { progress: $progress }) { serverTime } }";

  test("that no database can hold is refused, and the others' are written", async () => {
    const [bad, good] = [await server.node(), await server.node()];
    for (const progress of [{ x: "\u0000" }, { "\u0000": 1 }, ["\ud800"], { x: "\\\u0000" }])
      expect(codes(await server.graphql(beat, { progress }, bad))).toEqual(["INPUT_INVALID"]);
    const harmless = { x: "\\u0000 \\\\ud800 😀" };
    expect(codes(await server.graphql(beat, { progress: harmless }, good))).toEqual([]);
    await server.services.presence.flush(server.prisma);
    const { progress } = await server.prisma.node.findUniqueOrThrow({ where: { id: good.id } });
    expect(progress).toEqual(harmless);
  });

  test("that cannot be written costs its words and not its sign of life", async () => {
    const node = await server.node();
    await server.prisma.node.update({ where: { id: node.id }, data: { lastSeenAt: new Date(0) } });
    server.services.presence.beat(node.id, { progress: "\u0000" });
    await expect(server.services.presence.flush(server.prisma)).rejects.toThrow();
    await server.services.presence.flush(server.prisma);
    const { lastSeenAt } = await server.prisma.node.findUniqueOrThrow({ where: { id: node.id } });
    expect(Date.now() - lastSeenAt.getTime()).toBeLessThan(60_000);
  });

  test("shows an organization the tasks of its own runs only", async () => {
    const [ours, theirs] = [await startRun(server), await startRun(server)];
    await openGenerate(ours, 1);
    await openGenerate(theirs, 1);
    const node = await server.node();
    const leases = [
      await claim(server, ours, node, "GENERATE"),
      await claim(server, theirs, node, "GENERATE"),
    ];
    const [mine] = leases.map(({ taskId }) => ({ task: toTypeId("task", taskId), phase: "generating" }));
    const tasks = leases.map(({ taskId }) => ({ task: toTypeId("task", taskId), phase: "generating" }));
    server.services.presence.beat(node.id, { progress: { version: 3, tasks } });
    await server.services.presence.flush(server.prisma);
    await server.prisma.nodeTrust.create({
      data: { runId: ours.id, nodeId: node.id, organizationId: ours.organization.id },
    });
    const { node: seen } = await server.ask<{ node: { progress: unknown } }>(
      "query($id: ID!) { node(id: $id) { ... on RunNode { progress } } }",
      { id: `${ours.typeId}.${node.typeId}` },
      ours.organization.owner,
    );
    expect(seen.progress).toEqual({ version: 3, tasks: [mine] });
  });
});

describe("limits of what a tenant may ask for", () => {
  test("a task, an evaluation and a funding have a size", async () => {
    const { owner } = await server.organization();
    const check = async (over: object) => {
      const { checkRunSpec } = await server.ask<{ checkRunSpec: { issues: { path: string }[] } }>(
        "query($spec: JSON!) { checkRunSpec(spec: $spec) { issues { path } } }",
        { spec: over },
        owner,
      );
      return checkRunSpec.issues.map(({ path }) => path);
    };
    const spec = smallSpec();
    expect(await check(spec)).toEqual([]);
    expect(
      await check({
        ...spec,
        model: { ...spec.model, maxPositions: 131_072 },
        generation: { ...spec.generation, maxOutputTokens: 100_000, groupSize: 64, groupsPerTask: 64 },
      }),
    ).toContain("generation");
    expect(await check({ ...spec, evaluation: { ...spec.evaluation, examples: 10_001 } })).toEqual([
      "evaluation.examples",
    ]);
    const run = await startRun(server);
    const fund = "mutation($input: FundRunInput!) { fundRun(input: $input) { id } }";
    const input = { run: run.typeId, credits: (2n ** 62n).toString() };
    expect(codes(await server.graphql(fund, { input }, run.organization.owner))).toEqual(["INPUT_INVALID"]);
  });
});
