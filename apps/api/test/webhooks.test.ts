import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import { request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { fromTypeId, toTypeId } from "@muster/protocol";
import { isObjectType } from "graphql";
import { Webhook } from "standardwebhooks";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { allLoops } from "../src/all-loops.ts";
import { appendEvents, type EventType, organizationStream, runStream } from "../src/events/append.ts";
import { numberEvents } from "../src/events/sequencer.ts";
import { guardedAgents } from "../src/http/outbound.ts";
import { schema } from "../src/schema.ts";
import { deleteOld, deliverDue, sendTaken, takeDue } from "../src/webhooks/deliver.ts";
import { webhooksReach } from "../src/webhooks/endpoints.ts";
import { fanOut } from "../src/webhooks/fan-out.ts";
import { send } from "../src/webhooks/send.ts";
import { readSubscriptions } from "../src/webhooks/subscriptions.ts";
import { startRun } from "./runkit.ts";
import { codes, startTestServer, type TestOrganization, type TestServer, until } from "./testkit.ts";

// The loops are called by hand, so that a test says when what happens.
const server = await startTestServer({ loops: [] });
const closing: (() => Promise<void>)[] = [];
afterAll(async () => {
  for (const close of closing) await close();
  await server.stop();
});
// A failed test leaves no delivery to the next one.
afterEach(() => server.prisma.webhookEndpoint.updateMany({ data: { state: "PAUSED" } }));

type Received = { headers: IncomingHttpHeaders; body: string };
type Receiver = {
  url: string;
  received: Received[];
  /** How it answers; default 204. */
  answer: (response: ServerResponse, nth: number) => void;
};

async function receiver(): Promise<Receiver> {
  const made: Receiver = { url: "", received: [], answer: (response) => response.writeHead(204).end() };
  const http = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      made.received.push({ headers: request.headers, body: Buffer.concat(chunks).toString("utf8") });
      made.answer(response, made.received.length);
    });
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  const { port } = http.address() as AddressInfo;
  made.url = `http://127.0.0.1:${port}/hooks?from=muster`;
  closing.push(async () => {
    http.closeAllConnections();
    await new Promise((resolve) => http.close(resolve));
  });
  return made;
}

const createSource = `mutation($input: CreateWebhookEndpointInput!) { createWebhookEndpoint(input: $input) {
  secret endpoint { id url eventTypes state failures run { id } waiting } } }`;
type Made = {
  createWebhookEndpoint: {
    secret: string | null;
    endpoint: { id: string; url: string; eventTypes: string[]; state: string };
  };
};

async function endpoint(
  organization: TestOrganization,
  to: Receiver,
  more: Record<string, unknown> = {},
): Promise<{ id: string; typeId: string; secret: string }> {
  const input = { organization: organization.typeId, url: to.url, eventTypes: ["*"], ...more };
  const { createWebhookEndpoint: made } = await server.ask<Made>(createSource, { input }, organization.owner);
  return {
    id: fromTypeId(made.endpoint.id, "hook"),
    typeId: made.endpoint.id,
    secret: made.secret ?? "",
  };
}

/** Lets something happen in the organization, numbered. */
async function happen(
  { id }: { id: string },
  type: EventType = "budget.changed",
  {
    n = 1,
    stream = organizationStream(id),
    at = server,
  }: { n?: number; stream?: string; at?: TestServer } = {},
): Promise<void> {
  const events = Array.from({ length: n }, (_, i) => ({
    stream,
    organizationId: id,
    type,
    subject: toTypeId("org", id),
    data: { i },
  }));
  await at.prisma.$transaction((tx) => appendEvents(tx, events));
  while ((await numberEvents(at.services)) > 0);
}

const ctx = server.ctx();
const row = (id: string) => server.prisma.webhookEndpoint.findUniqueOrThrow({ where: { id } });
const deliveries = (endpointId: string) =>
  server.prisma.webhookDelivery.findMany({ where: { endpointId }, orderBy: { id: "asc" } });
