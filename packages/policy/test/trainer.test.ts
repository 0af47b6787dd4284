import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  decayMask,
  initialParameters,
  learningRateAt,
  type ModelConfig,
  Policy,
  parameterLayout,
  Trainer,
  type TrainingSettings,
  type TrainRollout,
  updateGraph,
} from "../src/index.ts";
import { demoModel, randomTokens, weightsFor } from "./support/models.ts";
import { uniform } from "./support/uniform.ts";

const training: TrainingSettings = {
  clipLow: 0.2,
  clipHigh: 0.2,
  delta: 4,
  klCoefficient: 0,
  entropyCoefficient: 0,
  learningRate: 1e-3,
  warmupSteps: 10,
  schedule: "linear",
  finalFraction: 0.1,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.01,
  maxGradientNorm: 1,
};
const cpu = { providers: ["cpu"] } as const;
const refused = (code: string) => expect.objectContaining({ name: "PolicyError", code });

/** Rollouts of several lengths with made-up advantages. Without `logprobs`: as if the policy's own noise had made them. */
async function batchOf(
  model: ModelConfig,
  size: number,
  seed: number,
  score: (pairs: TrainRollout[]) => Promise<Float32Array[]>,
) {
  const draw = uniform(seed);
  const pairs = Array.from({ length: size }, (): TrainRollout => {
    const tokens = randomTokens(model, 1 + Math.floor(draw() * 9), draw);
    return {
      prompt: randomTokens(model, 3 + Math.floor(draw() * 6), draw),
      tokens,
      logprobs: new Float32Array(tokens.length),
      advantage: draw() < 0.5 ? -1 : 1,
    };
  });
  const logprobs = await score(pairs);
  return pairs.map((pair, i) => ({
    ...pair,
    logprobs: logprobs[i]!.map((value) => value + 0.2 * (draw() - 0.5)),
  }));
}

let trainer: Trainer;
beforeAll(async () => {
  trainer = await Trainer.open({ model: demoModel, training, ...cpu });
});
afterAll(() => trainer.close());

test("the same weights, state and batch give the same bytes, also in another process's place", async () => {
  await trainer.init(1);
  const batches: TrainRollout[][] = [];
  for (let i = 0; i < 4; i++)
    batches.push(await batchOf(demoModel, 300, i, (rollouts) => trainer.logprobs({ rollouts })));
  const take = async (by: Trainer, from: number, to: number) => {
    for (let step = from; step <= to; step++)
      await by.step({ rollouts: batches[step - 1]!, step, totalSteps: 10 });
  };
  await take(trainer, 1, 2);
  const middle = await trainer.export();
  await take(trainer, 3, 4);
  const straight = await trainer.export();

  await using other = await Trainer.open({ model: demoModel, training, ...cpu });
  await other.restore(middle.flat, middle.state);
  expect(await other.export()).toEqual(middle);
  await take(other, 3, 4);
  const resumed = await other.export();
  expect(resumed.flat).toEqual(straight.flat);
  expect(resumed.state).toEqual(straight.state);

  // The state matters: without it the same batches lead elsewhere.
  await other.load(middle.flat);
  await take(other, 3, 4);
  expect((await other.export()).flat).not.toEqual(straight.flat);
});

test("warm-up forgets its optimizer state", async () => {
  await trainer.init(1);
  const fresh = (await trainer.export()).state;
  const draw = uniform(3);
  const pairs = Array.from({ length: 8 }, () => ({
    prompt: randomTokens(demoModel, 5, draw),
    tokens: randomTokens(demoModel, 5, draw),
  }));
  const losses: number[] = [];
  await trainer.warmup({
    steps: 20,
    batchSize: 8,
    learningRate: 2e-3,
    warmupSteps: 5,
    weightDecay: 0.01,
    corpus: () => pairs,
    onProgress: ({ loss }) => losses.push(loss),
  });
  expect(losses).toHaveLength(20);
  expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.5);
  const { flat, state } = await trainer.export();
  expect(state).toEqual(fresh);
  expect(flat).not.toEqual(initialParameters(demoModel, [1, 1]));
});

