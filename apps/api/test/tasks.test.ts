import { fromTypeId, newId } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cancelRun, pauseRun } from "../src/runs/lifecycle.ts";
import { claimTasks, type Lease } from "../src/tasks/claim.ts";
import { expireLeases, expiryLoop } from "../src/tasks/expiry.ts";
import {
  acceptSubmission,
  completeTask,
  openTasks,
  releaseTask,
  renewLease,
  reopenTask,
} from "../src/tasks/lease.ts";
import { attemptTransitions, taskTransitions } from "../src/tasks/states.ts";
import { claim, eventsOf, grant, startRun, type TestRun } from "./runkit.ts";
import { startTestServer, type TestNode, type TestServer, until } from "./testkit.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const pack = "a".repeat(64);
const otherPack = "b".repeat(64);

/** A run with so many open GENERATE tasks. */
async function runWithTasks(
  count: number,
  over: Parameters<typeof startRun>[1] = {},
): Promise<TestRun & { tasks: string[] }> {
  const run = await startRun(server, over);
  const tasks = await openGenerate(run, count);
  return { ...run, tasks };
}

async function openGenerate(
  run: TestRun,
  count: number,
  more: { excludedNodes?: string[]; notBefore?: Date; priority?: number } = {},
): Promise<string[]> {
  return server.prisma.$transaction((tx) =>
    openTasks(
      tx,
      Array.from({ length: count }, () => ({
        organizationId: run.organization.id,
        runId: run.id,
        kind: "GENERATE" as const,
        revision: 1,
        policyVersion: 0,
        payload: { made: "up" },
        ...more,
      })),
    ),
  );
}

const submit = (lease: Lease, node: TestNode, packHash = pack) =>
  server.prisma.$transaction((tx) =>
    acceptSubmission(tx, { taskId: lease.taskId, attempt: lease.attempt, nodeId: node.id, packHash }),
  );

/** Moves a lease's deadline into the past, where its row says so. */
const lapse = (lease: Lease) =>
  server.prisma.task.update({ where: { id: lease.taskId }, data: { leaseUntil: new Date(Date.now() - 1) } });

const taskState = async (id: string) => (await server.prisma.task.findUniqueOrThrow({ where: { id } })).state;
const attemptStates = async (taskId: string) =>
  (await server.prisma.attempt.findMany({ where: { taskId }, orderBy: { number: "asc" } })).map(
    (attempt) => attempt.state,
  );

