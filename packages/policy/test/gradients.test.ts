import { InferenceSession, Tensor } from "onnxruntime-node";
import { expect, test } from "vitest";
import {
  initialParameters,
  type ModelConfig,
  metricNames,
  type Objective,
  parameterLayout,
  type TrainOutput,
  trainGraph,
} from "../src/index.ts";
import { uniform } from "./support/uniform.ts";

// The float64 form of the very graphs that train. Central differences there are good to about 1e-9, so a wrong derivative of any
// operator, mask or head shows; in float32 they would not be good to 1e-2.

const small: ModelConfig = {
  vocabularySize: 23,
  eos: 0,
  hiddenSize: 32,
  layers: 2,
  heads: 4,
  kvHeads: 4,
  intermediateSize: 48,
  maxPositions: 32,
  tiedHead: true,
  qkvBias: false,
  ropeTheta: 10_000,
  rmsNormEps: 1e-5,
};

const models: [string, ModelConfig][] = [
  ["tied head", small],
  ["untied head", { ...small, tiedHead: false }],
  ["grouped-query attention", { ...small, kvHeads: 2 }],
  ["multi-query attention and biases", { ...small, kvHeads: 1, qkvBias: true }],
];

const B = 3;
const T = 10;

for (const [name, model] of models) {
  for (const objective of ["sft", "grpo"] as const) {
    test(`the ${objective} gradient equals finite differences: ${name}`, async () => {
      const draw = uniform(7);
      const { parameters, total } = parameterLayout(model);
      const theta = Float64Array.from(initialParameters(model, [3, 4]));
      for (const { name, offset, size } of parameters) {
        if (name.endsWith("qkvBias")) for (let i = 0; i < size; i++) theta[offset + i] = draw() - 0.5;
      }
      const batch = await batchFor(model, objective, theta, draw);
      const lossOf = await runner(model, objective, "loss");
      const gradientOf = await runner(model, objective, "gradient");
      const results = await gradientOf(
        { ...batch, ...weights(model, theta) },
        ["gradient", "clipLow", "clipHigh", "kl"].slice(0, objective === "sft" ? 1 : 4),
      );
      const gradient = results.gradient!;
      if (objective === "grpo") {
        // Otherwise the comparison would prove nothing about clipping.
        expect(results.clipLow![0]).toBeGreaterThan(0);
        expect(results.clipHigh![0]).toBeGreaterThan(0);
        expect(results.kl![0]).toBeGreaterThan(0);
      }

      let worst = { error: 0, where: "" };
      for (const { name, offset, size } of parameters) {
        const own = gradient.subarray(offset, offset + size);
        for (const direction of [
          own,
          Float64Array.from(own, () => draw() - 0.5),
          Float64Array.from(own, () => draw() - 0.5),
        ]) {
          const length = Math.hypot(...direction);
          let analytic = 0;
          const up = theta.slice();
          const down = theta.slice();
          for (let i = 0; i < size; i++) {
            const part = direction[i]! / length;
            analytic += part * own[i]!;
            up[offset + i]! += STEP * part;
            down[offset + i]! -= STEP * part;
          }
          const loss = async (at: Float64Array) =>
            (await lossOf({ ...batch, ...weights(model, at) }, ["loss"])).loss![0]!;
          const numeric = ((await loss(up)) - (await loss(down))) / (2 * STEP);
          // A random direction can be nearly orthogonal to the gradient; then the error is judged against the gradient's size.
          const error =
            Math.abs(numeric - analytic) /
            Math.max(Math.abs(numeric) + Math.abs(analytic), 1e-2 * Math.hypot(...own));
          if (error > worst.error) worst = { error, where: name };
        }
      }
      expect(gradient).toHaveLength(total);
      expect(worst.error, worst.where).toBeLessThan(1e-6);
      expect(worst.error).toBeGreaterThan(0);
    });
  }
}

