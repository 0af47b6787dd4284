import {
  environment,
  exampleSeed,
  generatePayloadSchema,
  toTypeId,
  trainPayloadSchema,
} from "@muster/protocol";
import { afterAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { fundRun } from "../src/runs/create-run.ts";
import { resumeRun } from "../src/runs/lifecycle.ts";
import { plannerLoop } from "../src/runs/planner.ts";
import { failTask } from "../src/tasks/lease.ts";
import { settleFinal } from "../src/verification/finality.ts";
import {
  acceptLease,
  acceptTask,
  allRight,
  allWrong,
  batchPack,
  claim,
  countTasks,
  eventsOf,
  groupState,
  plan,
  publishBase,
  runRow,
  signal,
  startRun,
  trainStep,
} from "./runkit.ts";
import { startTestServer } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());

describe("planning", () => {
  test("opens what the batch at hand and asyncLevel − 1 further ones need, and never more", async () => {
    for (const [asyncLevel, tasks] of [
      [1, 2],
      [2, 4],
      [3, 6],
    ] as const) {
      const run = await startRun(server, { batch: { asyncLevel }, limits: { steps: 10 } });
      await publishBase(server, run);
      await Promise.all([plan(server, run), plan(server, run), plan(server, run)]);
      expect(await countTasks(server, run, "GENERATE")).toEqual({ OPEN: tasks });
    }
  });

  test("needs no tasks beyond the last batch", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 3 }, limits: { steps: 1 } });
    await publishBase(server, run);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ OPEN: 2 });
  });

  test("a GENERATE task names the newest version and the examples that its own id decides", async () => {
    const run = await startRun(server);
    await publishBase(server, run);
    const lease = await claim(server, run, run.worker, "GENERATE");
    const payload = generatePayloadSchema.parse(lease.payload);
    const checkpoint = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } });
    const env = environment(run.spec.environment);
    const prompts = [0, 1].map((group) =>
      env.tokenizer.encode(
        env.example(exampleSeed(run.spec.seed, toTypeId("task", lease.taskId), group), "train").prompt,
      ),
    );
    expect(payload).toEqual({
      kind: "GENERATE",
      seed: run.spec.seed,
      manifest: checkpoint.manifestHash,
      prompts,
      groupSize: 2,
      maxOutputTokens: 7,
      sampling: run.spec.generation.sampling,
      form: "f32",
      topK: 128,
    });
    expect(lease).toMatchObject({ policyVersion: 0, manifestHash: checkpoint.manifestHash });
  });

  test("accepted groups fill the batch in the order they were decided; it seals when it is full and TRAIN opens", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 2 } });
    await publishBase(server, run);
    const first = await acceptTask(server, run, [signal, allRight]);
    await plan(server, run);
    const filling = await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id } });
    expect(filling).toMatchObject({ step: 1, state: "FILLING", signalGroups: 1, settledGroups: 2 });
    expect([await groupState(server, first[0]), await groupState(server, first[1])]).toEqual([
      "ACCEPTED",
      "SET_ASIDE",
    ]);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ DONE: 1, OPEN: 3 });

    const second = await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
    expect(await server.prisma.batch.findUniqueOrThrow({ where: { id: filling.id } })).toMatchObject({
      state: "SEALED",
      signalGroups: 3,
      settledGroups: 4,
    });
    const pack = await batchPack(server, run, 1);
    expect(pack.header).toEqual({
      kind: "batch",
      version: 1,
      run: run.typeId,
      step: 1,
      batch: toTypeId("batch", filling.id),
    });
    const groups = [first[0], second[0], second[1]].map((id) => toTypeId("group", id ?? ""));
    expect(pack.rollouts.map((rollout) => rollout.group)).toEqual(groups.flatMap((id) => [id, id]));
    // Tokens are the worker's, log-probabilities the validator's (−group − 1, −rollout − 1), advantages and rewards our own.
    const last = pack.rollouts[5];
    expect([...(last?.tokens ?? [])]).toEqual([3, environment(run.spec.environment).tokenizer.eos]);
    expect([...(last?.logprobs ?? [])]).toEqual([-2, -2]);
    expect(pack.rollouts.map((rollout) => rollout.reward)).toEqual([1, 0, 1, 0, 1, 0]);
    expect(pack.rollouts[0]?.advantage).toBeCloseTo(0.5 / (0.5 + 1e-4), 5);

    const train = await claim(server, run, run.trainer, "TRAIN");
    const [checkpoint, sealed] = await Promise.all([
      server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } }),
      server.prisma.batch.findUniqueOrThrow({ where: { id: filling.id } }),
    ]);
    expect(trainPayloadSchema.parse(train.payload)).toEqual({
      kind: "TRAIN",
      reference: null,
      temperature: 1,
      step: 1,
      totalSteps: 2,
      version: 1,
      manifest: checkpoint.manifestHash,
      state: checkpoint.stateHash,
      batch: sealed.packHash,
      training: run.spec.training,
    });
    const blob = await fetch(`${server.url}/blobs/${sealed.packHash}`, { headers: run.trainer.headers });
    expect(blob.status).toBe(200);
    expect(
      (await fetch(`${server.url}/blobs/${sealed.packHash}`, { headers: run.worker.headers })).status,
    ).toBe(404);
    expect((await eventsOf(server, run, "batch.sealed"))[0]?.data).toMatchObject({
      step: 1,
      signalGroups: 3,
      settledGroups: 4,
      lag: { "0": 3 + 1 },
    });
  });

  test("a group that is too old is STALE; one that is older than anyone looks for waits in no batch", async () => {
    const run = await startRun(server);
    await publishBase(server, run);
    const groups = await acceptTask(server, run, [signal, signal]);
    // As if twenty steps had gone by: lag 1 is allowed, and eight versions beyond are looked at.
    await server.prisma.batch.updateMany({ where: { runId: run.id }, data: { step: 20 } });
    for (const [i, policyVersion] of [10, 9].entries())
      await server.prisma.group.update({ where: { id: groups[i] ?? "" }, data: { policyVersion } });
    await plan(server, run);
    expect(await Promise.all(groups.map((id) => groupState(server, id)))).toEqual(["STALE", "ACCEPTED"]);
    expect(await server.prisma.batchGroup.count({ where: { groupId: { in: groups } } })).toBe(0);
  });

  test("the batch that a run ends in is given up: its groups are accepted, in no batch, and paid", async () => {
    const run = await startRun(server, { disputeWindowSeconds: 0 });
    await publishBase(server, run);
    const groups = await acceptTask(server, run, [signal, allRight]);
    await plan(server, run);
    expect(await Promise.all(groups.map((id) => groupState(server, id)))).toEqual(["ACCEPTED", "SET_ASIDE"]);
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { state } }",
      { input: { run: run.typeId } },
      run.organization.owner,
    );
    expect(await server.prisma.batch.count({ where: { runId: run.id } })).toBe(0);
    expect(await Promise.all(groups.map((id) => groupState(server, id)))).toEqual(["ACCEPTED", "ACCEPTED"]);
    expect((await eventsOf(server, run, "group.decided")).at(-1)?.data).toMatchObject({
      state: "ACCEPTED",
      reason: "The run ended before batch 1 was sealed.",
    });
    await settleFinal(server.ctx());
    expect(await server.prisma.group.count({ where: { runId: run.id, finalAt: { not: null } } })).toBe(
      groups.length,
    );
  });

  test("the batch after a sealed one fills while it is trained, and seals only then", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 2 } });
    await publishBase(server, run);
    for (let i = 0; i < 4; i++) await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
    const states = async () =>
      (await server.prisma.batch.findMany({ where: { runId: run.id }, orderBy: { step: "asc" } })).map(
        (batch) => [batch.state, batch.settledGroups],
      );
    expect(await states()).toEqual([
      ["SEALED", 4],
      ["FILLING", 4],
    ]);
    await plan(server, run);
    expect(await states()).toEqual([
      ["SEALED", 4],
      ["FILLING", 4],
    ]);
    await trainStep(server, run);
    expect(await states()).toEqual([
      ["TRAINED", 4],
      ["SEALED", 4],
    ]);
    const lags = await server.prisma.batchGroup.groupBy({
      by: ["policyLag"],
      where: { batch: { runId: run.id } },
      _count: true,
      orderBy: { policyLag: "asc" },
    });
    expect(lags.map((row) => [row.policyLag, row._count])).toEqual([
      [0, 4],
      [1, 4],
    ]);
  });

  test("seals at signalGroups with signal, before settledGroups are settled", async () => {
    const run = await startRun(server, { batch: { signalGroups: 2, settledGroups: 8 } });
    await publishBase(server, run);
    // As long as every group has had signal, two are expected to do.
    expect(await countTasks(server, run, "GENERATE")).toEqual({ OPEN: 1 });
    await acceptTask(server, run, [allWrong, signal]);
    await plan(server, run);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ DONE: 1, OPEN: 1 });
    await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
    expect(await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id, step: 1 } })).toMatchObject({
      state: "SEALED",
      signalGroups: 2,
      settledGroups: 3,
    });
  });

  test("a group whose policy is too old is STALE and takes no place", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 2 }, limits: { steps: 10 } });
    await publishBase(server, run);
    const slow = await server.node();
    const late = await claim(server, run, slow, "GENERATE");
    while ((await runRow(server, run)).step < 3) {
      if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
      else await acceptTask(server, run, [signal, signal]);
      await plan(server, run);
    }
    const before = await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id, state: "FILLING" } });
    const ids = await acceptLease(server, { ...run, worker: slow }, late, [signal, signal]);
    await plan(server, run);
    expect([await groupState(server, ids[0]), await groupState(server, ids[1])]).toEqual(["STALE", "STALE"]);
    expect((await server.prisma.group.findUniqueOrThrow({ where: { id: ids[0] ?? "" } })).reason).toBe(
      "Its policy would be 3 versions behind when batch 4 is sealed; at most 2 are allowed.",
    );
    expect(await server.prisma.batchGroup.count({ where: { groupId: { in: ids } } })).toBe(0);
    expect(await server.prisma.batch.findUniqueOrThrow({ where: { id: before.id } })).toMatchObject({
      step: 4,
      settledGroups: before.settledGroups,
    });
    const decided = (await eventsOf(server, run, "group.decided")).map((event) => event.data);
    expect(decided.filter((data) => (data as { state: string }).state === "STALE")).toHaveLength(2);
  });

  test("open tasks whose groups could only be stale are cancelled", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 1 }, limits: { steps: 5 } });
    await publishBase(server, run);
    const [old] = await server.prisma.task.findMany({ where: { runId: run.id, kind: "GENERATE" }, take: 1 });
    await server.prisma.task.update({ where: { id: old?.id ?? "" }, data: { policyVersion: -2 } });
    await plan(server, run);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ OPEN: 2, CANCELLED: 1 });
  });

  test("planning at once from several places places every group once", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 2 } });
    await publishBase(server, run);
    for (let i = 0; i < 2; i++) await acceptTask(server, run, [signal, signal]);
    await Promise.all(Array.from({ length: 5 }, () => plan(server, run)));
    expect(await server.prisma.batchGroup.count({ where: { batch: { runId: run.id } } })).toBe(4);
    expect(await countTasks(server, run, "TRAIN")).toEqual({ OPEN: 1 });
    expect(await countTasks(server, run, "GENERATE")).toEqual({ DONE: 2, OPEN: 2 });
    expect(await eventsOf(server, run, "batch.sealed")).toHaveLength(1);
  });

  test("a failed GENERATE task is replaced", async () => {
    const run = await startRun(server);
    await publishBase(server, run);
    const [task] = await server.prisma.task.findMany({ where: { runId: run.id, kind: "GENERATE" }, take: 1 });
    await server.prisma.$transaction((tx) => failTask(tx, { id: task?.id ?? "" }, "made to"));
    await plan(server, run);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ FAILED: 1, OPEN: 2 });
  });

  test("a run whose BASE failed is FAILED, with the reason", async () => {
    const run = await startRun(server);
    const [task] = await server.prisma.task.findMany({ where: { runId: run.id } });
    await server.prisma.$transaction((tx) => failTask(tx, { id: task?.id ?? "" }, "out of memory"));
    await plan(server, run);
    expect(await runRow(server, run)).toMatchObject({
      state: "FAILED",
      stateReason: "BASE_FAILED: out of memory",
    });
  });

  test("a budget that does not cover the next task pauses the run; funded and resumed it goes on", async () => {
    const run = await startRun(server, {}, { credits: 100n });
    await publishBase(server, run);
    expect(await runRow(server, run)).toMatchObject({ state: "PAUSED", stateReason: "BUDGET_EXHAUSTED" });
    expect(await countTasks(server, run, "GENERATE")).toEqual({});
    const owner = server.ctx(run.organization.owner);
    await fundRun(owner, { runId: run.id, credits: 1_000_000n });
    await resumeRun(owner, { runId: run.id });
    await plan(server, run);
    expect(await countTasks(server, run, "GENERATE")).toEqual({ OPEN: 2 });
  });

  test("progress is told in absolute numbers, and only when there is some", async () => {
    const run = await startRun(server);
    await publishBase(server, run);
    await acceptTask(server, run, [signal, allRight]);
    await plan(server, run);
    const events = await eventsOf(server, run, "run.progress");
    expect(events.at(-1)?.data).toEqual({
      step: 0,
      stepLimit: 2,
      version: 0,
      batchStep: 1,
      signalGroups: 1,
      settledGroups: 2,
      groups: { ACCEPTED: 1, SET_ASIDE: 1 },
      tasks: { "GENERATE.OPEN": 1 },
    });
    await plan(server, run);
    expect(await eventsOf(server, run, "run.progress")).toHaveLength(events.length);
  });

  test("the loop plans the run that was nudged", async () => {
    const [nudged, other] = [await startRun(server), await startRun(server)];
    // The clock stands still: a second later every run would be planned.
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
    onTestFinished(() => void vi.useRealTimers());
    await plannerLoop.run(server.ctx(), { topics: new Set(), signal: new AbortController().signal });
    for (const run of [nudged, other])
      await server.prisma.run.update({ where: { id: run.id }, data: { deadlineAt: new Date(0) } });
    const turn = { topics: new Set([`run:${nudged.id}` as const]), signal: new AbortController().signal };
    await plannerLoop.run(server.ctx(), turn);
    expect([(await runRow(server, nudged)).state, (await runRow(server, other)).state]).toEqual([
      "COMPLETED",
      "RUNNING",
    ]);
    await plannerLoop.run(server.ctx(), { ...turn, topics: new Set() });
    expect((await runRow(server, other)).state).toBe("COMPLETED");
  });
});
