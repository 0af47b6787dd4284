import { compareF32, decodeProof } from "@muster/toploc";
import * as node from "onnxruntime-node";
import * as web from "onnxruntime-web";
import { beforeAll, expect, test } from "vitest";
import {
  checkpointFiles,
  encodeCheckpoint,
  type KeyedPair,
  measureRollouts,
  openContinuations,
  readCheckpoint,
} from "../src/graph/index.ts";
import {
  type GeneratedRollout,
  type OpenOptions,
  Policy,
  PolicyError,
  type ProofSettings,
} from "../src/index.ts";
import { randomTokens, variants, weightsFor } from "./support/models.ts";
import { sortDigits } from "./support/sort-digits.ts";
import { uniform } from "./support/uniform.ts";

const [, model] = variants[2]!;
const weights = weightsFor(model, 5);
const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const f32: ProofSettings = { form: "f32", topK: 128 };
let generated: GeneratedRollout[];
let rollouts: KeyedPair[];

beforeAll(async () => {
  web.env.wasm.numThreads = 1;
  await using policy = await Policy.open({ model, providers: ["cpu"] });
  await policy.load(weights);
  const draw = uniform(4);
  const prompts = Array.from({ length: 12 }, (_, i) => randomTokens(model, 4 + (i % 5), draw));
  const keys = prompts.map((_, i) => [i, 9] as const);
  generated = await policy.generate({
    prompts,
    keys,
    sampling,
    maxOutputTokens: 40,
    eos: model.eos,
    proof: f32,
  });
  rollouts = generated.map(({ tokens }, i) => ({ prompt: prompts[i]!, tokens, key: keys[i]! }));
});

test("measuring outside the engine gives the engine's own numbers, bit for bit", async () => {
  for (const settings of [f32, { form: "bf16", topK: 32 } as const]) {
    await using policy = await Policy.open({ model, providers: ["cpu"] });
    await policy.load(weights);
    const expected = await policy.measure({ rollouts, sampling, ...settings });
    const session = await openContinuations(node, model, { intraOpNumThreads: 1 });
    const passes: number[] = [];
    const measured = await measureRollouts(session.run, {
      model,
      parameters: weights,
      rollouts,
      sampling,
      ...settings,
      onProgress: (count) => passes.push(count),
    });
    await session.release();
    expect(measured).toEqual(expected);
    expect(passes.at(-1)).toBe(rollouts.length);
  }
});

/** Other ways to compute the same model. */
const others = {
  "wasm, as in a browser": async () => {
    const session = await openContinuations(web, model, { executionProviders: ["wasm"] });
    const measured = await measureRollouts(session.run, {
      model,
      parameters: weights,
      rollouts,
      sampling,
      ...f32,
    });
    await session.release();
    return measured;
  },
  "wasm, as an execution provider": () => measureWith({ providers: ["wasm"] }),
  "wasm, nothing fused": () => measureWith({ providers: ["wasm"], optimization: "disabled" }),
  "native code, nothing fused, two threads": () =>
    measureWith({ providers: ["cpu"], optimization: "disabled", threads: 2 }),
};

async function measureWith(options: Omit<OpenOptions, "model">) {
  await using policy = await Policy.open({ model, ...options });
  expect(policy.provider).toBe(options.providers?.[0]);
  await policy.load(weights);
  return await policy.measure({ rollouts, sampling, ...f32 });
}

test.for(Object.entries(others))("%s sees what native code generated", async ([, measure]) => {
  const measured = await measure();
  const worst = { meanUlp: 0, outliers: 0, margin: 0, logprob: 0 };
  generated.forEach(({ tokens, proofs, logprobs }, i) => {
    const seen = measured[i]!;
    proofs.forEach((bytes, w) => {
      // Two rows are proved whole, values near zero included.
      if (tokens.length - 32 * w < 3) return;
      const { indices, values } = seen.windows[w]!;
      const proof = decodeProof(bytes, { k: indices.length, form: "f32" });
      const { meanUlp, outliers } = compareF32(proof, indices, values);
      worst.meanUlp = Math.max(worst.meanUlp, meanUlp);
      worst.outliers = Math.max(worst.outliers, outliers);
    });
    tokens.forEach((_, j) => {
      worst.margin = Math.max(worst.margin, seen.margins[j]!);
      worst.logprob = Math.max(worst.logprob, Math.abs(logprobs[j]! - seen.logprobs[j]!));
    });
  });
  expect(worst.meanUlp).toBeGreaterThan(0);
  expect(worst.meanUlp).toBeLessThan(32);
  expect(worst.outliers).toBe(0);
  expect(worst.margin).toBeLessThan(1e-4);
  expect(worst.logprob).toBeLessThan(1e-5);
});

test("wasm generates what native code measures, and is never chosen unasked", async () => {
  await using policy = await Policy.open({ model, providers: ["wasm"] });
  await policy.load(weights);
  const tokens = await policy.generate({
    prompts: rollouts.map(({ prompt }) => prompt),
    keys: rollouts.map(({ key }) => key),
    sampling,
    maxOutputTokens: 40,
    eos: model.eos,
  });
  expect(tokens.map((rollout) => [...rollout.tokens])).toEqual(
    generated.map((rollout) => [...rollout.tokens]),
  );
  await using unasked = await Policy.open({ model });
  expect(unasked.provider).not.toBe("wasm");
});

test("a caller who gives up ends the measuring, and wrong weights are refused", async () => {
  const stop = new AbortController();
  const input = { model, parameters: weights, rollouts, sampling, ...f32, signal: stop.signal };
  stop.abort();
  await expect(measureRollouts(async () => expect.unreachable(), input)).rejects.toMatchObject({
    code: "CANCELLED",
  });
  await expect(
    measureRollouts(async () => expect.unreachable(), { ...input, parameters: weights.subarray(1) }),
  ).rejects.toThrow(PolicyError);
});

test("a checkpoint is read back from its shards", () => {
  const { env, model } = sortDigits(1);
  const parameters = weightsFor(model, 2);
  const { model: bytes, config } = encodeCheckpoint(model, parameters, env.tokenizer);
  const cut = Math.floor(bytes.length / 2);
  const files = checkpointFiles(
    {
      files: [
        { name: "config.json", size: config.length, shards: [{}] },
        { name: "model.safetensors", size: bytes.length, shards: [{}, {}] },
      ],
      // The rest of a manifest is not read.
    } as unknown as Parameters<typeof checkpointFiles>[0],
    [config, bytes.subarray(0, cut), bytes.subarray(cut)],
  );
  expect(readCheckpoint(files)).toEqual({ model, parameters });
  files.delete("config.json");
  expect(() => readCheckpoint(files)).toThrow("The checkpoint has no config.json.");
});
