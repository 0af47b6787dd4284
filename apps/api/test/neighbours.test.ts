import { newId, toTypeId } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { payNode } from "../src/ledger/ledger.ts";
import { epochLoop } from "../src/verification/audit.ts";
import { settleCases, undecidedDays } from "../src/verification/cases.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { onVerifyFailed } from "../src/verification/inconclusive.ts";
import { startRun, type TestRun } from "./runkit.ts";
import type { Caller } from "./testkit.ts";
import {
  casesOf,
  claim,
  generate,
  grantValidator,
  groupOfId,
  luck,
  malformed,
  measure,
  standing,
  startWatching,
  submitMeasured,
  watchedRun,
} from "./watchkit.ts";

// What one run, one organization or two strangers together must not be able to do to the others.

const { server, packs } = await startWatching();

/** A run with rejected groups whose cases nobody confirmed within the time that a person has. */
async function undecided(): Promise<TestRun> {
  const run = await watchedRun(server);
  await generate(server, run, packs, { luck });
  await measure(server, run, packs, run.validator);
  const past = new Date(Date.now() - (undecidedDays + 1) * 86_400_000);
  await server.prisma.case.updateMany({ where: { runId: run.id }, data: { openUntil: past } });
  return run;
}

test("a run whose budget cannot refund holds up no other run's cases", async () => {
  const poor = await undecided();
  const other = await undecided();
  await server.prisma.case.updateMany({
    where: { runId: poor.id },
    data: { openUntil: new Date(Date.now() - 2 * undecidedDays * 86_400_000) },
  });
  const { balance } = await server.prisma.account.findUniqueOrThrow({ where: { key: `budget:${poor.id}` } });
  await server.prisma.$transaction((tx) =>
    payNode(tx, {
      organizationId: poor.organization.id,
      runId: poor.id,
      nodeId: poor.trainer.id,
      amount: balance,
      key: `pay:all of ${poor.id}`,
      memo: "Everything",
    }),
  );
  await settleCases(server.ctx());
  expect((await casesOf(server, other)).map(({ state }) => state)).toEqual(["OVERTURNED", "OVERTURNED"]);
  expect((await casesOf(server, poor)).map(({ state }) => state)).toEqual(["OPEN", "OPEN"]);
});

test("runs that never end keep no other run's audit keys secret", async () => {
  const [held] = await generateOne();
  const key = await server.prisma.auditEpoch.findFirstOrThrow({ where: { runId: held.runId } });
  const day = 86_400_000;
  const closed = { openedAt: new Date(Date.now() - 10 * day), closedAt: new Date(Date.now() - 9 * day) };
  // Sixty-four epochs, each with a group that waits for ever.
  for (let number = 1_000; number < 1_064; number++) {
    const { id: _, ...copy } = await server.prisma.group.findUniqueOrThrow({ where: { id: held.id } });
    await server.prisma.auditEpoch.create({
      data: { ...key, id: newId(), number, ...closed },
    });
    await server.prisma.group.create({
      data: { ...copy, index: number, epoch: number, verifyTaskId: null, state: "SUBMITTED" },
    });
  }
  const done = await startRun(server, {}, { start: false });
  await server.prisma.auditEpoch.updateMany({ where: { runId: done.id }, data: closed });
  await epochLoop.run(server.ctx(), { topics: new Set(), signal: new AbortController().signal });
  const epoch = await server.prisma.auditEpoch.findFirstOrThrow({ where: { runId: done.id } });
  expect(epoch.revealedAt).not.toBeNull();
  expect(
    await server.prisma.auditEpoch.count({
      where: { runId: held.runId, number: { gte: 1_000 }, revealedAt: { not: null } },
    }),
  ).toBe(0);
});

/** A group that waits for its verdict. */
async function generateOne() {
  const run = await watchedRun(server);
  const [id = ""] = await generate(server, run, packs);
  return [await groupOfId(server, id)] as const;
}

test("what re-executions of a case found is not for the person who owns the accused node, whatever else they belong to", async () => {
  const run = await watchedRun(server);
  await generate(server, run, packs, { luck });
  await measure(server, run, packs, run.validator);
  await measure(server, run, packs, run.validator);
  const { owner } = await server.organization();
  await server.prisma.node.update({ where: { id: run.worker.id }, data: { ownerId: owner.userId } });
  const [accused] = await casesOf(server, run);
  const read = async (as: Caller) =>
    (
      await server.graphql<{ node: { state: string; reexecutions: unknown[] | null } | null }>(
        "query($id: ID!) { node(id: $id) { ... on Case { state reexecutions { outcome validator { id name } } } } }",
        { id: accused?.id ?? "" },
        as,
      )
    ).data?.node;
  expect((await read(run.organization.owner))?.reexecutions).toHaveLength(1);
  expect(await read(owner)).toEqual({ state: "OPEN", reexecutions: null });
});

