import { toTypeId } from "@muster/protocol";
import { afterAll, describe, expect, test } from "vitest";
import { cancelRun, pauseRun } from "../src/runs/lifecycle.ts";
import { claimTasks } from "../src/tasks/claim.ts";
import { expireLeases, expiryLoop } from "../src/tasks/expiry.ts";
import { completeTask, openTasks, releaseTask, renewLease, reopenTask } from "../src/tasks/lease.ts";
import { attemptTransitions, taskTransitions } from "../src/tasks/states.ts";
import { claim, eventsOf, startRun } from "./runkit.ts";
import { tasksOf } from "./taskkit.ts";
import { startTestServer, until } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());
const { runWithTasks, openGenerate, submit, lapse, taskState, attemptStates, age } = tasksOf(server);

describe("leases", () => {
  test("a renewal moves the deadline of task and attempt", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await server.prisma.task.update({
      where: { id: lease.taskId },
      data: { leaseUntil: new Date(Date.now() + 1_000) },
    });
    const { leaseUntil } = await renewLease(server.ctx(run.worker), lease);
    expect(leaseUntil.getTime()).toBeGreaterThan(Date.now() + 50_000);
    const [task, attempt] = await Promise.all([
      server.prisma.task.findUniqueOrThrow({ where: { id: lease.taskId } }),
      server.prisma.attempt.findFirstOrThrow({ where: { taskId: lease.taskId } }),
    ]);
    expect([task.leaseUntil, attempt.leaseUntil]).toEqual([leaseUntil, leaseUntil]);
  });

  test("an expired, a foreign and a submitted lease cannot be renewed", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await expect(renewLease(server.ctx(await server.node()), lease)).rejects.toMatchObject({
      code: "LEASE_LOST",
    });
    await lapse(lease);
    await expireLeases(server.ctx());
    await expect(renewLease(server.ctx(run.worker), lease)).rejects.toMatchObject({ code: "LEASE_LOST" });
    await submit(lease, run.worker);
    await expect(renewLease(server.ctx(run.worker), lease)).rejects.toMatchObject({ code: "LEASE_LOST" });
  });

  test("a released task opens at once for the next node; releasing twice is harmless, submitting after is lost", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const release = { ...lease, reason: "draining" };
    await releaseTask(server.ctx(run.worker), release);
    await releaseTask(server.ctx(run.worker), release);
    expect(await taskState(lease.taskId)).toBe("OPEN");
    expect((await submit(lease, run.worker)).kind).toBe("lost");
    await expect(releaseTask(server.ctx(await server.node()), release)).rejects.toMatchObject({
      code: "LEASE_LOST",
    });
    expect(await attemptStates(lease.taskId)).toEqual(["RELEASED"]);
  });

  test("only what is past its deadline expires, and the last attempt fails the task", async () => {
    const run = await runWithTasks(2);
    const [lease, kept] = await claimTasks(server.ctx(run.worker), {
      kinds: ["GENERATE"],
      max: 2,
      runId: run.id,
    });
    if (lease === undefined || kept === undefined) throw new Error("two tasks are open");
    await server.prisma.task.update({ where: { id: lease.taskId }, data: { maxAttempts: 2 } });
    await lapse(lease);
    expect(await expireLeases(server.ctx())).toBe(1);
    expect([await taskState(lease.taskId), await taskState(kept.taskId)]).toEqual(["OPEN", "LEASED"]);
    const last = await claim(server, run, await server.node(), "GENERATE");
    await lapse(last);
    await expireLeases(server.ctx());
    expect(await server.prisma.task.findUniqueOrThrow({ where: { id: lease.taskId } })).toMatchObject({
      state: "FAILED",
      failure: "the lease expired (attempt 2 of 2)",
      leaseNodeId: null,
    });
    expect(await attemptStates(lease.taskId)).toEqual(["EXPIRED", "EXPIRED"]);
    const types = (await eventsOf(server, run))
      .map((event) => event.type)
      .filter((type) => type.startsWith("task."));
    expect(types).toEqual(
      expect.arrayContaining(["task.opened", "task.leased", "task.expired", "task.released", "task.failed"]),
    );
  });

  test("after a start the sweeper waits, so that nodes that outlived the coordinator can renew", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await lapse(lease);
    const turn = { topics: new Set<never>(), signal: new AbortController().signal };
    const config = { ...server.config, sweepDelaySeconds: 3600 };
    await expiryLoop.run({ ...server.ctx(), config }, turn);
    expect(await taskState(lease.taskId)).toBe("LEASED");
    await expiryLoop.run(server.ctx(), turn);
    expect(await taskState(lease.taskId)).toBe("OPEN");
  });

  test("a run that ends beside a submission leaves nothing open of what that one opens", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    let ending: Promise<void> | undefined;
    await server.prisma.$transaction(async (tx) => {
      await tx.$queryRaw`SELECT 1 FROM "Task" WHERE id = ${lease.taskId}::uuid FOR UPDATE`;
      ending = cancelRun(server.ctx(run.organization.owner), { runId: run.id });
      // It waits for the row that this transaction holds.
      await until(async () => {
        const [row] = await server.prisma.$queryRaw<{ n: number }[]>`
          SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`;
        return (row?.n ?? 0) > 0;
      });
      const owner = { organizationId: run.organization.id, runId: run.id };
      await openTasks(tx, [{ ...owner, kind: "VERIFY", revision: 1, policyVersion: 0, payload: {} }]);
    });
    await ending;
    const states = await server.prisma.task.groupBy({ by: ["state"], where: { runId: run.id } });
    expect(states.map(({ state }) => state)).toEqual(["CANCELLED"]);
  });

  test("a task that is over cannot move any more", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const inTx = (work: (tx: Parameters<typeof completeTask>[0]) => Promise<unknown>) =>
      server.prisma.$transaction(work);
    await expect(inTx((tx) => completeTask(tx, { id: lease.taskId }))).rejects.toMatchObject({
      code: "STATE_CONFLICT",
    });
    await submit(lease, run.worker);
    await inTx((tx) => completeTask(tx, { id: lease.taskId }));
    await expect(inTx((tx) => completeTask(tx, { id: lease.taskId }))).rejects.toMatchObject({
      code: "STATE_CONFLICT",
    });
    await expect(inTx((tx) => reopenTask(tx, { id: lease.taskId }, "why"))).rejects.toMatchObject({
      code: "STATE_CONFLICT",
    });
  });

  test("the tables have the ends that the protocol names", () => {
    const ends = (table: Record<string, readonly string[]>) =>
      Object.keys(table).filter((state) => table[state]?.length === 0);
    expect(ends(taskTransitions)).toEqual(["DONE", "CANCELLED", "FAILED"]);
    expect(ends(attemptTransitions)).toEqual(["SUBMITTED", "RELEASED", "CANCELLED"]);
  });
});

