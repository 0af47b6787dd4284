import { createHash } from "node:crypto";
import { encodeSafetensors } from "@muster/policy/graph";
import { toTypeId, trainPayloadSchema } from "@muster/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cancelRun } from "../src/runs/lifecycle.ts";
import { bootstrap, pairedGain } from "../src/training/interval.ts";
import { scanSafetensors } from "../src/training/safetensors.ts";
import { submitStep } from "../src/training/submit-step.ts";
import {
  acceptTask,
  batchPack,
  claim,
  countTasks,
  evaluate,
  eventsOf,
  plan,
  prepareStep,
  publishBase,
  publishStep,
  type StepFault,
  signal,
  signed,
  startRun,
  type TestRun,
  trainStep,
} from "./runkit.ts";
import { startTestServer, type TestServer } from "./testkit.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const runRow = (run: { id: string }) => server.prisma.run.findUniqueOrThrow({ where: { id: run.id } });

/** Trains until the run has done so many steps. */
async function trainTo(run: TestRun, steps: number): Promise<void> {
  while ((await runRow(run)).step < steps) {
    if ((await countTasks(server, run, "TRAIN")).OPEN !== undefined) await trainStep(server, run);
    else await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
  }
}

/** A run whose batch 1 is sealed. */
async function sealedRun(over: Parameters<typeof startRun>[1] = {}): Promise<TestRun> {
  const run = await startRun(server, over);
  await publishBase(server, run);
  while ((await countTasks(server, run, "TRAIN")).OPEN === undefined) {
    await acceptTask(server, run, [signal, signal]);
    await plan(server, run);
  }
  return run;
}

