import {
  demoRunSpec,
  type Environment,
  environment,
  exampleSeed,
  groupAdvantages,
  hasSignal,
  heldOutExample,
  type RunSpec,
  rolloutKey,
} from "@muster/protocol";
import type { ModelConfig, Policy, TokenPair, TrainRollout } from "../../src/index.ts";

/** The demo run without a network: what its coordinator, workers and trainer do, in one process. */
export function sortDigits(seed: number) {
  const spec = demoRunSpec({ seed });
  const env = environment(spec.environment);
  const model: ModelConfig = {
    ...spec.model,
    vocabularySize: env.tokenizer.vocabularySize,
    eos: env.tokenizer.eos,
  };
  return { spec, env, model };
}

export function corpusPairs(spec: RunSpec, env: Environment, step: number, batchSize: number): TokenPair[] {
  const seed = Uint8Array.from(spec.seed.match(/../g)!, (byte) => Number.parseInt(byte, 16));
  return env.corpus(seed, step * batchSize, batchSize).map(({ prompt, answer }) => ({
    prompt: Int32Array.from(env.tokenizer.encode(prompt)),
    tokens: Int32Array.from([...env.tokenizer.encode(answer), env.tokenizer.eos]),
  }));
}

/** Generates one step's groups; answers those with signal as a batch, and the mean reward of all. */
export async function generateBatch(
  policy: Policy,
  spec: RunSpec,
  env: Environment,
  step: number,
  groups: number,
) {
  const { groupSize, sampling } = spec.generation;
  const task = `task_${step}`;
  const examples = Array.from({ length: groups }, (_, group) =>
    env.example(exampleSeed(spec.seed, task, group), "train"),
  );
  const prompts = examples.flatMap(({ prompt }) => {
    const tokens = Int32Array.from(env.tokenizer.encode(prompt));
    return Array.from({ length: groupSize }, () => tokens);
  });
  const generated = await policy.generate({
    prompts,
    keys: prompts.map((_, i) => rolloutKey(spec.seed, task, i)),
    sampling,
    maxOutputTokens: env.maxOutputTokens,
    eos: env.tokenizer.eos,
  });
  const rollouts: TrainRollout[] = [];
  let total = 0;
  examples.forEach((example, group) => {
    const own = generated.slice(group * groupSize, (group + 1) * groupSize);
    const rewards = own.map(
      ({ tokens, finish }) =>
        env.score(example, env.tokenizer.decode(tokens), { finishReason: finish }).reward,
    );
    total += rewards.reduce((sum, reward) => sum + reward, 0);
    if (!hasSignal(rewards)) return;
    const advantages = groupAdvantages(rewards, spec.training.advantageEpsilon);
    own.forEach(({ tokens, logprobs }, i) => {
      rollouts.push({ prompt: prompts[group * groupSize]!, tokens, logprobs, advantage: advantages[i]! });
    });
  });
  return { rollouts, meanReward: total / prompts.length };
}

/** Mean reward on held-out examples, paired between versions by their keys. */
export async function evaluate(
  policy: Policy,
  spec: RunSpec,
  env: Environment,
  examples: number,
): Promise<number> {
  const suite = Array.from({ length: examples }, (_, i) => heldOutExample(env, "held-out", i));
  const generated = await policy.generate({
    prompts: suite.map(({ prompt }) => Int32Array.from(env.tokenizer.encode(prompt))),
    keys: suite.map((_, i) => rolloutKey(spec.seed, "eval:held-out", i)),
    sampling: spec.generation.sampling,
    maxOutputTokens: env.maxOutputTokens,
    eos: env.tokenizer.eos,
  });
  const rewards = generated.map(
    ({ tokens, finish }, i) =>
      env.score(suite[i]!, env.tokenizer.decode(tokens), { finishReason: finish }).reward,
  );
  return rewards.reduce((sum, reward) => sum + reward, 0) / examples;
}
