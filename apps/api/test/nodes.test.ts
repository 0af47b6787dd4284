import { generateKeyPairSync, sign } from "node:crypto";
import { challengeBytes } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { livenessOf } from "../src/nodes/liveness.ts";
import { sessionCleanupLoop } from "../src/nodes/register.ts";
import { startTestServer, type TestServer } from "./testkit.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const challengeMutation =
  "mutation($input: CreateNodeChallengeInput!) { createNodeChallenge(input: $input) { challenge expiresAt } }";
const registerMutation =
  "mutation($input: RegisterNodeInput!) { registerNode(input: $input) { token expiresAt node { id name publicKey liveness } } }";

async function registration(keys = generateKeyPairSync("ed25519"), audience = server.url) {
  const publicKey = Buffer.from(keys.publicKey.export({ format: "jwk" }).x ?? "", "base64url").toString(
    "hex",
  );
  const { createNodeChallenge } = await server.ask<{ createNodeChallenge: { challenge: string } }>(
    challengeMutation,
    { input: { publicKey } },
  );
  const { challenge } = createNodeChallenge;
  const signature = sign(null, challengeBytes({ publicKey, challenge, audience }), keys.privateKey).toString(
    "hex",
  );
  return {
    publicKey,
    challenge,
    signature,
    protocol: 1,
    software: "test 1",
    name: "a node",
    hardware: { cpus: 2 },
  };
}

describe("registration", () => {
  test("a node that signs its challenge gets a token that opens the API", async () => {
    const input = await registration();
    const { registerNode } = await server.ask<{
      registerNode: {
        token: string;
        node: { id: string; name: string; publicKey: string; liveness: string };
      };
    }>(registerMutation, { input });
    expect(registerNode.node).toEqual({
      id: expect.stringMatching(/^node_/),
      name: "a node",
      publicKey: input.publicKey,
      liveness: "ACTIVE",
    });
    expect(Buffer.from(registerNode.token, "base64url")).toHaveLength(32);
    const { me } = await server.ask<{ me: unknown }>(
      "{ me { kind nodeIdentity { id } } }",
      {},
      { headers: { authorization: `Bearer ${registerNode.token}` }, actor: { kind: "anonymous" } },
    );
    expect(me).toEqual({ kind: "NODE", nodeIdentity: { id: registerNode.node.id } });
    const stored = await server.prisma.nodeSession.findMany({ select: { tokenHash: true } });
    expect(JSON.stringify(stored)).not.toContain(registerNode.token);
  });

  test("a challenge serves one try, even a wrong one", async () => {
    const input = await registration();
    const wrong = await server.graphql(registerMutation, { input: { ...input, signature: "0".repeat(128) } });
    expect(wrong.errors?.[0]?.extensions.code).toBe("SIGNATURE_INVALID");
    const again = await server.graphql(registerMutation, { input });
    expect(again.errors?.[0]?.extensions).toMatchObject({ code: "CHALLENGE_INVALID", retryable: true });
  });

  test("a challenge older than five minutes is refused", async () => {
    const input = await registration();
    await server.prisma.nodeChallenge.update({
      where: { challenge: input.challenge },
      data: { expiresAt: new Date(Date.now() - 1) },
    });
    const late = await server.graphql(registerMutation, { input });
    expect(late.errors?.[0]?.extensions.code).toBe("CHALLENGE_INVALID");
  });

  test("another key's challenge is refused", async () => {
    const [mine, other] = [await registration(), await registration()];
    const mixed = await server.graphql(registerMutation, { input: { ...mine, challenge: other.challenge } });
    expect(mixed.errors?.[0]?.extensions.code).toBe("CHALLENGE_INVALID");
  });

  test("a proof made for another coordinator is of no use here", async () => {
    const keys = generateKeyPairSync("ed25519");
    const relayed = await registration(keys, "https://elsewhere.example");
    const refused = await server.graphql(registerMutation, { input: relayed });
    expect(refused.errors?.[0]?.extensions.code).toBe("SIGNATURE_INVALID");
    const published = await startTestServer({
      sharing: server,
      loops: [],
      config: { publicUrl: "https://muster.example/api/" },
    });
    const codesOf = async (audience: string) =>
      (await published.graphql(registerMutation, { input: await registration(keys, audience) })).errors?.map(
        ({ extensions }) => extensions.code,
      );
    expect(await codesOf("https://muster.example")).toBeUndefined();
    // The supervisor's own nodes dial the loopback address.
    expect(await codesOf(published.url)).toBeUndefined();
    expect(await codesOf(server.url)).toEqual(["SIGNATURE_INVALID"]);
    await published.stop();
  });

  test("a node that came and did nothing is forgotten after a day, one that did anything is not", async () => {
    const [idle, granted, young] = [await server.node(), await server.node(), await server.node()];
    const organization = await server.organization();
    await server.prisma.run.create({
      data: {
        organizationId: organization.id,
        slug: "prune",
        name: "run",
        environment: "muster/sort-digits@1",
        baseKind: "warmup",
        stepLimit: 1,
        grants: { create: { organizationId: organization.id, nodeId: granted.id, role: "TRAINER" } },
      },
    });
    await server.prisma.node.updateMany({
      where: { id: { in: [idle.id, granted.id] } },
      data: { lastSeenAt: new Date(Date.now() - 25 * 3_600_000) },
    });
    await sessionCleanupLoop.run(server.ctx(), { topics: new Set(), signal: new AbortController().signal });
    const left = await server.prisma.node.findMany({
      where: { id: { in: [idle.id, granted.id, young.id] } },
      select: { id: true },
    });
    expect(left.map(({ id }) => id).sort()).toEqual([granted.id, young.id].sort());
  });

  test("the same key is the same node, and its earlier session goes on", async () => {
    const keys = generateKeyPairSync("ed25519");
    const first = await server.node({ keys, name: "before" });
    const second = await server.node({ keys, name: "after" });
    expect(second.id).toBe(first.id);
    expect(await server.prisma.node.findUniqueOrThrow({ where: { id: first.id } })).toMatchObject({
      name: "after",
    });
    const { me } = await server.ask<{ me: { kind: string } }>("{ me { kind } }", {}, first);
    expect(me.kind).toBe("NODE");
  });

  test("an older protocol is told how to upgrade", async () => {
    const old = await server.graphql(registerMutation, { input: { ...(await registration()), protocol: 0 } });
    expect(old.errors?.[0]).toMatchObject({
      extensions: { code: "UPGRADE_REQUIRED", command: "npm install -g muster@latest" },
    });
  });

  test("input of the wrong form is refused by its field", async () => {
    const input = { ...(await registration()), publicKey: "abc" };
    const answer = await server.graphql(registerMutation, { input });
    expect(answer.errors?.[0]).toMatchObject({
      message: expect.stringContaining("publicKey"),
      extensions: { code: "INPUT_INVALID" },
    });
  });
});

