import { newId, toTypeId } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { retireCheckpoints } from "../src/training/retention.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { recordOutcome, replayStanding } from "../src/verification/trust.ts";
import { batchPack, eventsOf, plan } from "./runkit.ts";
import { trustOf } from "./trustkit.ts";
import { casesOf, claim, generate, luck, measure, standing, startWatching } from "./watchkit.ts";

// Trust that was lost: what is measured after all, and what a standing is made of.

const { server, packs } = await startWatching();
const {
  trustingRun,
  earnTrust,
  failOnce,
  groupsOf,
  statesOf,
  auditLost,
  price,
  heldBy,
  availableTo,
  budgetOf,
  giveSignal,
  auditOf,
} = trustOf(server, packs);

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
