import { encodeRolloutPack, fromTypeId, newId, toTypeId } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { forfeitGroups, forfeitHeld, refundHeld } from "../src/ledger/stakes.ts";
import { submitRollouts } from "../src/rollouts/intake.ts";
import { openTasks } from "../src/tasks/lease.ts";
import { retireCheckpoints } from "../src/training/retention.ts";
import { settleCases } from "../src/verification/cases.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { auditLostTrust } from "../src/verification/retroactive.ts";
import { recordOutcome, replayStanding } from "../src/verification/trust.ts";
import { acceptTrusted } from "../src/verification/trusted.ts";
import { openPacks, type Packs } from "./packkit.ts";
import {
  batchPack,
  countTasks,
  eventsOf,
  plan,
  put,
  type SpecOverrides,
  signed,
  type TestRun,
} from "./runkit.ts";
import { startTestServer, type TestNode, type TestServer } from "./testkit.ts";
import {
  balances,
  casesOf,
  claim,
  generate,
  groupOfId,
  hostile,
  measure,
  standing,
  submitMeasured,
  watchedRun,
} from "./watchkit.ts";

// Trust is earned, spent and lost: what is audited, what is at stake, and what happens to it.

let server: TestServer;
let packs: Packs;
beforeAll(async () => {
  server = await startTestServer();
  packs = await openPacks(await watchedRun(server));
});
afterAll(async () => {
  await packs[Symbol.asyncDispose]();
  await server.stop();
});

const luck = "7".repeat(64);

/** A run that trusts after two audited-valid groups and then audits one in a million: what happens by chance does not happen here. */
function trustingRun(over: SpecOverrides = {}): Promise<TestRun> {
  return watchedRun(server, {
    disputeWindowSeconds: 0,
    ...over,
    verification: {
      ...over.verification,
      topK: 16,
      audit: { adversaryShare: 2e-6, floor: 1e-6, epsilon: 1 },
    },
  });
}

/** The worker's first two groups, audited and valid. */
async function earnTrust(run: TestRun): Promise<string[]> {
  const groups = await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
  expect(await standing(server, run, run.worker)).toMatchObject({ state: "TRUSTED", auditRate: 1e-6 });
  return groups;
}

/** The worker hands in what is no pack. */
async function failOnce(run: TestRun): Promise<void> {
  const [lease] = await claim(server, run, run.worker, "GENERATE");
  if (lease === undefined) throw new Error("no GENERATE task to claim");
  const pack = await put(
    server,
    run.worker,
    lease,
    "ROLLOUTS",
    new TextEncoder().encode(`no pack ${newId()}`),
  );
  const { taskId, attempt } = lease;
  const signature = signed(run, run.worker, lease, pack);
  const outcome = await submitRollouts(server.ctx(run.worker), { taskId, attempt, pack, signature });
  expect(outcome.kind).toBe("refused");
}

const groupsOf = (ids: readonly string[]) => Promise.all(ids.map((id) => groupOfId(server, id)));
const statesOf = async (ids: readonly string[]) =>
  (await groupsOf(ids)).map(({ state, acceptance }) => `${state} ${acceptance}`);
const auditLost = (run: TestRun) => auditLostTrust(server.ctx(), run.id);
const price = async (run: TestRun, ids: readonly string[]) =>
  (await groupsOf(ids)).reduce((sum, { tokens }) => sum + tokens, 0) * run.spec.prices.generatedToken;
const heldBy = async (run: TestRun, node: TestNode = run.worker) =>
  (await balances(server, run))[`held:${run.id}:${node.id}`] ?? 0;
const availableTo = async (run: TestRun, node: TestNode = run.worker) =>
  (await balances(server, run))[`available:${run.organization.id}:${node.id}`] ?? 0;
const budgetOf = async (run: TestRun) => (await balances(server, run))[`budget:${run.id}`] ?? 0;

/**
 * Gives the groups' first rollouts the full reward and the others none, so that there is something to learn.
 * @returns what gives them their own rewards back, which a validator's measurement is compared with.
 */
async function giveSignal(ids: readonly string[]): Promise<() => Promise<void>> {
  const before = await server.prisma.rollout.findMany({ where: { groupId: { in: [...ids] } } });
  await server.prisma.rollout.updateMany({ where: { groupId: { in: [...ids] } }, data: { reward: 0 } });
  for (const groupId of ids) {
    const first = await server.prisma.rollout.findFirstOrThrow({
      where: { groupId },
      orderBy: { index: "asc" },
    });
    await server.prisma.rollout.update({ where: { id: first.id }, data: { reward: 1 } });
  }
  return async () => {
    for (const { id, reward } of before)
      await server.prisma.rollout.update({ where: { id }, data: { reward } });
  };
}

