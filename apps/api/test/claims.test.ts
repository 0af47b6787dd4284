import { fromTypeId, newId } from "@muster/protocol";
import { afterAll, describe, expect, test } from "vitest";
import { pauseRun } from "../src/runs/lifecycle.ts";
import { claimTasks } from "../src/tasks/claim.ts";
import { openTasks } from "../src/tasks/lease.ts";
import { claim, eventsOf, grant, startRun } from "./runkit.ts";
import { tasksOf } from "./taskkit.ts";
import { startTestServer } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());
const { runWithTasks, openGenerate, submit } = tasksOf(server);

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

describe("consent", () => {
  test("an organizer neither sees nor conscripts a machine that works for somebody else", async () => {
    const victim = await startRun(server);
    const trainer = await server.node({ worksFor: [victim.organization.typeId] });
    await grant(server, victim.id, trainer, "TRAINER");
    const attacker = await startRun(server);
    const { nodes } = await server.ask<{ nodes: { edges: { node: { id: string } }[] } }>(
      "{ nodes(first: 200) { edges { node { id } } } }",
      {},
      attacker.organization.owner,
    );
    const seen = nodes.edges.map(({ node }) => fromTypeId(node.id, "node"));
    expect(seen.sort()).toEqual([attacker.trainer.id, attacker.validator.id].sort());
    await grant(server, attacker.id, trainer, "TRAINER");
    const claimed = await claimTasks(server.ctx(trainer), { kinds: ["BASE", "TRAIN"], max: 1 });
    expect(claimed.map(({ runId }) => runId)).toEqual([victim.id]);
  });

  test("who named nothing generates for open runs and does nothing else", async () => {
    const run = await startRun(server);
    const node = await server.node();
    await grant(server, run.id, node, "TRAINER");
    await expect(claimTasks(server.ctx(node), { kinds: ["BASE"], max: 1 })).rejects.toMatchObject({
      code: "ROLE_NOT_GRANTED",
      message: expect.stringContaining("--organization"),
    });
    const named = await server.node({ worksFor: [run.typeId] });
    await grant(server, run.id, named, "TRAINER");
    expect(await claimTasks(server.ctx(named), { kinds: ["BASE"], max: 1 })).toHaveLength(1);
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
