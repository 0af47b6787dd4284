/**
 * The training loop's body. A batch is cut into passes that fit in memory; their gradients are summed in listed order and applied
 * once, so a step depends on nothing but weights, state and batch.
 */

import { type ModelConfig, modelProblems } from "../graph/config.ts";
import { parameterFeeds } from "../graph/continuations.ts";
import { decayMask, parameterLayout } from "../graph/parameters.ts";
import { passesOf, trainingFloatsPerToken } from "../graph/passes.ts";
import { PolicyError } from "../graph/policy-error.ts";
import { inputOf, requirePairs, type TokenPair } from "../graph/rollouts.ts";
import { metricNames, type Objective, trainGraph, updateGraph } from "../graph/training.ts";
import type { EngineContext } from "./engine.ts";
import { upTo } from "./forward.ts";
import { freshState, type OptimizerState } from "./optimizer-state.ts";
import type { ExecutionProvider } from "./providers.ts";
import {
  type Feeds,
  floats,
  integers,
  openRuntime,
  type RuntimeOptions,
  type Session,
  scalar,
  tensors,
} from "./session.ts";

/** A rollout to learn from. */
export type TrainRollout = TokenPair & {
  /** Old log-probabilities, one a token of the output. */
  logprobs: Float32Array;
  advantage: number;
};

/** The part of a run spec's `training` the loss needs. */
export type LossSettings = {
  clipLow: number;
  clipHigh: number;
  delta: number;
  klCoefficient: number;
  entropyCoefficient: number;
};

/** The part of a run spec's `training` AdamW needs, and the rate of this step. */
export type StepSettings = {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  maxGradientNorm: number;
};

export type GrpoInput = {
  rollouts: readonly TrainRollout[];
  loss: LossSettings;
  step: StepSettings;
  /** Of the sampling; 0 counts as 1. */
  temperature: number;
};

/** Token means over the batch; `gradNorm` before clipping; `tokens` counted in the loss. */
export type GrpoMetrics = {
  loss: number;
  policyLoss: number;
  kl: number;
  entropy: number;
  ratioMean: number;
  clipLow: number;
  clipHigh: number;
  gradNorm: number;
  learningRate: number;
  tokens: number;
};

export type ImitateInput = { pairs: readonly TokenPair[]; step: StepSettings };
export type ImitateMetrics = { loss: number; gradNorm: number; tokens: number };

export type Training = {
  readonly provider: ExecutionProvider;
  readonly weights: Float32Array;
  readonly state: OptimizerState;
  /** Replaces weights and state. */
  load(weights: Float32Array, state: OptimizerState): void;
  /** The policy the KL term is measured against. */
  setReference(weights: Float32Array): void;
  resetOptimizer(): void;
  /** Frees what only imitation needs. */
  endImitation(): Promise<void>;
  grpo(input: GrpoInput, context: EngineContext): Promise<GrpoMetrics>;
  imitate(input: ImitateInput, context: EngineContext): Promise<ImitateMetrics>;
  logprobs(
    weights: Float32Array,
    input: { rollouts: readonly TokenPair[]; temperature: number },
    context: EngineContext,
  ): Promise<Float32Array[]>;
};

