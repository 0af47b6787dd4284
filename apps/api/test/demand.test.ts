import { afterAll, beforeAll, expect, test } from "vitest";
import { demandOf } from "../src/runs/demand.ts";
import { claim, countTasks, plan, publishBase, startRun, type TestRun } from "./runkit.ts";
import { startTestServer, type TestServer } from "./testkit.ts";

// How much is asked for while others are at work.

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

/** GENERATE tasks that are missing now. */
async function missing(run: TestRun): Promise<number> {
  const [row, batch] = [
    await server.prisma.run.findUniqueOrThrow({ where: { id: run.id } }),
    await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id, state: "FILLING" } }),
  ];
  if (row.currentVersion === null) throw new Error("the run has no version");
  const started = { ...row, currentVersion: row.currentVersion };
  return (await server.prisma.$transaction((tx) => demandOf(tx, started, run.spec, batch))).tasks;
}

test("a task that somebody has held for more than five leases is not waited for, and no other is opened twice", async () => {
  const run = await startRun(server, { leaseSeconds: 60 });
  await publishBase(server, run);
  expect(await countTasks(server, run, "GENERATE")).toEqual({ OPEN: 2 });
  const lease = await claim(server, run, run.worker, "GENERATE");
  const heldFor = (seconds: number) =>
    server.prisma.attempt.update({
      where: { taskId_number: { taskId: lease.taskId, number: lease.attempt } },
      data: { claimedAt: new Date(Date.now() - seconds * 1_000) },
    });
  expect(await missing(run)).toBe(0);
  await heldFor(4 * 60);
  expect(await missing(run)).toBe(0);
  await heldFor(6 * 60);
  expect(await missing(run)).toBe(1);
  await plan(server, run);
  expect(await countTasks(server, run, "GENERATE")).toEqual({ LEASED: 1, OPEN: 2 });
  // The one that was opened instead is in flight.
  await plan(server, run);
  expect(await missing(run)).toBe(0);

  // Given back, it is waited for like any other: an attempt that is over does not count, however old it is.
  await server.prisma.attempt.updateMany({
    where: { taskId: lease.taskId },
    data: { state: "RELEASED", endedAt: new Date() },
  });
  await server.prisma.task.update({
    where: { id: lease.taskId },
    data: { state: "OPEN", leaseNodeId: null, leaseUntil: null },
  });
  await server.prisma.task.deleteMany({
    where: { runId: run.id, kind: "GENERATE", id: { not: lease.taskId }, state: "OPEN", attempt: 0 },
  });
  expect(await missing(run)).toBe(1);
});
