import { createHash } from "node:crypto";
import { canonicalJson, decodeBlindPack, toTypeId, verifyPayloadSchema } from "@muster/protocol";
import { describe, expect, test } from "vitest";
import type { Lease } from "../src/tasks/claim.ts";
import { expireLeases } from "../src/tasks/expiry.ts";
import { openCanaries } from "../src/verification/canaries.ts";
import { firstTasks } from "../src/verification/canary.ts";
import { onVerifyFailed } from "../src/verification/inconclusive.ts";
import { openReexecutions } from "../src/verification/reexecution.ts";
import { settleUnmeasured } from "../src/verification/unmeasured.ts";
import { eventsOf, type TestRun } from "./runkit.ts";
import { startTestServer, type TestNode } from "./testkit.ts";
import {
  blindEye,
  claim,
  generate,
  grantValidator,
  groupOfId,
  type Habit,
  honest,
  hostile,
  luck,
  malformed,
  measure,
  standing,
  startWatching,
  submitMeasured,
  watchedRun,
} from "./watchkit.ts";

// Validators are strangers too: what they measure is measured again, and now and then they are given what is known.

const { server, packs } = await startWatching();

/** Has the organizer's own validator measure something nobody else has seen: what canaries are made of. */
async function makeKnown(run: TestRun, tasks = 2): Promise<void> {
  for (let i = 0; i < tasks; i++) await generate(server, run, packs);
  await measure(server, run, packs, run.validator);
}

/**
 * A stranger measures with a habit until it is found out or has had so many tasks.
 * @returns every lease it had
 */
async function work(run: TestRun, stranger: TestNode, habit: Habit, tasks: number): Promise<Lease[]> {
  const had: Lease[] = [];
  while (had.length < tasks) {
    await generate(server, run, packs);
    await openCanaries(server.ctx());
    const { state } = await standing(server, run, stranger);
    if (state === "QUARANTINED") break;
    const leases = await claim(server, run, stranger, "VERIFY", 2);
    await submitMeasured(server, run, packs, stranger, leases, habit);
    had.push(...leases);
    // The organizer's own looks after what only it may: re-executions.
    await measure(server, run, packs, run.validator);
    if ((await standing(server, run, stranger)).state === "QUARANTINED") break;
  }
  return had;
}

const canariesOf = (run: TestRun, node: TestNode) =>
  server.prisma.probe.findMany({
    where: { runId: run.id, nodeId: node.id, purpose: { not: "REEXECUTION" } },
    orderBy: { createdAt: "asc" },
  });

describe("a validator that turns a blind eye", () => {
  test("is found out by a canary within its first tasks, and what it let pass is measured again by others", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 3);
    const poison = await generate(server, run, packs, { luck });
    await measure(server, run, packs, stranger, { habit: blindEye });
    for (const id of poison) expect(await groupOfId(server, id)).toMatchObject({ state: "ACCEPTED" });

    const had = await work(run, stranger, blindEye, 2 * firstTasks);
    expect(had.length).toBeLessThanOrEqual(firstTasks);
    expect(await standing(server, run, stranger)).toMatchObject({ state: "QUARANTINED" });
    const canaries = await canariesOf(run, stranger);
    expect(canaries.filter(({ outcome }) => outcome === "DISAGREED")).toMatchObject([
      { purpose: "CANARY_BAD", note: expect.stringContaining("was seen not to be the seed's") },
    ]);
    expect((await eventsOf(server, run, "validator.suspect")).length).toBeGreaterThan(0);

    // Its verdicts are void: the poison is out of the batch, is measured by another and rejected.
    for (let i = 0; i < 4; i++) await measure(server, run, packs, run.validator);
    for (const id of poison) expect(await groupOfId(server, id)).toMatchObject({ state: "REJECTED" });
    const left = await server.prisma.$queryRaw<{ n: number }[]>`
      SELECT count(*)::int AS n FROM "Group" g WHERE g."runId" = ${run.id}::uuid AND g.state IN ('ACCEPTED', 'SET_ASIDE') AND (
        SELECT v."validatorNodeId" FROM "Verification" v WHERE v."groupId" = g.id ORDER BY v."createdAt" DESC LIMIT 1) = ${stranger.id}::uuid`;
    expect(left[0]?.n).toBe(0);
    // The worker stands as if only the others had ever measured: two failures, each counted once.
    const { rejected, accepted } = await standing(server, run, run.worker);
    expect(rejected).toBe(poison.length);
    expect(accepted).toBe(
      await server.prisma.group.count({ where: { runId: run.id, state: { in: ["ACCEPTED", "SET_ASIDE"] } } }),
    );
  });

  test("and is found out where its accomplice's work is measured again by chance", async () => {
    await using thorough = await startTestServer({
      sharing: server,
      loops: [],
      config: { reexecutionShare: 1 },
    });
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    const poison = await generate(server, run, packs, { luck });
    await measure(thorough, run, packs, stranger, { habit: blindEye });
    for (const id of poison) expect(await groupOfId(server, id)).toMatchObject({ state: "ACCEPTED" });
    expect((await measure(server, run, packs, run.validator, { max: 1 })).length).toBe(1);
    expect(await standing(server, run, stranger)).toMatchObject({ state: "QUARANTINED", disagreements: 1 });
    // Nobody is rejected by a re-execution alone: the group is judged again, with a case that can be disputed.
    for (let i = 0; i < 3; i++) await measure(server, run, packs, run.validator);
    for (const id of poison) expect(await groupOfId(server, id)).toMatchObject({ state: "REJECTED" });
    expect(await server.prisma.case.count({ where: { runId: run.id } })).toBe(poison.length);
  });
});

