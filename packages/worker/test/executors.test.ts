import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  decodeMeasurementPack,
  decodeRolloutPack,
  decodeSamplesPack,
  demoSeed,
  encodeBatchPack,
  encodeBlindPack,
  environment,
  exampleSeed,
  groupAdvantages,
  groupOf,
  type Manifest,
  modelSpecSchema,
  newId,
  parseManifest,
  rolloutKey,
  samplingSchema,
  toTypeId,
  trainingSpecSchema,
} from "@muster/protocol";
import { patched } from "@muster/shardcast";
import { compareF32, decodeProof } from "@muster/toploc";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createLog, executors, runWorker, type WorkerOptions } from "../src/index.ts";
import { type MiniCoordinator, run, startCoordinator, type Task } from "./coordinator.ts";

// One step of a run on a tiny model, each task made from what the one before it published. The tests build on each other, in order.

const env = environment("muster/sort-digits@1");
const seed = demoSeed(1);
const sampling = samplingSchema.parse({});
const training = trainingSpecSchema.parse({});
const groupSize = 4;
const groups = 3;

let coordinator: MiniCoordinator;
let folder: string;
const published: { manifest: string; state: string }[] = [];
let generated: { task: string; pack: ReturnType<typeof decodeRolloutPack> };
let batch: string;

