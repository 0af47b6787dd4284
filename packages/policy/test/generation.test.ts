import { compareBf16, compareF32, decodeProof } from "@muster/toploc";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type GeneratedRollout,
  type ModelConfig,
  Policy,
  PolicyError,
  type ProofSettings,
} from "../src/index.ts";
import { randomTokens, variants, weightsFor } from "./support/models.ts";
import { uniform } from "./support/uniform.ts";

const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const f32: ProofSettings = { form: "f32", topK: 128 };
const cpu = { providers: ["cpu"] } as const;

/** Prompts of different lengths, three rollouts of each. */
function requests(model: ModelConfig, groups: number) {
  const draw = uniform(11);
  const prompts: Int32Array[] = [];
  const keys: [number, number][] = [];
  for (let group = 0; group < groups; group++) {
    const prompt = randomTokens(model, 3 + Math.floor(draw() * 20), draw);
    for (let i = 0; i < 3; i++) {
      prompts.push(prompt);
      keys.push([prompts.length, 77]);
    }
  }
  return { prompts, keys };
}

for (const [name, model] of variants) {
  test(`a measurement of honest rollouts finds noise only: ${name}`, async () => {
    await using policy = await Policy.open({ model, ...cpu });
    await policy.load(weightsFor(model, 3));
    const { prompts, keys } = requests(model, 16);
    const maxOutputTokens = 40;
    const generated = await policy.generate({
      prompts,
      keys,
      sampling,
      maxOutputTokens,
      eos: model.eos,
      proof: f32,
    });
    const rollouts = generated.map(({ tokens }, i) => ({ prompt: prompts[i]!, tokens, key: keys[i]! }));
    const measured = await policy.measure({ rollouts, sampling, ...f32 });

    let windows = 0;
    const worst = { outliers: 0, meanUlp: 0, logprob: 0, margin: 0 };
    generated.forEach(({ tokens, logprobs, proofs, finish }, i) => {
      const seen = measured[i]!;
      expect(finish).toBe(tokens.at(-1) === model.eos ? "eos" : "length");
      expect(finish === "length" ? tokens.length : maxOutputTokens).toBe(maxOutputTokens);
      expect(proofs).toHaveLength(Math.ceil(tokens.length / 32));
      expect(seen.windows).toHaveLength(proofs.length);
      expect(seen.logprobs).toHaveLength(tokens.length);
      proofs.forEach((bytes, w) => {
        const { indices, values } = seen.windows[w]!;
        const distance = compareF32(decodeProof(bytes, { k: indices.length, form: "f32" }), indices, values);
        // Two rows of 64 are proved whole, values near zero included, whose ulp is far below the noise of the sum they came from.
        if (tokens.length - 32 * w < 3) return;
        worst.outliers = Math.max(worst.outliers, distance.outliers);
        worst.meanUlp = Math.max(worst.meanUlp, distance.meanUlp);
        windows++;
      });
      tokens.forEach((token, j) => {
        worst.logprob = Math.max(worst.logprob, Math.abs(logprobs[j]! - seen.logprobs[j]!));
        worst.margin = Math.max(worst.margin, seen.margins[j]!);
        if (seen.margins[j] === 0) expect(seen.argmax[j]).toBe(token);
      });
    });
    // Rollouts that end early leave the batch, others need further windows: both have to occur.
    expect(windows).toBeGreaterThan(0);
    expect(generated.some(({ proofs }) => proofs.length > 1)).toBe(true);
    expect(generated.some(({ finish }) => finish === "eos")).toBe(true);
    expect(generated.some(({ finish }) => finish === "length")).toBe(true);
    expect(worst.outliers).toBe(0);
    expect(worst.meanUlp).toBeGreaterThan(0);
    // Measured: median 2, 99.9 % at 5; the default threshold is 64.
    expect(worst.meanUlp).toBeLessThan(16);
    expect(worst.logprob).toBeLessThan(1e-5);
    expect(worst.margin).toBeLessThan(1e-4);
  });
}