describe("a validator that accuses everyone", () => {
  test("is found out by the first re-execution; no worker is the worse for it", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run);
    const had = await work(run, stranger, hostile, 2 * firstTasks);
    expect(had.length).toBeLessThanOrEqual(2);
    expect(await standing(server, run, stranger)).toMatchObject({ state: "QUARANTINED" });
    await measure(server, run, packs, run.validator);
    expect(await standing(server, run, run.worker)).toMatchObject({ state: "PROBATION", rejected: 0 });
    expect(await server.prisma.group.count({ where: { runId: run.id, state: "REJECTED" } })).toBe(0);
    expect(await server.prisma.case.count({ where: { runId: run.id, state: { not: "OVERTURNED" } } })).toBe(
      0,
    );
  });
});

describe("an honest validator", () => {
  test("passes a good and a bad canary among its first tasks and cannot tell them from audits", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 4);
    const had = await work(run, stranger, honest, firstTasks + 2);
    const canaries = await canariesOf(run, stranger);
    expect(new Set(canaries.slice(0, 2).map(({ purpose }) => purpose))).toEqual(
      new Set(["CANARY_GOOD", "CANARY_BAD"]),
    );
    expect(canaries.filter(({ outcome }) => outcome !== null).map(({ outcome }) => outcome)).toEqual(
      canaries.filter(({ outcome }) => outcome !== null).map(() => "AGREED"),
    );
    expect(await standing(server, run, stranger)).toMatchObject({ state: "PROBATION", disagreements: 0 });
    // What it was paid for a canary is what it is paid for an audit.
    const isCanary = (lease: Lease) => canaries.some(({ taskId }) => taskId === lease.taskId);
    expect(had.filter(isCanary).length).toBe(canaries.filter(({ outcome }) => outcome !== null).length);
    for (const { taskId, groupId } of canaries.filter(({ outcome }) => outcome !== null)) {
      const paid = await server.prisma.ledgerTransaction.findUniqueOrThrow({
        where: { key: `pay:${taskId}` },
        include: { entries: true },
      });
      const { tokens } = await groupOfId(server, groupId);
      expect(paid).toMatchObject({ memo: "Measured group" });
      expect(paid.entries.map(({ amount }) => Number(amount)).toSorted((a, b) => b - a)[0]).toBe(
        tokens * run.spec.prices.measuredToken,
      );
    }

    // Everything it can see: the lease, the task, the blind pack.
    const seen = await Promise.all(
      had.map(async (lease) => {
        const payload = verifyPayloadSchema.parse(lease.payload);
        const blind = decodeBlindPack(await server.services.blobs.read(payload.blind));
        const { node } = await server.ask<{ node: { createdAt: string } | null }>(
          "query($id: ID!) { node(id: $id) { ... on Task { kind policyVersion attempt maxAttempts createdAt } } }",
          { id: toTypeId("task", lease.taskId) },
          run.organization.owner,
        );
        return { lease, payload, blind, node };
      }),
    );
    const shape = ({ lease, payload, blind }: (typeof seen)[number]) =>
      canonicalJson({
        lease: Object.keys(lease).toSorted(),
        payload: Object.keys(payload).toSorted(),
        version: lease.policyVersion,
        attempt: lease.attempt,
        header: blind.header,
        rollouts: blind.rollouts.length,
        eos: blind.rollouts.map(
          ({ tokens }) => [...tokens].filter((token) => token === blind.header.eos).length <= 1,
        ),
      });
    expect(new Set(seen.map(shape)).size).toBe(1);
    expect(new Set(seen.map(({ payload }) => payload.blind)).size).toBe(seen.length);
    const contents = seen.map(({ blind }) =>
      blind.rollouts
        .map(({ tokens, key }) =>
          createHash("sha256")
            .update(Int32Array.from([...tokens, ...key]))
            .digest("hex"),
        )
        .toSorted()
        .join(),
    );
    expect(new Set(contents).size).toBe(contents.length);
    // Ids and dates come in one order, the canaries' too.
    for (const { lease, node } of seen) {
      const inId = Number.parseInt(lease.taskId.replaceAll("-", "").slice(0, 12), 16);
      expect(Math.abs(new Date(node?.createdAt ?? 0).getTime() - inId)).toBeLessThan(2_000);
    }
  });

  test("that drops a canary does not see it again: no other task would come back to it either", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await makeKnown(run, 3);
    await generate(server, run, packs);
    expect(await openCanaries(server.ctx())).toBeGreaterThan(0);
    const leases = await claim(server, run, stranger, "VERIFY", 16);
    const [canary] = await canariesOf(run, stranger);
    const dropped = leases.find(({ taskId }) => taskId === canary?.taskId);
    if (canary === undefined || dropped === undefined) throw new Error("the canary was not claimed");
    await server.ask(
      "mutation($input: ReleaseTaskInput!) { releaseTask(input: $input) }",
      { input: { task: toTypeId("task", dropped.taskId), attempt: dropped.attempt, reason: "too hard" } },
      stranger,
    );
    await server.prisma.task.update({
      where: { id: dropped.taskId },
      data: { updatedAt: new Date(Date.now() - 120_000) },
    });
    expect(await claim(server, run, stranger, "VERIFY", 16)).toEqual([]);
    await settleUnmeasured(server.ctx());
    const closed = (await canariesOf(run, stranger)).find(({ taskId }) => taskId === canary.taskId);
    expect(closed).toMatchObject({ outcome: "INCONCLUSIVE" });
    expect(await standing(server, run, stranger)).toMatchObject({ probes: 0, disagreements: 0 });
  });

  test("is not asked to re-execute: that is for the organizer's own", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    await generate(server, run, packs, { luck });
    await measure(server, run, packs, run.validator, { max: 1 });
    const probe = await server.prisma.probe.findFirstOrThrow({ where: { runId: run.id } });
    expect(probe).toMatchObject({ purpose: "REEXECUTION", outcome: null });
    const taken = await claim(server, run, stranger, "VERIFY", 16);
    expect(taken.map(({ taskId }) => taskId)).not.toContain(probe.taskId);
    expect((await claim(server, run, run.validator, "VERIFY", 16)).map(({ taskId }) => taskId)).toContain(
      probe.taskId,
    );
  });

  test("counts as the organizer's own where no validator is marked as that", async () => {
    const run = await watchedRun(server, {}, { own: false });
    await generate(server, run, packs, { luck });
    const first = await measure(server, run, packs, run.validator);
    expect((await measure(server, run, packs, run.validator)).length).toBe(first.length);
    expect(await server.prisma.case.count({ where: { runId: run.id, confirmed: true } })).toBe(first.length);
  });
});