/** The time of the next attempt, and of the endpoint's rest, has come. */
async function due(endpointId: string): Promise<void> {
  await server.prisma.webhookDelivery.updateMany({
    where: { endpointId, state: "PENDING" },
    data: { nextAttemptAt: new Date(Date.now() - 1000) },
  });
  await server.prisma.webhookEndpoint.update({ where: { id: endpointId }, data: { restsUntil: null } });
}
const verified = (secret: string, { body, headers }: Received): unknown =>
  new Webhook(secret).verify(body, headers as Record<string, string>);

describe("an event", () => {
  test("arrives signed, as it is in the event log, and verifies with the library", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id, secret } = await endpoint(organization, to);
    await happen(organization);
    expect(await fanOut(ctx)).toBe(1);
    expect(await deliverDue(ctx)).toBe(1);
    const [got] = to.received;
    if (got === undefined) throw new Error("nothing came");
    const event = await server.prisma.event.findFirstOrThrow({
      where: { stream: organizationStream(organization.id) },
    });
    expect(verified(secret, got)).toEqual({
      type: "budget.changed",
      timestamp: event.at.toISOString(),
      stream: organization.typeId,
      seq: "1",
      subject: organization.typeId,
      data: { i: 0 },
    });
    expect(got.headers).toMatchObject({
      "webhook-id": `${organization.typeId}:1`,
      "content-type": "application/json",
      "user-agent": "Muster-Webhooks/1",
    });
    expect(() => verified(secret, { ...got, body: got.body.replace("budget", "budgie") })).toThrow();
    expect(await deliveries(id)).toMatchObject([
      { state: "DELIVERED", attempts: 1, responseStatus: 204, nextAttemptAt: null, sending: false },
    ]);
    expect((await row(id)).deliveredAt).not.toBeNull();
  });

  test("of a type nobody asked for, of another organization, of another run, or of before, is not sent", async () => {
    const run = await startRun(server);
    const { organization } = run;
    // Before is what has its number: the sequencer is called by hand here.
    while ((await numberEvents(server.services)) > 0);
    const to = await receiver();
    const wide = await endpoint(organization, to, { eventTypes: ["budget.*", "budget.changed"] });
    const narrow = await endpoint(organization, to, { run: run.typeId });
    const other = await server.organization();
    await happen(organization);
    await happen(organization, "node.trust");
    await happen(other);
    await happen(organization, "checkpoint.available", { stream: runStream(run.id) });
    await fanOut(ctx);
    expect((await deliveries(wide.id)).map((one) => one.messageId)).toEqual([`${organization.typeId}:1`]);
    expect((await deliveries(narrow.id)).map((one) => one.eventType)).toEqual(["checkpoint.available"]);
  });

  test("of a run that began after the endpoint was made is sent from the first on", async () => {
    const organization = await server.organization();
    const { id } = await endpoint(organization, await receiver(), { eventTypes: ["run.created"] });
    const run = await startRun(server, {}, { organization });
    while ((await numberEvents(server.services)) > 0);
    await fanOut(ctx);
    expect((await deliveries(id)).map((one) => one.messageId)).toEqual([`${run.typeId}:1`]);
  });

  test("is read by many processes at once into one delivery, without a gap", async () => {
    const other = await startTestServer({ sharing: server, loops: [] });
    const organization = await server.organization();
    const { id } = await endpoint(organization, await receiver());
    for (let round = 0; round < 5; round++) {
      await happen(organization, "budget.changed", { n: 20 });
      await Promise.all([fanOut(ctx), fanOut(other.ctx()), fanOut(ctx)]);
    }
    const seqs = (await deliveries(id)).map(({ messageId }) => Number(messageId.split(":")[1]));
    expect(seqs.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
    await other.stop();
  });

  test("waits in the event log when an endpoint has many to come, and is sent when there is room", async () => {
    const organization = await server.organization();
    const { id } = await endpoint(organization, await receiver());
    await happen(organization, "budget.changed", { n: 600 });
    expect(await fanOut(ctx)).toBe(500);
    expect(await fanOut(ctx)).toBe(0);
    await server.prisma.webhookDelivery.updateMany({
      where: { endpointId: id },
      data: { state: "DELIVERED", nextAttemptAt: null },
    });
    expect(await fanOut(ctx)).toBe(100);
    const all = await deliveries(id);
    expect(new Set(all.map((one) => one.messageId)).size).toBe(600);
  });

  test("that retention deleted while an endpoint was paused is counted as missed; the rest is sent", async () => {
    const organization = await server.organization();
    const { id, typeId } = await endpoint(organization, await receiver());
    await server.ask(
      "mutation($input: WebhookEndpointInput!) { pauseWebhookEndpoint(input: $input) { state } }",
      { input: { endpoint: typeId } },
      organization.owner,
    );
    await happen(organization, "budget.changed", { n: 3 });
    // Events are append-only to everyone but retention.
    await server.prisma
      .$executeRaw`DELETE FROM "Event" WHERE stream = ${organizationStream(organization.id)}`;
    await happen(organization, "budget.changed", { n: 2 });
    await fanOut(ctx);
    expect(await deliveries(id)).toEqual([]);
    await resume(organization, typeId);
    await fanOut(ctx);
    expect((await deliveries(id)).map(({ messageId }) => messageId.split(":")[1])).toEqual(["4", "5"]);
    expect((await row(id)).missed).toBe(3n);
  });

  test("goes from the commit to the receiver through the loops by itself", async () => {
    const names = ["sequencer", "webhook fan-out", "webhook deliveries"];
    const live = await startTestServer({ loops: allLoops.filter(({ name }) => names.includes(name)) });
    closing.push(live.stop);
    const organization = await live.organization();
    const to = await receiver();
    const input = { organization: organization.typeId, url: to.url, eventTypes: ["budget.changed"] };
    await live.ask(createSource, { input }, organization.owner);
    await live.prisma.$transaction((tx) =>
      appendEvents(tx, [
        {
          stream: organizationStream(organization.id),
          organizationId: organization.id,
          type: "budget.changed",
          subject: organization.typeId,
          data: {},
        },
      ]),
    );
    live.services.bus.publish("events");
    await until(() => to.received.length === 1);
  });
});

