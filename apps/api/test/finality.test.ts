import { fromTypeId } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { forfeitGroups, forfeitHeld, refundHeld } from "../src/ledger/stakes.ts";
import { settleCases } from "../src/verification/cases.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { acceptTrusted } from "../src/verification/trusted.ts";
import { countTasks, plan, type TestRun } from "./runkit.ts";
import { trustOf } from "./trustkit.ts";
import {
  casesOf,
  claim,
  generate,
  luck,
  measure,
  standing,
  startWatching,
  submitMeasured,
} from "./watchkit.ts";

// What is at stake, when it is released, and what it is taken from.

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
  auditOf,
} = trustOf(server, packs);

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
    // It has nothing at stake now, so it is trusted no more.
    expect(await standing(server, run, run.worker)).toMatchObject({ state: "PROBATION", auditRate: 1 });
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