describe("publishing a version", () => {
  test("a base becomes version 0 through GraphQL, and every node of the run may read it", async () => {
    const run = await startRun(server);
    const input = await prepareStep(server, run, await claim(server, run, run.trainer, "BASE"));
    const { taskId, ...rest } = input;
    const mutation =
      "mutation($input: SubmitStepInput!) { submitStep(input: $input) { __typename ... on Submitted { task state duplicate } } }";
    const submitted = { __typename: "Submitted", task: toTypeId("task", taskId), state: "DONE" };
    const variables = { input: { ...rest, task: toTypeId("task", taskId) } };
    expect(await server.ask(mutation, variables, run.trainer)).toEqual({
      submitStep: { ...submitted, duplicate: false },
    });
    expect(await server.ask(mutation, variables, run.trainer)).toEqual({
      submitStep: { ...submitted, duplicate: true },
    });
    expect(await runRow(run)).toMatchObject({ currentVersion: 0, step: 0 });
    const checkpoint = await server.prisma.checkpoint.findFirstOrThrow({ where: { runId: run.id } });
    expect(checkpoint).toMatchObject({
      version: 0,
      parentVersion: null,
      manifestHash: input.manifest,
      stateHash: input.state,
      state: "AVAILABLE",
      trainerNodeId: run.trainer.id,
    });
    const shard = await server.prisma.packReference.findFirstOrThrow({
      where: { runId: run.id, kind: "SHARD" },
    });
    for (const sha256 of [input.manifest, shard.sha256]) {
      const response = await fetch(`${server.url}/blobs/${sha256}`, { headers: run.worker.headers });
      expect(
        createHash("sha256")
          .update(new Uint8Array(await response.arrayBuffer()))
          .digest("hex"),
      ).toBe(sha256);
    }
    expect((await eventsOf(server, run, "checkpoint.available")).map((event) => event.data)).toEqual([
      {
        version: 0,
        parent: null,
        manifest: input.manifest,
        size: Number(checkpoint.size),
        trainer: run.trainer.typeId,
      },
    ]);
    const query =
      "query($id: ID!) { run(id: $id) { checkpoints { edges { node { version manifestHash state } } } } }";
    expect(await server.ask(query, { id: run.typeId }, run.worker)).toEqual({
      run: {
        checkpoints: { edges: [{ node: { version: 0, manifestHash: input.manifest, state: "AVAILABLE" } }] },
      },
    });
  });

  const faults: [string, StepFault, string][] = [
    ["a weight that is not finite", { weights: (flat) => flat.fill(Number.NaN, 7, 8) }, "not finite"],
    [
      "an infinite weight at the very end",
      { weights: (flat) => flat.fill(Number.POSITIVE_INFINITY, flat.length - 1) },
      "not finite",
    ],
    ["another parent", { parent: 0, version: 1 }, "version 1"],
    [
      "another model",
      { config: (config) => Object.assign(config, { num_hidden_layers: 9 }) },
      "num_hidden_layers",
    ],
    ["a state that is not finite", { state: "nan" }, "not finite"],
    ["a state of another size", { state: "short" }, "The state must hold"],
  ];
  test.each(faults)(
    "%s is refused with the reason, and the task opens again",
    async (_name, fault, reason) => {
      const run = await startRun(server);
      const lease = await claim(server, run, run.trainer, "BASE");
      const input = await prepareStep(server, run, lease, fault);
      const refused = {
        kind: "refused",
        taskId: lease.taskId,
        code: "PACK_INVALID",
        message: expect.stringContaining(reason),
      };
      expect(await submitStep(server.ctx(run.trainer), input)).toEqual(refused);
      expect(await submitStep(server.ctx(run.trainer), input)).toEqual(refused);
      expect(await countTasks(server, run, "BASE")).toEqual({ OPEN: 1 });
      expect((await runRow(run)).currentVersion).toBeNull();
      expect((await publishStep(server, run, await claim(server, run, run.trainer, "BASE"))).kind).toBe(
        "submitted",
      );
    },
  );

  test("a manifest signed by somebody else is refused", async () => {
    const run = await startRun(server);
    const outcome = await publishStep(server, run, await claim(server, run, run.trainer, "BASE"), {
      signer: run.worker,
    });
    expect(outcome).toMatchObject({ kind: "refused", message: expect.stringContaining("signature") });
  });

  test("a submission signed with another key is refused, without costing the attempt", async () => {
    const run = await startRun(server);
    const lease = await claim(server, run, run.trainer, "BASE");
    const input = await prepareStep(server, run, lease);
    const forged = { ...input, signature: signed(run, run.worker, lease, input.manifest) };
    await expect(submitStep(server.ctx(run.trainer), forged)).rejects.toMatchObject({
      code: "SIGNATURE_INVALID",
    });
    expect((await submitStep(server.ctx(run.trainer), input)).kind).toBe("submitted");
  });

  test("a shard that was never uploaded is asked for, without costing the attempt", async () => {
    const run = await startRun(server);
    const lease = await claim(server, run, run.trainer, "BASE");
    const input = await prepareStep(server, run, lease, {
      withoutShards: true,
      weights: (flat) => flat.fill(123.456),
    });
    await expect(submitStep(server.ctx(run.trainer), input)).rejects.toMatchObject({
      code: "BLOB_NOT_FOUND",
    });
    expect(await countTasks(server, run, "BASE")).toEqual({ LEASED: 1 });
  });

  test("what another run was given cannot be published by its hash", async () => {
    const [theirs, ours] = [await startRun(server), await startRun(server)];
    const foreign = await prepareStep(server, theirs, await claim(server, theirs, theirs.trainer, "BASE"));
    expect((await submitStep(server.ctx(theirs.trainer), foreign)).kind).toBe("submitted");
    // The same weights make the same shards; our trainer names them and never had them.
    const lease = await claim(server, ours, ours.trainer, "BASE");
    const input = await prepareStep(server, ours, lease, { withoutShards: true });
    const mutation = "mutation($input: SubmitStepInput!) { submitStep(input: $input) { __typename } }";
    const submit = async (more: Partial<typeof input> = {}) => {
      const { taskId, ...rest } = { ...input, ...more };
      const signature = signed(ours, ours.trainer, lease, rest.manifest);
      const variables = { input: { ...rest, signature, task: toTypeId("task", taskId) } };
      const { data, errors } = await server.graphql(mutation, variables, ours.trainer);
      return errors?.[0] === undefined ? data : [errors[0].extensions.code, errors[0].message.split(" ")[0]];
    };
    expect(await submit()).toEqual(["BLOB_NOT_FOUND", "Shard"]);
    expect(await submit({ manifest: foreign.manifest })).toEqual(["BLOB_NOT_FOUND", "Manifest"]);
    const unknown = "0".repeat(64);
    expect(await submit({ state: unknown })).toEqual(["BLOB_NOT_FOUND", "State"]);
    expect(await submit({ manifest: unknown })).toEqual(["BLOB_NOT_FOUND", "Manifest"]);
    const shard = await server.prisma.packReference.findFirstOrThrow({
      where: { runId: theirs.id, kind: "SHARD" },
    });
    expect(await server.prisma.packReference.count({ where: { runId: ours.id, sha256: shard.sha256 } })).toBe(
      0,
    );
    // Who has the bytes may send them, and then the attempt goes on.
    await prepareStep(server, ours, lease);
    expect(await submit()).toEqual({ submitStep: { __typename: "Submitted" } });
  });

  test("the version a run starts from, of its own organization, may be published again as it is", async () => {
    const parent = await startRun(server);
    await publishBase(server, parent);
    const base = { kind: "checkpoint" as const, run: parent.typeId, version: 0 };
    const child = await startRun(server, { base }, { organization: parent.organization });
    const lease = await claim(server, child, child.trainer, "BASE");
    expect((await publishStep(server, child, lease, { withoutShards: true })).kind).toBe("submitted");
  });

  test("uploads that no version took are let go at the next version and at the run's end", async () => {
    const run = await sealedRun();
    const notes = () =>
      server.prisma.packReference.count({
        where: { runId: run.id, taskId: { not: null }, kind: { in: ["SHARD", "MANIFEST"] } },
      });
    expect(await notes()).toBe(0);
    const lease = await claim(server, run, run.trainer, "TRAIN");
    await prepareStep(server, run, lease, { weights: (flat) => flat.fill(7) });
    expect(await notes()).toBeGreaterThan(1);
    // A node of the run does not see what is only on its way.
    const { sha256 } = await server.prisma.packReference.findFirstOrThrow({
      where: { runId: run.id, taskId: lease.taskId, kind: "MANIFEST" },
    });
    const read = () => fetch(`${server.url}/blobs/${sha256}`, { headers: run.worker.headers });
    expect((await read()).status).toBe(404);
    expect((await publishStep(server, run, lease)).kind).toBe("submitted");
    expect(await notes()).toBe(0);
    const last = await sealedRun();
    await prepareStep(server, last, await claim(server, last, last.trainer, "TRAIN"));
    await cancelRun(server.ctx(last.organization.owner), { runId: last.id });
    expect(
      await server.prisma.packReference.count({
        where: { runId: last.id, taskId: { not: null }, kind: "SHARD" },
      }),
    ).toBe(0);
  });

  test("a trainer that lost its lease publishes nothing", async () => {
    const run = await startRun(server);
    const lease = await claim(server, run, run.trainer, "BASE");
    const input = await prepareStep(server, run, lease);
    await server.prisma.attempt.updateMany({ where: { taskId: lease.taskId }, data: { state: "CANCELLED" } });
    expect((await submitStep(server.ctx(run.trainer), input)).kind).toBe("lost");
    expect(await server.prisma.checkpoint.count({ where: { runId: run.id } })).toBe(0);
  });
});

