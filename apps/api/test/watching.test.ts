import { decodeMeasurementPack, encodeMeasurementPack, toTypeId } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import { reviseRun } from "../src/runs/create-run.ts";
import { openCanaries } from "../src/verification/canaries.ts";
import { firstTasks } from "../src/verification/canary.ts";
import { settleUnmeasured } from "../src/verification/unmeasured.ts";
import { plan, put, signed, type TestRun } from "./runkit.ts";
import type { TestNode } from "./testkit.ts";
import {
  type Answer,
  blindEye,
  claim,
  generate,
  grantValidator,
  groupOfId,
  honest,
  luck,
  measure,
  standing,
  startWatching,
  submitMeasured,
  watchedRun,
} from "./watchkit.ts";

// Nobody who measures gets out of being watched: not by counting ids, by keeping silent, by being fast or by being late.

const { server, packs } = await startWatching();

/** Has the organizer's own validator measure what canaries are made of. */
async function makeKnown(run: TestRun, tasks = 2): Promise<void> {
  for (let i = 0; i < tasks; i++) await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
}

const canariesOf = (run: TestRun, node: TestNode) =>
  server.prisma.probe.findMany({
    where: { runId: run.id, nodeId: node.id, purpose: { not: "REEXECUTION" } },
    orderBy: { createdAt: "asc" },
  });

/** Lets time pass for a node that says nothing: it was last heard long ago. */
const silence = (node: TestNode, minutes: number) =>
  server.prisma.node.update({
    where: { id: node.id },
    data: { lastSeenAt: new Date(Date.now() - minutes * 60_000) },
  });

describe("a canary", () => {
  test("has an id that counts on from nothing, and so has every other VERIFY task", async () => {
    const run = await watchedRun(server, { generation: { groupsPerTask: 4 } });
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run);
    await generate(server, run, packs);
    await openCanaries(server.ctx());
    const leases = await claim(server, run, stranger, "VERIFY", 16);
    const canaries = new Set((await canariesOf(run, stranger)).map(({ taskId }) => taskId));
    const [audits, watched] = [
      leases.filter(({ taskId }) => !canaries.has(taskId)),
      leases.filter(({ taskId }) => canaries.has(taskId)),
    ];
    expect(audits).toHaveLength(4);
    expect(watched.length).toBeGreaterThan(0);
    // A UUIDv7's 42 bits after the date count up within a millisecond: made together, they would be neighbours.
    const counter = (taskId: string) => {
      const bits = BigInt(`0x${taskId.replaceAll("-", "")}`);
      return (((bits >> 64n) & 0xfffn) << 30n) | ((bits >> 32n) & 0x3fffffffn);
    };
    const counters = leases.map(({ taskId }) => counter(taskId)).toSorted((a, b) => (a < b ? -1 : 1));
    for (const [i, one] of counters.entries())
      if (i > 0) expect(one - (counters[i - 1] ?? 0n)).toBeGreaterThan(1_000n);
  });

  test("comes to a validator that never says that it is there", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 3);
    let had = 0;
    while (had < 2 * firstTasks && (await standing(server, run, stranger)).state !== "QUARANTINED") {
      await silence(stranger, 30);
      await generate(server, run, packs);
      await openCanaries(server.ctx());
      had += (await measure(server, run, packs, stranger, { max: 2, habit: blindEye })).length;
      await measure(server, run, packs, run.validator);
    }
    expect(await standing(server, run, stranger)).toMatchObject({ state: "QUARANTINED" });
  });

  test("that it did not fetch is taken back, and its group is there for another", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 1);
    await generate(server, run, packs);
    for (let round = 0; round < 6; round++) {
      await openCanaries(server.ctx());
      expect((await canariesOf(run, stranger)).filter(({ outcome }) => outcome === null)).not.toEqual([]);
      await server.prisma.probe.updateMany({
        where: { runId: run.id },
        data: { createdAt: new Date(Date.now() - 3_600_000) },
      });
      await settleUnmeasured(server.ctx());
      expect((await canariesOf(run, stranger)).filter(({ outcome }) => outcome === null)).toEqual([]);
    }
  });

  test("comes to a validator that is so fast that nothing ever waits", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 3);
    let had = 0;
    while (had < 2 * firstTasks && (await standing(server, run, stranger)).state !== "QUARANTINED") {
      await generate(server, run, packs);
      // Before any loop has had a turn.
      const leases = await claim(server, run, stranger, "VERIFY", 16);
      await submitMeasured(server, run, packs, stranger, leases, blindEye);
      had += leases.length;
      await openCanaries(server.ctx());
    }
    expect(await standing(server, run, stranger)).toMatchObject({ state: "QUARANTINED" });
  });

  test("is made of what was measured under the same revision, or an honest measurement would not hold", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 3);
    const spec = { ...run.spec, verification: { ...run.spec.verification, topK: 32 } };
    const revised = await reviseRun(server.ctx(run.organization.owner), { runId: run.id, spec });
    expect(revised.kind).toBe("created");
    // What was opened before is judged as before.
    await server.prisma.task.updateMany({
      where: { runId: run.id, kind: "GENERATE", state: "OPEN" },
      data: { state: "CANCELLED" },
    });
    await plan(server, run);
    await makeKnown(run);
    for (let had = 0; had < 12; ) {
      await generate(server, run, packs);
      await openCanaries(server.ctx());
      had += (await measure(server, run, packs, stranger, { habit: honest })).length;
      await measure(server, run, packs, run.validator);
    }
    const decided = (await canariesOf(run, stranger)).filter(({ outcome }) => outcome !== null);
    expect(decided.length).toBeGreaterThan(0);
    expect(decided.map(({ outcome, note }) => [outcome, note])).toEqual(decided.map(() => ["AGREED", ""]));
  });
});