const resume = (organization: TestOrganization, typeId: string, skipMissed = false) =>
  server.ask<{ resumeWebhookEndpoint: { state: string; missed: string } }>(
    "mutation($input: ResumeWebhookEndpointInput!) { resumeWebhookEndpoint(input: $input) { state missed } }",
    { input: { endpoint: typeId, skipMissed } },
    organization.owner,
  );

describe("a delivery", () => {
  test("that fails is tried again later and later, with the same id and body, until it arrives", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id, secret } = await endpoint(organization, to);
    to.answer = (response, nth) => response.writeHead(nth < 3 ? 500 : 200).end(`answer ${nth}`);
    await happen(organization);
    await fanOut(ctx);
    await deliverDue(ctx);
    const [first] = await deliveries(id);
    const wait = (first?.nextAttemptAt?.getTime() ?? 0) - Date.now();
    expect(first).toMatchObject({
      state: "PENDING",
      attempts: 1,
      responseStatus: 500,
      responseBody: "answer 1",
    });
    expect(wait).toBeGreaterThan(2_000);
    expect(wait).toBeLessThan(6_100);
    expect(await deliverDue(ctx)).toBe(0);
    await due(id);
    await deliverDue(ctx);
    const [second] = await deliveries(id);
    expect((second?.nextAttemptAt?.getTime() ?? 0) - Date.now()).toBeGreaterThan(14_000);
    await due(id);
    await deliverDue(ctx);
    expect(await deliveries(id)).toMatchObject([
      {
        state: "DELIVERED",
        attempts: 3,
        responseBody: "answer 3",
        log: [{ status: 200 }, { status: 500 }, { status: 500 }],
      },
    ]);
    expect(new Set(to.received.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
    expect(new Set(to.received.map(({ body }) => body)).size).toBe(1);
    for (const got of to.received) verified(secret, got);
    expect(await row(id)).toMatchObject({ failures: 0, restsUntil: null });
  });

  test("that failed for three days is given up, and can be sent again by hand", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id } = await endpoint(organization, to);
    to.answer = (response) => response.writeHead(503).end();
    await happen(organization);
    await fanOut(ctx);
    await deliverDue(ctx);
    await server.prisma.webhookDelivery.updateMany({
      where: { endpointId: id },
      data: { triedSince: new Date(Date.now() - 3 * 86_400_000), attempts: 12 },
    });
    await due(id);
    await deliverDue(ctx);
    const [given] = await deliveries(id);
    expect(given).toMatchObject({ state: "FAILED", nextAttemptAt: null, attempts: 13 });
    to.answer = (response) => response.writeHead(200).end();
    const { resendWebhook } = await server.ask<{ resendWebhook: { state: string } }>(
      "mutation($input: ResendWebhookInput!) { resendWebhook(input: $input) { state } }",
      { input: { delivery: toTypeId("delivery", given?.id ?? "") } },
      organization.owner,
    );
    expect(resendWebhook.state).toBe("PENDING");
    await deliverDue(ctx);
    expect(await deliveries(id)).toMatchObject([{ state: "DELIVERED", attempts: 14 }]);
    expect(new Set(to.received.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
  });

  test("whose process dies between sending and noting is sent again with the same id", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id } = await endpoint(organization, to);
    await happen(organization);
    await fanOut(ctx);
    const [taken] = await takeDue(ctx, 1);
    if (taken === undefined) throw new Error("nothing was due");
    expect((await sendTaken(ctx, taken))?.ok).toBe(true);
    // It is nobody else's while the attempt may be under way, and due again a minute later.
    expect(await deliverDue(ctx)).toBe(0);
    await due(id);
    expect(await deliverDue(ctx)).toBe(1);
    expect(to.received.map(({ headers }) => headers["webhook-id"])).toEqual(
      Array(2).fill(`${organization.typeId}:1`),
    );
    expect(await deliveries(id)).toMatchObject([{ state: "DELIVERED", attempts: 2 }]);
  });

  test("is taken by one process of several, never more than four of an endpoint at once", async () => {
    const other = await startTestServer({ sharing: server, loops: [] });
    const organization = await server.organization();
    const to = await receiver();
    let under = 0;
    let most = 0;
    to.answer = (response) => {
      most = Math.max(most, ++under);
      // a receiver that takes its time: the others are under way meanwhile
      setTimeout(() => {
        under--;
        response.writeHead(204).end();
      }, 20);
    };
    await endpoint(organization, to);
    await happen(organization, "budget.changed", { n: 40 });
    await fanOut(ctx);
    const made = await Promise.all([deliverDue(ctx), deliverDue(other.ctx()), deliverDue(ctx)]);
    await deliverDue(ctx);
    expect(to.received).toHaveLength(40);
    expect(new Set(to.received.map(({ headers }) => headers["webhook-id"])).size).toBe(40);
    expect(made.reduce((sum, n) => sum + n, 0)).toBeGreaterThan(0);
    // For a moment it can be one more for each other process: see takeDue.
    expect(most).toBeLessThanOrEqual(4 + 2);
    await other.stop();
  });

  test("waits as long as the receiver asks", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id } = await endpoint(organization, to);
    to.answer = (response) => response.writeHead(429, { "retry-after": "600" }).end();
    await happen(organization);
    await fanOut(ctx);
    await deliverDue(ctx);
    const [waiting] = await deliveries(id);
    expect((waiting?.nextAttemptAt?.getTime() ?? 0) - Date.now()).toBeGreaterThan(590_000);
  });

  test("older than thirty days is deleted", async () => {
    const organization = await server.organization();
    const { id } = await endpoint(organization, await receiver());
    await happen(organization, "budget.changed", { n: 2 });
    await fanOut(ctx);
    const [old] = await deliveries(id);
    await server.prisma.webhookDelivery.update({
      where: { id: old?.id ?? "" },
      data: { createdAt: new Date(Date.now() - 31 * 86_400_000) },
    });
    expect(await deleteOld(ctx, new Date(Date.now() - 30 * 86_400_000))).toBe(1);
    expect(await deliveries(id)).toHaveLength(1);
  });
});