const [, model] = variants[0]!;
let policy: Policy;

beforeAll(async () => {
  policy = await Policy.open({ model, ...cpu });
  await policy.load(weightsFor(model, 3));
});
afterAll(() => policy.close());

test("a rollout does not depend on who shares its batch", async () => {
  const { prompts, keys } = requests(model, 6);
  const settings = { sampling, maxOutputTokens: 40, eos: model.eos, proof: f32 };
  const together = await policy.generate({ prompts, keys, ...settings });
  const alone: GeneratedRollout[] = [];
  for (const [i, prompt] of prompts.entries()) {
    alone.push(...(await policy.generate({ prompts: [prompt], keys: [keys[i]!], ...settings })));
  }
  expect(alone.map(({ tokens }) => [...tokens])).toEqual(together.map(({ tokens }) => [...tokens]));

  const rollouts = together.map(({ tokens }, i) => ({ prompt: prompts[i]!, tokens, key: keys[i]! }));
  for (const [i, rollout] of rollouts.entries()) {
    const [seen] = await policy.measure({ rollouts: [rollout], sampling, ...f32 });
    together[i]!.proofs.forEach((bytes, w) => {
      if (rollout.tokens.length - 32 * w < 3) return;
      const { indices, values } = seen!.windows[w]!;
      const { outliers, meanUlp } = compareF32(
        decodeProof(bytes, { k: indices.length, form: "f32" }),
        indices,
        values,
      );
      expect(outliers).toBe(0);
      expect(meanUlp).toBeLessThan(16);
    });
  }
});

test("weights that differ by one part in ten thousand are seen in every window", async () => {
  const { prompts, keys } = requests(model, 4);
  const generated = await policy.generate({
    prompts,
    keys,
    sampling,
    maxOutputTokens: 40,
    eos: model.eos,
    proof: f32,
  });
  await using other = await Policy.open({ model, ...cpu });
  await other.load(weightsFor(model, 3).map((value, i) => value * (i % 2 === 0 ? 1.0001 : 1)));
  const rollouts = generated.map(({ tokens }, i) => ({ prompt: prompts[i]!, tokens, key: keys[i]! }));
  const measured = await other.measure({ rollouts, sampling, ...f32 });
  generated.forEach(({ proofs }, i) => {
    proofs.forEach((bytes, w) => {
      const { indices, values } = measured[i]!.windows[w]!;
      const { meanUlp } = compareF32(decodeProof(bytes, { k: indices.length, form: "f32" }), indices, values);
      expect(meanUlp).toBeGreaterThan(64);
    });
  });
});

test("the bf16 form proves and measures rounded activations", async () => {
  const { prompts, keys } = requests(model, 4);
  const bf16: ProofSettings = { form: "bf16", topK: 64 };
  const generated = await policy.generate({
    prompts,
    keys,
    sampling,
    maxOutputTokens: 40,
    eos: model.eos,
    proof: bf16,
  });
  const rollouts = generated.map(({ tokens }, i) => ({ prompt: prompts[i]!, tokens, key: keys[i]! }));
  const measured = await policy.measure({ rollouts, sampling, ...bf16 });
  generated.forEach(({ proofs }, i) => {
    proofs.forEach((bytes, w) => {
      const { indices, values } = measured[i]!.windows[w]!;
      expect(
        values.every((value) => (new Uint32Array(Float32Array.of(value).buffer)[0]! & 0xffff) === 0),
      ).toBe(true);
      const distance = compareBf16(decodeProof(bytes, { k: indices.length, form: "bf16" }), indices, values);
      expect(distance.exponentMismatches).toBeLessThanOrEqual(1);
      expect(distance.mantissaMean).toBeLessThan(0.1);
    });
  });
});