describe("a lease", () => {
  test("is not renewed for ever, however often", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await age(lease, 9 * run.spec.leaseSeconds);
    await renewLease(server.ctx(run.worker), lease);
    await age(lease, 11 * run.spec.leaseSeconds);
    await expect(renewLease(server.ctx(run.worker), lease)).rejects.toMatchObject({ code: "LEASE_LOST" });
    const base = await claim(server, run, run.trainer, "BASE");
    await age(base, 3_600 * 24);
    await renewLease(server.ctx(run.trainer), base);
  });

  test("ends with its grant, its node's standing and its run", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1);
    const base = await claim(server, run, run.trainer, "BASE");
    const lease = await claim(server, run, run.worker, "GENERATE");
    await pauseRun(server.ctx(run.organization.owner), { runId: run.id });
    await renewLease(server.ctx(run.trainer), base);
    await server.prisma.roleGrant.updateMany({
      where: { nodeId: run.trainer.id },
      data: { revokedAt: new Date() },
    });
    await expect(renewLease(server.ctx(run.trainer), base)).rejects.toMatchObject({ code: "LEASE_LOST" });
    await server.prisma.nodeTrust.create({
      data: {
        runId: run.id,
        nodeId: run.worker.id,
        organizationId: run.organization.id,
        state: "QUARANTINED",
      },
    });
    await expect(renewLease(server.ctx(run.worker), lease)).rejects.toMatchObject({ code: "LEASE_LOST" });
  });

  test("handed back politely costs the task nothing, given up as impossible it counts", async () => {
    const run = await startRun(server);
    for (let i = 0; i < 7; i++) {
      const base = await claim(server, run, run.trainer, "BASE");
      await releaseTask(server.ctx(run.trainer), { ...base, reason: "draining" });
    }
    for (let i = 0; i < 5; i++) {
      const base = await claim(server, run, run.trainer, "BASE");
      await server.ask(
        "mutation($input: ReleaseTaskInput!) { releaseTask(input: $input) }",
        {
          input: {
            task: toTypeId("task", base.taskId),
            attempt: base.attempt,
            reason: "out of memory\u0000",
            failed: true,
          },
        },
        run.trainer,
      );
    }
    expect(
      await server.prisma.task.findFirstOrThrow({ where: { runId: run.id, kind: "BASE" } }),
    ).toMatchObject({
      state: "FAILED",
      failure: "released: out of memory  (attempt 5 of 5)",
    });
  });

  test("dropped a third time in a row makes the node rest, until it has submitted something", async () => {
    const run = await startRun(server);
    await openGenerate(run, 3);
    const node = await server.node();
    const ask = () => claimTasks(server.ctx(node), { kinds: ["GENERATE"], max: 2, runId: run.id });
    // Two at once are one drop.
    for (const lease of await ask()) await releaseTask(server.ctx(node), { ...lease, reason: "no" });
    const [second] = await ask();
    if (second === undefined) throw new Error("tasks are open");
    await age(second, 300);
    await server.prisma.node.update({
      where: { id: node.id },
      data: { droppedAt: new Date(Date.now() - 600_000) },
    });
    await server.prisma.task.update({ where: { id: second.taskId }, data: { leaseUntil: new Date(0) } });
    await expireLeases(server.ctx());
    await server.prisma.attempt.updateMany({
      where: { nodeId: node.id, state: "LIVE" },
      data: { state: "CANCELLED" },
    });
    const [third] = await ask();
    if (third === undefined) throw new Error("twice is free");
    await releaseTask(server.ctx(node), { ...third, reason: "no" });
    await expect(ask()).rejects.toMatchObject({
      code: "RATE_LIMITED",
      details: { retryAfterSeconds: expect.any(Number) },
    });
    await server.prisma.node.update({
      where: { id: node.id },
      data: { restsUntil: new Date(Date.now() - 1) },
    });
    expect((await ask()).length).toBeGreaterThan(0);
  });

  test("is asked for by one claim of a node at a time", async () => {
    const run = await startRun(server);
    await openGenerate(run, 4);
    const started = performance.now();
    const claims = Array.from({ length: 200 }, () =>
      claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 1, runId: run.id }),
    );
    expect((await Promise.all(claims)).flat().length).toBeLessThanOrEqual(2);
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});