describe("claiming", () => {
  test("a claim through GraphQL leases the oldest task and counts its attempt", async () => {
    const run = await runWithTasks(2);
    const { claimTasks: leases } = await server.ask<{ claimTasks: Record<string, unknown>[] }>(
      "mutation($input: ClaimTasksInput!) { claimTasks(input: $input) { task run kind attempt leaseUntil renewAfterSeconds manifest policyVersion payload } }",
      { input: { kinds: ["GENERATE"], max: 1, run: run.typeId } },
      run.worker,
    );
    expect(leases).toEqual([
      {
        task: expect.any(String),
        run: run.typeId,
        kind: "GENERATE",
        attempt: 1,
        leaseUntil: expect.any(String),
        renewAfterSeconds: 20,
        manifest: null,
        policyVersion: 0,
        payload: { made: "up" },
      },
    ]);
    const taskId = fromTypeId(String(leases[0]?.task), "task");
    expect(taskId).toBe(run.tasks[0]);
    const attempt = await server.prisma.attempt.findFirstOrThrow({ where: { taskId } });
    expect(attempt).toMatchObject({
      number: 1,
      nodeId: run.worker.id,
      state: "LIVE",
      runId: run.id,
      organizationId: run.organization.id,
    });
    const seconds = (new Date(String(leases[0]?.leaseUntil)).getTime() - attempt.claimedAt.getTime()) / 1000;
    expect(seconds).toBeCloseTo(60, 1);
    expect((await eventsOf(server, run, "task.leased")).map((event) => event.subject)).toEqual([
      leases[0]?.task,
    ]);
  });

  test("nodes that claim at once never share a task, and leave none", async () => {
    const run = await runWithTasks(12);
    const nodes = await Promise.all(Array.from({ length: 6 }, () => server.node()));
    const claims = await Promise.all(
      nodes.map((node) => claimTasks(server.ctx(node), { kinds: ["GENERATE"], max: 16, runId: run.id })),
    );
    const claimed = claims.flat().map((lease) => lease.taskId);
    expect(new Set(claimed).size).toBe(claimed.length);
    expect([...claimed].sort()).toEqual([...run.tasks].sort());
  });

  test("two claims of one node at once stay within what it may hold", async () => {
    const run = await runWithTasks(8);
    const claims = await Promise.all(
      Array.from({ length: 4 }, () =>
        claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 2, runId: run.id }),
      ),
    );
    expect(claims.flat()).toHaveLength(2);
  });

  test("within a kind priority goes first, then age", async () => {
    const run = await startRun(server);
    const [older] = await openGenerate(run, 1);
    const [urgent] = await openGenerate(run, 1, { priority: 1 });
    const leases = await claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 2, runId: run.id });
    expect(leases.map((lease) => lease.taskId)).toEqual([urgent, older]);
  });

  test("a task that excludes the node or is not due stays open", async () => {
    const run = await startRun(server);
    await openGenerate(run, 1, { excludedNodes: [run.worker.id] });
    await openGenerate(run, 1, { notBefore: new Date(Date.now() + 60_000) });
    expect(await claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 16, runId: run.id })).toEqual(
      [],
    );
    expect(
      await claimTasks(server.ctx(await server.node()), { kinds: ["GENERATE"], max: 16, runId: run.id }),
    ).toHaveLength(1);
  });

  test("an evaluation that waited a minute goes before measuring, a fresh one after it", async () => {
    const run = await startRun(server);
    const make = (kind: "VERIFY" | "EVALUATE") =>
      server.prisma.$transaction((tx) =>
        openTasks(tx, [
          {
            organizationId: run.organization.id,
            runId: run.id,
            kind,
            revision: 1,
            policyVersion: 0,
            payload: {},
          },
        ]),
      );
    const [evaluation] = await make("EVALUATE");
    await make("VERIFY");
    const kinds = ["VERIFY", "EVALUATE"] as const;
    const [first] = await claimTasks(server.ctx(run.validator), { kinds, max: 1, runId: run.id });
    expect(first?.kind).toBe("VERIFY");
    await make("VERIFY");
    await server.prisma.task.update({
      where: { id: evaluation ?? "" },
      data: { createdAt: new Date(Date.now() - 61_000) },
    });
    const [second] = await claimTasks(server.ctx(run.validator), { kinds, max: 1, runId: run.id });
    expect(second?.taskId).toBe(evaluation);
  });

  test("a node without the grant is told so, with it waits, and loses it again", async () => {
    const run = await startRun(server);
    const node = await server.node({ worksFor: [run.organization.typeId] });
    const ask = () => claimTasks(server.ctx(node), { kinds: ["TRAIN", "VERIFY"], max: 1 });
    await expect(ask()).rejects.toMatchObject({ code: "ROLE_NOT_GRANTED" });
    await grant(server, run.id, node, "VALIDATOR");
    expect(await ask()).toEqual([]);
    await server.prisma.roleGrant.updateMany({ where: { nodeId: node.id }, data: { revokedAt: new Date() } });
    await expect(ask()).rejects.toMatchObject({ code: "ROLE_NOT_GRANTED" });
  });

  test("generating in a closed run needs a grant", async () => {
    const run = await runWithTasks(1, { open: false });
    const ask = () => claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 1, runId: run.id });
    await expect(ask()).rejects.toMatchObject({ code: "ROLE_NOT_GRANTED" });
    expect(await claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 1 })).not.toContainEqual(
      expect.objectContaining({ runId: run.id }),
    );
    await grant(server, run.id, run.worker, "RELAY");
    expect(await ask()).toHaveLength(1);
  });

  test("a quarantined node gets nothing and is told why", async () => {
    const run = await runWithTasks(1);
    await server.prisma.nodeTrust.create({
      data: {
        runId: run.id,
        nodeId: run.worker.id,
        organizationId: run.organization.id,
        state: "QUARANTINED",
      },
    });
    await expect(
      claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 1, runId: run.id }),
    ).rejects.toMatchObject({ code: "NODE_QUARANTINED" });
  });

  test("a paused run hands out nothing, and what is leased may still be submitted", async () => {
    const run = await runWithTasks(2);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await pauseRun(server.ctx(run.organization.owner), { runId: run.id });
    expect(await claimTasks(server.ctx(run.worker), { kinds: ["GENERATE"], max: 1, runId: run.id })).toEqual(
      [],
    );
    expect((await submit(lease, run.worker)).kind).toBe("fresh");
  });

  test("people do not claim", async () => {
    const { owner } = await server.organization();
    await expect(claimTasks(server.ctx(owner), { kinds: ["GENERATE"], max: 1 })).rejects.toMatchObject({
      code: "UNAUTHENTICATED",
    });
  });
});