test("the same keys give the same tokens, other keys others; greedy needs no key", async () => {
  const { prompts, keys } = requests(model, 4);
  const run = async (over: {
    keys?: [number, number][];
    temperature?: number;
    repetitionPenalty?: number;
  }) => {
    const drawn = {
      ...sampling,
      temperature: over.temperature ?? 1,
      repetitionPenalty: over.repetitionPenalty ?? 1,
    };
    const rollouts = await policy.generate({
      prompts,
      keys: over.keys ?? keys,
      sampling: drawn,
      maxOutputTokens: 12,
      eos: model.eos,
    });
    expect(rollouts.every(({ proofs }) => proofs.length === 0)).toBe(true);
    return rollouts.map(({ tokens }) => [...tokens]);
  };
  const others = keys.map(([a, b]): [number, number] => [a, b + 1]);
  expect(await run({})).toEqual(await run({}));
  expect(await run({})).not.toEqual(await run({ keys: others }));
  expect(await run({ temperature: 0 })).toEqual(await run({ temperature: 0, keys: others }));
  expect(await run({ temperature: 0 })).not.toEqual(await run({ temperature: 0, repetitionPenalty: 1.5 }));
});

test("log-probabilities are those of the measurement, at the sampling's temperature", async () => {
  const { prompts, keys } = requests(model, 4);
  const warm = { ...sampling, temperature: 0.7 };
  const generated = await policy.generate({
    prompts,
    keys,
    sampling: warm,
    maxOutputTokens: 12,
    eos: model.eos,
  });
  const rollouts = generated.map(({ tokens }, i) => ({ prompt: prompts[i]!, tokens, key: keys[i]! }));
  const measured = await policy.measure({ rollouts, sampling: warm, ...f32 });
  const alone = await policy.logprobs({ rollouts, temperature: 0.7 });
  expect(alone).toEqual(measured.map(({ logprobs }) => logprobs));
  const flat = await policy.logprobs({ rollouts, temperature: 1 });
  expect(flat).not.toEqual(alone);
});

test("more rollouts than one pass takes are measured as each of them alone", async () => {
  const draw = uniform(5);
  const prompts = Array.from({ length: 40 }, () => randomTokens(model, 1 + Math.floor(draw() * 30), draw));
  const rollouts = Array.from({ length: 400 }, (_, i) => ({
    prompt: prompts[Math.floor(draw() * prompts.length)]!,
    tokens: randomTokens(model, Math.floor(draw() * 66), draw),
    key: [i, 9] as [number, number],
  }));
  const together = await policy.measure({ rollouts, sampling, ...f32 });
  for (let i = 0; i < rollouts.length; i += 20) {
    const [alone] = await policy.measure({ rollouts: [rollouts[i]!], sampling, ...f32 });
    const seen = together[i]!;
    expect(seen.windows.map(({ indices }) => indices.length)).toEqual(
      alone!.windows.map(({ indices }) => indices.length),
    );
    expect(seen.argmax).toEqual(alone!.argmax);
    seen.logprobs.forEach((logprob, j) => {
      expect(Math.abs(logprob - alone!.logprobs[j]!)).toBeLessThan(1e-5);
    });
    seen.windows.forEach(({ values }, w) => {
      values.forEach((value, j) => {
        expect(Math.abs(value - alone!.windows[w]!.values[j]!)).toBeLessThan(1e-4);
      });
    });
  }
});

test("an output without tokens measures as nothing", async () => {
  const rollouts = [
    { prompt: Int32Array.of(1, 2, 3), tokens: new Int32Array(0), key: [1, 2] as const },
    { prompt: Int32Array.of(1, 2), tokens: Int32Array.of(4), key: [1, 2] as const },
  ];
  const [empty, one] = await policy.measure({ rollouts, sampling, ...f32 });
  expect(empty).toEqual({
    logprobs: new Float32Array(0),
    argmax: new Int32Array(0),
    margins: new Float32Array(0),
    windows: [],
  });
  expect(one!.windows).toHaveLength(1);
  expect(await policy.measure({ rollouts: rollouts.slice(0, 1), sampling, ...f32 })).toEqual([empty]);
  expect(await policy.measure({ rollouts: [], sampling, ...f32 })).toEqual([]);
});