async function auditOf(run: TestRun) {
  type Audit = Record<
    | "probationGroups"
    | "audited"
    | "trusted"
    | "auditedAtTrust"
    | "badAtTrust"
    | "badUpper95"
    | "poisonUpper95"
    | "retroactive"
    | "retroactivePending"
    | "poisonTrained"
    | "backlog"
    | "backlogLimit",
    number
  > & {
    auditedShare: number | null;
    forfeited: string;
    oldestBacklogSeconds: number | null;
    costShare: number | null;
  };
  const answer = await server.ask<{ run: { audit: Audit } }>(
    `query($id: ID!) { run(id: $id) { audit { probationGroups floor epsilon adversaryShare audited trusted auditedShare auditedAtTrust
      badAtTrust badUpper95 poisonUpper95 retroactive retroactivePending poisonTrained forfeited backlog backlogLimit
      oldestBacklogSeconds costShare costShareAtTrust } } }`,
    { id: run.typeId },
    run.organization.owner,
  );
  return answer.run.audit;
}

describe("a trusted node", () => {
  test("has its groups accepted at once and unmeasured, paid for later, and counted by nobody", async () => {
    const run = await trustingRun();
    const first = await earnTrust(run);
    const before = await heldBy(run);
    const trusted = await generate(server, run, packs);
    expect(await statesOf(trusted)).toEqual(["ACCEPTED TRUSTED", "ACCEPTED TRUSTED"]);
    expect(await claim(server, run, run.validator, "VERIFY", 16)).toEqual([]);
    const [group] = await groupsOf(trusted);
    expect(group).toMatchObject({
      auditRate: 1e-6,
      verifyTaskId: null,
      retroactive: false,
      finalAfter: 3_000_002,
    });
    const rollouts = await server.prisma.rollout.findMany({ where: { groupId: { in: trusted } } });
    expect(rollouts.every(({ advantage }) => advantage !== null)).toBe(true);
    expect((await heldBy(run)) - before).toBe(await price(run, trusted));
    expect(await standing(server, run, run.worker)).toMatchObject({ auditedValid: 2, accepted: 2 });
    const outcomes = await server.prisma.nodeOutcome.findMany({
      where: { runId: run.id },
      orderBy: { id: "asc" },
    });
    expect(outcomes.map(({ groupId, kind }) => [groupId, kind])).toEqual(first.map((id) => [id, "ACCEPTED"]));
    const entries = await server.prisma.auditEntry.findMany({
      where: { runId: run.id, kind: "verdict.accepted" },
    });
    expect(
      entries.filter(({ data }) => (data as { acceptance: string }).acceptance === "TRUSTED"),
    ).toHaveLength(2);
    expect(await auditOf(run)).toMatchObject({
      probationGroups: 2,
      floor: 1e-6,
      audited: 2,
      trusted: 2,
      auditedShare: 0.5,
      auditedAtTrust: 0,
      badUpper95: 1,
      poisonUpper95: 0.5,
      retroactive: 0,
      forfeited: "0",
      backlog: 0,
      oldestBacklogSeconds: null,
    });
  });

  test("has them accepted in order: not before what it submitted earlier is measured, nor when that is bad", async () => {
    const run = await trustingRun();
    const other = await server.node();
    for (const node of [run.worker, other]) {
      await generate(server, run, packs, { node });
      await measure(server, run, packs, run.validator);
    }
    const trust = { where: { runId: run.id }, data: { state: "PROBATION" as const, auditRate: 1 } };
    await server.prisma.nodeTrust.updateMany(trust);
    const good = await generate(server, run, packs);
    const bad = await generate(server, run, packs, { node: other, luck });
    // As if these had been drawn for an audit at the floor rate.
    await server.prisma.nodeTrust.updateMany({ ...trust, data: { state: "TRUSTED", auditRate: 1e-6 } });
    const behindGood = await generate(server, run, packs);
    const behindBad = await generate(server, run, packs, { node: other });
    expect(await statesOf([...behindGood, ...behindBad])).toEqual(Array(4).fill("SUBMITTED null"));
    await measure(server, run, packs, run.validator);
    await acceptTrusted(server.ctx(), run.id);
    expect(await statesOf([...good, ...behindGood])).toEqual([
      ...Array(2).fill("ACCEPTED AUDITED"),
      ...Array(2).fill("ACCEPTED TRUSTED"),
    ]);
    expect(await statesOf([...bad, ...behindBad])).toEqual([
      ...Array(2).fill("REJECTED null"),
      ...Array(2).fill("SUBMITTED null"),
    ]);
    expect(await auditLost(run)).toBe(2);
    expect(await statesOf(behindBad)).toEqual(Array(2).fill("VERIFYING null"));
  });

  test("is told by its page what it has to lose, and by the metrics what is not audited", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    const { run: page } = await server.ask<{
      run: {
        workers: {
          edges: { node: { trust: string; needed: number; finalAfter: string; forfeited: string } }[];
        };
      };
    }>(
      `query($id: ID!) { run(id: $id) { workers(first: 9) { edges { node { trust needed forfeited finalAfter } } } } }`,
      { id: run.typeId },
      run.organization.owner,
    );
    const worker = page.workers.edges.map(({ node }) => node).find(({ trust }) => trust === "TRUSTED");
    expect(worker).toMatchObject({ needed: 2, forfeited: "0" });
    expect(worker?.finalAfter).toContain("3000000 more audited-valid groups");
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toContain(`muster_audit_backlog{run="${run.typeId}"}`);
  });

  test("that falls while its pack is judged has that pack audited in full", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    const [lease] = await claim(server, run, run.worker, "GENERATE");
    if (lease === undefined) throw new Error("no GENERATE task to claim");
    const pack = await put(
      server,
      run.worker,
      lease,
      "ROLLOUTS",
      encodeRolloutPack(await packs.rollouts(run, lease)),
    );
    const { id: runId, spec } = run;
    let fallen = false;
    // Between the draw and the transaction that stores the groups, another of its packs is refused.
    const prisma = server.prisma.$extends({
      query: {
        windowFingerprint: {
          async findMany({ args, query }) {
            if (!fallen)
              await server.prisma.$transaction((tx) =>
                recordOutcome(tx, {
                  runId,
                  nodeId: run.worker.id,
                  organizationId: run.organization.id,
                  outcome: "REFUSED",
                  spec,
                }),
              );
            fallen = true;
            return query(args);
          },
        },
      },
    });
    // An extended client differs from the plain one in its type alone: it lacks `$on`, which no domain function calls.
    const ctx = { ...server.ctx(run.worker), prisma: prisma as unknown as typeof server.prisma };
    const outcome = await submitRollouts(ctx, {
      taskId: lease.taskId,
      attempt: lease.attempt,
      pack,
      signature: signed(run, run.worker, lease, pack),
    });
    expect(outcome.kind).toBe("submitted");
    const groups = await server.prisma.group.findMany({ where: { taskId: lease.taskId } });
    expect(groups.map(({ state, auditRate }) => [state, auditRate])).toEqual([
      ["VERIFYING", 1],
      ["VERIFYING", 1],
    ]);
  });
});