describe("an endpoint that fails", () => {
  test("rests, is tried one at a time, and is paused after so many failures with an event", async () => {
    const organization = await server.organization();
    const to = await receiver();
    to.answer = (response) => response.writeHead(500).end();
    const { id, typeId } = await endpoint(organization, to, {
      pauseAfter: 6,
      eventTypes: ["budget.changed"],
    });
    await happen(organization, "budget.changed", { n: 4 });
    await fanOut(ctx);
    await deliverDue(ctx);
    expect(await row(id)).toMatchObject({ failures: 4, state: "ACTIVE", restsUntil: expect.any(Date) });
    const before = to.received.length;
    await server.prisma.webhookDelivery.updateMany({
      where: { endpointId: id },
      data: { nextAttemptAt: new Date(0) },
    });
    expect(await deliverDue(ctx)).toBe(0);
    await server.prisma.webhookEndpoint.update({ where: { id }, data: { restsUntil: null } });
    expect((await takeDue(ctx, 10)).filter((one) => one.endpointId === id)).toHaveLength(1);
    await due(id);
    await deliverDue(ctx);
    await due(id);
    await deliverDue(ctx);
    expect(to.received.length).toBe(before + 2);
    expect(await row(id)).toMatchObject({
      state: "PAUSED",
      failures: 6,
      reason: "6 attempts in a row failed. The last one: It answered 500.",
    });
    expect(
      await server.prisma.event.findMany({
        where: { stream: organizationStream(organization.id), type: "webhook.paused" },
        select: { subject: true, data: true },
      }),
    ).toEqual([{ subject: typeId, data: expect.objectContaining({ failures: 6 }) }]);
    await due(id);
    expect(await deliverDue(ctx)).toBe(0);
    to.answer = (response) => response.writeHead(204).end();
    await resume(organization, typeId);
    expect(await row(id)).toMatchObject({ state: "ACTIVE", failures: 0, reason: null });
    await deliverDue(ctx);
    expect((await deliveries(id)).every(({ state }) => state === "DELIVERED")).toBe(true);
  });

  test("and says 410 Gone is paused at once; resuming may skip what happened meanwhile", async () => {
    const organization = await server.organization();
    const to = await receiver();
    to.answer = (response) => response.writeHead(410).end();
    const { id, typeId } = await endpoint(organization, to, { eventTypes: ["budget.changed"] });
    await happen(organization);
    await fanOut(ctx);
    await deliverDue(ctx);
    expect((await row(id)).state).toBe("PAUSED");
    await happen(organization, "budget.changed", { n: 4 });
    const { resumeWebhookEndpoint } = await resume(organization, typeId, true);
    // Four that were not read, the pause's own event, and the one that was not delivered.
    expect(resumeWebhookEndpoint).toEqual({ state: "ACTIVE", missed: "6" });
    await fanOut(ctx);
    expect(await deliveries(id)).toEqual([]);
  });
});

