import { expect, test } from "vitest";
import { Policy, Trainer } from "../src/index.ts";
import { corpusPairs, evaluate, generateBatch, sortDigits } from "./support/sort-digits.ts";

test("the demo learns: warm-up gives the skill, twelve GRPO steps most of the preference", {
  timeout: 120_000,
}, async () => {
  const { spec, env, model } = sortDigits(1);
  if (spec.base.kind !== "warmup") throw new Error("The demo's base is a warm-up.");
  await using trainer = await Trainer.open({ model, training: spec.training, providers: ["cpu"] });
  await using policy = await Policy.open({ model, providers: ["cpu"] });
  await trainer.init(spec.seed);
  const { batchSize } = spec.base;
  const warmed = await trainer.warmup({
    ...spec.base,
    corpus: (step) => corpusPairs(spec, env, step, batchSize),
  });
  expect(warmed.steps).toBe(300);
  // A third each ascending, descending and copied: no model can do better than ln 3 / 7 = 0.157 a token.
  expect(warmed.loss).toBeGreaterThan(0.157);
  expect(warmed.loss).toBeLessThan(0.4);

  await policy.load((await trainer.export()).flat);
  const before = await evaluate(policy, spec, env, 512);
  expect(before).toBeGreaterThan(0.08);
  expect(before).toBeLessThan(0.4);
  for (let step = 1; step <= 12; step++) {
    const { rollouts } = await generateBatch(policy, spec, env, step, 64);
    const metrics = await trainer.step({ rollouts, step, totalSteps: 100 });
    expect(metrics.tokens).toBe(rollouts.reduce((sum, { tokens }) => sum + tokens.length, 0));
    // One update a batch by the policy that generated it: the ratio is 1 up to noise.
    expect(metrics.ratioMean).toBeCloseTo(1, 4);
    await policy.load((await trainer.export()).flat);
  }
  expect(await evaluate(policy, spec, env, 512)).toBeGreaterThan(before + 0.3);
});