describe("a training step", () => {
  test("makes the next version, TRAINED its batch, is paid for what we counted and told in one event", async () => {
    const run = await sealedRun();
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
    expect(await runRow(run)).toMatchObject({ currentVersion: 1, step: 1 });
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
    const run = await sealedRun();
    const outcome = await publishStep(server, run, await claim(server, run, run.trainer, "TRAIN"), {
      config: (config) => Object.assign(config, { rope_theta: 1 }),
    });
    expect(outcome).toMatchObject({ kind: "refused", message: "config.json is not that of version 0." });
  });

  test("is published even when the budget no longer covers it", async () => {
    const run = await sealedRun();
    await server.prisma.account.updateMany({
      where: { runId: run.id, kind: "BUDGET" },
      data: { balance: 1n },
    });
    expect((await publishStep(server, run, await claim(server, run, run.trainer, "TRAIN"))).kind).toBe(
      "submitted",
    );
    expect((await runRow(run)).step).toBe(1);
    expect(await server.prisma.ledgerTransaction.count({ where: { runId: run.id, kind: "PAY" } })).toBe(0);
  });

  test("two trainers of one step: the second has lost, and there is one version", async () => {
    const run = await sealedRun();
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
    const [plain, control] = [await sealedRun(), await sealedRun({ training: { permuteAdvantages: true } })];
    const advantages = async (run: TestRun) =>
      (await batchPack(server, run, 1)).rollouts.map((rollout) => Math.sign(rollout.advantage));
    expect(await advantages(plain)).toEqual([1, -1, 1, -1, 1, -1, 1, -1]);
    const moved = await advantages(control);
    expect(moved).not.toEqual([1, -1, 1, -1, 1, -1, 1, -1]);
    expect([...moved].sort()).toEqual([-1, -1, -1, -1, 1, 1, 1, 1]);
    expect(await advantages(await sealedRun({ training: { permuteAdvantages: true } }))).toEqual(moved);
  });

  test("old versions are retired with their references; the base, evaluated versions and the newest state stay", async () => {
    const run = await startRun(server, { limits: { steps: 8 }, evaluation: { versions: [1] } });
    await publishBase(server, run);
    await trainTo(run, 6);
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
    await trainTo(run, 1);
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
    await trainTo(run, 5);
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

describe("reading weights as they stream by", () => {
  const values = Float32Array.from({ length: 50 }, (_, i) => i / 7);
  const bytes = (array: Float32Array | Uint16Array | BigInt64Array) => new Uint8Array(array.buffer);
  const file = () =>
    encodeSafetensors([
      { name: "a", dtype: "F32", shape: [5, 10], data: bytes(values.slice()) },
      { name: "empty", dtype: "F32", shape: [0], data: new Uint8Array() },
      { name: "b", dtype: "BF16", shape: [3], data: bytes(Uint16Array.of(1, 2, 3)) },
      { name: "t", dtype: "I64", shape: [1], data: bytes(BigInt64Array.of(-1n)) },
    ]);
  async function* cut(data: Uint8Array, size: number) {
    for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
  }

  test("the same whatever the chunks", async () => {
    const { bytes: whole, places } = file();
    for (const size of [1, 3, 7, 64, 1e6]) {
      const scanned = await scanSafetensors(cut(whole, size));
      expect(scanned.tensors).toEqual(places);
      expect(scanned.sha256).toBe(createHash("sha256").update(whole).digest("hex"));
    }
  });

  test("finds a value that is not finite wherever a chunk is cut", async () => {
    const { bytes: whole, places } = file();
    const [a, , b] = places;
    const broken = whole.slice();
    new DataView(broken.buffer).setFloat32((a?.offset ?? 0) + 4 * 31, Number.NEGATIVE_INFINITY, true);
    const half = whole.slice();
    new DataView(half.buffer).setUint16((b?.offset ?? 0) + 2, 0x7fc0, true);
    for (const size of [1, 2, 3, 5, 1000]) {
      await expect(scanSafetensors(cut(broken, size))).rejects.toThrow("a holds a value that is not finite");
      await expect(scanSafetensors(cut(half, size))).rejects.toThrow("b holds a value that is not finite");
    }
  });

  test("refuses what is cut off, too long, or has holes", async () => {
    const { bytes: whole } = file();
    await expect(scanSafetensors(cut(whole.subarray(0, -1), 9))).rejects.toThrow("ends inside t");
    await expect(scanSafetensors(cut(whole.subarray(0, 20), 9))).rejects.toThrow("inside its header");
    await expect(scanSafetensors(cut(Uint8Array.of(...whole, 0), 9))).rejects.toThrow("1 bytes follow");
    await expect(scanSafetensors(cut(new Uint8Array(64).fill(255), 9))).rejects.toThrow("header claims");
    const text = JSON.stringify({ a: { dtype: "F32", shape: [1], data_offsets: [4, 8] } });
    const holed = new Uint8Array(8 + text.length + 8);
    new DataView(holed.buffer).setBigUint64(0, BigInt(text.length), true);
    holed.set(new TextEncoder().encode(text), 8);
    await expect(scanSafetensors(cut(holed, 9))).rejects.toThrow("what comes before ends at");
  });
});

test("a TRAIN task's payload is what the protocol says", async () => {
  const run = await sealedRun();
  const lease = await claim(server, run, run.trainer, "TRAIN");
  expect(trainPayloadSchema.safeParse(lease.payload).success).toBe(true);
});
