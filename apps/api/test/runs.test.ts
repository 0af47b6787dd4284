import {
  environment,
  exampleSeed,
  generatePayloadSchema,
  toTypeId,
  trainPayloadSchema,
} from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { budgetAvailable } from "../src/ledger/ledger.ts";
import { createRun, fundRun, reviseRun } from "../src/runs/create-run.ts";
import { cancelRun, pauseRun, resumeRun, runTransitions } from "../src/runs/lifecycle.ts";
import { plannerLoop } from "../src/runs/planner.ts";
import { claimTasks } from "../src/tasks/claim.ts";
import { expiryLoop } from "../src/tasks/expiry.ts";
import { failTask, openTask } from "../src/tasks/lease.ts";
import { settleFinal } from "../src/verification/finality.ts";
import {
  acceptLease,
  acceptTask,
  allRight,
  allWrong,
  batchPack,
  claim,
  countTasks,
  evaluate,
  eventsOf,
  plan,
  publishBase,
  signal,
  smallSpec,
  startRun,
  type TestRun,
  trainStep,
} from "./runkit.ts";
import { startTestServer, type TestOrganization, type TestServer } from "./testkit.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const runRow = (run: { id: string }) => server.prisma.run.findUniqueOrThrow({ where: { id: run.id } });
const groupState = async (id: string | undefined) =>
  (await server.prisma.group.findUniqueOrThrow({ where: { id: id ?? "" } })).state;