test("a batch cut into passes learns what one pass learns", async () => {
  await trainer.init(2);
  const { flat } = await trainer.export();
  const once = await batchOf(demoModel, 150, 9, (rollouts) => trainer.logprobs({ rollouts }));
  const { seconds: _, ...one } = await trainer.step({ rollouts: once, step: 5, totalSteps: 10 });
  const inOnePass = (await trainer.export()).flat;
  await trainer.load(flat);
  // Every rollout eight times: token means, and so the step, are the same; the tokens fill several passes.
  const often = Array.from({ length: 8 }, () => once).flat();
  const { seconds: __, ...many } = await trainer.step({ rollouts: often, step: 5, totalSteps: 10 });
  const inPasses = (await trainer.export()).flat;
  expect(many.tokens).toBe(8 * one.tokens);
  for (const name of [
    "loss",
    "policyLoss",
    "kl",
    "entropy",
    "ratioMean",
    "clipLow",
    "clipHigh",
    "gradNorm",
  ] as const) {
    expect(many[name], name).toBeCloseTo(one[name], 5);
  }
  const moved = Math.hypot(...inOnePass.map((value, i) => value - flat[i]!));
  const apart = Math.hypot(...inPasses.map((value, i) => value - inOnePass[i]!));
  expect(moved).toBeGreaterThan(0);
  expect(apart / moved).toBeLessThan(1e-2);
});

test("training raises the probability of what was good and lowers that of what was bad", async () => {
  await trainer.init(3);
  const batch = await batchOf(demoModel, 64, 4, (rollouts) => trainer.logprobs({ rollouts }));
  const meanBySign = async () => {
    const logprobs = await trainer.logprobs({ rollouts: batch });
    const mean = (sign: number) => {
      const values = batch.flatMap(({ advantage }, i) => (advantage === sign ? [...logprobs[i]!] : []));
      return values.reduce((sum, value) => sum + value, 0) / values.length;
    };
    return { good: mean(1), bad: mean(-1) };
  };
  const before = await meanBySign();
  for (let step = 1; step <= 5; step++) await trainer.step({ rollouts: batch, step: 10, totalSteps: 100 });
  const after = await meanBySign();
  expect(after.good).toBeGreaterThan(before.good);
  expect(after.bad).toBeLessThan(before.bad);
});

test("the trainer's log-probabilities are the policy's", async () => {
  const flat = weightsFor(demoModel, 8);
  const batch = await batchOf(demoModel, 40, 6, (rollouts) => trainer.logprobs({ rollouts, flat }));
  await using policy = await Policy.open({ model: demoModel, ...cpu });
  await policy.load(flat);
  const measured = await policy.logprobs({ rollouts: batch, temperature: 1 });
  const trained = await trainer.logprobs({ rollouts: batch, flat });
  for (const [i, row] of trained.entries()) {
    expect(row).toHaveLength(batch[i]!.tokens.length);
    const apart = row.map((value, j) => Math.abs(value - measured[i]![j]!));
    expect(Math.max(...apart)).toBeLessThan(1e-5);
  }
});

test("a KL term needs its reference, is 0 at it and grows away from it", async () => {
  await using careful = await Trainer.open({
    model: demoModel,
    training: { ...training, klCoefficient: 0.1 },
    ...cpu,
  });
  await careful.init(1);
  const { flat } = await careful.export();
  const rollouts = await batchOf(demoModel, 32, 2, (pairs) => careful.logprobs({ rollouts: pairs }));
  await expect(careful.step({ rollouts, step: 1, totalSteps: 10 })).rejects.toEqual(refused("NO_REFERENCE"));
  await careful.setReference(flat);
  expect((await careful.step({ rollouts, step: 5, totalSteps: 10 })).kl).toBeCloseTo(0, 6);
  expect((await careful.step({ rollouts, step: 5, totalSteps: 10 })).kl).toBeGreaterThan(1e-5);
});

test("a step that fails changes nothing", async () => {
  await trainer.init(1);
  const before = await trainer.export();
  const [rollout] = await batchOf(demoModel, 1, 2, (rollouts) => trainer.logprobs({ rollouts }));
  const step = (rollouts: TrainRollout[]) => trainer.step({ rollouts, step: 1, totalSteps: 10 });
  await expect(step([])).rejects.toEqual(refused("EMPTY_BATCH"));
  await expect(step([{ ...rollout!, logprobs: new Float32Array(0) }])).rejects.toEqual(refused("WRONG_SIZE"));
  await expect(step([{ ...rollout!, advantage: Number.NaN }])).rejects.toEqual(refused("NOT_FINITE"));
  await expect(
    step([{ ...rollout!, tokens: Int32Array.of(18), logprobs: Float32Array.of(0) }]),
  ).rejects.toEqual(refused("INVALID_TOKEN"));
  // exp(new − old) overflows: the gradient is infinite.
  const wild = { ...rollout!, logprobs: rollout!.logprobs.map(() => -500), advantage: -1 };
  await expect(step([wild])).rejects.toEqual(refused("NOT_FINITE"));
  await expect(trainer.restore(before.flat, before.state.slice(0, 40))).rejects.toEqual(refused("BAD_STATE"));
  await expect(trainer.load(new Float32Array(3))).rejects.toEqual(refused("WRONG_SIZE"));
  expect(await trainer.export()).toEqual(before);
});