describe("a request", () => {
  const reach = webhooksReach(server.services);
  const message = (url: string) => ({ url, id: "m", body: "{}", secrets: ["whsec_AAAA"] });
  const never = new AbortController().signal;

  test("follows no redirect", async () => {
    const target = await receiver();
    const to = await receiver();
    to.answer = (response) => response.writeHead(302, { location: target.url }).end();
    expect(await send(reach, message(to.url), never)).toMatchObject({
      ok: false,
      status: 302,
      error: "A redirect is not followed.",
    });
    expect(target.received).toEqual([]);
  });

  test("reads a kilobyte of the answer and no more, whatever is sent", async () => {
    const to = await receiver();
    let sent = 0;
    to.answer = (response) => {
      response.writeHead(200);
      const flood = (): void => {
        if (response.destroyed) return;
        sent += 65_536;
        response.write(Buffer.alloc(65_536, "a\0"), flood);
      };
      flood();
    };
    const answer = await send(reach, message(to.url), never);
    expect(answer.ok).toBe(true);
    expect(answer.body).toHaveLength(1024);
    expect(answer.body).not.toContain("\0");
    expect(sent).toBeLessThan(50_000_000);
  });

  test("that nobody answers, or that breaks, is a failure with its reason", async () => {
    const to = await receiver();
    to.answer = (response) => response.destroy();
    expect(await send(reach, message(to.url), never)).toMatchObject({ ok: false, error: "socket hang up" });
    expect(await send(reach, message("http://127.0.0.1:1/"), never)).toMatchObject({
      ok: false,
      error: expect.stringContaining("ECONNREFUSED"),
    });
    const stop = new AbortController();
    to.answer = () => stop.abort();
    expect(await send(reach, message(to.url), stop.signal)).toMatchObject({ ok: false, status: undefined });
  });

  test.each([
    "http://127.0.0.1:1/",
    "http://[::1]:1/",
    "http://localhost:1/",
    "https://10.0.0.1/",
    "https://169.254.169.254/",
  ])("does not go to %s from a coordinator on the open network, whatever was stored", async (url) => {
    const open = webhooksReach({ config: server.config, publicUrl: "https://muster.example" });
    expect(await send(open, message(url), never)).toMatchObject({
      ok: false,
      error: expect.stringContaining("own network"),
    });
  });

  test("looks at the address that a name leads to when it connects", async () => {
    const open = webhooksReach({ config: server.config, publicUrl: "https://muster.example" });
    const agents = guardedAgents(open, new URL("https://hooks.example/"));
    // As if hooks.example led to this machine.
    const connected = await new Promise<Error | undefined>((resolve) => {
      httpsRequest({ host: "localhost", port: 1, agent: agents.https })
        .once("error", resolve)
        .once("response", () => resolve(undefined))
        .end();
    });
    expect(connected?.message).toBe("hooks.example leads into the coordinator's own network");
    agents.http.destroy();
    agents.https.destroy();
  });
});

