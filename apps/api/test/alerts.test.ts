import type { GroupState } from "@muster/db";
import { fromTypeId, newId, toTypeId } from "@muster/protocol";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { evaluateAlerts } from "../src/alerts/evaluate.ts";
import { runStream } from "../src/events/append.ts";
import { numberEvents } from "../src/events/sequencer.ts";
import { cancelRun, pauseRun, resumeRun } from "../src/runs/lifecycle.ts";
import { fanOut } from "../src/webhooks/fan-out.ts";
import { eventsOf, startRun, type TestRun } from "./runkit.ts";
import { codes, startTestServer } from "./testkit.ts";

// Rows are moved into the past, and the evaluator is called by hand.
const server = await startTestServer({ loops: [] });
afterAll(() => server.stop());
const ctx = server.ctx();
const minutes = (n: number): Date => new Date(Date.now() - n * 60_000);

// Rules of a test watch no run of another.
beforeEach(async () => {
  await server.prisma.alert.deleteMany();
  await server.prisma.alertRule.deleteMany();
});

/** A run that began to run so many minutes ago. */
async function runSince(ago: number, options: Parameters<typeof startRun>[2] = {}): Promise<TestRun> {
  const run = await startRun(server, {}, options);
  // An event keeps its time: another one stands for it.
  await server.prisma.event.deleteMany({ where: { stream: runStream(run.id), type: "run.state" } });
  await server.prisma.event.create({
    data: {
      stream: runStream(run.id),
      organizationId: run.organization.id,
      type: "run.state",
      subject: run.typeId,
      data: { state: "RUNNING" },
      at: minutes(ago),
    },
  });
  await server.prisma.run.update({ where: { id: run.id }, data: { startedAt: minutes(ago) } });
  return run;
}

let steps = 0;
const trained = (run: TestRun, ago: number, metrics: Record<string, number> = {}) =>
  server.prisma.trainStep.create({
    data: {
      organizationId: run.organization.id,
      runId: run.id,
      step: ++steps,
      version: steps,
      metrics,
      createdAt: minutes(ago),
    },
  });

/** Decided groups of a run's worker. */
async function decided(run: TestRun, state: GroupState, n: number, ago: number): Promise<void> {
  const owner = { organizationId: run.organization.id, runId: run.id };
  const task = await server.prisma.task.create({
    data: { ...owner, kind: "GENERATE", state: "DONE", revision: 1, payload: {} },
  });
  await server.prisma.group.createMany({
    data: Array.from({ length: n }, (_, index) => ({
      ...owner,
      ...{ taskId: task.id, attemptId: newId(), nodeId: run.worker.id, index, state },
      ...{ exampleSeed: "", prompt: "", policyVersion: 0, packHash: "", meanReward: 0, tokens: 1, epoch: 1 },
      decidedAt: minutes(ago),
    })),
  });
}

const createSource = `mutation($input: CreateAlertRuleInput!) { createAlertRule(input: $input) {
  id name kind threshold windowSeconds severity enabled state firing run { id } } }`;
type Rule = { id: string; state: string; firing: number; run: { id: string } | null };

async function rule(run: TestRun, more: Record<string, unknown> = {}): Promise<Rule> {
  const input = {
    ...{ organization: run.organization.typeId, name: "Stalled", kind: "RUN_STALLED", windowSeconds: 600 },
    ...more,
  };
  return (await server.ask<{ createAlertRule: Rule }>(createSource, { input }, run.organization.owner))
    .createAlertRule;
}

const alerts = (run: TestRun) =>
  server.prisma.alert.findMany({ where: { runId: run.id }, orderBy: { id: "asc" } });
const alertEvents = async (run: TestRun) =>
  (await eventsOf(server, run)).filter(({ type }) => type.startsWith("alert."));