beforeAll(async () => {
  coordinator = await startCoordinator();
  folder = await mkdtemp(join(tmpdir(), "muster-executors-"));
});
afterAll(async () => {
  await coordinator[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const work = (node: string, options: Partial<WorkerOptions> & Pick<WorkerOptions, "roles">) =>
  runWorker({
    url: coordinator.url,
    stateDir: join(folder, node),
    providers: ["cpu"],
    log: createLog({ level: "silent" }),
    maxTasks: 1,
    ...options,
  });

const store = (bytes: Uint8Array): string => {
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  coordinator.blobs.set(sha256, bytes);
  return sha256;
};
const blob = (sha256: unknown) => coordinator.blobs.get(String(sha256)) ?? new Uint8Array();
const stepOf = (task: string) => {
  const { manifest, state } = coordinator.result(task);
  return { manifest: String(manifest), state: String(state) };
};
const manifestOf = ({ manifest }: { manifest: string }): Manifest => parseManifest(blob(manifest));

test("BASE warms up and publishes version 0 whole: shards, files, manifest and a fresh state", async () => {
  const task = coordinator.add("BASE", {
    environment: env.slug,
    model: modelSpecSchema.parse({ hiddenSize: 16, layers: 1, heads: 2 }),
    seed,
    base: { kind: "warmup", steps: 8, batchSize: 16, learningRate: 2e-3, warmupSteps: 2, weightDecay: 0.01 },
    parent: null,
  });
  expect(await work("trainer", { roles: ["TRAINER"] })).toMatchObject({ submitted: 1, failed: 0 });
  const step = stepOf(task);
  published.push(step);
  const manifest = manifestOf(step);
  expect(manifest).toMatchObject({
    run,
    version: 0,
    parent: null,
    trainer: coordinator.registrations[0]?.publicKey,
  });
  expect(manifest.files.map(({ name }) => name)).toEqual([
    "model.safetensors",
    "config.json",
    "tokenizer.json",
  ]);
  for (const { sha256 } of manifest.files.flatMap(({ shards }) => shards)) {
    expect(coordinator.stored).toContainEqual({ sha256, kind: "SHARD", task });
  }
  expect(coordinator.stored.slice(-2)).toEqual([
    { sha256: step.state, kind: "STATE", task },
    { sha256: step.manifest, kind: "MANIFEST", task },
  ]);
  const [, , text] = manifest.files;
  expect(JSON.parse(new TextDecoder().decode(blob(text?.sha256)))).toEqual(env.tokenizer.toJSON());
  expect(coordinator.result(task).metrics).toMatchObject({ loss: expect.any(Number) });
});

test("GENERATE answers every prompt of the task under its noise, with proofs", async () => {
  const { manifest } = published[0]!;
  const id = toTypeId("task", newId("task"));
  const prompts = Array.from({ length: groups }, (_, g) =>
    env.tokenizer.encode(env.example(exampleSeed(seed, id, g), "train").prompt),
  );
  const task: Partial<Task> = { task: id, manifest, policyVersion: 0 };
  coordinator.add(
    "GENERATE",
    {
      seed,
      manifest,
      prompts,
      groupSize,
      maxOutputTokens: env.maxOutputTokens,
      sampling,
      form: "f32",
      topK: 128,
    },
    task,
  );
  expect(await work("worker", { roles: ["WORKER"] })).toMatchObject({ submitted: 1, failed: 0 });
  const pack = decodeRolloutPack(blob(coordinator.result(id).pack));
  expect(pack.header).toEqual({
    kind: "rollouts",
    version: 1,
    run,
    task: id,
    manifest,
    form: "f32",
    topK: 128,
  });
  expect(pack.rollouts.map(({ index }) => index)).toEqual(
    Array.from({ length: groups * groupSize }, (_, i) => i),
  );
  expect(pack.rollouts.map(({ prompt }) => [...prompt])).toEqual(
    prompts.flatMap((p) => Array(groupSize).fill(p)),
  );
  for (const { tokens, proofs, finish } of pack.rollouts) {
    expect(proofs).toHaveLength(Math.ceil(tokens.length / 32));
    expect(finish === "eos").toBe(tokens.at(-1) === env.tokenizer.eos);
  }
  generated = { task: id, pack };
});

function addVerify(group: number): string {
  const { manifest } = published[0]!;
  const blind = store(
    encodeBlindPack({
      header: {
        kind: "blind",
        version: 1,
        manifest,
        form: "f32",
        topK: 128,
        sampling,
        eos: env.tokenizer.eos,
        maxOutputTokens: env.maxOutputTokens,
      },
      rollouts: groupOf(generated.pack, group, groupSize).map(({ index, prompt, tokens }) => ({
        prompt,
        tokens,
        key: rolloutKey(seed, generated.task, index),
      })),
    }),
  );
  return coordinator.add("VERIFY", { manifest, blind });
}

test("VERIFY measures several groups at once, blind, and finds an honest worker's claims", async () => {
  const { manifest } = published[0]!;
  const tasks = Array.from({ length: groups }, (_, g) => addVerify(g));
  const broken = coordinator.add("VERIFY", { manifest, blind: store(new Uint8Array(40)) });
  expect(await work("validator", { roles: ["VALIDATOR"], maxTasks: groups })).toMatchObject({
    submitted: groups,
    failed: 1,
  });
  expect(coordinator.released.map(({ task }) => task)).toEqual([broken]);
  tasks.forEach((task, g) => {
    const measurement = decodeMeasurementPack(blob(coordinator.result(task).pack));
    const claimed = groupOf(generated.pack, g, groupSize);
    expect(measurement.rollouts).toHaveLength(groupSize);
    measurement.rollouts.forEach((measured, i) => {
      const own = claimed[i]!;
      expect([...measured.argmax]).toEqual([...own.tokens]);
      expect(Math.max(...measured.margins)).toBeLessThan(1e-3);
      own.logprobs.forEach((logprob, j) => {
        expect(Math.abs(logprob - measured.logprobs[j]!)).toBeLessThan(1e-3);
      });
      measured.windows.forEach(({ indices, values }, w) => {
        const proof = decodeProof(own.proofs[w]!, { k: indices.length, form: "f32" });
        // a model this narrow has values near zero among its top-k, where an ulp is next to nothing
        const { outliers, meanUlp } = compareF32(proof, indices, values);
        expect(outliers).toBe(0);
        expect(meanUlp).toBeLessThan(4_096);
      });
    });
  });
});

test("a validator whose checkpoint left memory and disk since its last task fetches it again", async () => {
  const node = "forgetful";
  const tasks = [addVerify(0), addVerify(0), addVerify(0)];
  let done = 0;
  const VERIFY: (typeof executors)["VERIFY"] = {
    batch: 1,
    async execute(ctx, assignments) {
      if (++done === 3) {
        await ctx.engines.reset();
        await rm(join(folder, node, "checkpoints"), { recursive: true });
      }
      return executors.VERIFY.execute(ctx, assignments);
    },
  };
  expect(
    await work(node, { roles: ["VALIDATOR"], maxTasks: tasks.length, executors: { VERIFY } }),
  ).toMatchObject({ submitted: tasks.length, failed: 0 });
  const packs = tasks.map((task) => decodeMeasurementPack(blob(coordinator.result(task).pack)));
  expect(packs[1]).toEqual(packs[0]);
  expect(packs[2]).toEqual(packs[0]);
});

const train = (step: number, from: { manifest: string; state: string }) =>
  coordinator.add(
    "TRAIN",
    { step, totalSteps: 10, version: step, ...from, batch, reference: null, training, temperature: 1 },
    { manifest: from.manifest, policyVersion: step },
  );

test("TRAIN steps exactly: a trainer that only has what was published makes the same bytes", async () => {
  const rewards = [1, 0, 0, 1];
  const advantages = groupAdvantages(rewards, 1e-4);
  const pack = (step: number) =>
    encodeBatchPack({
      header: { kind: "batch", version: 1, run, step, batch: toTypeId("batch", newId("batch")) },
      rollouts: generated.pack.rollouts.map(({ index, prompt, tokens, logprobs }) => ({
        group: toTypeId("group", newId("group")),
        prompt,
        tokens,
        logprobs,
        advantage: advantages[index % groupSize]!,
        reward: rewards[index % groupSize]!,
        policyVersion: 0,
      })),
    });
  // one trainer takes both steps without reading its state back in between …
  batch = store(pack(1));
  const first = train(1, published[0]!);
  expect(await work("trainer", { roles: ["TRAINER"] })).toMatchObject({ submitted: 1, failed: 0 });
  published.push(stepOf(first));
  const one = manifestOf(published[1]!);
  expect(one).toMatchObject({ version: 1, parent: 0 });
  expect(one.whole).not.toBe(manifestOf(published[0]!).whole);
  expect(one.files.slice(1)).toEqual(manifestOf(published[0]!).files.slice(1));
  expect(coordinator.result(first).metrics).toMatchObject({
    loss: expect.any(Number),
    gradNorm: expect.any(Number),
  });
  // who has version 0 needs only what the step changed
  const bytes = (file: Pick<Manifest["files"][number], "shards"> | undefined) =>
    Buffer.concat((file?.shards ?? []).map(({ sha256 }) => blob(sha256)));
  expect(manifestOf(published[0]!).delta).toBeNull();
  const { size, shards } = one.delta!.file;
  expect(one.delta?.chain).toEqual([{ version: 0, manifest: published[0]?.manifest, bytes: size }]);
  expect(size).toBeLessThan(0.9 * one.files[0]!.size);
  const whole = createHash("sha256");
  const delta = (async function* () {
    yield bytes({ shards });
  })();
  for await (const block of patched({ old: bytes(manifestOf(published[0]!).files[0]), delta }))
    whole.update(block);
  expect(whole.digest("hex")).toBe(one.whole);

  // … another machine repeats the first step from the same checkpoint, state and batch
  const again = train(1, published[0]!);
  expect(await work("second trainer", { roles: ["TRAINER"] })).toMatchObject({ submitted: 1, failed: 0 });
  expect(stepOf(again).state).toBe(published[1]?.state);
  expect(manifestOf(stepOf(again)).whole).toBe(one.whole);
});

test("a trainer whose memory is what was published does not read its state back, and it makes no difference", async () => {
  coordinator.fetched.length = 0;
  const one = train(1, published[0]!);
  let two = "";
  // the second step can only be opened once the first one's hashes are known
  coordinator.before = (name) => {
    if (
      name !== "ClaimTasks" ||
      two !== "" ||
      !coordinator.submissions.some(({ input }) => input.task === one)
    )
      return;
    batch = second;
    two = train(2, stepOf(one));
  };
  const second = store(
    encodeBatchPack({
      header: { kind: "batch", version: 1, run, step: 2, batch: toTypeId("batch", newId("batch")) },
      rollouts: generated.pack.rollouts.map(({ index, prompt, tokens, logprobs }) => ({
        group: toTypeId("group", newId("group")),
        prompt,
        tokens,
        logprobs,
        advantage: index % 2 === 0 ? 1 : -1,
        reward: (index + 1) % 2,
        policyVersion: 0,
      })),
    }),
  );
  expect(await work("third trainer", { roles: ["TRAINER"], maxTasks: 2 })).toMatchObject({
    submitted: 2,
    failed: 0,
  });
  coordinator.before = () => {};
  expect(coordinator.fetched).toContain(published[0]?.state);
  expect(coordinator.fetched).not.toContain(stepOf(one).state);

  const restored = train(2, stepOf(one));
  expect(await work("fourth trainer", { roles: ["TRAINER"] })).toMatchObject({ submitted: 1, failed: 0 });
  expect(coordinator.fetched).toContain(stepOf(one).state);
  expect(stepOf(restored).state).toBe(stepOf(two).state);
  expect(manifestOf(stepOf(restored)).whole).toBe(manifestOf(stepOf(two)).whole);
  const chains = [two, restored].map((task) => manifestOf(stepOf(task)).delta?.chain);
  expect(chains[0]?.map(({ version }) => version)).toEqual([1, 0]);
  expect(chains[1]).toEqual(chains[0]);
});

test("TRAIN computes the log-probabilities that nobody measured, at the version that generated", async () => {
  coordinator.checkpoints = [1, 0].map((version) => ({
    version,
    manifestHash: published[version]?.manifest ?? "",
  }));
  const ratios: number[] = [];
  // As they were drawn at version 0; none; and none, of what is said to be version 1.
  for (const [measured, policyVersion] of [
    [true, 0],
    [false, 0],
    [false, 1],
  ] as const) {
    batch = store(
      encodeBatchPack({
        header: { kind: "batch", version: 1, run, step: 2, batch: toTypeId("batch", newId("batch")) },
        rollouts: generated.pack.rollouts.map(({ index, prompt, tokens, logprobs }) => ({
          group: toTypeId("group", newId("group")),
          prompt,
          tokens,
          logprobs: measured ? logprobs : new Float32Array(),
          advantage: index % 2 === 0 ? 1 : -1,
          reward: (index + 1) % 2,
          policyVersion,
        })),
      }),
    );
    const task = train(2, published[1]!);
    expect(await work("fifth trainer", { roles: ["TRAINER"] })).toMatchObject({ submitted: 1, failed: 0 });
    ratios.push((coordinator.result(task).metrics as { ratioMean: number }).ratioMean);
  }
  const [drawn = 0, computed = 0, current = 0] = ratios;
  // A policy's ratio to itself is 1; to the version before it is not.
  expect(Math.abs(current - 1)).toBeLessThan(1e-6);
  expect(Math.abs(drawn - 1)).toBeGreaterThan(1e-5);
  expect(Math.abs(computed - drawn)).toBeLessThan(1e-6);
});

test("EVALUATE completes every prompt of the suite, the same for whoever does it", async () => {
  const { manifest } = published[1]!;
  const prompts = Array.from({ length: 6 }, (_, i) =>
    env.tokenizer.encode(env.example(exampleSeed(seed, "suite", i), "held-out").prompt),
  );
  const evaluate = () =>
    coordinator.add(
      "EVALUATE",
      { seed, suite: "held-out", manifest, prompts, maxOutputTokens: env.maxOutputTokens, sampling },
      { manifest, policyVersion: 1 },
    );
  const [a, b] = [evaluate(), evaluate()];
  expect(await work("evaluator", { roles: ["EVALUATOR"], maxTasks: 2 })).toMatchObject({
    submitted: 2,
    failed: 0,
  });
  const samples = decodeSamplesPack(blob(coordinator.result(a).pack));
  expect(samples.header).toEqual({
    kind: "samples",
    version: 1,
    run,
    suite: "held-out",
    manifest,
    policyVersion: 1,
  });
  expect(samples.samples.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
  expect(coordinator.result(b).pack).toBe(coordinator.result(a).pack);
});

test("BASE takes the weights of another run's checkpoint as they are", async () => {
  const parent = published[1]!;
  const task = coordinator.add("BASE", {
    environment: env.slug,
    model: modelSpecSchema.parse({}),
    seed,
    base: { kind: "checkpoint", run, version: 1 },
    parent: parent.manifest,
  });
  expect(await work("trainer", { roles: ["TRAINER"] })).toMatchObject({ submitted: 1, failed: 0 });
  const manifest = manifestOf(stepOf(task));
  expect(manifest).toMatchObject({ version: 0, parent: null, whole: manifestOf(parent).whole });
});

test("a task of an environment this software does not know is handed back", async () => {
  const stop = new AbortController();
  coordinator.released.length = 0;
  const task = coordinator.add("BASE", {
    environment: "nobody/knows@1",
    model: modelSpecSchema.parse({}),
    seed,
    base: { kind: "warmup", steps: 1, batchSize: 1, learningRate: 1e-3, warmupSteps: 0, weightDecay: 0 },
    parent: null,
  });
  const working = work("trainer", { roles: ["TRAINER"], signal: stop.signal });
  await expect.poll(() => coordinator.released, { timeout: 5_000 }).toHaveLength(1);
  stop.abort();
  await working;
  expect(coordinator.released).toEqual([{ task, reason: expect.stringContaining("nobody/knows@1") }]);
});

test("a KL term is measured against the version that the task names as its reference", async () => {
  const from = published[1]!;
  batch = store(
    encodeBatchPack({
      header: { kind: "batch", version: 1, run, step: 1, batch: toTypeId("batch", newId("batch")) },
      rollouts: generated.pack.rollouts.map(({ prompt, tokens, logprobs }, i) => ({
        group: toTypeId("group", newId("group")),
        prompt,
        tokens,
        logprobs,
        advantage: i % 2 === 0 ? 1 : -1,
        reward: i % 2 === 0 ? 1 : 0,
        policyVersion: 0,
      })),
    }),
  );
  const task = coordinator.add(
    "TRAIN",
    {
      step: 1,
      totalSteps: 10,
      version: 2,
      ...from,
      batch,
      reference: published[0]!.manifest,
      training: { ...training, klCoefficient: 0.1 },
      temperature: 1,
    },
    { manifest: from.manifest, policyVersion: 1 },
  );
  expect(await work("trainer with a reference", { roles: ["TRAINER"] })).toMatchObject({
    submitted: 1,
    failed: 0,
  });
  // version 1 is one step away from version 0, so its divergence from it is small and not zero
  const { kl } = coordinator.result(task).metrics as { kl: number };
  expect(kl).toBeGreaterThan(0);
  expect(kl).toBeLessThan(0.1);
});