describe("a secret", () => {
  test("is shown once, and stored so that nobody reads it", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const input = {
      organization: organization.typeId,
      url: to.url,
      eventTypes: ["*"],
      idempotencyKey: "the same",
    };
    const first = await server.ask<Made>(createSource, { input }, organization.owner);
    const again = await server.ask<Made>(createSource, { input }, organization.owner);
    expect(first.createWebhookEndpoint.secret).toMatch(/^whsec_[\w+/]{43}=$/);
    expect(again.createWebhookEndpoint.secret).toBeNull();
    expect(again.createWebhookEndpoint.endpoint.id).toBe(first.createWebhookEndpoint.endpoint.id);
    const plain = Buffer.from((first.createWebhookEndpoint.secret ?? "").slice(6), "base64");
    const { secret } = await row(fromTypeId(first.createWebhookEndpoint.endpoint.id, "hook"));
    expect(Buffer.from(secret).includes(plain)).toBe(false);
    const { rows } = await server.services.db.pool.query('SELECT result::text FROM "IdempotencyKey"');
    expect(JSON.stringify(rows)).not.toContain("whsec_");
    const fields = Object.values(schema.getTypeMap()).flatMap((type) =>
      isObjectType(type) && type.name.startsWith("Webhook") ? Object.keys(type.getFields()) : [],
    );
    expect(fields.filter((name) => /secret$/i.test(name))).toEqual(["secret"]);
  });

  const rotate = (organization: TestOrganization, endpointId: string, overlapHours?: number) =>
    server.ask<{ rotateWebhookSecret: { secret: string; endpoint: { previousSecretUntil: string | null } } }>(
      `mutation($input: RotateWebhookSecretInput!) { rotateWebhookSecret(input: $input) {
        secret endpoint { previousSecretUntil } } }`,
      { input: { endpoint: endpointId, ...(overlapHours === undefined ? {} : { overlapHours }) } },
      organization.owner,
    );

  test("that is rotated signs together with the one before it until the overlap ends", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id, typeId, secret: old } = await endpoint(organization, to, { eventTypes: ["budget.changed"] });
    const { rotateWebhookSecret: rotated } = await rotate(organization, typeId);
    expect(rotated.secret).not.toBe(old);
    const until24 = new Date(rotated.endpoint.previousSecretUntil ?? 0).getTime() - Date.now();
    expect(until24).toBeGreaterThan(86_000_000);
    const next = async (): Promise<Received> => {
      await happen(organization);
      await fanOut(ctx);
      await deliverDue(ctx);
      const got = to.received.at(-1);
      if (got === undefined) throw new Error("nothing came");
      return got;
    };
    const both = await next();
    expect(String(both.headers["webhook-signature"]).split(" ")).toHaveLength(2);
    verified(old, both);
    verified(rotated.secret, both);
    await server.prisma.webhookEndpoint.update({
      where: { id },
      data: { previousUntil: new Date(Date.now() - 1000) },
    });
    const one = await next();
    verified(rotated.secret, one);
    expect(() => verified(old, one)).toThrow();
    const { rotateWebhookSecret: atOnce } = await rotate(organization, typeId, 0);
    expect(atOnce.endpoint.previousSecretUntil).toBeNull();
    const last = await next();
    verified(atOnce.secret, last);
    expect(() => verified(rotated.secret, last)).toThrow();
  });
});

