/**
 * Training graphs: forward, loss, backward and (for a step) AdamW in one ONNX model. Whatever changes from step to step is an
 * input, so a graph is built once.
 */

import { Graph, type Precision, type Value } from "./builder.ts";
import type { ModelConfig } from "./config.ts";
import { decodeSequences, parameterInputs, readOut } from "./decoder.ts";
import {
  add,
  cast,
  compare,
  concatenate,
  detach,
  divide,
  exponential,
  logSoftmax,
  maximum,
  minimum,
  multiply,
  negate,
  pick,
  reshape,
  squareRoot,
  subtract,
  sum,
  total,
} from "./operators.ts";
import { parameterLayout } from "./parameters.ts";

/** `sft`: mean negative log-probability of the targets. `grpo`: see {@link trainGraph}. */
export type Objective = "sft" | "grpo";

/** What a training graph answers beside its metrics. */
export type TrainOutput = "loss" | "gradient" | "step";

/** Scalars a GRPO graph is fed, by input name. */
export const grpoScalars = ["clipFrom", "clipTo", "delta", "klCoefficient", "entropyCoefficient"] as const;

/** Scalars an optimizer step is fed, by input name; `correction1` = 1 / (1 − β1^t), `correction2` likewise. */
export const stepScalars = [
  "learningRate",
  "beta1",
  "beta2",
  "correction1",
  "correction2",
  "epsilon",
  "weightDecay",
  "maxGradientNorm",
] as const;

/** Scalars each objective reports, by output name. Token means, so those of parts of a batch add up. */
export const metricNames = {
  sft: ["loss"],
  grpo: ["loss", "policyLoss", "kl", "entropy", "ratioMean", "clipLow", "clipHigh"],
} as const satisfies Record<Objective, readonly string[]>;

/**
 * The ONNX model of one objective.
 *
 * Inputs: `tokens`, `targets` int64 [B, T] (the token at a position and the one that followed), `positions` int64 [T] = 0 … T − 1,
 * `mask` [B, T] (1 where the target counts), `tokenShare` = 1 / counted tokens of the whole batch, `inverseTemperature`, every
 * parameter by name. GRPO also: `oldLogprobs`, `referenceLogprobs`, `advantages` [B, T] and {@link grpoScalars}. A step also:
 * `theta`, `m`, `v`, `decay` [parameters] and {@link stepScalars}.
 *
 * Outputs: {@link metricNames}, `logprobs` [B, T], and
 * - `gradient`: `gradient` [parameters];
 * - `step`: `gradientNorm` before clipping, `newTheta`, `newM`, `newV` [parameters].
 *
 * GRPO (Shao et al., 2024) with the two-sided clip of INTELLECT-2 (2025), averaged over counted tokens: with r the ratio of new to
 * old probability, −min(min(r, δ)·A, clamp(r, 1 − ε_low, 1 + ε_high)·A), so that δ bounds the ratio where A < 0 as well;
 * + klCoefficient · (e^d − d − 1), d = reference − new log-probability (Schulman's k3); − entropyCoefficient · entropy.
 */
export function trainGraph(
  config: ModelConfig,
  options: { objective: Objective; output: TrainOutput; precision?: Precision },
): Uint8Array {
  const { objective, output, precision = "float32" } = options;
  const g = new Graph({ precision });
  const { parameters: layout } = parameterLayout(config);
  const parameters = parameterInputs(g, config, { tracked: output !== "loss" });
  const tokens = g.input("tokens", "int64", ["B", "T"]);
  const positions = g.input("positions", "int64", ["T"]);
  const targets = reshape(g, g.input("targets", "int64", ["B", "T"]), ["N"]);
  const perToken = (name: string) => reshape(g, g.input(name, precision, ["B", "T"]), ["N", 1]);
  const mask = perToken("mask");
  const tokenShare = g.input("tokenShare", precision, []);
  const inverseTemperature = g.input("inverseTemperature", precision, []);

  const { hidden: x } = decodeSequences(g, config, parameters, tokens, positions);
  const logits = multiply(g, readOut(g, config, parameters, x).logits, inverseTemperature);
  const all = logSoftmax(g, logits);
  const logprobs = pick(g, all, targets);
  const mean = (value: Value) => multiply(g, total(g, multiply(g, value, mask)), tokenShare);

  const metrics =
    objective === "sft"
      ? { loss: negate(g, mean(logprobs)) }
      : grpo(g, { all, logprobs, mask, perToken, mean });
  for (const [name, value] of Object.entries(metrics)) g.output(name, value);
  g.output("logprobs", reshape(g, logprobs, ["B", "T"]));

  if (output !== "loss") {
    const gradients = g.gradients(
      metrics.loss,
      layout.map(({ name }) => parameters(name)),
    );
    const parts = gradients.map((gradient, i) => reshape(g, gradient, [layout[i]!.size]));
    const gradient = concatenate(g, parts, 0);
    if (output === "gradient") g.output("gradient", gradient);
    else adamW(g, config, gradient);
  }
  return g.encode(`${objective}-${output}`);
}