describe("a trust that was a mistake", () => {
  test("has everything unmeasured measured after all: the good is valid, the bad forfeits and quarantines", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    const good = await generate(server, run, packs);
    const bad = await generate(server, run, packs, { luck });
    expect(await statesOf(bad)).toEqual(["ACCEPTED TRUSTED", "ACCEPTED TRUSTED"]);
    const held = await heldBy(run);
    const budget = await budgetOf(run);
    const lost = await price(run, bad);
    expect(await auditLost(run)).toBe(0);

    await failOnce(run);
    expect(await standing(server, run, run.worker)).toMatchObject({
      state: "PROBATION",
      auditRate: 1,
      rejected: 1,
    });
    // A batch takes none of them, however soon it is filled.
    await plan(server, run);
    expect(await server.prisma.batchGroup.count({ where: { groupId: { in: [...good, ...bad] } } })).toBe(0);
    expect(await auditLost(run)).toBe(4);
    expect(await auditLost(run)).toBe(0);
    expect(await statesOf([...good, ...bad])).toEqual(Array(4).fill("VERIFYING null"));
    expect(await heldBy(run)).toBe(held);
    expect(await auditOf(run)).toMatchObject({ retroactive: 4, retroactivePending: 4, backlog: 4 });
    // The node itself may not measure them, and who measures them is told no more than ever.
    const tasks = await server.prisma.task.findMany({
      where: { runId: run.id, kind: "VERIFY", state: "OPEN" },
    });
    expect(tasks.every(({ excludedNodes }) => excludedNodes.includes(run.worker.id))).toBe(true);
    expect(tasks.map(({ payload }) => Object.keys(payload as object).sort())).toEqual(
      Array(4).fill(["blind", "kind", "manifest"]),
    );

    await measure(server, run, packs, run.validator);
    expect(await statesOf(good)).toEqual(["ACCEPTED AUDITED", "ACCEPTED AUDITED"]);
    expect(await statesOf(bad)).toEqual(["REJECTED null", "REJECTED null"]);
    expect((await groupsOf(bad))[0]?.reason).toMatch(/^Audited afterwards: /);
    expect(await heldBy(run)).toBe(held - lost);
    const measured = (await groupsOf([...good, ...bad])).reduce((sum, { tokens }) => sum + tokens, 0);
    expect(await budgetOf(run)).toBe(budget + lost - measured * run.spec.prices.measuredToken);
    expect(await standing(server, run, run.worker)).toMatchObject({
      state: "QUARANTINED",
      rejected: 3,
      accepted: 4,
    });
    expect(await auditOf(run)).toMatchObject({
      retroactive: 4,
      retroactivePending: 0,
      poisonTrained: 0,
      forfeited: String(lost),
    });
    expect(await casesOf(server, run)).toHaveLength(2);
    expect((await eventsOf(server, run, "group.reaudited")).length).toBe(4);
  });

  test("takes groups out of the batch that is being filled; its places close up, and they come back when they are valid", async () => {
    const run = await trustingRun({ batch: { signalGroups: 8, settledGroups: 8 } });
    const first = await earnTrust(run);
    const trusted = await generate(server, run, packs);
    // Another node's groups behind them.
    const other = await server.node();
    const last = await generate(server, run, packs, { node: other });
    await measure(server, run, packs, run.validator);
    await giveSignal([...first, ...last]);
    await plan(server, run);
    const places = () =>
      server.prisma.batchGroup.findMany({
        where: { batch: { runId: run.id } },
        orderBy: { position: "asc" },
      });
    const batch = () => server.prisma.batch.findFirstOrThrow({ where: { runId: run.id } });
    expect((await places()).map(({ groupId }) => groupId)).toEqual([...first, ...trusted, ...last]);
    expect((await statesOf(trusted)).sort()).toEqual(["SET_ASIDE TRUSTED", "SET_ASIDE TRUSTED"]);

    await failOnce(run);
    expect(await auditLost(run)).toBe(2);
    expect((await places()).map(({ groupId, position }) => [groupId, position])).toEqual(
      [...first, ...last].map((id, position) => [id, position]),
    );
    expect(await batch()).toMatchObject({ settledGroups: 4, signalGroups: 4 });
    await measure(server, run, packs, run.validator);
    await plan(server, run);
    expect((await places()).map(({ groupId, position }) => [groupId, position])).toEqual(
      [...first, ...last, ...trusted].map((id, position) => [id, position]),
    );
    expect(await batch()).toMatchObject({ settledGroups: 6 });
  });

  test("leaves a sealed batch as it is: its trainer computes what nobody measured, and what was poison is seen to have been trained on", async () => {
    const run = await trustingRun({ batch: { signalGroups: 6, settledGroups: 6 } });
    const first = await earnTrust(run);
    const good = await generate(server, run, packs);
    const bad = await generate(server, run, packs, { luck });
    const restore = await giveSignal([...first, ...good, ...bad]);
    await plan(server, run);
    await restore();
    const sealed = await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id, state: "SEALED" } });
    const pack = await batchPack(server, run, sealed.step);
    const measured = new Set(first.map((id) => toTypeId("group", id)));
    for (const rollout of pack.rollouts)
      expect(rollout.logprobs).toHaveLength(measured.has(rollout.group) ? rollout.tokens.length : 0);
    expect(pack.rollouts).toHaveLength(12);

    const lost = await price(run, bad);
    const held = await heldBy(run);
    await failOnce(run);
    expect(await auditLost(run)).toBe(4);
    expect(await statesOf([...good, ...bad])).toEqual(Array(4).fill("ACCEPTED TRUSTED"));
    await measure(server, run, packs, run.validator);
    expect(await statesOf(good)).toEqual(["ACCEPTED AUDITED", "ACCEPTED AUDITED"]);
    expect(await statesOf(bad)).toEqual(["REJECTED null", "REJECTED null"]);
    expect(await server.prisma.batchGroup.count({ where: { batchId: sealed.id } })).toBe(6);
    expect(await heldBy(run)).toBe(held - lost);
    expect(await auditOf(run)).toMatchObject({ poisonTrained: 2, retroactivePending: 0 });
  });

  test("is found out before the run may end", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    const trusted = await generate(server, run, packs);
    await failOnce(run);
    await server.prisma.run.update({ where: { id: run.id }, data: { stepLimit: 0 } });
    const state = async () => (await server.prisma.run.findUniqueOrThrow({ where: { id: run.id } })).state;
    await plan(server, run);
    await plan(server, run);
    expect(await state()).toBe("RUNNING");
    await auditLost(run);
    await plan(server, run);
    expect(await state()).toBe("RUNNING");
    await measure(server, run, packs, run.validator);
    expect(await statesOf(trusted)).toEqual(["ACCEPTED AUDITED", "ACCEPTED AUDITED"]);
    for (let turn = 0; turn < 3; turn++) {
      await server.prisma.task.updateMany({
        where: { runId: run.id, kind: "EVALUATE", state: "OPEN" },
        data: { state: "CANCELLED" },
      });
      await plan(server, run);
    }
    expect(await state()).toBe("COMPLETED");
  });

  test("that nobody measures before the run is cancelled earns nothing; what was measured does", async () => {
    const run = await trustingRun();
    const first = await earnTrust(run);
    // Another node, whose trust nobody shakes.
    const other = await server.node();
    const theirs = await generate(server, run, packs, { node: other });
    await measure(server, run, packs, run.validator);
    theirs.push(...(await generate(server, run, packs, { node: other })));
    const waiting = await generate(server, run, packs);
    await failOnce(run);
    expect(await auditLost(run)).toBe(2);
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { state } }",
      { input: { run: run.typeId } },
      run.organization.owner,
    );
    expect(await statesOf(waiting)).toEqual(["INVALID null", "INVALID null"]);
    expect((await statesOf(theirs)).sort()).toEqual([
      "ACCEPTED AUDITED",
      "ACCEPTED AUDITED",
      "ACCEPTED TRUSTED",
      "ACCEPTED TRUSTED",
    ]);
    expect(await heldBy(run)).toBe(await price(run, first));
    await settleFinal(server.ctx());
    expect(await heldBy(run)).toBe(0);
    expect(await availableTo(run)).toBe(await price(run, first));
    expect(await availableTo(run, other)).toBe(await price(run, theirs));
  });

  test("that is lost as the run ends is settled by the loop", async () => {
    const run = await trustingRun();
    const first = await earnTrust(run);
    const trusted = await generate(server, run, packs);
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { state } }",
      { input: { run: run.typeId } },
      run.organization.owner,
    );
    // The verdict that was being applied meanwhile.
    await server.prisma.nodeTrust.updateMany({
      where: { runId: run.id, nodeId: run.worker.id },
      data: { state: "PROBATION", auditedValid: 0, rejected: 1 },
    });
    await settleFinal(server.ctx());
    expect((await groupsOf(trusted)).map(({ finalAt }) => finalAt)).toEqual([null, null]);
    expect(await auditLost(run)).toBe(2);
    expect(await statesOf(trusted)).toEqual(["INVALID null", "INVALID null"]);
    await settleFinal(server.ctx());
    expect(await availableTo(run)).toBe(await price(run, first));
  });

  test("keeps the versions there that its groups can be measured with", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    const [group] = await generate(server, run, packs);
    const { id: _, ...base } = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } });
    for (const version of [1, 2, 3, 4, 5, 6])
      await server.prisma.checkpoint.create({
        data: { ...base, version, manifestHash: String(version).repeat(64) },
      });
    await server.prisma.group.update({ where: { id: group ?? "" }, data: { policyVersion: 2 } });
    const row = await server.prisma.run.update({ where: { id: run.id }, data: { currentVersion: 6 } });
    const kept = async () => {
      await server.prisma.$transaction((tx) =>
        retireCheckpoints(tx, { ...row, currentVersion: 6 }, run.spec),
      );
      const left = await server.prisma.checkpoint.findMany({
        where: { runId: run.id, state: "AVAILABLE" },
        orderBy: { version: "asc" },
      });
      return left.map(({ version }) => version);
    };
    expect(await kept()).toEqual([0, 2, 4, 5, 6]);
    await server.prisma.group.update({ where: { id: group ?? "" }, data: { finalAt: new Date() } });
    expect(await kept()).toEqual([0, 4, 5, 6]);
  });
});

