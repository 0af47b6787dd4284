import { generateKeyPairSync, randomBytes } from "node:crypto";
import { networkInterfaces } from "node:os";
import { encodeRolloutPack, fromTypeId, generatePayloadSchema, toTypeId } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import { pauseRun } from "../src/runs/lifecycle.ts";
import { claimTasks, type Lease } from "../src/tasks/claim.ts";
import { expireLeases } from "../src/tasks/expiry.ts";
import { openTasks, releaseTask, renewLease } from "../src/tasks/lease.ts";
import { mostPackBytes } from "../src/tasks/pack-size.ts";
import { claim, grant, publishBase, put, signed, smallSpec, startRun, type TestRun } from "./runkit.ts";
import { anonymous, startTestServer, type TestNode, type TestServer, until } from "./testkit.ts";

// What one client may do to all others: nothing.

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const openGenerate = (run: TestRun, count: number) =>
  server.prisma.$transaction((tx) =>
    openTasks(
      tx,
      Array.from({ length: count }, () => ({
        organizationId: run.organization.id,
        runId: run.id,
        kind: "GENERATE" as const,
        revision: 1,
        policyVersion: 0,
        payload: { made: "up" },
      })),
    ),
  );

const age = (lease: Lease, seconds: number) =>
  server.prisma.attempt.updateMany({
    where: { taskId: lease.taskId, number: lease.attempt },
    data: { claimedAt: new Date(Date.now() - seconds * 1000) },
  });

const codes = (answer: Awaited<ReturnType<TestServer["graphql"]>>) =>
  answer.errors?.map(({ extensions }) => extensions.code) ?? [];

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

describe("a lease", () => {
  test("is not renewed for ever, however often", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await age(lease, 9 * run.spec.leaseSeconds);
    await renewLease(server.ctx(run.worker), lease);
    await age(lease, 11 * run.spec.leaseSeconds);
    await expect(renewLease(server.ctx(run.worker), lease)).rejects.toMatchObject({ code: "LEASE_LOST" });
    const base = await claim(server, run, run.trainer, "BASE");
    await age(base, 3_600 * 24);
    await renewLease(server.ctx(run.trainer), base);
  });

  test("ends with its grant, its node's standing and its run", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const base = await claim(server, run, run.trainer, "BASE");
    const lease = await claim(server, run, run.worker, "GENERATE");
    await pauseRun(server.ctx(run.organization.owner), { runId: run.id });
    await renewLease(server.ctx(run.trainer), base);
    await server.prisma.roleGrant.updateMany({
      where: { nodeId: run.trainer.id },
      data: { revokedAt: new Date() },
    });
    await expect(renewLease(server.ctx(run.trainer), base)).rejects.toMatchObject({ code: "LEASE_LOST" });
    await server.prisma.nodeTrust.create({
      data: {
        runId: run.id,
        nodeId: run.worker.id,
        organizationId: run.organization.id,
        state: "QUARANTINED",
      },
    });
    await expect(renewLease(server.ctx(run.worker), lease)).rejects.toMatchObject({ code: "LEASE_LOST" });
  });

  test("handed back politely costs the task nothing, given up as impossible it counts", async () => {
    const run = await startRun(server);
    for (let i = 0; i < 7; i++) {
      const base = await claim(server, run, run.trainer, "BASE");
      await releaseTask(server.ctx(run.trainer), { ...base, reason: "draining" });
    }
    for (let i = 0; i < 5; i++) {
      const base = await claim(server, run, run.trainer, "BASE");
      await server.ask(
        "mutation($input: ReleaseTaskInput!) { releaseTask(input: $input) }",
        {
          input: {
            task: toTypeId("task", base.taskId),
            attempt: base.attempt,
            reason: "out of memory\u0000",
            failed: true,
          },
        },
        run.trainer,
      );
    }
    expect(
      await server.prisma.task.findFirstOrThrow({ where: { runId: run.id, kind: "BASE" } }),
    ).toMatchObject({
      state: "FAILED",
      failure: "released: out of memory  (attempt 5 of 5)",
    });
  });

  test("dropped a third time in a row makes the node rest, until it has submitted something", async () => {
    const run = await startRun(server);
    await openGenerate(run, 3);
    const node = await server.node();
    const ask = () => claimTasks(server.ctx(node), { kinds: ["GENERATE"], max: 2, runId: run.id });
    // Two at once are one drop.
    for (const lease of await ask()) await releaseTask(server.ctx(node), { ...lease, reason: "no" });
    const [second] = await ask();
    if (second === undefined) throw new Error("tasks are open");
    await age(second, 300);
    await server.prisma.node.update({
      where: { id: node.id },
      data: { droppedAt: new Date(Date.now() - 600_000) },
    });
    await server.prisma.task.update({ where: { id: second.taskId }, data: { leaseUntil: new Date(0) } });
    await expireLeases(server.ctx());
    await server.prisma.attempt.updateMany({
      where: { nodeId: node.id, state: "LIVE" },
      data: { state: "CANCELLED" },
    });
    const [third] = await ask();
    if (third === undefined) throw new Error("twice is free");
    await releaseTask(server.ctx(node), { ...third, reason: "no" });
    await expect(ask()).rejects.toMatchObject({
      code: "RATE_LIMITED",
      details: { retryAfterSeconds: expect.any(Number) },
    });
    await server.prisma.node.update({
      where: { id: node.id },
      data: { restsUntil: new Date(Date.now() - 1) },
    });
    expect((await ask()).length).toBeGreaterThan(0);
  });

  test("is asked for by one claim of a node at a time", async () => {
    const run = await startRun(server);
    await openGenerate(run, 4);
    const started = performance.now();
    const claims = Array.from({ length: 200 }, () =>
      claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 1, runId: run.id }),
    );
    expect((await Promise.all(claims)).flat().length).toBeLessThanOrEqual(2);
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});

