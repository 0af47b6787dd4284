import { type ModelConfig, modelProblems } from "@muster/policy";

/**
 * The decoder that a checkpoint's `config.json` describes. A node learns the model from here and from nowhere else.
 * @throws Error for anything but a complete Llama or Qwen 2 configuration that this software can run.
 */
export function readModelConfig(bytes: Uint8Array): ModelConfig {
  const config = parse(bytes);
  const number = (name: string): number => {
    const value = config[name];
    if (typeof value !== "number") throw unusable(`${name} is ${JSON.stringify(value)}`);
    return value;
  };
  const family = config.model_type;
  if (family !== "llama" && family !== "qwen2") throw unusable(`model_type is ${JSON.stringify(family)}`);
  const scaling = config.rope_scaling ?? null;
  if (scaling !== null) throw unusable("rope_scaling is not supported");
  const model: ModelConfig = {
    vocabularySize: number("vocab_size"),
    eos: number("eos_token_id"),
    hiddenSize: number("hidden_size"),
    layers: number("num_hidden_layers"),
    heads: number("num_attention_heads"),
    kvHeads: number("num_key_value_heads"),
    intermediateSize: number("intermediate_size"),
    maxPositions: number("max_position_embeddings"),
    tiedHead: config.tie_word_embeddings === true,
    qkvBias: family === "qwen2",
    ropeTheta: number("rope_theta"),
    rmsNormEps: number("rms_norm_eps"),
  };
  const problems = modelProblems(model);
  if (problems.length > 0) throw unusable(problems.join(" "));
  return model;
}

function parse(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw unusable("it is not JSON", { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw unusable("it is not an object");
  return Object.fromEntries(Object.entries(value));
}

function unusable(why: string, options?: ErrorOptions): Error {
  return new Error(`The checkpoint's config.json cannot be used: ${why}.`, options);
}