describe("an episode", () => {
  test("begins once, ends once, and says so in the run's stream; the next one is another", async () => {
    const run = await runSince(60);
    const { id } = await rule(run, { run: run.typeId, severity: "CRITICAL" });
    await trained(run, 20);
    expect(await evaluateAlerts(ctx)).toBe(1);
    expect(await evaluateAlerts(ctx)).toBe(0);
    const [first] = await alerts(run);
    expect(first).toMatchObject({
      ...{ name: "Stalled", kind: "RUN_STALLED", severity: "CRITICAL", limit: 600, resolvedAt: null },
      summary: "No training step for 20 min; the limit is 10 min.",
    });
    expect(first?.newestValue).toBeGreaterThan(first?.value ?? 0);
    const read = `query($org: ID!) { node(id: $org) { ... on Organization {
      alertRules(first: 5) { edges { node { state firing lastFiredAt } } }
      alerts(first: 5, firing: true) { edges { node { id run { id } rule { id } } } } } } }`;
    expect(await server.ask(read, { org: run.organization.typeId }, run.organization.owner)).toMatchObject({
      node: {
        alertRules: {
          edges: [{ node: { state: "FIRING", firing: 1, lastFiredAt: first?.firedAt.toISOString() } }],
        },
        alerts: {
          edges: [
            { node: { id: toTypeId("alert", first?.id ?? ""), run: { id: run.typeId }, rule: { id } } },
          ],
        },
      },
    });
    await trained(run, 0);
    expect(await evaluateAlerts(ctx)).toBe(1);
    expect(await evaluateAlerts(ctx)).toBe(0);
    const [ended] = await alerts(run);
    expect(ended).toMatchObject({ resolution: "RECOVERED", resolvedAt: expect.any(Date) });
    expect(ended?.worstValue).toBeGreaterThanOrEqual(1200);
    expect((await alertEvents(run)).map(({ type, data }) => [type, data])).toEqual([
      [
        "alert.firing",
        expect.objectContaining({
          rule: id,
          run: run.typeId,
          kind: "RUN_STALLED",
          severity: "CRITICAL",
          limit: 600,
        }),
      ],
      ["alert.resolved", expect.objectContaining({ rule: id, resolution: "RECOVERED" })],
    ]);
    await server.prisma.trainStep.updateMany({ where: { runId: run.id }, data: { createdAt: minutes(30) } });
    await evaluateAlerts(ctx);
    expect(await alerts(run)).toHaveLength(2);
  });

  test("begins once for many evaluators at once", async () => {
    const run = await runSince(60);
    await rule(run);
    const changed = await Promise.all([evaluateAlerts(ctx), evaluateAlerts(ctx), evaluateAlerts(ctx)]);
    expect(changed.sort()).toEqual([0, 0, 1]);
    expect(await alertEvents(run)).toHaveLength(1);
  });

  test("ends when its run is paused, and what the run did not run for counts for nothing", async () => {
    const run = await runSince(60);
    await rule(run);
    await evaluateAlerts(ctx);
    await pauseRun(server.ctx(run.organization.owner), { runId: run.id });
    await evaluateAlerts(ctx);
    expect(await alerts(run)).toMatchObject([{ resolution: "RUN_NOT_RUNNING" }]);
    await resumeRun(server.ctx(run.organization.owner), { runId: run.id });
    expect(await evaluateAlerts(ctx)).toBe(0);
    await cancelRun(server.ctx(run.organization.owner), { runId: run.id });
    expect(await evaluateAlerts(ctx)).toBe(0);
  });

  test("of every run of the organization has one rule, and no other organization's", async () => {
    const run = await runSince(60);
    const second = await runSince(60, { organization: run.organization });
    const foreign = await runSince(60);
    await rule(run);
    expect(await evaluateAlerts(ctx)).toBe(2);
    expect(await alerts(second)).toHaveLength(1);
    expect(await alerts(foreign)).toHaveLength(0);
  });

  test("ends when its rule changes or is turned off, and outlives the rule", async () => {
    const run = await runSince(60);
    const { id } = await rule(run);
    const update = "mutation($input: UpdateAlertRuleInput!) { updateAlertRule(input: $input) { state } }";
    const change = (more: Record<string, unknown>) =>
      server.ask(update, { input: { rule: id, ...more } }, run.organization.owner);
    await evaluateAlerts(ctx);
    expect(await change({ name: "Another name" })).toEqual({ updateAlertRule: { state: "FIRING" } });
    expect(await change({ windowSeconds: 900 })).toEqual({ updateAlertRule: { state: "OK" } });
    expect(await alerts(run)).toMatchObject([{ resolution: "RULE_CHANGED" }]);
    await evaluateAlerts(ctx);
    expect(await change({ enabled: false })).toEqual({ updateAlertRule: { state: "OFF" } });
    expect(await evaluateAlerts(ctx)).toBe(0);
    await change({ enabled: true });
    await evaluateAlerts(ctx);
    await server.ask(
      "mutation($input: DeleteAlertRuleInput!) { deleteAlertRule(input: $input) }",
      { input: { rule: id } },
      run.organization.owner,
    );
    expect(await alerts(run)).toMatchObject(
      Array(3).fill({ ruleId: null, kind: "RUN_STALLED", resolution: "RULE_CHANGED" }),
    );
  });

  test("goes to the webhooks that hear of alerts", async () => {
    const run = await runSince(60);
    const { organization } = run;
    await rule(run);
    await server.ask(
      "mutation($input: CreateWebhookEndpointInput!) { createWebhookEndpoint(input: $input) { endpoint { id } } }",
      { input: { organization: organization.typeId, url: "http://127.0.0.1:9/", eventTypes: ["alert.*"] } },
      organization.owner,
    );
    await evaluateAlerts(ctx);
    await trained(run, 0);
    await evaluateAlerts(ctx);
    while ((await numberEvents(server.services)) > 0);
    await fanOut(ctx);
    const sent = await server.prisma.webhookDelivery.findMany({
      where: { organizationId: organization.id },
      orderBy: { id: "asc" },
    });
    expect(sent.map(({ eventType }) => eventType)).toEqual(["alert.firing", "alert.resolved"]);
    expect(JSON.parse(sent[0]?.body ?? "")).toMatchObject({
      type: "alert.firing",
      stream: run.typeId,
      data: { name: "Stalled", summary: expect.stringContaining("No training step for") },
    });
  });
});