describe("a group is final", () => {
  const final = async (ids: readonly string[]) => {
    await settleFinal(server.ctx());
    return (await groupsOf(ids)).map(({ finalAt }) => finalAt !== null);
  };

  test("once its node has shown so many audited-valid ones again, whether it was audited or trusted", async () => {
    const run = await trustingRun();
    const [one = "", two = ""] = await earnTrust(run);
    const [three = "", four = ""] = await generate(server, run, packs);
    expect(await final([one, two, three, four])).toEqual([false, false, false, false]);
    await server.prisma.group.updateMany({ where: { id: { in: [one, three] } }, data: { finalAfter: 2 } });
    expect(await final([one, two, three, four])).toEqual([true, false, true, false]);
    expect(await availableTo(run)).toBe(await price(run, [one, three]));
    // Or a day after the node's last submission.
    const yesterday = new Date(Date.now() - 25 * 3_600_000);
    await server.prisma.group.update({ where: { id: four }, data: { decidedAt: yesterday } });
    expect(await final([two, four])).toEqual([false, false]);
    await server.prisma.group.updateMany({ where: { runId: run.id }, data: { submittedAt: yesterday } });
    expect(await final([two, four])).toEqual([false, true]);
  });

  test("never before its dispute window is over", async () => {
    const run = await trustingRun({ disputeWindowSeconds: 600 });
    const groups = await earnTrust(run);
    await server.prisma.group.updateMany({ where: { id: { in: groups } }, data: { finalAfter: 0 } });
    expect(await final(groups)).toEqual([false, false]);
    const decidedAt = new Date(Date.now() - 601_000);
    await server.prisma.group.updateMany({ where: { id: { in: groups } }, data: { decidedAt } });
    expect(await final(groups)).toEqual([true, true]);
  });

  test("never while it rests on a trust that was lost, nor before it is measured then", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    const trusted = await generate(server, run, packs);
    const old = { finalAfter: 0, decidedAt: new Date(Date.now() - 48 * 3_600_000) };
    await server.prisma.group.updateMany({ where: { id: { in: trusted } }, data: old });
    await failOnce(run);
    expect(await final(trusted)).toEqual([false, false]);
    await auditLost(run);
    expect(await final(trusted)).toEqual([false, false]);
    await measure(server, run, packs, run.validator);
    await server.prisma.group.updateMany({ where: { id: { in: trusted } }, data: old });
    expect(await final(trusted)).toEqual([true, true]);
  });

  test("never while its node stands accused: all it has at stake waits for the case", async () => {
    const run = await trustingRun({ disputeWindowSeconds: 600 });
    const groups = await generate(server, run, packs);
    await measure(server, run, packs, run.validator);
    const lucky = await generate(server, run, packs, { luck });
    const old = new Date(Date.now() - 48 * 3_600_000);
    await failOnce(run);
    await auditLost(run);
    await measure(server, run, packs, run.validator);
    expect(await statesOf(lucky)).toEqual(["REJECTED null", "REJECTED null"]);
    await server.prisma.group.updateMany({
      where: { runId: run.id },
      data: { decidedAt: old, submittedAt: old },
    });
    expect(await final([...groups, ...lucky])).toEqual([false, false, false, false]);
    const accusations = await casesOf(server, run);
    await server.prisma.case.updateMany({
      where: { id: { in: accusations.map(({ id }) => fromTypeId(id, "case")) } },
      data: { openUntil: new Date(Date.now() - 1_000), confirmed: true },
    });
    await settleCases(server.ctx());
    expect(await final([...groups, ...lucky])).toEqual([true, true, true, true]);
    // Upheld, it cost the node everything.
    expect(await availableTo(run)).toBe(0);
    expect(await heldBy(run)).toBe(0);
  });
});

