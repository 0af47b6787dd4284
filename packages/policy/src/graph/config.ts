/**
 * The shape of the decoder: a Llama (Touvron et al., 2023: RMSNorm, rotary positions, SwiGLU, optional grouped-query attention),
 * or with `qkvBias` a Qwen2. Field names follow the run spec's `model`.
 */
export type ModelConfig = {
  vocabularySize: number;
  /** Token id that ends a completion. */
  eos: number;
  hiddenSize: number;
  layers: number;
  /** Query heads; `hiddenSize / heads` is the width of a head, and even. */
  heads: number;
  /** Key and value heads; divides `heads`. Fewer than `heads` is grouped-query attention. */
  kvHeads: number;
  /** Width of the SwiGLU layer. */
  intermediateSize: number;
  /** Longest sequence, prompt and output together. */
  maxPositions: number;
  /** The output head is the embedding table. */
  tiedHead: boolean;
  /** Biases on the query, key and value projections, as in Qwen2. */
  qkvBias: boolean;
  ropeTheta: number;
  rmsNormEps: number;
};

/** Width of one attention head. */
export function headSize(config: ModelConfig): number {
  return config.hiddenSize / config.heads;
}

/** What makes the configuration impossible, in words; empty when nothing does. */
export function modelProblems(config: ModelConfig): string[] {
  const problems: string[] = [];
  const counts = [
    "vocabularySize",
    "hiddenSize",
    "layers",
    "heads",
    "kvHeads",
    "intermediateSize",
    "maxPositions",
  ] as const;
  for (const name of counts) {
    if (!Number.isInteger(config[name]) || config[name] < 1)
      problems.push(`${name} is ${config[name]}; give a whole number ≥ 1.`);
  }
  if (problems.length > 0) return problems;
  if (config.hiddenSize % (2 * config.heads) !== 0) {
    problems.push(
      `hiddenSize ${config.hiddenSize} is not an even multiple of heads ${config.heads}; rotary heads have an even width.`,
    );
  }
  if (config.heads % config.kvHeads !== 0) {
    problems.push(`heads ${config.heads} is not a multiple of kvHeads ${config.kvHeads}.`);
  }
  if (!Number.isInteger(config.eos) || config.eos < 0 || config.eos >= config.vocabularySize) {
    problems.push(`eos ${config.eos} is outside the vocabulary of ${config.vocabularySize}.`);
  }
  if (!(config.ropeTheta > 0)) problems.push(`ropeTheta is ${config.ropeTheta}; give a number above 0.`);
  if (!(config.rmsNormEps > 0)) problems.push(`rmsNormEps is ${config.rmsNormEps}; give a number above 0.`);
  return problems;
}

/** The contents of a Hugging Face `config.json` for `LlamaForCausalLM`, or `Qwen2ForCausalLM` when there are biases. */
export function huggingFaceConfig(config: ModelConfig): Record<string, unknown> {
  const family = config.qkvBias
    ? { architectures: ["Qwen2ForCausalLM"], model_type: "qwen2", use_sliding_window: false }
    : { architectures: ["LlamaForCausalLM"], model_type: "llama", attention_bias: false, mlp_bias: false };
  return {
    ...family,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: headSize(config),
    vocab_size: config.vocabularySize,
    max_position_embeddings: config.maxPositions,
    hidden_act: "silu",
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.ropeTheta,
    rope_scaling: null,
    tie_word_embeddings: config.tiedHead,
    attention_dropout: 0,
    initializer_range: 0.02,
    use_cache: true,
    bos_token_id: null,
    eos_token_id: config.eos,
    pad_token_id: null,
    torch_dtype: "float32",
  };
}