/**
 * The ONNX model that applies a gradient summed up elsewhere: input `gradient` [parameters], else the inputs and outputs a `step`
 * graph has beyond its loss.
 */
export function updateGraph(config: ModelConfig): Uint8Array {
  const g = new Graph();
  adamW(g, config, g.input("gradient", g.precision, [parameterLayout(config).total]));
  return g.encode("update");
}

type LossInputs = {
  all: Value;
  logprobs: Value;
  mask: Value;
  perToken: (name: string) => Value;
  mean: (value: Value) => Value;
};

function grpo(
  g: Graph,
  { all, logprobs, mask, perToken, mean }: LossInputs,
): { loss: Value } & Record<string, Value> {
  const old = perToken("oldLogprobs");
  const reference = perToken("referenceLogprobs");
  const advantages = perToken("advantages");
  const [clipFrom, clipTo, delta, klCoefficient, entropyCoefficient] = grpoScalars.map((name) =>
    g.input(name, g.precision, []),
  );

  // Masked before the exponential: a padded position may hold any number, and e^that may be infinite.
  const ratio = exponential(g, multiply(g, subtract(g, logprobs, old), mask));
  const free = multiply(g, minimum(g, ratio, delta!), advantages);
  const clipped = multiply(g, minimum(g, maximum(g, ratio, clipFrom!), clipTo!), advantages);
  const policyLoss = negate(g, mean(minimum(g, free, clipped)));

  const distance = multiply(g, subtract(g, reference, logprobs), mask);
  const kl = mean(subtract(g, subtract(g, exponential(g, distance), distance), g.scalar(1)));
  const entropy = mean(negate(g, sum(g, multiply(g, exponential(g, all), all), [1])));
  const loss = subtract(
    g,
    add(g, policyLoss, multiply(g, klCoefficient!, kl)),
    multiply(g, entropyCoefficient!, entropy),
  );

  const bound = cast(g, compare(g, "Less", detach(clipped), detach(free)), g.precision);
  const below = cast(g, compare(g, "Less", detach(ratio), clipFrom!), g.precision);
  const atLow = multiply(g, bound, below);
  return {
    loss,
    policyLoss,
    kl,
    entropy,
    ratioMean: mean(detach(ratio)),
    clipLow: mean(atLow),
    clipHigh: mean(subtract(g, bound, atLow)),
  };
}

/** AdamW (Loshchilov and Hutter, 2019) on the flat vector, after clipping the gradient to a norm. */
function adamW(g: Graph, config: ModelConfig, gradient: Value): void {
  const flat = [parameterLayout(config).total];
  const [theta, m, v, decay] = ["theta", "m", "v", "decay"].map((name) => g.input(name, g.precision, flat));
  const scalars = stepScalars.map((name) => g.input(name, g.precision, []));
  const [learningRate, beta1, beta2, correction1, correction2, epsilon, weightDecay, maxGradientNorm] =
    scalars;
  const one = g.scalar(1);

  const norm = squareRoot(g, total(g, multiply(g, gradient, gradient)));
  const clip = minimum(g, one, divide(g, maxGradientNorm!, add(g, norm, g.scalar(1e-6))));
  const clipped = multiply(g, gradient, clip);
  const newM = add(g, m!, multiply(g, subtract(g, one, beta1!), subtract(g, clipped, m!)));
  const squared = multiply(g, clipped, clipped);
  const newV = add(g, v!, multiply(g, subtract(g, one, beta2!), subtract(g, squared, v!)));
  const spread = add(g, squareRoot(g, multiply(g, newV, correction2!)), epsilon!);
  const update = divide(g, multiply(g, newM, multiply(g, learningRate!, correction1!)), spread);
  const decayed = multiply(g, theta!, multiply(g, decay!, multiply(g, learningRate!, weightDecay!)));

  g.output("gradientNorm", norm);
  g.output("newTheta", subtract(g, theta!, add(g, update, decayed)));
  g.output("newM", newM);
  g.output("newV", newV);
}