describe("a test", () => {
  const sendTest = (organization: TestOrganization, endpointId: string) =>
    server.ask<{ sendTestWebhook: Record<string, unknown> }>(
      `mutation($input: WebhookEndpointInput!) { sendTestWebhook(input: $input) {
        id messageId eventType state responseStatus responseBody attempts latencyMs log { status error ms at } } }`,
      { input: { endpoint: endpointId } },
      organization.owner,
    );

  test("is sent at once, to a paused endpoint too, and answers with what came back", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { id, typeId, secret } = await endpoint(organization, to);
    await server.prisma.webhookEndpoint.update({ where: { id }, data: { state: "PAUSED", failures: 3 } });
    to.answer = (response) => response.writeHead(200).end("hello");
    const { sendTestWebhook: sent } = await sendTest(organization, typeId);
    expect(sent).toMatchObject({
      eventType: "webhook.test",
      state: "DELIVERED",
      responseBody: "hello",
      attempts: 1,
    });
    const [got] = to.received;
    expect(verified(secret, got ?? { headers: {}, body: "" })).toMatchObject({
      type: "webhook.test",
      subject: typeId,
    });
    expect(got?.headers["webhook-id"]).toBe(sent.id);
    expect((await row(id)).state).toBe("PAUSED");
  });

  test("that fails is not repeated and counts for nothing", async () => {
    const organization = await server.organization();
    const to = await receiver();
    to.answer = (response) => response.writeHead(404).end("no such hook");
    const { id, typeId } = await endpoint(organization, to);
    const { sendTestWebhook: sent } = await sendTest(organization, typeId);
    expect(sent).toMatchObject({ state: "FAILED", responseStatus: 404, responseBody: "no such hook" });
    expect((await row(id)).failures).toBe(0);
    expect(await deliverDue(ctx)).toBe(0);
  });
});

