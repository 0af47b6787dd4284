// What is calibrated: a run's spec, and the policy that it is calibrated with.
import { type ModelConfig, Trainer } from "@muster/policy";
import { environment, type RunSpec, trainingSpecSchema } from "@muster/protocol";
import { Failure } from "../failure.ts";

/** A model with its weights, flat. */
export type Subject = { spec: RunSpec; model: ModelConfig; parameters: Float32Array };

/** The model that a spec describes. */
export function modelOf(spec: RunSpec): ModelConfig {
  const { tokenizer } = environment(spec.environment);
  const { initSeed: _, ...shape } = spec.model;
  return { ...shape, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };
}

/** Version 0 as its trainer makes it, for a spec that has no run yet. @throws Failure `NO_CHECKPOINT` when it comes from elsewhere. */
export async function warmedUp(
  spec: RunSpec,
  onProgress: (step: number, of: number) => void,
): Promise<Float32Array> {
  const { base } = spec;
  if (base.kind !== "warmup") {
    throw new Failure({
      exit: "usage",
      code: "NO_CHECKPOINT",
      what: `The spec's version 0 comes from a ${base.kind}, which is not here.`,
      fix: ["muster calibrate --spec <file> --checkpoint <folder>"],
    });
  }
  const { tokenizer, corpus } = environment(spec.environment);
  const { kind: _, ...warmup } = base;
  const seed = new Uint8Array(Buffer.from(spec.seed, "hex"));
  await using trainer = await Trainer.open({
    model: modelOf(spec),
    training: trainingSpecSchema.parse({}),
    providers: ["cpu"],
  });
  await trainer.init(spec.model.initSeed ?? spec.seed);
  await trainer.warmup({
    ...warmup,
    corpus: (step) =>
      corpus(seed, step * base.batchSize, base.batchSize).map(({ prompt, answer }) => ({
        prompt: Int32Array.from(tokenizer.encode(prompt)),
        tokens: Int32Array.from([...tokenizer.encode(answer), tokenizer.eos]),
      })),
    onProgress: ({ step }) => onProgress(step, base.steps),
  });
  return (await trainer.export()).flat;
}
