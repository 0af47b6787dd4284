import { trainPayloadSchema } from "@muster/protocol";
import { afterAll, describe, expect, test } from "vitest";
import { bootstrap, pairedGain } from "../src/training/interval.ts";
import { submitStep } from "../src/training/submit-step.ts";
import {
  batchPack,
  claim,
  evaluate,
  eventsOf,
  prepareStep,
  publishBase,
  publishStep,
  runRow,
  sealedRun,
  startRun,
  type TestRun,
  trainTo,
} from "./runkit.ts";
import { startTestServer } from "./testkit.ts";

const server = await startTestServer();
afterAll(() => server.stop());

describe("a training step", () => {
  test("makes the next version, TRAINED its batch, is paid for what we counted and told in one event", async () => {
    const run = await sealedRun(server);
    const metrics = {
      loss: 0.25,
      entropy: 1.5,
      gradNorm: 0.5,
      tokens: 1e9,
      step: 77,
      note: "words",
      nan: null,
    };
    const lease = await claim(server, run, run.trainer, "TRAIN");
    expect((await publishStep(server, run, lease, { metrics })).kind).toBe("submitted");
    expect(await runRow(server, run)).toMatchObject({ currentVersion: 1, step: 1 });
    expect(await server.prisma.batch.findFirstOrThrow({ where: { runId: run.id, step: 1 } })).toMatchObject({
      state: "TRAINED",
      trainedAt: expect.any(Date),
    });
    // Four groups of two rollouts of two tokens each.
    const counted = { loss: 0.25, entropy: 1.5, gradNorm: 0.5, tokens: 16, lagMean: 0, lag: { "0": 4 } };
    const step = await server.prisma.trainStep.findFirstOrThrow({ where: { runId: run.id } });
    expect(step).toMatchObject({ step: 1, version: 1, meanReward: 0.5, metrics: counted });
    expect((await eventsOf(server, run, "step.trained")).map((event) => event.data)).toEqual([
      { step: 1, version: 1, meanReward: 0.5, signalGroups: 4, settledGroups: 4, ...counted },
    ]);
    const paid = await server.prisma.account.findFirstOrThrow({
      where: { nodeId: run.trainer.id, kind: "NODE_AVAILABLE" },
    });
    expect(paid.balance).toBe(16n * 50n);
    expect(
      await submitStep(server.ctx(run.trainer), await prepareStep(server, run, lease, { metrics })),
    ).toMatchObject({ kind: "submitted", duplicate: true });
    expect((await server.prisma.account.findUniqueOrThrow({ where: { id: paid.id } })).balance).toBe(
      16n * 50n,
    );
  });

  test("config.json and tokenizer.json stay those of the base", async () => {
    const run = await sealedRun(server);
    const outcome = await publishStep(server, run, await claim(server, run, run.trainer, "TRAIN"), {
      config: (config) => Object.assign(config, { rope_theta: 1 }),
    });
    expect(outcome).toMatchObject({ kind: "refused", message: "config.json is not that of version 0." });
  });

  test("is published even when the budget no longer covers it", async () => {
    const run = await sealedRun(server);
    await server.prisma.account.updateMany({
      where: { runId: run.id, kind: "BUDGET" },
      data: { balance: 1n },
    });
    expect((await publishStep(server, run, await claim(server, run, run.trainer, "TRAIN"))).kind).toBe(
      "submitted",
    );
    expect((await runRow(server, run)).step).toBe(1);
    expect(await server.prisma.ledgerTransaction.count({ where: { runId: run.id, kind: "PAY" } })).toBe(0);
  });

  test("two trainers of one step: the second has lost, and there is one version", async () => {
    const run = await sealedRun(server);
    const first = await claim(server, run, run.trainer, "TRAIN");
    const input = await prepareStep(server, run, first);
    await server.prisma.task.update({
      where: { id: first.taskId },
      data: { state: "OPEN", leaseNodeId: null, leaseUntil: null },
    });
    await server.prisma.attempt.updateMany({ where: { taskId: first.taskId }, data: { state: "EXPIRED" } });
    const second = await claim(server, run, run.trainer, "TRAIN");
    const outcomes = await Promise.all([
      submitStep(server.ctx(run.trainer), input),
      publishStep(server, run, second),
    ]);
    expect(outcomes.map((outcome) => outcome.kind)).toEqual(["lost", "submitted"]);
    expect(await server.prisma.checkpoint.count({ where: { runId: run.id, version: 1 } })).toBe(1);
  });

  test("the control run's batch holds the same advantages on other rollouts, the same each time", async () => {
    const [plain, control] = [
      await sealedRun(server),
      await sealedRun(server, { training: { permuteAdvantages: true } }),
    ];
    const advantages = async (run: TestRun) =>
      (await batchPack(server, run, 1)).rollouts.map((rollout) => Math.sign(rollout.advantage));
    expect(await advantages(plain)).toEqual([1, -1, 1, -1, 1, -1, 1, -1]);
    const moved = await advantages(control);
    expect(moved).not.toEqual([1, -1, 1, -1, 1, -1, 1, -1]);
    expect([...moved].sort()).toEqual([-1, -1, -1, -1, 1, 1, 1, 1]);
    expect(await advantages(await sealedRun(server, { training: { permuteAdvantages: true } }))).toEqual(
      moved,
    );
  });

  test("old versions are retired with their references; the base, evaluated versions and the newest state stay", async () => {
    const run = await startRun(server, { limits: { steps: 8 }, evaluation: { versions: [1] } });
    await publishBase(server, run);
    await trainTo(server, run, 6);
    const checkpoints = await server.prisma.checkpoint.findMany({
      where: { runId: run.id },
      orderBy: { version: "asc" },
    });
    // asyncLevel 1: the newest three versions.
    expect(
      checkpoints
        .filter((checkpoint) => checkpoint.state === "AVAILABLE")
        .map((checkpoint) => checkpoint.version),
    ).toEqual([0, 1, 4, 5, 6]);
    expect(
      checkpoints
        .filter((checkpoint) => checkpoint.stateHash !== null)
        .map((checkpoint) => checkpoint.version),
    ).toEqual([6]);
    for (const checkpoint of checkpoints) {
      const references = await server.prisma.packReference.count({ where: { subject: checkpoint.id } });
      expect(references > 0).toBe(checkpoint.state === "AVAILABLE");
    }
    const states = await server.prisma.packReference.findMany({ where: { runId: run.id, kind: "STATE" } });
    expect([...new Set(states.map((reference) => reference.sha256))]).toEqual([
      checkpoints.at(-1)?.stateHash,
    ]);
  });
});