test("what does not fit the model is refused by name", async () => {
  const settings = { keys: [[1, 2]] as [number, number][], sampling, maxOutputTokens: 7, eos: model.eos };
  const refused = (code: string) => expect.objectContaining({ name: "PolicyError", code });
  await expect(policy.generate({ prompts: [Int32Array.of(99)], ...settings })).rejects.toEqual(
    refused("INVALID_TOKEN"),
  );
  await expect(policy.generate({ prompts: [Int32Array.of(-1)], ...settings })).rejects.toEqual(
    refused("INVALID_TOKEN"),
  );
  await expect(policy.generate({ prompts: [new Int32Array(0)], ...settings })).rejects.toEqual(
    refused("INVALID_TOKEN"),
  );
  await expect(policy.generate({ prompts: [new Int32Array(90)], ...settings })).rejects.toEqual(
    refused("TOO_LONG"),
  );
  await expect(policy.load(new Float32Array(5))).rejects.toEqual(refused("WRONG_SIZE"));
  await expect(Policy.open({ model: { ...model, heads: 5 }, ...cpu })).rejects.toEqual(refused("BAD_CONFIG"));
  await expect(Policy.open({ model, providers: ["coreml"] })).rejects.toEqual(refused("NO_PROVIDER"));
  await using empty = await Policy.open({ model, ...cpu });
  await expect(empty.generate({ prompts: [Int32Array.of(1)], ...settings })).rejects.toEqual(
    refused("NO_WEIGHTS"),
  );
});

test("the caller's event loop stays free, progress is reported and a signal stops the work", async () => {
  const prompts = Array.from({ length: 600 }, (_, i) => Int32Array.of(i % 10, 3));
  const keys = prompts.map((_, i): [number, number] => [i, 0]);
  const settings = { prompts, keys, sampling, maxOutputTokens: 60, eos: -1, proof: f32 };
  let longest = 0;
  let last = performance.now();
  const ticks = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 5);
  const seen: number[] = [];
  const controller = new AbortController();
  const started = performance.now();
  const stopped = policy.generate({
    ...settings,
    signal: controller.signal,
    onProgress: ({ tokens }) => {
      seen.push(tokens);
      if (tokens > 2000) controller.abort();
    },
  });
  await expect(stopped).rejects.toEqual(expect.objectContaining({ name: "PolicyError", code: "CANCELLED" }));
  clearInterval(ticks);
  expect(seen).toEqual([...seen].sort((a, b) => a - b));
  expect(seen.at(-1)).toBeLessThan(600 * 60);
  // Its thread computed meanwhile; this one was never held for a good part of that.
  expect(longest).toBeLessThan((performance.now() - started) / 2);
  const [after] = await policy.generate({
    ...settings,
    prompts: prompts.slice(0, 1),
    keys: keys.slice(0, 1),
  });
  expect(after!.tokens).toHaveLength(60);
});

test("closing rejects what is under way, and everything after", async () => {
  const closing = await Policy.open({ model, ...cpu });
  await closing.load(weightsFor(model, 3));
  const prompts = Array.from({ length: 600 }, () => Int32Array.of(1));
  const running = closing.generate({
    prompts,
    keys: prompts.map((_, i) => [i, 0]),
    sampling,
    maxOutputTokens: 60,
    eos: -1,
  });
  const closed = expect.objectContaining({ name: "PolicyError", code: "CLOSED" });
  const rejected = expect(running).rejects.toEqual(closed);
  await closing.close();
  await rejected;
  await closing.close();
  const late: unknown = await closing.load(weightsFor(model, 3)).catch((error: unknown) => error);
  expect(late).toBeInstanceOf(PolicyError);
  expect(late).toEqual(closed);
});