describe("consent", () => {
  test("an organizer neither sees nor conscripts a machine that works for somebody else", async () => {
    const victim = await startRun(server);
    const trainer = await server.node({ worksFor: [victim.organization.typeId] });
    await grant(server, victim.id, trainer, "TRAINER");
    const attacker = await startRun(server);
    const { nodes } = await server.ask<{ nodes: { edges: { node: { id: string } }[] } }>(
      "{ nodes(first: 200) { edges { node { id } } } }",
      {},
      attacker.organization.owner,
    );
    const seen = nodes.edges.map(({ node }) => fromTypeId(node.id, "node"));
    expect(seen.sort()).toEqual([attacker.trainer.id, attacker.validator.id].sort());
    await grant(server, attacker.id, trainer, "TRAINER");
    const claimed = await claimTasks(server.ctx(trainer), { kinds: ["BASE", "TRAIN"], max: 1 });
    expect(claimed.map(({ runId }) => runId)).toEqual([victim.id]);
  });

  test("who named nothing generates for open runs and does nothing else", async () => {
    const run = await startRun(server);
    const node = await server.node();
    await grant(server, run.id, node, "TRAINER");
    await expect(claimTasks(server.ctx(node), { kinds: ["BASE"], max: 1 })).rejects.toMatchObject({
      code: "ROLE_NOT_GRANTED",
      message: expect.stringContaining("--organization"),
    });
    const named = await server.node({ worksFor: [run.typeId] });
    await grant(server, run.id, named, "TRAINER");
    expect(await claimTasks(server.ctx(named), { kinds: ["BASE"], max: 1 })).toHaveLength(1);
  });
});

describe("a submission", () => {
  const mutation =
    "mutation($input: SubmitPackInput!) { submitRollouts(input: $input) { __typename ... on LeaseLost { message } ... on SubmissionRefused { message } } }";
  const submit = (run: TestRun, node: TestNode, lease: Lease, pack: string) =>
    server.graphql<{ submitRollouts: { __typename: string; message?: string } }>(
      mutation,
      {
        input: {
          task: toTypeId("task", lease.taskId),
          attempt: lease.attempt,
          pack,
          signature: signed(run, node, lease, pack),
        },
      },
      node,
    );

  test("that cannot win is answered before a byte is read", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await releaseTask(server.ctx(run.worker), { ...lease, reason: "no" });
    // Reading it would fail: there is no such blob.
    const { data } = await submit(run, run.worker, lease, "ab".repeat(32));
    expect(data?.submitRollouts.__typename).toBe("LeaseLost");
  });

  test("is no larger than its task can need, stored or named", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const most = mostPackBytes(run.spec, "GENERATE");
    expect(most).toBeLessThan(200_000);
    await expect(put(server, run.worker, lease, "ROLLOUTS", randomBytes(most + 1))).rejects.toThrow("413");
    const foreign = await server.services.blobs.putBytes(randomBytes(most + 1));
    expect(codes(await submit(run, run.worker, lease, foreign))).toEqual(["BLOB_TOO_LARGE"]);
  });

  test("of garbage is refused with a reason that can be stored", async () => {
    const run = await startRun(server);
    await publishBase(server, run);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const payload = generatePayloadSchema.parse(lease.payload);
    const bytes = Buffer.from(
      encodeRolloutPack({
        header: {
          kind: "rollouts",
          version: 1,
          manifest: payload.manifest,
          form: "f32",
          topK: payload.topK,
          run: run.typeId,
          task: toTypeId("task", lease.taskId),
        },
        rollouts: [
          {
            index: 0,
            prompt: Int32Array.of(1),
            tokens: Int32Array.of(1),
            logprobs: Float32Array.of(-1),
            finish: "length",
            proofs: [],
          },
        ],
      }),
    );
    // Of the same length: a field whose name no database can hold.
    const [known, odd] = ['"form":"f32"', '"\\u0000":"x"'];
    bytes.write(odd, bytes.indexOf(known));
    const pack = await put(server, run.worker, lease, "ROLLOUTS", bytes);
    const { data } = await submit(run, run.worker, lease, pack);
    expect(data?.submitRollouts.__typename).toBe("SubmissionRefused");
    const { reason } = await server.prisma.attempt.findFirstOrThrow({
      where: { taskId: lease.taskId, number: lease.attempt },
    });
    expect(reason).toBe(data?.submitRollouts.message);
    expect(reason).toContain("header");
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
