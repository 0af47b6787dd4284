import { encodeRolloutPack } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { submitRollouts } from "../src/rollouts/intake.ts";
import { openTasks } from "../src/tasks/lease.ts";
import { recordOutcome } from "../src/verification/trust.ts";
import { acceptTrusted } from "../src/verification/trusted.ts";
import { countTasks, plan, put, signed } from "./runkit.ts";
import { trustOf } from "./trustkit.ts";
import {
  claim,
  claimGenerate,
  generate,
  hostile,
  luck,
  measure,
  standing,
  startWatching,
  watchedRun,
} from "./watchkit.ts";

// What is audited, and what is accepted because it need not be.

const { server, packs } = await startWatching();
const { trustingRun, earnTrust, groupsOf, statesOf, auditLost, price, heldBy, auditOf } = trustOf(
  server,
  packs,
);

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
      orderBy: { groupId: "asc" },
    });
    expect(outcomes.map(({ groupId, kind }) => [groupId, kind])).toEqual(
      first.toSorted().map((id) => [id, "ACCEPTED"]),
    );
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
    const lease = await claimGenerate(server, run);
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