test("a sequence that cannot fit a pass is refused before anything runs", async () => {
  const wide = {
    ...demoModel,
    hiddenSize: 1024,
    heads: 16,
    kvHeads: 16,
    intermediateSize: 2752,
    layers: 4,
    maxPositions: 4096,
  };
  await using large = await Trainer.open({ model: wide, training, ...cpu });
  const tokens = new Int32Array(2000);
  const rollouts = [{ prompt: Int32Array.of(1), tokens, logprobs: new Float32Array(2000), advantage: 1 }];
  await expect(large.step({ rollouts, step: 1, totalSteps: 10 })).rejects.toEqual(refused("TOO_LARGE"));
});

test("the update is AdamW with a clipped gradient, decay on matrices only", async () => {
  const { total, parameters } = parameterLayout(demoModel);
  const draw = uniform(12);
  const random = (scale: number) => Float32Array.from({ length: total }, () => scale * (draw() - 0.5));
  const [theta, gradient, m] = [random(1), random(0.1), random(0.01)];
  const v = random(1e-4).map(Math.abs);
  const scalars = {
    learningRate: 1e-3,
    beta1: 0.9,
    beta2: 0.95,
    correction1: 1 / (1 - 0.9 ** 3),
    correction2: 1 / (1 - 0.95 ** 3),
    epsilon: 1e-8,
    weightDecay: 0.01,
    maxGradientNorm: 1,
  };
  const session = await InferenceSession.create(updateGraph(demoModel));
  const flat = (data: Float32Array) => new Tensor("float32", data, [total]);
  const found = await session.run({
    theta: flat(theta!),
    gradient: flat(gradient!),
    m: flat(m!),
    v: flat(v),
    decay: flat(decayMask(demoModel)),
    ...Object.fromEntries(
      Object.entries(scalars).map(([name, value]) => [
        name,
        new Tensor("float32", Float32Array.of(value), []),
      ]),
    ),
  });
  const norm = Math.hypot(...gradient!);
  expect(norm).toBeGreaterThan(1);
  expect(found.gradientNorm!.data[0]).toBeCloseTo(norm, 3);
  let worst = 0;
  for (const { offset, size, shape } of parameters) {
    for (let i = offset; i < offset + size; i++) {
      const g = gradient![i]! / norm;
      const newM = 0.9 * m![i]! + 0.1 * g;
      const newV = 0.95 * v[i]! + 0.05 * g * g;
      const step = (newM * scalars.correction1) / (Math.sqrt(newV * scalars.correction2) + 1e-8);
      const expected = theta![i]! * (1 - (shape.length > 1 ? 1e-3 * 0.01 : 0)) - 1e-3 * step;
      worst = Math.max(worst, Math.abs(expected - Number(found.newTheta!.data[i])));
    }
  }
  expect(worst).toBeLessThan(1e-6);
});

test("the learning rate rises over the warm-up and falls to its final fraction", () => {
  const at = (step: number, over: Partial<TrainingSettings> = {}) =>
    learningRateAt({ ...training, ...over }, step, 100);
  expect(at(1)).toBeCloseTo(1e-4, 10);
  expect(at(10)).toBeCloseTo(1e-3 * (0.1 + 0.9 * (90 / 99)), 10);
  expect(at(100)).toBeCloseTo(1e-4, 10);
  expect(at(150)).toBe(at(100));
  expect(at(60, { schedule: "constant" })).toBe(1e-3);
  expect(at(1, { warmupSteps: 0 })).toBe(1e-3);
  expect(at(100, { schedule: "cosine" })).toBeCloseTo(1e-4, 10);
  expect(learningRateAt({ ...training, schedule: "cosine", warmupSteps: 0 }, 51, 101)).toBeCloseTo(
    5.5e-4,
    10,
  );
  expect(learningRateAt({ ...training, warmupSteps: 0 }, 1, 1)).toBe(1e-3);
});