describe("rights", () => {
  test("strangers see nothing; members read, without what a URL may hold; admins write", async () => {
    const organization = await server.organization();
    const to = await receiver();
    const { typeId } = await endpoint(organization, to);
    const member = await server.person(organization.id);
    const admin = await server.person(organization.id, "admin");
    const stranger = (await server.organization()).owner;
    const read = "query($id: ID!) { webhookEndpoint(id: $id) { id url } node(id: $id) { id } }";
    const seen = await server.ask<{ webhookEndpoint: { url: string } }>(read, { id: typeId }, member);
    expect(seen.webhookEndpoint.url).toBe(`${new URL(to.url).origin}/…`);
    expect(
      (await server.ask<{ webhookEndpoint: { url: string } }>(read, { id: typeId }, admin)).webhookEndpoint
        .url,
    ).toBe(to.url);
    expect(
      (await server.graphql<{ webhookEndpoint: unknown }>(read, { id: typeId }, stranger)).data
        ?.webhookEndpoint ?? null,
    ).toBeNull();

    const pause = "mutation($input: WebhookEndpointInput!) { pauseWebhookEndpoint(input: $input) { id } }";
    const input = { input: { endpoint: typeId } };
    expect(codes(await server.graphql(pause, input, member))).toEqual(["FORBIDDEN"]);
    expect(codes(await server.graphql(pause, input, stranger))).toEqual(["NOT_FOUND"]);
    expect(codes(await server.graphql(pause, input))).toEqual(["UNAUTHENTICATED"]);
    expect(
      codes(await server.graphql(pause, input, await server.apiKey(organization, ["run:read"]))),
    ).toEqual(["FORBIDDEN"]);
    expect(
      codes(
        await server.graphql(pause, input, await server.apiKey(organization, ["run:read", "webhook:manage"])),
      ),
    ).toEqual([]);
    expect(codes(await server.graphql(pause, input, await server.node()))).toEqual(["FORBIDDEN"]);

    const list = `query($id: ID!) { node(id: $id) { ... on Organization {
      webhookEndpoints(first: 5) { edges { node { id waiting } } } webhookDeliveries(first: 5) { edges { node { id } } } } } }`;
    expect(await server.ask(list, { id: organization.typeId }, member)).toMatchObject({
      node: { webhookEndpoints: { edges: [{ node: { id: typeId, waiting: 0 } }] } },
    });
    expect(
      JSON.stringify((await server.graphql(list, { id: organization.typeId }, stranger)).data ?? {}),
    ).not.toContain(typeId);
  });

  test("URLs and subscriptions that cannot be are refused, and so is the twenty-first endpoint", async () => {
    const organization = await server.organization();
    const create = (more: Record<string, unknown>) =>
      server.graphql(
        createSource,
        {
          input: {
            organization: organization.typeId,
            url: "https://hooks.example/a?b=c",
            eventTypes: ["*"],
            ...more,
          },
        },
        organization.owner,
      );
    for (const url of [
      "ftp://a.example",
      "https://u:p@a.example",
      "https://a.example/#x",
      "nonsense",
      "https://169.254.169.254/latest",
      `https://a.example/${"a".repeat(1024)}`,
    ])
      expect([url, codes(await create({ url }))]).toEqual([url, ["INPUT_INVALID"]]);
    expect(codes(await create({ url: "http://a.example/" }))).toEqual(["TLS_REQUIRED"]);
    expect(codes(await create({ eventTypes: [] }))).toEqual(["INPUT_INVALID"]);
    expect(codes(await create({ eventTypes: ["run.nonsense"] }))).toEqual(["INPUT_INVALID"]);
    expect(codes(await create({ pauseAfter: 0 }))).toEqual(["INPUT_INVALID"]);
    const foreign = await startRun(server);
    expect(codes(await create({ run: foreign.typeId }))).toEqual(["NOT_FOUND"]);
    expect(readSubscriptions(["run.state", "alert.*", "alert.firing", "run.state"])).toEqual([
      "alert.*",
      "run.state",
    ]);
    const made = [];
    for (let i = 0; i < 21; i++) made.push(codes(await create({}))[0]);
    expect(made).toEqual([...Array(20).fill(undefined), "STATE_CONFLICT"]);
  });

  test("deliveries are listed newest first, by endpoint, state and type, page after page", async () => {
    const organization = await server.organization();
    const { id, typeId } = await endpoint(organization, await receiver());
    await happen(organization, "budget.changed", { n: 5 });
    await fanOut(ctx);
    const list = `query($id: ID!, $endpoint: ID, $states: [WebhookDeliveryState!], $after: String) { node(id: $id) { ... on Organization {
      webhookDeliveries(first: 3, endpoint: $endpoint, states: $states, after: $after) { edges { node { messageId body } } pageInfo { hasNextPage endCursor } } } } }`;
    type Page = {
      node: {
        webhookDeliveries: {
          edges: { node: { messageId: string } }[];
          pageInfo: { hasNextPage: boolean; endCursor: string };
        };
      };
    };
    const page = async (more: Record<string, unknown>) =>
      (await server.ask<Page>(list, { id: organization.typeId, ...more }, organization.owner)).node
        .webhookDeliveries;
    const first = await page({ endpoint: typeId, states: ["PENDING"] });
    const second = await page({ endpoint: typeId, after: first.pageInfo.endCursor });
    expect([...first.edges, ...second.edges].map(({ node }) => node.messageId)).toEqual(
      (await deliveries(id)).map((one) => one.messageId).reverse(),
    );
    expect(second.pageInfo.hasNextPage).toBe(false);
    expect((await page({ states: ["FAILED"] })).edges).toEqual([]);
  });
});