describe("credits", () => {
  test("are forfeited and refunded once each time, and released as what is left", async () => {
    const run = await trustingRun();
    const [one = "", two = ""] = await earnTrust(run);
    const node = { organizationId: run.organization.id, runId: run.id, nodeId: run.worker.id };
    const all = BigInt(await price(run, [one, two]));
    const move = (what: typeof forfeitHeld) =>
      server.prisma.$transaction((tx) =>
        what(tx, { ...node, memo: "a test", submittedUntil: new Date(Date.now() + 60_000) }),
      );
    const budget = await budgetOf(run);
    expect(await move(forfeitHeld)).toBe(all);
    expect(await move(forfeitHeld)).toBe(0n);
    expect(await Promise.all([move(refundHeld), move(refundHeld)])).toEqual(
      expect.arrayContaining([all, 0n]),
    );
    expect(await heldBy(run)).toBe(Number(all));
    expect(await Promise.all([move(forfeitHeld), move(forfeitHeld)])).toEqual(
      expect.arrayContaining([all, 0n]),
    );
    expect(await move(refundHeld)).toBe(all);
    await server.prisma.$transaction((tx) => forfeitGroups(tx, [{ ...node, groupId: two }]));
    expect(await auditOf(run)).toMatchObject({ forfeited: String(await price(run, [two])) });
    await server.prisma.group.updateMany({ where: { runId: run.id }, data: { finalAfter: 0 } });
    await settleFinal(server.ctx());
    expect(await heldBy(run)).toBe(0);
    expect(await availableTo(run)).toBe(await price(run, [one]));
    // What is final is refunded straight to its node.
    expect(await move(refundHeld)).toBe(BigInt(await price(run, [two])));
    expect(await availableTo(run)).toBe(Number(all));
    expect(await move(forfeitHeld)).toBe(0n);
    expect(await budgetOf(run)).toBe(budget);
  });

  const drain = (run: TestRun) =>
    server.prisma.account.update({ where: { key: `budget:${run.id}` }, data: { balance: 10n } });
  const fundAndResume = async (run: TestRun) => {
    await server.ask(
      "mutation($input: FundRunInput!) { fundRun(input: $input) { state } }",
      { input: { run: run.typeId, credits: "100000000" } },
      run.organization.owner,
    );
    await server.ask(
      "mutation($input: RunInput!) { resumeRun(input: $input) { state } }",
      { input: { run: run.typeId } },
      run.organization.owner,
    );
  };

  test("that are used up pause the run; measurements are kept, nobody suffers, and all goes on when it is funded", async () => {
    const run = await trustingRun();
    const groups = await generate(server, run, packs);
    const leases = await claim(server, run, run.validator, "VERIFY", 16);
    await drain(run);
    await expect(submitMeasured(server, run, packs, run.validator, leases)).rejects.toThrow("NOT_READY");
    expect(await server.prisma.run.findUniqueOrThrow({ where: { id: run.id } })).toMatchObject({
      state: "PAUSED",
      stateReason: "BUDGET_EXHAUSTED",
    });
    expect(await statesOf(groups)).toEqual(["VERIFYING null", "VERIFYING null"]);
    expect(await server.prisma.attempt.count({ where: { runId: run.id, state: "LIVE" } })).toBe(2);
    expect(await standing(server, run, run.worker)).toMatchObject({ invalid: 0, rejected: 0 });
    await fundAndResume(run);
    const answers = await submitMeasured(server, run, packs, run.validator, leases);
    expect(answers.map(({ __typename }) => __typename)).toEqual(["Submitted", "Submitted"]);
    expect(await statesOf(groups)).toEqual(["ACCEPTED AUDITED", "ACCEPTED AUDITED"]);
  });

  test("that are used up keep a trusted node's groups waiting too", async () => {
    const run = await trustingRun();
    await earnTrust(run);
    await drain(run);
    const groups = await generate(server, run, packs);
    expect(await statesOf(groups)).toEqual(["SUBMITTED null", "SUBMITTED null"]);
    expect(await server.prisma.run.findUniqueOrThrow({ where: { id: run.id } })).toMatchObject({
      state: "PAUSED",
      stateReason: "BUDGET_EXHAUSTED",
    });
    await fundAndResume(run);
    expect(await acceptTrusted(server.ctx(), run.id)).toBe(2);
    expect(await statesOf(groups)).toEqual(["ACCEPTED TRUSTED", "ACCEPTED TRUSTED"]);
  });

  test("are kept for the evaluations that are due and for what is measured afterwards", async () => {
    const examples = 8;
    const spec = { evaluation: { examples, versions: [1] } };
    const run = await trustingRun(spec);
    const { generation, prices, batch } = run.spec;
    await server.prisma.task.updateMany({
      where: { runId: run.id, kind: "GENERATE" },
      data: { state: "CANCELLED" },
    });
    const tokens = generation.groupSize * generation.maxOutputTokens;
    const task = tokens * generation.groupsPerTask * (prices.generatedToken + prices.measuredToken);
    const step = batch.signalGroups * tokens * prices.trainedToken;
    const evaluation = examples * generation.maxOutputTokens * prices.evaluatedToken;
    const opened = async (balance: number) => {
      await server.prisma.account.update({
        where: { key: `budget:${run.id}` },
        data: { balance: BigInt(balance) },
      });
      await server.prisma.run.update({ where: { id: run.id }, data: { state: "RUNNING" } });
      await plan(server, run);
      return (await countTasks(server, run, "GENERATE")).OPEN ?? 0;
    };
    expect(await opened(step + evaluation + task - 1)).toBe(0);
    expect(await server.prisma.run.findUniqueOrThrow({ where: { id: run.id } })).toMatchObject({
      state: "PAUSED",
    });
    expect(await opened(step + evaluation + task)).toBe(1);
  });
});