describe("one of the organizer's own that disagrees", () => {
  test("is reported and goes on; the group is measured once more", async () => {
    const run = await watchedRun(server, {}, { own: false });
    await generate(server, run, packs, { luck });
    await measure(server, run, packs, run.validator, { max: 1, habit: blindEye });
    const verification = await server.prisma.verification.findFirstOrThrow({ where: { runId: run.id } });
    const { groupId } = verification;
    expect(await groupOfId(server, groupId)).toMatchObject({ state: "ACCEPTED" });
    const group = await groupOfId(server, groupId);
    if ((await server.prisma.probe.count({ where: { groupId } })) === 0)
      await server.prisma.$transaction((tx) => openReexecutions(tx, run.id, [{ group, verification }]));
    await measure(server, run, packs, run.validator);
    expect(await standing(server, run, run.validator)).toMatchObject({
      state: "PROBATION",
      disagreements: 1,
    });
    expect(await groupOfId(server, groupId)).toMatchObject({ state: "VERIFYING", retroactive: true });
    await server.prisma.task.updateMany({
      where: { runId: run.id, kind: "VERIFY", state: "OPEN" },
      data: { updatedAt: new Date(Date.now() - 120_000) },
    });
    await settleUnmeasured(server.ctx());
    await measure(server, run, packs, run.validator);
    expect(await groupOfId(server, groupId)).toMatchObject({ state: "REJECTED" });
  });
});