describe("the fence", () => {
  test("a submission in time is taken, the same one again is a duplicate, another one has lost", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    expect((await submit(lease, run.worker)).kind).toBe("fresh");
    await server.prisma.$transaction((tx) => completeTask(tx, { id: lease.taskId }));
    expect((await submit(lease, run.worker)).kind).toBe("duplicate");
    expect((await submit(lease, run.worker, otherPack)).kind).toBe("lost");
    expect(await taskState(lease.taskId)).toBe("DONE");
    expect(await attemptStates(lease.taskId)).toEqual(["SUBMITTED"]);
  });

  test("of two different submissions at once exactly one is taken", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const fences = await Promise.all([submit(lease, run.worker), submit(lease, run.worker, otherPack)]);
    expect(fences.map((fence) => fence.kind).sort()).toEqual(["fresh", "lost"]);
  });

  test("a late submit wins while nobody newer holds the task, before and after the sweep", async () => {
    for (const swept of [false, true]) {
      const run = await runWithTasks(1);
      const lease = await claim(server, run, run.worker, "GENERATE");
      await lapse(lease);
      if (swept) {
        await expireLeases(server.ctx());
        expect(await taskState(lease.taskId)).toBe("OPEN");
      }
      expect((await submit(lease, run.worker)).kind).toBe("fresh");
      expect(await attemptStates(lease.taskId)).toEqual(["SUBMITTED"]);
      expect(
        await claimTasks(server.ctx(await server.node()), { kinds: ["GENERATE"], max: 1, runId: run.id }),
      ).toEqual([]);
    }
  });

  test("a late submit loses once somebody else has claimed, and the other one's counts", async () => {
    const run = await runWithTasks(1);
    const late = await claim(server, run, run.worker, "GENERATE");
    await lapse(late);
    await expireLeases(server.ctx());
    const other = await server.node();
    const lease = await claim(server, run, other, "GENERATE");
    expect(lease).toMatchObject({ taskId: late.taskId, attempt: 2 });
    expect(await submit(late, run.worker)).toEqual({
      kind: "lost",
      message: expect.stringContaining("Attempt 2 has begun since"),
    });
    expect((await submit(lease, other)).kind).toBe("fresh");
    expect(await attemptStates(late.taskId)).toEqual(["EXPIRED", "SUBMITTED"]);
  });

  test("a sweep and a late submit at once: whichever comes first, the submission counts once", async () => {
    for (let round = 0; round < 10; round++) {
      const run = await runWithTasks(1);
      const lease = await claim(server, run, run.worker, "GENERATE");
      await lapse(lease);
      const [fence] = await Promise.all(
        round % 2 === 0
          ? [submit(lease, run.worker), expireLeases(server.ctx())]
          : [submit(lease, run.worker), Promise.resolve().then(() => expireLeases(server.ctx()))],
      );
      expect(fence.kind).toBe("fresh");
      expect(await taskState(lease.taskId)).toBe("SUBMITTED");
      expect(await attemptStates(lease.taskId)).toEqual(["SUBMITTED"]);
    }
  });

  test("nobody submits for another node", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    expect((await submit(lease, await server.node())).kind).toBe("lost");
    expect(await taskState(lease.taskId)).toBe("LEASED");
  });
});

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

  test("a submission whose judge died opens the task again", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await submit(lease, run.worker);
    const turn = { topics: new Set<never>(), signal: new AbortController().signal };
    await expiryLoop.run(server.ctx(), turn);
    expect(await taskState(lease.taskId)).toBe("SUBMITTED");
    await server.prisma
      .$executeRaw`UPDATE "Task" SET "updatedAt" = now() - interval '3 minutes' WHERE id = ${lease.taskId}::uuid`;
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

describe("offers", () => {
  const offers = "subscription($kinds: [TaskKind!]!) { taskOffers(kinds: $kinds) { kinds at } }";

  test("one comes at once, the next when a task of these kinds opens", async () => {
    const run = await startRun(server);
    const subscription = server.subscribe<{ taskOffers: { kinds: string[] } }>(
      offers,
      { kinds: ["GENERATE", "VERIFY"] },
      run.worker,
    );
    expect((await subscription.next()).taskOffers.kinds).toEqual(["GENERATE", "VERIFY"]);
    await openGenerate(run, 1);
    server.services.bus.publish("offers:TRAIN");
    server.services.bus.publish("offers:GENERATE");
    expect((await subscription.next()).taskOffers.kinds).toEqual(["GENERATE"]);
    await subscription.close();
  });

  test("only nodes hear them", async () => {
    const { owner } = await server.organization();
    const subscription = server.subscribe(offers, { kinds: ["GENERATE"] }, owner);
    await expect(subscription.next()).rejects.toMatchObject({ code: "FORBIDDEN" });
    await subscription.close();
  });
});

describe("who sees a task", () => {
  const query = "query($id: ID!) { node(id: $id) { ... on Task { id kind state attempt } } }";

  test("members and the node that holds it; nobody else", async () => {
    const run = await runWithTasks(1);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const id = (await eventsOf(server, run, "task.leased"))[0]?.subject ?? "";
    const seen = { node: { id, kind: "GENERATE", state: "LEASED", attempt: 1 } };
    expect(await server.ask(query, { id }, run.organization.owner)).toEqual(seen);
    expect(await server.ask(query, { id }, run.worker)).toEqual(seen);
    for (const other of [await server.node(), (await server.organization()).owner]) {
      expect((await server.graphql(query, { id }, other)).data?.node ?? null).toBeNull();
    }
    expect(lease.taskId).toBe(fromTypeId(id, "task"));
  });

  test("a claim names a run that does not exist: NOT_FOUND", async () => {
    const node = await server.node();
    await expect(
      claimTasks(server.ctx(node), { kinds: ["TRAIN"], max: 1, runId: newId("run") }),
    ).rejects.toMatchObject({ code: "NOT_FOUND" });
  });
});