test("generation waits for validators that do not keep up, and no audit is skipped for it", async () => {
  const run = await trustingRun({ batch: { signalGroups: 4, settledGroups: 4 } });
  const { backlogLimit } = await auditOf(run);
  expect(backlogLimit).toBe(8);
  const manifest = "0".repeat(64);
  const owner = { organizationId: run.organization.id, runId: run.id, revision: 1, policyVersion: 0 };
  const ids = await server.prisma.$transaction((tx) =>
    openTasks(
      tx,
      Array.from({ length: backlogLimit + 1 }, () => ({
        ...owner,
        kind: "VERIFY" as const,
        payload: { kind: "VERIFY" as const, manifest, blind: manifest },
      })),
    ),
  );
  await server.prisma.task.updateMany({
    where: { runId: run.id, kind: "GENERATE" },
    data: { state: "CANCELLED" },
  });
  await plan(server, run);
  expect((await countTasks(server, run, "GENERATE")).OPEN).toBeUndefined();
  expect(await auditOf(run)).toMatchObject({ backlog: 9 });
  await server.prisma.task.update({ where: { id: ids[0] ?? "" }, data: { state: "DONE" } });
  await plan(server, run);
  expect((await countTasks(server, run, "GENERATE")).OPEN).toBe(2);
});