describe("sessions", () => {
  test("an unknown token is refused with 401", async () => {
    const answer = await fetch(`${server.url}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer nothing" },
      body: JSON.stringify({ query: "{ me { kind } }" }),
    });
    expect(answer.status).toBe(401);
    expect(await answer.json()).toEqual({
      errors: [
        {
          message: expect.stringContaining("Register the node again"),
          extensions: { code: "UNAUTHENTICATED", retryable: false, requestId: expect.any(String) },
        },
      ],
    });
  });

  test("an expired token is refused, a renewed one works", async () => {
    const node = await server.node();
    const { renewSession } = await server.ask<{ renewSession: { token: string } }>(
      "mutation { renewSession { token expiresAt } }",
      {},
      node,
    );
    expect(renewSession.token).not.toBe(node.token);
    const fresh = { headers: { authorization: `Bearer ${renewSession.token}` }, actor: node.actor };
    expect((await server.ask<{ me: { kind: string } }>("{ me { kind } }", {}, fresh)).me.kind).toBe("NODE");
    const other = await server.node();
    await server.prisma.nodeSession.updateMany({
      where: { nodeId: other.id },
      data: { expiresAt: new Date(Date.now() - 1) },
    });
    // Nothing had asked with this token yet, so nothing is remembered of it.
    expect((await server.graphql("{ me { kind } }", {}, other)).status).toBe(401);
  });

  test("only a node renews a session", async () => {
    const answer = await server.graphql("mutation { renewSession { token } }");
    expect(answer.errors?.[0]?.extensions.code).toBe("UNAUTHENTICATED");
  });
});

describe("heartbeats", () => {
  test("heartbeats reach the row in one flush, with progress and draining", async () => {
    const [one, two] = [await server.node(), await server.node()];
    const long = new Date(Date.now() - 3_600_000);
    await server.prisma.node.updateMany({
      where: { id: { in: [one.id, two.id] } },
      data: { lastSeenAt: long },
    });
    const beat =
      "mutation($input: HeartbeatInput!) { heartbeat(input: $input) { serverTime leases { task } } }";
    const answer = await server.ask<{ heartbeat: { leases: unknown[] } }>(
      beat,
      { input: { progress: { version: 3 }, draining: true } },
      one,
    );
    expect(answer.heartbeat.leases).toEqual([]);
    await server.ask(beat, { input: {} }, two);
    expect(await server.services.presence.flush(server.prisma)).toBe(2);
    const rows = await server.prisma.node.findMany({
      where: { id: { in: [one.id, two.id] } },
      orderBy: { id: "asc" },
    });
    expect(rows.map(({ progress, draining }) => ({ progress, draining }))).toEqual([
      { progress: { version: 3 }, draining: true },
      { progress: null, draining: false },
    ]);
    for (const { lastSeenAt } of rows) expect(Date.now() - lastSeenAt.getTime()).toBeLessThan(60_000);
    expect(await server.services.presence.flush(server.prisma)).toBe(0);
  });

  test("a flush never takes last seen back", async () => {
    const node = await server.node();
    const later = new Date(Date.now() + 60_000);
    server.services.presence.beat(node.id, {});
    await server.prisma.node.update({ where: { id: node.id }, data: { lastSeenAt: later } });
    await server.services.presence.flush(server.prisma);
    expect((await server.prisma.node.findUniqueOrThrow({ where: { id: node.id } })).lastSeenAt).toEqual(
      later,
    );
  });

  test("liveness follows from last seen", () => {
    const now = new Date();
    const ago = (seconds: number, draining = false) =>
      livenessOf({ lastSeenAt: new Date(now.getTime() - seconds * 1000), draining }, now);
    expect([
      ago(0),
      ago(29.9),
      ago(30),
      ago(119.9),
      ago(120),
      ago(5, true),
      ago(60, true),
      ago(600, true),
    ]).toEqual(["ACTIVE", "ACTIVE", "STALE", "STALE", "OFFLINE", "DRAINING", "OFFLINE", "OFFLINE"]);
  });
});