/** Whether a rule fires for a run now. */
async function fires(run: TestRun, more: Record<string, unknown>): Promise<boolean> {
  const { id } = await rule(run, { run: run.typeId, ...more });
  await evaluateAlerts(ctx);
  const { firing } = (
    await server.ask<{ node: { firing: number } }>(
      "query($id: ID!) { node(id: $id) { ... on AlertRule { firing } } }",
      { id },
      run.organization.owner,
    )
  ).node;
  return firing === 1;
}

describe("a rule fires", () => {
  test("when no group was accepted for the window", async () => {
    const run = await runSince(60);
    const condition = { kind: "NO_ACCEPTED", windowSeconds: 600 };
    expect(await fires(run, condition)).toBe(true);
    await decided(run, "REJECTED", 1, 1);
    expect(await fires(run, condition)).toBe(true);
    await decided(run, "SET_ASIDE", 1, 5);
    expect(await fires(run, condition)).toBe(false);
  });

  test("when more groups are rejected than the run's own past explains, and not by chance", async () => {
    const run = await runSince(600);
    const condition = { kind: "REJECT_RATE", windowSeconds: 600 };
    await decided(run, "ACCEPTED", 95, 60);
    await decided(run, "REJECTED", 5, 60);
    await decided(run, "ACCEPTED", 45, 4);
    await decided(run, "REJECTED", 5, 4);
    // 10 % of 50, where 6 % ± 10 points are usual.
    expect(await fires(run, condition)).toBe(false);
    await decided(run, "REJECTED", 10, 3);
    expect(await fires(run, condition)).toBe(true);
    expect(await fires(run, { ...condition, threshold: 0.5 })).toBe(false);
    const fresh = await runSince(600);
    await decided(fresh, "REJECTED", 19, 3);
    expect(await fires(fresh, { ...condition, threshold: 0.1 })).toBe(false);
    await decided(fresh, "REJECTED", 1, 3);
    expect(await fires(fresh, condition)).toBe(false);
    expect(await fires(fresh, { ...condition, threshold: 0.1 })).toBe(true);
  });

  test("when the window's mean KL is above, or its entropy below", async () => {
    const run = await runSince(60);
    await trained(run, 30, { kl: 9, entropy: 0.1 });
    await trained(run, 5, { kl: 0.1, entropy: 1 });
    await trained(run, 4, { kl: 0.3, entropy: 2 });
    const above = { kind: "KL_ABOVE", windowSeconds: 600 };
    const below = { kind: "ENTROPY_BELOW", windowSeconds: 600 };
    expect(await fires(run, { ...above, threshold: 0.19 })).toBe(true);
    expect(await fires(run, { ...above, threshold: 0.21 })).toBe(false);
    expect(await fires(run, { ...below, threshold: 1.6 })).toBe(true);
    expect(await fires(run, { ...below, threshold: 1.4 })).toBe(false);
    // Nothing was trained in it: nothing is said.
    expect(await fires(run, { ...above, windowSeconds: 60, threshold: 0 })).toBe(false);
  });

  test("when a checkpoint was slow to reach those who have it", async () => {
    const run = await runSince(60);
    const condition = { kind: "BROADCAST_P95", windowSeconds: 1800, threshold: 30 };
    expect(await fires(run, condition)).toBe(false);
    const owner = { organizationId: run.organization.id, runId: run.id };
    const checkpoint = await server.prisma.checkpoint.create({
      data: {
        ...owner,
        ...{ version: 7, manifestHash: "", size: 1n, state: "AVAILABLE", taskId: newId() },
        trainerNodeId: run.trainer.id,
        availableAt: minutes(10),
      },
    });
    const received = (nodeId: string, layout: "FULL" | "LOCAL", ago: number) =>
      server.prisma.checkpointReceipt.create({
        data: {
          ...owner,
          ...{ checkpointId: checkpoint.id, version: 7, nodeId, layout, seconds: 1 },
          ...{ bytes: 1n, wastedBytes: 0n, creditedBytes: 0n, receivedAt: minutes(ago) },
        },
      });
    await received(run.trainer.id, "LOCAL", 1);
    await received(run.worker.id, "FULL", 9.8);
    expect(await fires(run, condition)).toBe(false);
    await received(run.validator.id, "FULL", 9);
    expect(await fires(run, condition)).toBe(true);
  });

  test("when nodes that were here today are not", async () => {
    const run = await runSince(60);
    const condition = { kind: "WORKER_OFFLINE", windowSeconds: 600, threshold: 1 };
    await server.prisma.nodeTrust.deleteMany({ where: { runId: run.id } });
    await server.prisma.nodeTrust.create({
      data: { organizationId: run.organization.id, runId: run.id, nodeId: run.worker.id },
    });
    const seen = (ago: number) =>
      server.prisma.node.update({ where: { id: run.worker.id }, data: { lastSeenAt: minutes(ago) } });
    await seen(5);
    expect(await fires(run, condition)).toBe(false);
    await seen(15);
    expect(await fires(run, condition)).toBe(true);
    expect(await fires(run, { ...condition, threshold: 2 })).toBe(false);
    await seen(1500);
    expect(await fires(run, condition)).toBe(false);
  });

  test("when a group waits too long for a validator", async () => {
    const run = await runSince(60);
    const condition = { kind: "VERIFY_QUEUE_AGE", windowSeconds: 60, threshold: 300 };
    const task = await server.prisma.task.create({
      data: {
        ...{ organizationId: run.organization.id, runId: run.id, kind: "VERIFY", revision: 1, payload: {} },
        createdAt: minutes(10),
      },
    });
    expect(await fires(run, condition)).toBe(true);
    expect(await fires(run, { ...condition, threshold: 900 })).toBe(false);
    await server.prisma.attempt.create({
      data: {
        ...{ organizationId: run.organization.id, runId: run.id, taskId: task.id, number: 1 },
        ...{ nodeId: run.validator.id, leaseUntil: new Date() },
      },
    });
    expect(await fires(run, condition)).toBe(false);
  });

  test("when a share of the budget is spent or held", async () => {
    const run = await runSince(60, { credits: 1_000n });
    const condition = { kind: "BUDGET_SPENT", windowSeconds: 60 };
    // What the ledger's own tests show to be so is set here.
    await server.prisma.account.updateMany({ where: { key: `budget:${run.id}` }, data: { balance: 190n } });
    expect(await fires(run, { ...condition, threshold: 0.8 })).toBe(true);
    expect(await fires(run, { ...condition, threshold: 0.82 })).toBe(false);
  });
});