test("a standing is what its outcomes that are not annulled make of it, in their order", async () => {
  const run = await trustingRun();
  await earnTrust(run);
  const { id: runId, spec } = run;
  const node = { runId, nodeId: run.worker.id, organizationId: run.organization.id, spec };
  const spare = await claim(server, run, run.worker, "GENERATE");
  const groupIds = [newId("group"), newId("group"), newId("group")];
  const reject = () =>
    server.prisma.$transaction((tx) =>
      recordOutcome(tx, { ...node, outcome: "REJECTED", groupIds, reason: "too good" }),
    );
  expect(await reject()).toMatchObject({ state: "QUARANTINED", rejected: 3, auditRate: 1 });
  const quarantined = await standing(server, run, run.worker);
  expect(quarantined.reason).toContain("too good");
  const attempt = await server.prisma.attempt.findFirstOrThrow({ where: { taskId: spare[0]?.taskId ?? "" } });
  expect(attempt).toMatchObject({ state: "CANCELLED", reason: "NODE_QUARANTINED" });
  await expect(claim(server, run, run.worker, "GENERATE")).rejects.toThrow("NODE_QUARANTINED");

  const replay = () => server.prisma.$transaction((tx) => replayStanding(tx, node));
  const before = await standing(server, run, run.worker);
  expect(await replay()).toMatchObject({ state: "QUARANTINED", rejected: 3 });
  expect((await standing(server, run, run.worker)).quarantinedAt).toEqual(before.quarantinedAt);
  const annul = (groupId: string | undefined) =>
    server.prisma.nodeOutcome.updateMany({ where: { groupId: groupId ?? "" }, data: { annulled: true } });
  await annul(groupIds[0]);
  expect(await replay()).toMatchObject({
    state: "PROBATION",
    rejected: 2,
    auditedValid: 0,
    reason: null,
    quarantinedAt: null,
  });
  // What replaces an outcome takes its place: nothing valid came after the rejections.
  await server.prisma.$transaction((tx) =>
    recordOutcome(tx, { ...node, outcome: "ACCEPTED", groupIds: groupIds.slice(0, 1) }),
  );
  expect(await replay()).toMatchObject({ state: "PROBATION", accepted: 3, auditedValid: 0, rejected: 2 });
  await annul(groupIds[1]);
  await annul(groupIds[2]);
  expect(await replay()).toMatchObject({
    state: "TRUSTED",
    accepted: 3,
    auditedValid: 3,
    rejected: 0,
    auditRate: 1e-6,
  });
  // Whoever is distrusted as a validator stays out.
  await server.prisma.nodeTrust.updateMany({
    where: { runId, nodeId: run.worker.id },
    data: { state: "QUARANTINED", distrustedAt: new Date() },
  });
  expect(await replay()).toMatchObject({ state: "QUARANTINED" });
});

test("proofs in bf16 are drawn, measured and judged", async () => {
  const run = await watchedRun(server, { verification: { form: "bf16" } });
  const groups = await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
  expect(await statesOf(groups)).toEqual(["ACCEPTED AUDITED", "ACCEPTED AUDITED"]);
  const lucky = await generate(server, run, packs, { luck });
  await measure(server, run, packs, run.validator);
  expect(await statesOf(lucky)).toEqual(["REJECTED null", "REJECTED null"]);
  const honest = await generate(server, run, packs);
  await measure(server, run, packs, run.validator, { habit: hostile });
  expect(await statesOf(honest)).toEqual(["REJECTED null", "REJECTED null"]);
});