describe("creating a run", () => {
  const create = `mutation($input: CreateRunInput!) { createRun(input: $input) {
    ... on RunCreated { run { id slug state step currentVersion asOf revision { number hash } environment { slug } stats { tasks { open } } } }
    ... on SpecInvalid { message issues { path message } } } }`;
  type Created = {
    createRun: {
      run?: { id: string; slug: string; state: string };
      message?: string;
      issues?: { path: string }[];
    };
  };
  const input = (organization: TestOrganization, more: Record<string, unknown> = {}) => ({
    input: { organization: organization.typeId, spec: smallSpec(), credits: "1000", start: true, ...more },
  });

  test("freezes revision 1, funds the budget and opens BASE", async () => {
    const organization = await server.organization();
    const { createRun: answer } = await server.ask<Created>(create, input(organization), organization.owner);
    expect(answer).toEqual({
      run: {
        id: expect.stringMatching(/^run_/),
        slug: "small-run",
        state: "RUNNING",
        step: 0,
        currentVersion: null,
        asOf: expect.any(String),
        revision: { number: 1, hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
        environment: { slug: "muster/sort-digits@1" },
        stats: { tasks: { open: 1 } },
      },
    });
    const run = await server.prisma.run.findFirstOrThrow({ where: { organizationId: organization.id } });
    expect(await budgetAvailable(server.prisma, run.id)).toBe(1000n);
    expect(await countTasks(server, run, "BASE")).toEqual({ OPEN: 1 });
    expect(run.deadlineAt?.getTime()).toBeGreaterThan(Date.now() + 29 * 86_400_000);
    expect((await eventsOf(server, run)).map((event) => event.type)).toEqual([
      "run.created",
      "run.state",
      "task.opened",
    ]);
    expect(await server.prisma.auditEpoch.count({ where: { runId: run.id } })).toBe(1);
  });

  test("a wrong spec is a typed answer that names every field, and stores nothing", async () => {
    const organization = await server.organization();
    const spec = {
      ...smallSpec(),
      batch: { signalGroups: 9, settledGroups: 4 },
      verification: { audit: { floor: 0 } },
      colour: "red",
    };
    const { createRun: answer } = await server.ask<Created>(
      create,
      input(organization, { spec }),
      organization.owner,
    );
    expect(answer.message).toEqual(expect.any(String));
    expect(answer.issues?.length).toBeGreaterThan(0);
    const unsupported = {
      ...smallSpec(),
      limits: { deadline: "2020-01-01T00:00:00Z" },
    };
    const refused = await server.ask<Created>(
      create,
      input(organization, { spec: unsupported }),
      organization.owner,
    );
    expect(refused.createRun.issues?.map((issue) => issue.path)).toEqual(["limits.deadline"]);
    expect(await server.prisma.run.count({ where: { organizationId: organization.id } })).toBe(0);
  });

  test("the same key answers the first run, also when both come at once; another input under it is refused", async () => {
    const organization = await server.organization();
    const keyed = input(organization, { idempotencyKey: "once" });
    const answers = await Promise.all(
      [1, 2, 3].map(() => server.ask<Created>(create, keyed, organization.owner)),
    );
    expect(new Set(answers.map((answer) => answer.createRun.run?.id)).size).toBe(1);
    expect(await server.prisma.run.count({ where: { organizationId: organization.id } })).toBe(1);
    const other = await server.graphql(
      create,
      input(organization, { idempotencyKey: "once", credits: "1001" }),
      organization.owner,
    );
    expect(other.errors?.[0]?.extensions.code).toBe("IDEMPOTENCY_MISMATCH");
  });

  test("runs of one name get slugs of their own, also at once", async () => {
    const organization = await server.organization();
    await Promise.all(
      [1, 2, 3].map(() => server.ask<Created>(create, input(organization), organization.owner)),
    );
    const runs = await server.prisma.run.findMany({
      where: { organizationId: organization.id },
      orderBy: { slug: "asc" },
    });
    expect(runs.map((run) => run.slug)).toEqual(["small-run", "small-run-2", "small-run-3"]);
  });

  test("needs the right to, and a member may not spend", async () => {
    const organization = await server.organization();
    const member = await server.person(organization.id, "member");
    const stranger = (await server.organization()).owner;
    const code = async (caller: typeof member, more = {}) =>
      (await server.graphql(create, input(organization, more), caller)).errors?.[0]?.extensions.code;
    expect(await code(stranger)).toBe("FORBIDDEN");
    expect(await code(member)).toBe("FORBIDDEN");
    expect(await code(member, { credits: "0" })).toBeUndefined();
  });

  test("a base from another run must be there", async () => {
    const organization = await server.organization();
    const base = { kind: "checkpoint", run: toTypeId("run", organization.id), version: 3 };
    const { createRun: answer } = await server.ask<Created>(
      create,
      input(organization, { spec: { ...smallSpec(), base } }),
      organization.owner,
    );
    expect(answer.issues).toEqual([{ path: "base", message: expect.stringContaining("not available") }]);
  });
});

describe("controlling a run", () => {
  test("a draft starts when it is resumed, once", async () => {
    const run = await startRun(server, {}, { start: false });
    const owner = server.ctx(run.organization.owner);
    expect(await countTasks(server, run, "BASE")).toEqual({});
    await resumeRun(owner, { runId: run.id });
    await pauseRun(owner, { runId: run.id, reason: "lunch" });
    expect(await runRow(run)).toMatchObject({ state: "PAUSED", stateReason: "lunch" });
    await resumeRun(owner, { runId: run.id });
    expect(await runRow(run)).toMatchObject({ state: "RUNNING", stateReason: null });
    expect(await countTasks(server, run, "BASE")).toEqual({ OPEN: 1 });
    await expect(resumeRun(owner, { runId: run.id })).rejects.toMatchObject({ code: "STATE_CONFLICT" });
  });

  test("cancelling ends what is unfinished; nothing can be done with the run after", async () => {
    const run = await startRun(server);
    const owner = server.ctx(run.organization.owner);
    await publishBase(server, run);
    const lease = await claim(server, run, run.worker, "GENERATE");
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { id state stateReason } }",
      { input: { run: run.typeId, reason: "enough" } },
      run.organization.owner,
    );
    expect(await runRow(run)).toMatchObject({
      state: "CANCELLED",
      stateReason: "enough",
      endedAt: expect.any(Date),
    });
    expect(await countTasks(server, run, "GENERATE")).toEqual({ CANCELLED: 2 });
    expect(await server.prisma.attempt.findFirst({ where: { taskId: lease.taskId } })).toMatchObject({
      state: "CANCELLED",
    });
    for (const change of [resumeRun, pauseRun, cancelRun])
      await expect(change(owner, { runId: run.id })).rejects.toMatchObject({ code: "STATE_CONFLICT" });
    await plan(server, run);
    expect((await runRow(run)).state).toBe("CANCELLED");
  });

  test("funding adds to the budget, once a key", async () => {
    const run = await startRun(server, {}, { credits: 10n });
    const owner = server.ctx(run.organization.owner);
    await fundRun(owner, { runId: run.id, credits: 5n, idempotencyKey: "gift" });
    await fundRun(owner, { runId: run.id, credits: 5n, idempotencyKey: "gift" });
    expect(await budgetAvailable(server.prisma, run.id)).toBe(15n);
    await expect(
      fundRun(owner, { runId: run.id, credits: 6n, idempotencyKey: "gift" }),
    ).rejects.toMatchObject({ code: "IDEMPOTENCY_MISMATCH" });
    await expect(fundRun(owner, { runId: run.id, credits: 0n })).rejects.toMatchObject({
      code: "INPUT_INVALID",
    });
  });

  test("a revision changes what may change, and nothing else", async () => {
    const run = await startRun(server);
    const owner = server.ctx(run.organization.owner);
    const { seed: _, ...unseeded } = smallSpec({ limits: { steps: 7 }, open: false });
    expect(await reviseRun(owner, { runId: run.id, spec: unseeded })).toEqual({
      kind: "created",
      runId: run.id,
    });
    expect(await runRow(run)).toMatchObject({ revision: 2, stepLimit: 7, open: false });
    const revisions = await server.prisma.runRevision.findMany({
      where: { runId: run.id },
      orderBy: { number: "asc" },
    });
    expect(
      revisions.map((revision) => (revision.spec as { limits: { steps: number } }).limits.steps),
    ).toEqual([2, 7]);
    const other = await reviseRun(owner, {
      runId: run.id,
      spec: { ...unseeded, environment: "muster/addition@1", model: { ...unseeded.model, layers: 2 } },
    });
    expect(other).toMatchObject({
      kind: "invalid",
      issues: expect.arrayContaining([expect.objectContaining({ path: "model" })]),
    });
    // Groups of one batch are of one size and drawn in one way.
    const { generation } = unseeded;
    const drawn = { ...generation, groupSize: 4, sampling: { ...generation.sampling, temperature: 0.5 } };
    expect(await reviseRun(owner, { runId: run.id, spec: { ...unseeded, generation: drawn } })).toMatchObject(
      {
        kind: "invalid",
        issues: [{ path: "generation.groupSize" }, { path: "generation.sampling" }],
      },
    );
    expect((await runRow(run)).revision).toBe(2);
  });

  test("a run past its deadline ends", async () => {
    const run = await startRun(server);
    await server.prisma.run.update({ where: { id: run.id }, data: { deadlineAt: new Date(Date.now() - 1) } });
    await plan(server, run);
    expect(await runRow(run)).toMatchObject({ state: "COMPLETED", stateReason: "DEADLINE" });
    expect(await countTasks(server, run, "BASE")).toEqual({ CANCELLED: 1 });
  });

  test("only the ends have no way out", () => {
    expect(
      Object.entries(runTransitions)
        .filter(([, to]) => to.length === 0)
        .map(([state]) => state),
    ).toEqual(["COMPLETED", "CANCELLED", "FAILED"]);
  });
});

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
    expect([await groupState(first[0]), await groupState(first[1])]).toEqual(["ACCEPTED", "SET_ASIDE"]);
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
    expect(await Promise.all(groups.map(groupState))).toEqual(["STALE", "ACCEPTED"]);
    expect(await server.prisma.batchGroup.count({ where: { groupId: { in: groups } } })).toBe(0);
  });

  test("the batch that a run ends in is given up: its groups are accepted, in no batch, and paid", async () => {
    const run = await startRun(server, { disputeWindowSeconds: 0 });
    await publishBase(server, run);
    const groups = await acceptTask(server, run, [signal, allRight]);
    await plan(server, run);
    expect(await Promise.all(groups.map(groupState))).toEqual(["ACCEPTED", "SET_ASIDE"]);
    await server.ask(
      "mutation($input: RunInput!) { cancelRun(input: $input) { state } }",
      { input: { run: run.typeId } },
      run.organization.owner,
    );
    expect(await server.prisma.batch.count({ where: { runId: run.id } })).toBe(0);
    expect(await Promise.all(groups.map(groupState))).toEqual(["ACCEPTED", "ACCEPTED"]);
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
    while ((await runRow(run)).step < 3) {
      if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
      else await acceptTask(server, run, [signal, signal]);
      await plan(server, run);
    }
    const before = await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id, state: "FILLING" } });
    const ids = await acceptLease(server, { ...run, worker: slow }, late, [signal, signal]);
    await plan(server, run);
    expect([await groupState(ids[0]), await groupState(ids[1])]).toEqual(["STALE", "STALE"]);
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
    expect(await runRow(run)).toMatchObject({ state: "FAILED", stateReason: "BASE_FAILED: out of memory" });
  });

  test("a budget that does not cover the next task pauses the run; funded and resumed it goes on", async () => {
    const run = await startRun(server, {}, { credits: 100n });
    await publishBase(server, run);
    expect(await runRow(run)).toMatchObject({ state: "PAUSED", stateReason: "BUDGET_EXHAUSTED" });
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
    expect([(await runRow(nudged)).state, (await runRow(other)).state]).toEqual(["COMPLETED", "RUNNING"]);
    await plannerLoop.run(server.ctx(), { ...turn, topics: new Set() });
    expect((await runRow(other)).state).toBe("COMPLETED");
  });
});

