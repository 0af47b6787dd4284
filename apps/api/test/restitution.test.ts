import type { Case, Group } from "@muster/db";
import { newId, type RunSpec } from "@muster/protocol";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { acceptGroups } from "../src/verification/acceptance.ts";
import { decideCase } from "../src/verification/decisions.ts";
import { settleFinal } from "../src/verification/finality.ts";
import { joinRun } from "../src/verification/trust.ts";
import { applyVerdicts } from "../src/verification/verdicts.ts";
import { startRun, type TestRun } from "./runkit.ts";
import { startTestServer, type TestServer } from "./testkit.ts";
import { balances, standing } from "./watchkit.ts";

// What is overturned has not happened: any history with rejections that were overturned, whenever that was, ends with the standing and the
// ledger of the history in which those groups were accepted at first.

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

type Fate = "accepted" | "open" | "upheld" | "overturned" | "upheld, then overturned";

type History = {
  /** Groups accepted by trust before anything is audited: what the node has at stake. */
  readonly trusted: number;
  /** What becomes of each further group in the order of their verdicts, and how many verdicts fall before its case is decided. */
  readonly events: readonly { readonly fate: Fate; readonly delay: number }[];
};

const history: fc.Arbitrary<History> = fc.record({
  trusted: fc.integer({ min: 0, max: 2 }),
  events: fc.array(
    fc.record({
      fate: fc.constantFrom<Fate>(
        "accepted",
        "open",
        "upheld",
        "upheld",
        "overturned",
        "upheld, then overturned",
      ),
      delay: fc.integer({ min: 0, max: 6 }),
    }),
    { minLength: 1, maxLength: 9 },
  ),
});

test("a history with overturned rejections ends as if they had never been", async () => {
  await fc.assert(
    fc.asyncProperty(history, async ({ trusted, events }) => {
      const happened = await live({ trusted, events });
      const clean = await live({
        trusted,
        events: events.map((event) =>
          event.fate.endsWith("overturned") ? { ...event, fate: "accepted" } : event,
        ),
      });
      expect(happened).toEqual(clean);
    }),
    { numRuns: 12 },
  );
}, 120_000);

test("what was forfeited stays so as long as one of the cases stands that took it, also when it is final meanwhile", async () => {
  const run = await startRun(server, { disputeWindowSeconds: 3_600 }, { start: false });
  await server.prisma.$transaction((tx) =>
    joinRun(tx, { organizationId: run.organization.id, runId: run.id, nodeId: run.worker.id }),
  );
  const [held, first, second] = [
    await submitted(run, 0, "VERIFYING"),
    await submitted(run, 1, "VERIFYING"),
    await submitted(run, 2, "VERIFYING"),
  ];
  await verdict(run, held, "ACCEPTED");
  const stake = held.tokens * run.spec.prices.generatedToken;
  const ofWorker = async () =>
    Object.fromEntries(
      Object.entries(await balances(server, run)).filter(([key]) => key.includes(run.worker.id)),
    );
  const inHeld = `held:${run.id}:${run.worker.id}`;
  const inAvailable = `available:${run.organization.id}:${run.worker.id}`;
  expect(await ofWorker()).toEqual({ [inHeld]: stake });
  for (const group of [first, second]) {
    await verdict(run, group, "REJECTED");
    await decide(run, { groupId: group.id, decision: "UPHELD" });
  }
  expect(await ofWorker()).toEqual({});
  await server.prisma.group.update({
    where: { id: held.id },
    data: { decidedAt: new Date(Date.now() - 3_700_000), finalAfter: 0 },
  });
  await settleFinal(server.ctx());
  expect((await server.prisma.group.findUniqueOrThrow({ where: { id: held.id } })).finalAt).not.toBeNull();
  await decide(run, { groupId: first.id, decision: "OVERTURNED" });
  expect(await ofWorker()).toEqual({});
  await decide(run, { groupId: second.id, decision: "OVERTURNED" });
  const overturned = (first.tokens + second.tokens) * run.spec.prices.generatedToken;
  expect(await ofWorker()).toEqual({ [inHeld]: overturned, [inAvailable]: stake });
});