describe("a preview", () => {
  const previewSource = `query($input: AlertPreviewInput!) { alertPreview(input: $input) {
    possible fired runs days episodes { run from to worst limit } } }`;
  type Previewed = {
    alertPreview: {
      possible: boolean;
      fired: number;
      runs: number;
      days: number;
      episodes: { run: string; from: string; to: string | null; worst: number; limit: number }[];
    };
  };
  const preview = async (run: TestRun, more: Record<string, unknown> = {}) =>
    (
      await server.ask<Previewed>(
        previewSource,
        {
          input: {
            ...{ organization: run.organization.typeId, kind: "RUN_STALLED", windowSeconds: 600 },
            ...more,
          },
        },
        run.organization.owner,
      )
    ).alertPreview;

  test("tells how often a rule would have fired, and for how long", async () => {
    const run = await runSince(240);
    // Gaps of 30 and 40 minutes, and one that has not ended.
    for (const ago of [235, 205, 200, 195, 155, 150, 145, 20]) await trained(run, ago);
    await trained(run, 25);
    for (let ago = 30; ago < 145; ago += 5) await trained(run, ago);
    const told = await preview(run);
    expect(told).toMatchObject({ possible: true, fired: 3, runs: 1, days: 7 });
    expect(told.episodes.map(({ to }) => to === null)).toEqual([true, false, false]);
    const [, second] = told.episodes;
    expect(second).toMatchObject({ run: run.typeId, limit: 600 });
    const lasted = new Date(second?.to ?? 0).getTime() - new Date(second?.from ?? 0).getTime();
    expect(lasted / 60_000).toBeGreaterThanOrEqual(29);
    expect(lasted / 60_000).toBeLessThanOrEqual(31);
    expect(second?.worst).toBeGreaterThan(2_200);
    expect((await preview(run, { windowSeconds: 2_100 })).fired).toBe(1);
    expect((await preview(run, { run: run.typeId, windowSeconds: 3_600 })).fired).toBe(0);
  });

  test("reckons with rates, queues and budgets of the past", async () => {
    const run = await runSince(600);
    await decided(run, "ACCEPTED", 100, 120);
    await decided(run, "REJECTED", 40, 60);
    const rate = await preview(run, { kind: "REJECT_RATE", windowSeconds: 600 });
    expect(rate.fired).toBe(1);
    expect(rate.episodes[0]).toMatchObject({ worst: 1, to: expect.any(String) });
    const owner = { organizationId: run.organization.id, runId: run.id };
    const task = await server.prisma.task.create({
      data: {
        ...{ ...owner, kind: "VERIFY" as const, state: "DONE" as const, revision: 1, payload: {} },
        createdAt: minutes(90),
      },
    });
    await server.prisma.attempt.create({
      data: {
        ...{ ...owner, taskId: task.id, number: 1, nodeId: run.validator.id, leaseUntil: new Date() },
        claimedAt: minutes(70),
      },
    });
    const queue = await preview(run, { kind: "VERIFY_QUEUE_AGE", windowSeconds: 60, threshold: 600 });
    expect(queue.fired).toBe(1);
    expect(queue.episodes[0]?.worst).toBeGreaterThan(1_100);
    expect(queue.episodes[0]?.worst).toBeLessThanOrEqual(1_200);
    expect((await preview(run, { kind: "BUDGET_SPENT", windowSeconds: 60, threshold: 0.8 })).fired).toBe(0);
  });

  test("says so when the past is not kept", async () => {
    const run = await runSince(60);
    expect(await preview(run, { kind: "WORKER_OFFLINE", threshold: 1 })).toMatchObject({
      possible: false,
      fired: 0,
    });
  });

  test("is no stranger's", async () => {
    const run = await runSince(60);
    const stranger = (await server.organization()).owner;
    const input = { organization: run.organization.typeId, kind: "RUN_STALLED", windowSeconds: 600 };
    expect(codes(await server.graphql(previewSource, { input }, stranger))).toEqual(["FORBIDDEN"]);
    const own = toTypeId(
      "org",
      stranger.actor.kind === "person" ? (stranger.actor.memberships[0]?.organizationId ?? "") : "",
    );
    expect(
      codes(
        await server.graphql(
          previewSource,
          { input: { ...input, organization: own, run: run.typeId } },
          stranger,
        ),
      ),
    ).toEqual(["NOT_FOUND"]);
  });
});