describe("the end", () => {
  async function trainAll(run: TestRun): Promise<void> {
    while ((await runRow(run)).step < run.spec.limits.steps) {
      if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
      else await acceptTask(server, run, [signal, signal]);
      await plan(server, run);
    }
  }

  test("after the last step the last version is evaluated, and then the run is COMPLETED", async () => {
    const run = await startRun(server, { batch: { asyncLevel: 2 } });
    await publishBase(server, run);
    await trainAll(run);
    await plan(server, run);
    expect(await runRow(run)).toMatchObject({
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
    expect(await runRow(run)).toMatchObject({
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
    await trainAll(run);
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
    expect(await runRow(run)).toMatchObject({ state: "RUNNING", stateReason: "STEPS" });
    await server.prisma
      .$executeRaw`UPDATE "Task" SET "updatedAt" = now() - interval '11 minutes' WHERE id = ${verify}::uuid`;
    await plan(server, run);
    expect((await server.prisma.task.findUniqueOrThrow({ where: { id: verify } })).state).toBe("FAILED");
    await expiryLoop.run(server.ctx(), { topics: new Set(), signal: new AbortController().signal });
    expect(await groupState(group.id)).toBe("INVALID");
    await plan(server, run);
    expect((await runRow(run)).state).toBe("COMPLETED");
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
      expect(await runRow(run)).toMatchObject({ state: "RUNNING", stateReason: reason });
      expect(await countTasks(server, run, "TRAIN")).toEqual({});
      await evaluate(server, run, await claim(server, run, run.validator, "EVALUATE"), 0);
      await plan(server, run);
      expect(await runRow(run)).toMatchObject({ state: "COMPLETED", stateReason: reason, step: 0 });
    }
  });

  test("an evaluation that fails twice is given up, and the run is COMPLETED without it", async () => {
    const run = await startRun(server, { limits: { steps: 1 } });
    await publishBase(server, run);
    await trainAll(run);
    for (let i = 0; i < 2; i++) {
      await plan(server, run);
      const task = await server.prisma.task.findFirstOrThrow({
        where: { runId: run.id, kind: "EVALUATE", state: "OPEN" },
      });
      await server.prisma.$transaction((tx) => failTask(tx, task, "made to"));
    }
    await plan(server, run);
    expect(await runRow(run)).toMatchObject({ state: "COMPLETED" });
    expect(await countTasks(server, run, "EVALUATE")).toEqual({ FAILED: 2 });
  });

  test("without an evaluator nobody is waited for", async () => {
    const run = await startRun(server, { limits: { steps: 1 } });
    await server.prisma.roleGrant.deleteMany({ where: { runId: run.id, role: "EVALUATOR" } });
    await publishBase(server, run);
    await trainAll(run);
    for (let i = 0; i < 3; i++) await plan(server, run);
    expect(await runRow(run)).toMatchObject({ state: "COMPLETED", stateReason: "STEPS" });
  });

  test("a run that has spent its limit of credits finishes", async () => {
    const run = await startRun(server, { limits: { steps: 2, credits: 100 } });
    await publishBase(server, run);
    while ((await runRow(run)).step === 0) {
      if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
      else await acceptTask(server, run, [signal, signal]);
      await plan(server, run);
    }
    expect(await runRow(run)).toMatchObject({ state: "RUNNING", stateReason: "CREDITS", step: 1 });
  });
});

describe("who sees a run", () => {
  const query = "query($id: ID!) { run(id: $id) { id state } }";

  test("members; a node when it is open or it holds a grant; nobody else", async () => {
    const run = await startRun(server, { open: false });
    const seen = { run: { id: run.typeId, state: "RUNNING" } };
    expect(await server.ask(query, { id: run.typeId }, run.organization.owner)).toEqual(seen);
    expect(await server.ask(query, { id: run.typeId }, run.trainer)).toEqual(seen);
    expect(await server.ask(query, { id: run.typeId }, run.worker)).toEqual({ run: null });
    expect(await server.ask(query, { id: run.typeId }, (await server.organization()).owner)).toEqual({
      run: null,
    });
    expect((await server.graphql(query, { id: run.typeId })).errors?.[0]?.extensions.code).toBe(
      "UNAUTHENTICATED",
    );
    const open = await startRun(server);
    expect(await server.ask(query, { id: open.typeId }, run.worker)).toEqual({
      run: { id: open.typeId, state: "RUNNING" },
    });
    const stats = await server.graphql(
      "query($id: ID!) { run(id: $id) { id stats { reward } } }",
      { id: open.typeId },
      run.worker,
    );
    expect(stats.errors?.[0]?.extensions.code).toBe("FORBIDDEN");
  });

  test("lists show the caller's own runs, newest first, and statistics that add up", async () => {
    const organization = await server.organization();
    const owner = server.ctx(organization.owner);
    for (let i = 0; i < 3; i++)
      await createRun(owner, {
        organizationId: organization.id,
        spec: { ...smallSpec(), name: `Run ${i}` },
        credits: 0n,
        start: i > 0,
      });
    const { runs } = await server.ask<{ runs: unknown }>(
      "{ runs(first: 2) { edges { node { name stats { tasks { open done } groups { accepted } attempts { live } workersActive tokensGenerated reward etaSeconds } } } pageInfo { hasNextPage } } }",
      {},
      organization.owner,
    );
    const stats = {
      tasks: { open: 1, done: 0 },
      groups: { accepted: 0 },
      attempts: { live: 0 },
      workersActive: 0,
      tokensGenerated: "0",
      reward: null,
      etaSeconds: null,
    };
    expect(runs).toEqual({
      edges: [{ node: { name: "Run 2", stats } }, { node: { name: "Run 1", stats } }],
      pageInfo: { hasNextPage: true },
    });
  });

  test("the environments and the demo's spec are there before any run", async () => {
    const answer = await server.ask<{
      environments: { slug: string }[];
      demoRunSpec: unknown;
      runSpecSchema: { properties: object };
    }>("{ environments { slug hash title description } demoRunSpec(steps: 3) runSpecSchema }");
    expect(answer.environments.map((env) => env.slug)).toContain("muster/sort-digits@1");
    expect(answer.demoRunSpec).toMatchObject({ limits: { steps: 3 } });
    expect(Object.keys(answer.runSpecSchema.properties)).toContain("training");
    const { owner } = await server.organization();
    const { checkRunSpec } = await server.ask<{ checkRunSpec: unknown }>(
      "query($spec: JSON!) { checkRunSpec(spec: $spec) { valid hash issues { path message } } }",
      { spec: answer.demoRunSpec },
      owner,
    );
    expect(checkRunSpec).toEqual({ valid: true, hash: expect.stringMatching(/^[0-9a-f]{64}$/), issues: [] });
  });

  test("a node that may take nothing else in a running run is told nothing", async () => {
    const run = await startRun(server);
    expect(await claimTasks(server.ctx(run.validator), { kinds: ["VERIFY"], max: 1, runId: run.id })).toEqual(
      [],
    );
  });
});
