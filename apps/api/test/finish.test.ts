import { afterAll, describe, expect, test } from "vitest";
import { expiryLoop } from "../src/tasks/expiry.ts";
import { failTask, openTask } from "../src/tasks/lease.ts";
import {
  acceptTask,
  allRight,
  allWrong,
  claim,
  countTasks,
  evaluate,
  groupState,
  plan,
  publishBase,
  runRow,
  signal,
  startRun,
  trainStep,
  trainTo,
} from "./runkit.ts";
import { startTestServer } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());

describe("the end", () => {
  test("after the last step the last version is evaluated, and then the run is COMPLETED", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 2 } });
    await publishBase(server, run);
    await trainTo(server, run, run.spec.limits.steps);
    await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({
      state: "RUNNING",
      stateReason: "STEPS",
      step: 2,
      currentVersion: 2,
      endedAt: null,
    });
    expect((await countTasks(server, run, "GENERATE")).OPEN).toBeUndefined();
    const lease = await claim(server, run, run.validator, "EVALUATE");
    expect(lease.policyVersion).toBe(2);
    await evaluate(server, run, lease, 8);
    await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({
      state: "COMPLETED",
      stateReason: "STEPS",
      endedAt: expect.any(Date),
    });
    expect(
      await server.prisma.task.count({
        where: { runId: run.id, state: { in: ["OPEN", "LEASED", "SUBMITTED"] } },
      }),
    ).toBe(0);
  });

  test("groups that are still measured are waited for, and given up after ten minutes without a validator", async () => {
    const run = await startRun(server, { limits: { steps: 1 } });
    await publishBase(server, run);
    await trainTo(server, run, run.spec.limits.steps);
    const group = await server.prisma.group.findFirstOrThrow({ where: { runId: run.id } });
    const owner = { organizationId: run.organization.id, runId: run.id };
    const verify = await server.prisma.$transaction((tx) =>
      openTask(tx, { ...owner, kind: "VERIFY", revision: 1, payload: {} }),
    );
    await server.prisma.group.update({
      where: { id: group.id },
      data: { state: "VERIFYING", verifyTaskId: verify },
    });
    await evaluate(server, run, await claim(server, run, run.validator, "EVALUATE"), 0);
    await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({ state: "RUNNING", stateReason: "STEPS" });
    await server.prisma
      .$executeRaw`UPDATE "Task" SET "updatedAt" = now() - interval '11 minutes' WHERE id = ${verify}::uuid`;
    await plan(server, run);
    expect((await server.prisma.task.findUniqueOrThrow({ where: { id: verify } })).state).toBe("FAILED");
    await expiryLoop.run(server.ctx(), { topics: new Set(), signal: new AbortController().signal });
    expect(await groupState(server, group.id)).toBe("INVALID");
    await plan(server, run);
    expect((await runRow(server, run)).state).toBe("COMPLETED");
  });

  test("a batch with too little signal ends the run: SOLVED when nearly all is right, NO_SIGNAL otherwise", async () => {
    for (const [rewards, reason] of [
      [allRight, "SOLVED"],
      [allWrong, "NO_SIGNAL"],
    ] as const) {
      const run = await startRun(server);
      await publishBase(server, run);
      await acceptTask(server, run, [rewards, rewards]);
      await acceptTask(server, run, [rewards, rewards]);
      await plan(server, run);
      expect(await runRow(server, run)).toMatchObject({ state: "RUNNING", stateReason: reason });
      expect(await countTasks(server, run, "TRAIN")).toEqual({});
      await evaluate(server, run, await claim(server, run, run.validator, "EVALUATE"), 0);
      await plan(server, run);
      expect(await runRow(server, run)).toMatchObject({ state: "COMPLETED", stateReason: reason, step: 0 });
    }
  });

  test("an evaluation that fails twice is given up, and the run is COMPLETED without it", async () => {
    const run = await startRun(server, { limits: { steps: 1 } });
    await publishBase(server, run);
    await trainTo(server, run, run.spec.limits.steps);
    for (let i = 0; i < 2; i++) {
      await plan(server, run);
      const task = await server.prisma.task.findFirstOrThrow({
        where: { runId: run.id, kind: "EVALUATE", state: "OPEN" },
      });
      await server.prisma.$transaction((tx) => failTask(tx, task, "made to"));
    }
    await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({ state: "COMPLETED" });
    expect(await countTasks(server, run, "EVALUATE")).toEqual({ FAILED: 2 });
  });

  test("without an evaluator nobody is waited for", async () => {
    const run = await startRun(server, { limits: { steps: 1 } });
    await server.prisma.roleGrant.deleteMany({ where: { runId: run.id, role: "EVALUATOR" } });
    await publishBase(server, run);
    await trainTo(server, run, run.spec.limits.steps);
    for (let i = 0; i < 3; i++) await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({ state: "COMPLETED", stateReason: "STEPS" });
  });

  test("a run that has spent its limit of credits finishes", async () => {
    const run = await startRun(server, { limits: { steps: 2, credits: 100 } });
    await publishBase(server, run);
    while ((await runRow(server, run)).step === 0) {
      if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
      else await acceptTask(server, run, [signal, signal]);
      await plan(server, run);
    }
    expect(await runRow(server, run)).toMatchObject({ state: "RUNNING", stateReason: "CREDITS", step: 1 });
  });
});