describe("two strangers that cannot measure a group", () => {
  test("cost its worker nothing: one of the organizer's own has to have failed at it, too", async () => {
    const run = await watchedRun(server);
    const strangers = [await server.node(), await server.node()];
    for (const node of strangers) await grantValidator(server, run, node);
    const known = await generate(server, run, packs);
    await measure(server, run, packs, run.validator);
    const groups = await generate(server, run, packs);
    const [source] = await server.prisma.verification.findMany({ where: { groupId: known[0] ?? "" } });
    for (const node of strangers) {
      const leases = await claim(server, run, node, "VERIFY", 16);
      await submitMeasured(server, run, packs, node, leases, malformed);
    }
    // A probe of the same version came out right, so the measuring is in order.
    const probed = await server.prisma.task.findFirstOrThrow({ where: { runId: run.id, state: "DONE" } });
    await server.prisma.probe.create({
      data: {
        taskId: probed.id,
        organizationId: run.organization.id,
        runId: run.id,
        groupId: known[0] ?? "",
        policyVersion: 0,
        purpose: "REEXECUTION",
        verificationId: source?.id ?? "",
        blindHash: "0".repeat(64),
        outcome: "AGREED",
        decidedAt: new Date(Date.now() + 1_000),
      },
    });
    const give = async (id: string) => {
      const { verifyTaskId } = await groupOfId(server, id);
      const where = { id: verifyTaskId ?? "" };
      const failure = "its attempts were used up";
      const task = await server.prisma.task.update({ where, data: { state: "FAILED", failure } });
      await server.prisma.$transaction((tx) => onVerifyFailed(tx, task));
      expect(await groupOfId(server, id)).toMatchObject({ state: "INVALID" });
    };
    const [first = "", second = ""] = groups;
    await give(first);
    expect(await standing(server, run, run.worker)).toMatchObject({ invalid: 0, auditedValid: 2 });
    // With one of the organizer's own among them there is reason to doubt the pack.
    const { verifyTaskId } = await groupOfId(server, second);
    await server.prisma.attempt.create({
      data: {
        id: newId("attempt"),
        organizationId: run.organization.id,
        runId: run.id,
        taskId: verifyTaskId ?? "",
        number: 9,
        nodeId: run.validator.id,
        state: "RELEASED",
        claimedAt: new Date(),
        leaseUntil: new Date(),
      },
    });
    await give(second);
    expect(await standing(server, run, run.worker)).toMatchObject({ invalid: 1 });
  });
});

test("a node that falls silent is paid nothing by the passing of time while a group of its own is not measured", async () => {
  const run = await watchedRun(server, { disputeWindowSeconds: 0 });
  const good = await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
  const bad = await generate(server, run, packs, { luck });
  const longAgo = new Date(Date.now() - 2 * 86_400_000);
  await server.prisma.group.updateMany({ where: { id: { in: good } }, data: { decidedAt: longAgo } });
  await server.prisma.group.updateMany({ where: { runId: run.id }, data: { submittedAt: longAgo } });
  await settleFinal(server.ctx());
  for (const id of good) expect((await groupOfId(server, id)).finalAt).toBeNull();
  await measure(server, run, packs, run.validator);
  for (const id of bad) expect(await groupOfId(server, id)).toMatchObject({ state: "REJECTED" });
});

test("a worker that asks for its evidence a hundred times at once keeps nobody else waiting", async () => {
  const run = await watchedRun(server);
  const [id = ""] = await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
  const get = (as: Caller) =>
    fetch(`${server.url}/evidence/${toTypeId("group", id)}`, { headers: as.headers });
  const [flood, other] = [
    Promise.all(Array.from({ length: 100 }, () => get(run.worker))),
    get(run.organization.owner),
  ];
  expect((await other).status).toBe(200);
  const answers = await flood;
  expect(answers.filter(({ status }) => status === 429).length).toBeGreaterThan(80);
  expect(answers.filter(({ status }) => status === 200).length).toBeGreaterThanOrEqual(4);
  // One after the other is what it is for.
  expect((await get(run.worker)).status).toBe(200);
});