describe("training steps in buckets", () => {
  test("are raw while they fit; else aligned, so that later steps never move earlier buckets", async () => {
    const run = await startRun(server);
    const rows = Array.from({ length: 20 }, (_, i) => ({
      organizationId: run.organization.id,
      runId: run.id,
      step: i + 1,
      version: i + 1,
      meanReward: i / 100,
      metrics: { loss: 20 - i, lag: { "0": 4 } },
    }));
    await server.prisma.trainStep.createMany({ data: rows });
    const query =
      "query($id: ID!, $from: Int, $to: Int, $buckets: Int) { run(id: $id) { trainSteps(from: $from, to: $to, buckets: $buckets) { fromStep toStep n metrics { name min max last } } } }";
    type Buckets = {
      run: { trainSteps: { fromStep: number; toStep: number; n: number; metrics: unknown[] }[] };
    };
    const buckets = async (variables: Record<string, number>) =>
      (await server.ask<Buckets>(query, { id: run.typeId, ...variables }, run.organization.owner)).run
        .trainSteps;
    expect(await buckets({})).toHaveLength(20);
    expect((await buckets({ from: 3, to: 3 }))[0]).toEqual({
      fromStep: 3,
      toStep: 3,
      n: 1,
      metrics: [
        { name: "loss", min: 18, max: 18, last: 18 },
        { name: "meanReward", min: 0.02, max: 0.02, last: 0.02 },
      ],
    });
    const coarse = await buckets({ buckets: 6 });
    expect(coarse.map((bucket) => [bucket.fromStep, bucket.toStep, bucket.n])).toEqual([
      [1, 4, 4],
      [5, 8, 4],
      [9, 12, 4],
      [13, 16, 4],
      [17, 20, 4],
    ]);
    expect(coarse[1]?.metrics).toEqual([
      { name: "loss", min: 13, max: 16, last: 13 },
      { name: "meanReward", min: 0.04, max: 0.07, last: 0.07 },
    ]);
    const earlier = await buckets({ buckets: 5, to: 18 });
    expect(earlier.slice(0, 4)).toEqual(coarse.slice(0, 4));
  });
});