describe("a validator's own trouble", () => {
  test("with measurements that are malformed is its own: three in a row that others can make end its measuring", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    for (let i = 0; i < 2; i++) await generate(server, run, packs);
    const leases = await claim(server, run, stranger, "VERIFY", 3);
    const answers = await submitMeasured(server, run, packs, stranger, leases, malformed);
    expect(answers).toMatchObject(
      leases.map(() => ({
        __typename: "SubmissionRefused",
        message: expect.stringMatching(/malformed.*0\.5/),
      })),
    );
    // It leaves them to others for a minute, and those measure them.
    const others = await claim(server, run, stranger, "VERIFY", 16);
    for (const { taskId } of leases) expect(others.map((lease) => lease.taskId)).not.toContain(taskId);
    expect(await standing(server, run, stranger)).toMatchObject({ state: "PROBATION", disagreements: 3 });
    await measure(server, run, packs, run.validator);
    expect(await standing(server, run, stranger)).toMatchObject({ state: "QUARANTINED" });
    expect(await standing(server, run, run.worker)).toMatchObject({
      state: "PROBATION",
      invalid: 0,
      rejected: 0,
    });
  });

  test("never counts against a worker while there is no evidence that the pack is to blame", async () => {
    const run = await watchedRun(server);
    const stranger = await grantValidator(server, run, await server.node());
    const groups = await generate(server, run, packs);
    for (const node of [stranger, run.validator]) {
      const leases = await claim(server, run, node, "VERIFY", 16);
      await submitMeasured(server, run, packs, node, leases, malformed);
    }
    const tasks = await server.prisma.task.findMany({ where: { runId: run.id, kind: "VERIFY" } });
    for (const task of tasks) {
      await server.prisma.task.update({
        where: { id: task.id },
        data: { state: "FAILED", failure: "it failed" },
      });
      await server.prisma.$transaction((tx) => onVerifyFailed(tx, task));
    }
    for (const id of groups) expect(await groupOfId(server, id)).toMatchObject({ state: "INVALID" });
    expect(await standing(server, run, run.worker)).toMatchObject({ state: "PROBATION", invalid: 0 });
  });

  test("and a task that nobody in the run may take do not hold up a group: it is replaced, and the organizer is told", async () => {
    const run = await watchedRun(server, {}, { own: false });
    await grantValidator(server, run, run.worker);
    await server.prisma.roleGrant.updateMany({
      where: { runId: run.id, nodeId: run.validator.id, role: "VALIDATOR" },
      data: { revokedAt: new Date() },
    });
    const groups = await generate(server, run, packs);
    expect(await claim(server, run, run.worker, "VERIFY")).toEqual([]);
    await settleUnmeasured(server.ctx());
    for (const id of groups) expect(await groupOfId(server, id)).toMatchObject({ state: "VERIFYING" });
    await server.prisma.task.updateMany({
      where: { runId: run.id, kind: "VERIFY" },
      data: { updatedAt: new Date(Date.now() - 601_000) },
    });
    await settleUnmeasured(server.ctx());
    for (const id of groups)
      expect(await groupOfId(server, id)).toMatchObject({
        state: "INVALID",
        reason: expect.stringContaining("no validator of the run may measure it"),
      });
    expect(await standing(server, run, run.worker)).toMatchObject({ state: "PROBATION", invalid: 0 });
    const told = await eventsOf(server, run, "validator.missing");
    expect(told.map(({ data }) => data)).toMatchObject([{ waiting: groups.length }]);
    expect(await expireLeases(server.ctx())).toBe(0);
  });
});