test("the GRPO loss is the two-sided clip, averaged over counted tokens, plus k3, minus entropy", async () => {
  const theta = Float64Array.from(initialParameters(small, [3, 4]));
  const batch = await batchFor(small, "grpo", theta, uniform(7));
  const score = await runner(small, "grpo", "loss");
  const found = await score({ ...batch, ...weights(small, theta) }, [...metricNames.grpo, "logprobs"]);
  const fed = (name: string) => Float64Array.from(batch[name]!.data as Float64Array);
  const [mask, old, reference, advantages] = ["mask", "oldLogprobs", "referenceLogprobs", "advantages"].map(
    fed,
  );
  const counted = mask!.reduce((sum, value) => sum + value, 0);
  const sums = { policyLoss: 0, kl: 0, ratioMean: 0, clipLow: 0, clipHigh: 0, pastDelta: 0 };
  found.logprobs!.forEach((logprob, i) => {
    if (mask![i] !== 1) return;
    const ratio = Math.exp(logprob - old![i]!);
    const a = advantages![i]!;
    const distance = reference![i]! - logprob;
    sums.policyLoss +=
      Math.max(-Math.min(ratio, 1.3) * a, -Math.min(Math.max(ratio, 0.8), 1.2) * a) / counted;
    sums.kl += (Math.exp(distance) - distance - 1) / counted;
    sums.ratioMean += ratio / counted;
    if (ratio < 0.8 && a < 0) sums.clipLow += 1 / counted;
    if (ratio > 1.2 && a > 0) sums.clipHigh += 1 / counted;
    if (ratio > 1.3 && a < 0) sums.pastDelta += 1 / counted;
  });
  const { pastDelta, ...expected } = sums;
  expect(pastDelta).toBeGreaterThan(0);
  for (const [name, value] of Object.entries(expected)) {
    expect(value, name).toBeGreaterThan(name === "policyLoss" ? -1 : 0);
    expect(found[name]![0], name).toBeCloseTo(value, 12);
  }
  expect(found.loss![0]).toBeCloseTo(expected.policyLoss + 0.1 * expected.kl - 0.01 * found.entropy![0]!, 12);
});

const STEP = 1e-5;

type Feeds = Record<string, Tensor>;

async function runner(model: ModelConfig, objective: Objective, output: TrainOutput) {
  const bytes = trainGraph(model, { objective, output, precision: "float64" });
  // "basic": fusions beyond it have float32 kernels only.
  const session = await InferenceSession.create(bytes, {
    graphOptimizationLevel: "basic",
    intraOpNumThreads: 1,
  });
  return async (feeds: Feeds, outputs: string[]): Promise<Record<string, Float64Array>> => {
    const results = await session.run(feeds, outputs);
    return Object.fromEntries(
      outputs.map((name) => [name, Float64Array.from(results[name]!.data as Float64Array)]),
    );
  };
}

async function batchFor(
  model: ModelConfig,
  objective: Objective,
  theta: Float64Array,
  draw: () => number,
): Promise<Feeds> {
  const tokens = () =>
    BigInt64Array.from({ length: B * T }, () => BigInt(Math.floor(draw() * model.vocabularySize)));
  const perToken = (make: (i: number) => number) =>
    doubles(
      Float64Array.from({ length: B * T }, (_, i) => make(i)),
      [B, T],
    );
  const mask = Float64Array.from({ length: B * T }, () => (draw() < 0.7 ? 1 : 0));
  const feeds: Feeds = {
    tokens: new Tensor("int64", tokens(), [B, T]),
    targets: new Tensor("int64", tokens(), [B, T]),
    positions: new Tensor(
      "int64",
      BigInt64Array.from({ length: T }, (_, i) => BigInt(i)),
      [T],
    ),
    mask: doubles(mask, [B, T]),
    tokenShare: constant(1 / mask.reduce((sum, value) => sum + value, 0)),
    inverseTemperature: constant(1 / 0.8),
  };
  if (objective === "sft") return feeds;
  const score = await runner(model, "sft", "loss");
  const { logprobs } = await score({ ...feeds, ...weights(model, theta) }, ["logprobs"]);
  return {
    ...feeds,
    // Ratios near 0.67, 0.95, 1.05, 1.25 and 1.45 with advantages of both signs: every branch of the clip is taken.
    oldLogprobs: perToken((i) => logprobs![i]! + [0.4, 0.05, -0.05, -0.22, -0.37][i % 5]! + 0.02 * draw()),
    referenceLogprobs: perToken((i) => logprobs![i]! + (draw() - 0.5) * 0.6),
    advantages: perToken((i) => (i % 2 === 0 ? 1 : -1) * (0.5 + draw())),
    clipFrom: constant(0.8),
    clipTo: constant(1.2),
    delta: constant(1.3),
    klCoefficient: constant(0.1),
    entropyCoefficient: constant(0.01),
  };
}

function weights(model: ModelConfig, theta: Float64Array): Feeds {
  return Object.fromEntries(
    parameterLayout(model).parameters.map(({ name, shape, offset, size }) => [
      name,
      doubles(theta.subarray(offset, offset + size), shape),
    ]),
  );
}

function doubles(data: Float64Array, shape: readonly number[]): Tensor {
  return new Tensor("float64", data, shape);
}

function constant(value: number): Tensor {
  return doubles(Float64Array.of(value), []);
}