/** Plays a history in a run of its own. @returns everything that must not depend on what was overturned */
async function live({ trusted, events }: History) {
  const run = await startRun(
    server,
    {
      disputeWindowSeconds: 3_600,
      // Two audited-valid groups make trust, so that histories lose and regain it.
      verification: { audit: { adversaryShare: 0.2, floor: 0.5, epsilon: 0.1 } },
    },
    { start: false },
  );
  const owner = { organizationId: run.organization.id, runId: run.id };
  await server.prisma.$transaction((tx) => joinRun(tx, { ...owner, nodeId: run.worker.id }));
  const groups: Group[] = [];
  const due: { at: number; groupId: string; decision: "UPHELD" | "OVERTURNED" }[] = [];
  for (let i = 0; i < trusted; i++) {
    const group = await submitted(run, i, "SUBMITTED");
    groups.push(group);
    await server.prisma.$transaction(async (tx) => acceptGroups(tx, [await judged(run, group)], "TRUSTED"));
  }
  for (const [i, { fate, delay }] of events.entries()) {
    const group = await submitted(run, trusted + i, "VERIFYING");
    groups.push(group);
    await verdict(run, group, fate === "accepted" ? "ACCEPTED" : "REJECTED");
    if (fate.startsWith("upheld")) due.push({ at: i + delay, groupId: group.id, decision: "UPHELD" });
    if (fate.endsWith("overturned"))
      due.push({
        at: i + delay + (fate === "overturned" ? 0 : 2),
        groupId: group.id,
        decision: "OVERTURNED",
      });
    for (const one of due.filter(({ at }) => at === i)) await decide(run, one);
  }
  for (const one of due.filter(({ at }) => at >= events.length).toSorted((a, b) => a.at - b.at))
    await decide(run, one);

  const { state, auditedValid, accepted, rejected, invalid, invalidStreak, auditRate } = await standing(
    server,
    run,
    run.worker,
  );
  const money = Object.entries(await balances(server, run)).map(
    ([key, amount]) =>
      [key.split(":")[0] + (key.includes(run.worker.id) ? " of the worker" : ""), amount] as const,
  );
  const ends = await server.prisma.group.findMany({
    where: { id: { in: groups.map(({ id }) => id) } },
    orderBy: { index: "asc" },
    select: { state: true, acceptance: true, advantagesReady: true },
  });
  return {
    standing: { state, auditedValid, accepted, rejected, invalid, invalidStreak, auditRate },
    money: Object.fromEntries(money.toSorted()),
    groups: ends,
  };
}

async function decide(
  run: TestRun,
  { groupId, decision }: { groupId: string; decision: "UPHELD" | "OVERTURNED" },
) {
  const found: Case = await server.prisma.case.findUniqueOrThrow({ where: { groupId } });
  const ctx = server.ctx(run.organization.owner);
  await decideCase(ctx, { caseId: found.id, decision, reason: "So it is." });
}

/** A group as intake leaves it. */
async function submitted(run: TestRun, index: number, state: "SUBMITTED" | "VERIFYING"): Promise<Group> {
  const owner = { organizationId: run.organization.id, runId: run.id };
  const taskId = newId("task");
  await server.prisma.task.create({
    data: {
      id: taskId,
      ...owner,
      kind: "GENERATE",
      state: "DONE",
      revision: 1,
      policyVersion: 0,
      payload: {},
    },
  });
  const group = await server.prisma.group.create({
    data: {
      id: newId("group"),
      ...owner,
      taskId,
      attemptId: newId("attempt"),
      nodeId: run.worker.id,
      index,
      exampleSeed: "00".repeat(32),
      prompt: "made up",
      policyVersion: 0,
      packHash: index.toString(16).padStart(64, "0"),
      state,
      meanReward: 0.5,
      tokens: 100 + index,
      epoch: 1,
    },
  });
  await server.prisma.rollout.createMany({
    data: [1, 0].map((reward, i) => ({
      id: newId("rollout"),
      ...owner,
      groupId: group.id,
      index: i,
      preview: "",
      tokens: 2,
      finishReason: "eos",
      reward,
      rewardParts: {},
    })),
  });
  return group;
}

async function judged(
  run: TestRun,
  group: Group,
): Promise<{ group: Group; spec: RunSpec; rollouts: { id: string; reward: number }[] }> {
  const rollouts = await server.prisma.rollout.findMany({
    where: { groupId: group.id },
    orderBy: { index: "asc" },
  });
  return { group, spec: run.spec, rollouts };
}

/** A validator's measurement arrives and says this. */
async function verdict(run: TestRun, group: Group, said: "ACCEPTED" | "REJECTED"): Promise<void> {
  const owner = { organizationId: run.organization.id, runId: run.id };
  const nodeId = run.validator.id;
  const leaseUntil = new Date(Date.now() + 60_000);
  const task = await server.prisma.task.create({
    data: {
      ...owner,
      kind: "VERIFY",
      state: "LEASED",
      revision: 1,
      policyVersion: 0,
      payload: {},
      attempt: 1,
      leaseNodeId: nodeId,
      leaseUntil,
    },
  });
  const attempt = await server.prisma.attempt.create({
    data: { ...owner, taskId: task.id, number: 1, nodeId, leaseUntil },
  });
  await server.prisma.group.update({ where: { id: group.id }, data: { verifyTaskId: task.id } });
  const pack = group.id.replaceAll("-", "").padStart(64, "0");
  await server.prisma.pack.create({ data: { sha256: pack, kind: "MEASUREMENT", size: 1n } });
  const input = { taskId: task.id, attempt: 1, pack, signature: "00".repeat(64) };
  const { run: row, ...node } = {
    run: await server.prisma.run.findUniqueOrThrow({ where: { id: run.id } }),
    nodeId,
  };
  const verdict = { verdict: said, checks: [], measurementFault: false };
  const { outcomes } = await server.prisma.$transaction(async (tx) =>
    applyVerdicts(tx, [
      {
        kind: "group",
        submission: { ...node, attempt, task: { ...task, run: row }, run: row, signature: input.signature },
        input,
        ...(await judged(run, group)),
        verdict,
        reexecuted: false,
      },
    ]),
  );
  expect(outcomes).toMatchObject([{ kind: "submitted", duplicate: false }]);
}