describe("rules", () => {
  test("are read by members, written by admins, and nothing to strangers", async () => {
    const run = await runSince(60);
    const { organization } = run;
    const { id } = await rule(run);
    const member = await server.person(organization.id);
    const stranger = (await server.organization()).owner;
    const read = "query($id: ID!) { node(id: $id) { ... on AlertRule { name } } }";
    expect(await server.ask(read, { id }, member)).toEqual({ node: { name: "Stalled" } });
    expect((await server.graphql<{ node: unknown }>(read, { id }, stranger)).data?.node ?? null).toBeNull();
    const remove = "mutation($input: DeleteAlertRuleInput!) { deleteAlertRule(input: $input) }";
    expect(codes(await server.graphql(remove, { input: { rule: id } }, member))).toEqual(["FORBIDDEN"]);
    expect(codes(await server.graphql(remove, { input: { rule: id } }, stranger))).toEqual(["NOT_FOUND"]);
    expect(codes(await server.graphql(remove, { input: { rule: id } }))).toEqual(["UNAUTHENTICATED"]);
    expect(codes(await server.graphql(remove, { input: { rule: id } }, run.worker))).toEqual(["FORBIDDEN"]);
    const admin = await server.person(organization.id, "admin");
    expect(codes(await server.graphql(remove, { input: { rule: id } }, admin))).toEqual([]);
  });

  test("that make no sense are refused; the same call twice makes one; the hundred and first is too many", async () => {
    const run = await runSince(60);
    const input = {
      organization: run.organization.typeId,
      name: "A",
      kind: "KL_ABOVE",
      windowSeconds: 600,
      threshold: 1,
    };
    const create = async (more: Record<string, unknown>) =>
      server.graphql<{ createAlertRule: Rule }>(
        createSource,
        { input: { ...input, ...more } },
        run.organization.owner,
      );
    for (const more of [
      { name: " " },
      { windowSeconds: 59 },
      { windowSeconds: 604_801 },
      { threshold: null },
      { threshold: -1 },
      { kind: "RUN_STALLED" },
      { kind: "WORKER_OFFLINE", threshold: 1.5 },
      { kind: "BUDGET_SPENT", threshold: 80 },
    ])
      expect([more, codes(await create(more))]).toEqual([more, ["INPUT_INVALID"]]);
    expect(codes(await create({ run: (await runSince(1)).typeId }))).toEqual(["NOT_FOUND"]);
    const first = await create({ idempotencyKey: "k" });
    const again = await create({ idempotencyKey: "k" });
    expect(again.data?.createAlertRule.id).toBe(first.data?.createAlertRule.id);
    expect(codes(await create({ idempotencyKey: "k", name: "B" }))).toEqual(["IDEMPOTENCY_MISMATCH"]);
    const { organizationId } = await server.prisma.alertRule.findUniqueOrThrow({
      where: { id: fromTypeId(first.data?.createAlertRule.id ?? "", "rule") },
    });
    await server.prisma.alertRule.createMany({
      data: Array.from({ length: 98 }, () => ({
        ...{ organizationId, name: "More", kind: "RUN_STALLED" as const, windowSeconds: 600 },
      })),
    });
    const more = await Promise.all([create({}), create({})]);
    expect(more.map((answer) => codes(answer)[0]).sort()).toEqual(["STATE_CONFLICT", undefined]);
  });
});