describe("evaluation", () => {
  const query =
    "query($id: ID!) { run(id: $id) { evaluations { version suite n mean ciLow ciHigh gain gainLow gainHigh } } }";
  type Evaluations = {
    run: {
      evaluations: {
        version: number;
        mean: number;
        ciLow: number;
        ciHigh: number;
        gain: number | null;
        gainLow: number | null;
        gainHigh: number | null;
      }[];
    };
  };

  test("rewards are computed here, and the gain is paired with the base", async () => {
    const run = await startRun(server, { evaluation: { versions: [0, 1], examples: 40 } });
    await publishBase(server, run);
    expect((await evaluate(server, run, await claim(server, run, run.validator, "EVALUATE"), 10)).kind).toBe(
      "submitted",
    );
    await trainTo(server, run, 1);
    await evaluate(server, run, await claim(server, run, run.validator, "EVALUATE"), 30);
    const { run: answer } = await server.ask<Evaluations>(query, { id: run.typeId }, run.organization.owner);
    const [base, first] = answer.evaluations;
    expect(base).toMatchObject({
      version: 0,
      suite: "held-out",
      n: 40,
      mean: 0.25,
      gain: null,
      gainLow: null,
      gainHigh: null,
    });
    expect(first).toMatchObject({ version: 1, mean: 0.75, gain: 0.5 });
    expect(first?.gainLow).toBeGreaterThan(0.3);
    expect(first?.gainHigh).toBeLessThan(0.7);
    expect(base?.ciLow).toBeLessThan(0.25);
    expect(base?.ciHigh).toBeGreaterThan(0.25);
    const events = (await eventsOf(server, run, "evaluation.done")).map((event) => event.data);
    expect(events[1]).toMatchObject({
      version: 1,
      mean: 0.75,
      gain: 0.5,
      gainLow: first?.gainLow,
      ciHigh: first?.ciHigh,
    });
    const paid = await server.prisma.account.findFirstOrThrow({
      where: { nodeId: run.validator.id, kind: "NODE_AVAILABLE" },
    });
    // Right answers are seven tokens, the others only the end.
    expect(paid.balance).toBe(BigInt((10 * 7 + 30) * 100 + (30 * 7 + 10) * 100));
  });

  test("samples for other prompts, or of another version, are refused", async () => {
    const run = await startRun(server, { evaluation: { versions: [0] } });
    await publishBase(server, run);
    const lease = await claim(server, run, run.validator, "EVALUATE");
    expect(await evaluate(server, run, { ...lease, policyVersion: 3 }, 1)).toMatchObject({
      kind: "refused",
      message: expect.stringContaining("another run, suite or version"),
    });
    const again = await claim(server, run, run.validator, "EVALUATE");
    const payload = again.payload as { prompts: number[][] };
    const [a, b, ...rest] = payload.prompts;
    const swapped = { ...again, payload: { ...payload, prompts: [b, a, ...rest] } };
    expect(await evaluate(server, run, swapped, 1)).toMatchObject({
      kind: "refused",
      message: "Sample 0 does not answer prompt 0.",
    });
    expect((await evaluate(server, run, await claim(server, run, run.validator, "EVALUATE"), 1)).kind).toBe(
      "submitted",
    );
  });

  test("versions are evaluated when they are named or every so many, each once", async () => {
    const run = await startRun(server, { evaluation: { versions: [0], every: 2 }, limits: { steps: 5 } });
    await publishBase(server, run);
    await trainTo(server, run, 5);
    const tasks = await server.prisma.task.findMany({
      where: { runId: run.id, kind: "EVALUATE" },
      orderBy: { policyVersion: "asc" },
    });
    expect(tasks.map((task) => task.policyVersion)).toEqual([0, 2, 4, 5]);
  });

  test("the interval covers the mean and narrows with more prompts; equal values have none", () => {
    const half = (n: number) => Array.from({ length: n }, (_, i) => i % 2);
    const [few, many] = [bootstrap(half(100)), bootstrap(half(10_000))];
    expect(few.mean).toBe(0.5);
    // The normal interval of a fair coin over 100 throws is 0.5 ± 0.098.
    expect(few.low).toBeCloseTo(0.402, 1);
    expect(few.high).toBeCloseTo(0.598, 1);
    expect(many.high - many.low).toBeLessThan((few.high - few.low) / 5);
    expect(bootstrap([1, 1, 1])).toEqual({ mean: 1, low: 1, high: 1 });
    expect(bootstrap(half(100))).toEqual(few);
    expect(pairedGain([1, 1, 0], [0, 0, 0]).mean).toBeCloseTo(2 / 3);
  });
});

test("a TRAIN task's payload is what the protocol says", async () => {
  const run = await sealedRun(server);
  const lease = await claim(server, run, run.trainer, "TRAIN");
  expect(trainPayloadSchema.safeParse(lease.payload).success).toBe(true);
});