/** @throws PolicyError `BAD_CONFIG`, `NO_PROVIDER` */
export async function openTraining({
  model,
  ...options
}: RuntimeOptions & { model: ModelConfig }): Promise<Training> {
  const problems = modelProblems(model);
  if (problems.length > 0) throw new PolicyError("BAD_CONFIG", problems.join(" "));
  const { total } = parameterLayout(model);
  const runtime = await openRuntime(options);
  const sessions = new Map<string, Promise<Session>>();
  const decay = floats(decayMask(model), [total]);
  let weights: Float32Array | undefined;
  let reference: Float32Array | undefined;
  let state = freshState(total);

  function session(name: string, make: () => Uint8Array): Promise<Session> {
    const known = sessions.get(name);
    if (known !== undefined) return known;
    const opened = runtime.open(make());
    sessions.set(name, opened);
    return opened;
  }

  function loaded(): Float32Array {
    if (weights === undefined)
      throw new PolicyError("NO_WEIGHTS", "The trainer has no weights yet; init, load or restore it first.");
    return weights;
  }

  function requireSize(flat: Float32Array): Float32Array {
    if (flat.length === total) return flat;
    throw new PolicyError("WRONG_SIZE", `The model has ${total} parameters; ${flat.length} were given.`);
  }

  /** Forward, backward and update over all passes. Answers the objective's metrics and the gradient's norm. */
  async function update(
    objective: Objective,
    passes: readonly Pass[],
    feedsOf: (pass: Pass) => Feeds,
    settings: StepSettings,
    context: EngineContext,
  ): Promise<Record<string, number>> {
    const names = metricNames[objective];
    const sums: Record<string, number> = Object.fromEntries(names.map((name) => [name, 0]));
    const before = loaded();
    const parameters = tensors(parameterFeeds(model, before));
    const optimizer = { ...optimizerFeeds(settings, state, before), decay };
    const addUp = (results: Record<string, Float32Array>) => {
      for (const name of names) sums[name]! += results[name]![0]!;
    };
    let updated: Record<string, Float32Array>;
    if (passes.length === 1) {
      const whole = await session(`${objective} step`, () =>
        trainGraph(model, { objective, output: "step" }),
      );
      updated = await whole.run({ ...parameters, ...feedsOf(passes[0]!), ...optimizer }, [
        ...names,
        ...updateOutputs,
      ]);
      addUp(updated);
    } else {
      const part = await session(`${objective} gradient`, () =>
        trainGraph(model, { objective, output: "gradient" }),
      );
      const gradient = new Float32Array(total);
      for (const pass of passes) {
        context.checkpoint();
        const results = await part.run({ ...parameters, ...feedsOf(pass) }, [...names, "gradient"]);
        addUp(results);
        const more = results.gradient!;
        for (let i = 0; i < total; i++) gradient[i]! += more[i]!;
      }
      const apply = await session("update", () => updateGraph(model));
      updated = await apply.run({ gradient: floats(gradient, [total]), ...optimizer }, updateOutputs);
    }
    const gradNorm = updated.gradientNorm![0]!;
    if (!Number.isFinite(gradNorm) || !Number.isFinite(sums.loss)) {
      throw new PolicyError(
        "NOT_FINITE",
        `The step gave loss ${sums.loss} and gradient norm ${gradNorm}; nothing was changed.`,
      );
    }
    weights = updated.newTheta!;
    state = { m: updated.newM!, v: updated.newV!, updates: state.updates + 1 };
    return { ...sums, gradNorm };
  }

  async function logprobs(
    flat: Float32Array,
    { rollouts, temperature }: { rollouts: readonly TokenPair[]; temperature: number },
    context: EngineContext,
  ): Promise<Float32Array[]> {
    const passes = passesThrough(model, rollouts);
    const score = await session("logprobs", () => trainGraph(model, { objective: "sft", output: "loss" }));
    const parameters = tensors(parameterFeeds(model, requireSize(flat)));
    const found: Float32Array[] = [];
    for (const pass of passes) {
      context.checkpoint();
      const feeds = { ...parameters, ...tokenFeeds(pass, 1, temperature) };
      const results = await score.run(feeds, ["logprobs"]);
      pass.pairs.forEach(({ prompt, tokens }, i) => {
        const start = i * pass.length + prompt.length - 1;
        found.push(results.logprobs!.slice(start, start + tokens.length));
      });
    }
    return found;
  }

  return {
    get provider() {
      return runtime.provider;
    },
    get weights() {
      return loaded();
    },
    get state() {
      return state;
    },
    load(flat, optimizer) {
      weights = requireSize(flat);
      state = optimizer;
    },
    setReference(flat) {
      reference = requireSize(flat);
    },
    resetOptimizer() {
      state = freshState(total);
    },
    async endImitation() {
      for (const name of ["sft step", "sft gradient"]) {
        await (await sessions.get(name))?.release();
        sessions.delete(name);
      }
    },
    async grpo({ rollouts, loss, step, temperature }, context) {
      requireRollouts(rollouts);
      const passes = passesThrough(model, rollouts);
      const tokens = rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
      if (loss.klCoefficient !== 0 && reference === undefined) {
        throw new PolicyError(
          "NO_REFERENCE",
          "klCoefficient is not 0; give the trainer its reference policy first (setReference).",
        );
      }
      // Without a KL term the reference only fills an input: the old policy, which costs nothing.
      const old = rollouts.map((rollout) => rollout.logprobs);
      const anchors =
        loss.klCoefficient === 0 || reference === undefined
          ? old
          : await logprobs(reference, { rollouts, temperature }, context);
      const feedsOf = (pass: Pass): Feeds => ({
        ...tokenFeeds(pass, 1 / tokens, temperature),
        oldLogprobs: perToken(pass, (i) => old[i]!),
        referenceLogprobs: perToken(pass, (i) => anchors[i]!),
        advantages: perToken(pass, (i) =>
          new Float32Array(rollouts[i]!.tokens.length).fill(rollouts[i]!.advantage),
        ),
        clipFrom: scalar(1 - loss.clipLow),
        clipTo: scalar(1 + loss.clipHigh),
        delta: scalar(loss.delta),
        klCoefficient: scalar(loss.klCoefficient),
        entropyCoefficient: scalar(loss.entropyCoefficient),
      });
      const metrics = await update("grpo", passes, feedsOf, step, context);
      // `update` answers every name in metricNames.grpo.
      return {
        ...(metrics as Omit<GrpoMetrics, "learningRate" | "tokens">),
        learningRate: step.learningRate,
        tokens,
      };
    },
    async imitate({ pairs, step }, context) {
      const passes = passesThrough(model, pairs);
      const tokens = pairs.reduce((sum, pair) => sum + pair.tokens.length, 0);
      if (tokens === 0) throw new PolicyError("EMPTY_BATCH", "The pairs have no tokens to imitate.");
      const { loss, gradNorm } = await update(
        "sft",
        passes,
        (pass) => tokenFeeds(pass, 1 / tokens, 1),
        step,
        context,
      );
      return { loss: loss!, gradNorm: gradNorm!, tokens };
    },
    logprobs,
  };
}

