import { toTypeId } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { suspect } from "../src/verification/probes.ts";
import { remeasureVoid } from "../src/verification/remeasure.ts";
import { lockStandings } from "../src/verification/trust.ts";
import { openPacks, type Packs } from "./packkit.ts";
import { batchPack, plan, type TestRun } from "./runkit.ts";
import { startTestServer, type TestNode, type TestServer } from "./testkit.ts";
import {
  casesOf,
  claim,
  generate,
  grantValidator,
  groupOfId,
  hostile,
  measure,
  submitMeasured,
  watchedRun,
} from "./watchkit.ts";

// Whose log-probabilities a batch is trained with.

let server: TestServer;
let packs: Packs;
beforeAll(async () => {
  server = await startTestServer();
  packs = await openPacks(await watchedRun(server));
});
afterAll(async () => {
  await packs[Symbol.asyncDispose]();
  await server.stop();
});

/** A run whose first batch is full with one task's two groups. */
const smallBatches = () => watchedRun(server, { batch: { signalGroups: 2, settledGroups: 2 } });

/** Rewards from which something can be learned. */
async function giveSignal(groupIds: readonly string[]): Promise<void> {
  for (const groupId of groupIds) {
    const [first, ...others] = await server.prisma.rollout.findMany({
      where: { groupId },
      orderBy: { index: "asc" },
    });
    await server.prisma.rollout.update({ where: { id: first?.id ?? "" }, data: { reward: 1 } });
    await server.prisma.rollout.updateMany({
      where: { id: { in: others.map(({ id }) => id) } },
      data: { reward: 0 },
    });
  }
}

/** Has a stranger accuse the group of one task that it gets, and one of the organizer's own find nothing. @returns the accused group */
async function accuseFalsely(run: TestRun, liar: TestNode): Promise<string> {
  const [lease] = await claim(server, run, liar, "VERIFY");
  if (lease === undefined) throw new Error("no VERIFY task to claim");
  const group = await server.prisma.group.findFirstOrThrow({ where: { verifyTaskId: lease.taskId } });
  await submitMeasured(server, run, packs, liar, [lease], hostile);
  expect(await groupOfId(server, group.id)).toMatchObject({ state: "REJECTED" });
  await measure(server, run, packs, run.validator);
  await measure(server, run, packs, run.validator);
  const [only] = await casesOf(server, run);
  expect(only).toMatchObject({ state: "OVERTURNED", group: { state: "ACCEPTED" } });
  return group.id;
}

/** Seals the first batch. @returns for each group how many log-probabilities its rollouts have, and how many tokens */
async function sealed(run: TestRun): Promise<Map<string, { logprobs: number; tokens: number }>> {
  await plan(server, run);
  const found = new Map<string, { logprobs: number; tokens: number }>();
  for (const { group, logprobs, tokens } of (await batchPack(server, run, 1)).rollouts) {
    const before = found.get(group) ?? { logprobs: 0, tokens: 0 };
    found.set(group, {
      logprobs: before.logprobs + logprobs.length,
      tokens: before.tokens + tokens.length,
    });
  }
  return found;
}

describe("a batch has a validator's log-probabilities of what it accepted", () => {
  test("and none of a group whose rejection was overturned: the trainer computes them", async () => {
    const run = await smallBatches();
    const liar = await grantValidator(server, run, await server.node());
    const groups = await generate(server, run, packs);
    const accused = await accuseFalsely(run, liar);
    const [other = ""] = groups.filter((id) => id !== accused);
    expect(await groupOfId(server, accused)).toMatchObject({ state: "ACCEPTED", acceptance: "AUDITED" });
    expect(await server.prisma.verification.count({ where: { groupId: accused, verdict: "ACCEPTED" } })).toBe(
      0,
    );
    await giveSignal(groups);
    const found = await sealed(run);
    expect([...found.keys()].toSorted()).toEqual(groups.map((id) => toTypeId("group", id)).toSorted());
    expect(found.get(toTypeId("group", accused))?.logprobs).toBe(0);
    const measured = found.get(toTypeId("group", other));
    expect(measured?.tokens).toBeGreaterThan(0);
    expect(measured?.logprobs).toBe(measured?.tokens);
  });

  test("nor those of a measurement that is void, though it had accepted the group", async () => {
    const run = await smallBatches();
    const [lazy, liar] = [await server.node(), await server.node()];
    await grantValidator(server, run, lazy);
    const groups = await generate(server, run, packs);
    await measure(server, run, packs, lazy);
    for (const id of groups) expect(await groupOfId(server, id)).toMatchObject({ acceptance: "AUDITED" });
    const { id: runId, organization } = run;
    await server.prisma.$transaction(async (tx) => {
      await lockStandings(tx, runId, [lazy.id]);
      await suspect(tx, {
        runId,
        organizationId: organization.id,
        nodeId: lazy.id,
        purpose: "CANARY_BAD",
        reason: "It saw nothing.",
      });
    });
    await server.prisma.nodeTrust.update({
      where: { runId_nodeId: { runId, nodeId: lazy.id } },
      data: { disagreements: 1 },
    });
    await remeasureVoid(server.ctx());
    await grantValidator(server, run, liar);
    const accused = await accuseFalsely(run, liar);
    const verdicts = await server.prisma.verification.findMany({
      where: { groupId: accused },
      orderBy: { createdAt: "asc" },
    });
    expect(verdicts.map(({ verdict, validatorNodeId }) => [verdict, validatorNodeId])).toEqual([
      ["ACCEPTED", lazy.id],
      ["REJECTED", liar.id],
    ]);
    await giveSignal(groups);
    const found = await sealed(run);
    expect(found.get(toTypeId("group", accused))?.logprobs).toBe(0);
  });
});
