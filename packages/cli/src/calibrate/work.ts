// Tasks as a coordinator would hand them out, generated on one machine and measured on another.
import type { ExecutionProvider, Policy } from "@muster/policy";
import {
  environment,
  exampleSeed,
  type MeasuredRollout,
  type PackedRollout,
  type PhiloxKey,
  type RunSpec,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";

/** How a machine computes: everything in which two honest ones may differ here. */
export type Configuration = {
  provider: ExecutionProvider;
  threads: number;
  optimization: "all" | "disabled";
  /** Rollouts that go through the model at once. */
  batchSize: number;
};

export type KeyedPrompt = { prompt: Int32Array; key: PhiloxKey };

/** The prompts and keys of task number `task`, a group's rollouts one after another. */
export function promptsOf(spec: RunSpec, task: number, groups: number): KeyedPrompt[] {
  const env = environment(spec.environment);
  const { groupSize } = spec.generation;
  const name = toTypeId("task", `00000000-0000-7000-8000-${task.toString(16).padStart(12, "0")}`);
  return Array.from({ length: groups }, (_, group) => {
    const { prompt } = env.example(exampleSeed(spec.seed, name, group), "train");
    const tokens = Int32Array.from(env.tokenizer.encode(prompt));
    return Array.from({ length: groupSize }, (_, i) => ({
      prompt: tokens,
      key: rolloutKey(spec.seed, name, group * groupSize + i),
    }));
  }).flat();
}

/** Draws and proves the outputs, `batchSize` at a time. */
export async function generate(
  policy: Policy,
  spec: RunSpec,
  prompts: readonly KeyedPrompt[],
  {
    batchSize,
    sampling = spec.generation.sampling,
  }: {
    batchSize: number;
    sampling?: RunSpec["generation"]["sampling"];
  },
): Promise<PackedRollout[]> {
  const { maxOutputTokens } = spec.generation;
  const { form, topK } = spec.verification;
  const { eos } = environment(spec.environment).tokenizer;
  const rollouts: PackedRollout[] = [];
  for (const batch of batches(prompts, batchSize)) {
    const generated = await policy.generate({
      prompts: batch.map(({ prompt }) => prompt),
      keys: batch.map(({ key }) => key),
      sampling,
      maxOutputTokens,
      eos,
      proof: { form, topK },
    });
    generated.forEach((rollout, i) => {
      rollouts.push({ index: rollouts.length, prompt: batch[i]!.prompt, ...rollout });
    });
  }
  return rollouts;
}

/** What a validator sees of rollouts that answer these prompts. */
export async function measure(
  policy: Policy,
  spec: RunSpec,
  prompts: readonly KeyedPrompt[],
  rollouts: readonly PackedRollout[],
  batchSize: number,
): Promise<MeasuredRollout[]> {
  const { form, topK } = spec.verification;
  const { sampling } = spec.generation;
  const pairs = rollouts.map(({ prompt, tokens }, i) => ({ prompt, tokens, key: prompts[i]!.key }));
  const measured: MeasuredRollout[] = [];
  for (const batch of batches(pairs, batchSize))
    measured.push(...(await policy.measure({ rollouts: batch, sampling, form, topK })));
  return measured;
}

function* batches<T>(items: readonly T[], size: number): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size);
}