const updateOutputs = ["gradientNorm", "newTheta", "newM", "newV"];

/** Floats a pass may take: 96 MiB. A quarter or four times of it measured the same speed; memory grows with it. */
const PASS_FLOATS = 96 * 2 ** 18;

/** Neighbours that go through the model together; `first` is the index of the first of them in the batch. */
type Pass = { pairs: readonly TokenPair[]; first: number; length: number };

function passesThrough(model: ModelConfig, pairs: readonly TokenPair[]): Pass[] {
  requirePairs(model, pairs);
  const lengths = pairs.map((pair) => inputOf(pair).length);
  return passesOf(lengths, PASS_FLOATS, (length) => trainingFloatsPerToken(model, length)).map(
    ({ start, end }) => ({
      pairs: pairs.slice(start, end),
      first: start,
      length: Math.max(...lengths.slice(start, end)),
    }),
  );
}

/** Tokens, what followed them, and where that was output. */
function tokenFeeds({ pairs, length }: Pass, tokenShare: number, temperature: number): Feeds {
  const shape = [pairs.length, length];
  const tokens = new Int32Array(pairs.length * length);
  const targets = new Int32Array(pairs.length * length);
  const mask = new Float32Array(pairs.length * length);
  pairs.forEach((pair, i) => {
    tokens.set(inputOf(pair), i * length);
    const start = i * length + pair.prompt.length - 1;
    targets.set(pair.tokens, start);
    mask.fill(1, start, start + pair.tokens.length);
  });
  return {
    tokens: integers(tokens, shape),
    targets: integers(targets, shape),
    positions: integers(upTo(length), [length]),
    mask: floats(mask, shape),
    tokenShare: scalar(tokenShare),
    inverseTemperature: scalar(temperature === 0 ? 1 : 1 / temperature),
  };
}

/** One value an output token, at the position that predicts it; 0 elsewhere. */
function perToken({ pairs, first, length }: Pass, valuesOf: (index: number) => Float32Array) {
  const values = new Float32Array(pairs.length * length);
  pairs.forEach(({ prompt }, i) => {
    values.set(valuesOf(first + i), i * length + prompt.length - 1);
  });
  return floats(values, [pairs.length, length]);
}

function optimizerFeeds(
  settings: StepSettings,
  { m, v, updates }: OptimizerState,
  theta: Float32Array,
): Feeds {
  const flat = [theta.length];
  return {
    theta: floats(theta, flat),
    m: floats(m, flat),
    v: floats(v, flat),
    learningRate: scalar(settings.learningRate),
    beta1: scalar(settings.beta1),
    beta2: scalar(settings.beta2),
    correction1: scalar(1 / (1 - settings.beta1 ** (updates + 1))),
    correction2: scalar(1 / (1 - settings.beta2 ** (updates + 1))),
    epsilon: scalar(settings.epsilon),
    weightDecay: scalar(settings.weightDecay),
    maxGradientNorm: scalar(settings.maxGradientNorm),
  };
}

function requireRollouts(rollouts: readonly TrainRollout[]): void {
  if (!rollouts.some(({ tokens }) => tokens.length > 0)) {
    throw new PolicyError("EMPTY_BATCH", "The batch has no tokens to learn from.");
  }
  rollouts.forEach(({ tokens, logprobs, advantage }, i) => {
    if (logprobs.length !== tokens.length) {
      throw new PolicyError(
        "WRONG_SIZE",
        `Rollout ${i} has ${tokens.length} tokens and ${logprobs.length} old log-probabilities; compute those that are missing first.`,
      );
    }
    if (!Number.isFinite(advantage) || logprobs.some((value) => !Number.isFinite(value))) {
      throw new PolicyError(
        "NOT_FINITE",
        `Rollout ${i} has an advantage or an old log-probability that is not finite.`,
      );
    }
  });
}