describe("a validator that was found out", () => {
  test("decides nothing any more, not even with what it measured before and hands in late", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await generate(server, run, packs, { luck });
    const leases = await claim(server, run, stranger, "VERIFY", 16);
    const [late] = leases;
    if (late === undefined) throw new Error("no VERIFY task to claim");
    const measured = blindEye(decodeMeasurementPack(await packs.measurement(server, stranger, late)));
    const pack = await put(server, stranger, late, "MEASUREMENT", encodeMeasurementPack(measured));
    // Its lease runs out and nobody has come since: whoever is late wins then.
    await server.prisma.attempt.updateMany({
      where: { taskId: late.taskId },
      data: { state: "EXPIRED", endedAt: new Date() },
    });
    await server.prisma.task.update({
      where: { id: late.taskId },
      data: { state: "OPEN", leaseNodeId: null, leaseUntil: null },
    });
    const key = { runId_nodeId: { runId: run.id, nodeId: stranger.id } };
    await server.prisma.nodeTrust.update({
      where: key,
      data: { state: "QUARANTINED", distrustedAt: new Date() },
    });
    const { submitMeasurement } = await server.ask<{ submitMeasurement: Answer }>(
      "mutation($input: SubmitPackInput!) { submitMeasurement(input: $input) { __typename ... on LeaseLost { message } } }",
      {
        input: {
          task: toTypeId("task", late.taskId),
          attempt: late.attempt,
          pack,
          signature: signed(run, stranger, late, pack),
        },
      },
      stranger,
    );
    expect(submitMeasurement).toMatchObject({
      __typename: "LeaseLost",
      message: expect.stringContaining("quarantined"),
    });
    const group = await server.prisma.group.findFirstOrThrow({ where: { verifyTaskId: late.taskId } });
    expect(await groupOfId(server, group.id)).toMatchObject({ state: "VERIFYING" });
    // It is there for the next one.
    await measure(server, run, packs, run.validator);
    expect(await groupOfId(server, group.id)).toMatchObject({ state: "REJECTED" });
  });
});
