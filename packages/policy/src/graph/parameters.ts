/**
 * All parameters live in one Float32Array, which is byte for byte the data of `model.safetensors`: tensors in the order below,
 * each [out, in] as Hugging Face stores them. What the graphs multiply at once (query, key and value; gate and up) lies side by
 * side, so the fused matrix a graph is fed is a view of the same memory.
 */

import { type PhiloxKey, philox4x32 } from "@muster/protocol";
import { headSize, type ModelConfig } from "./config.ts";

/** A tensor of the file. `offset` and `size` count elements of the flat array. */
export type FileTensor = { name: string; shape: readonly number[]; offset: number; size: number };

/** What a graph is fed: one or more neighbouring tensors of the file as one. */
export type Parameter = FileTensor & {
  /** Weight decay applies: a matrix, not a norm or a bias. */
  decays: boolean;
  /** Its first values: normal deviates, or all the same. */
  initial: { deviation: number } | { constant: number };
};

export type ParameterLayout = {
  /** In flat order. */
  parameters: readonly Parameter[];
  /** In flat order. */
  tensors: readonly FileTensor[];
  /** Elements of the flat array. */
  total: number;
};

/** Where everything is in the flat array. */
export function parameterLayout(config: ModelConfig): ParameterLayout {
  const width = config.hiddenSize;
  const queries = config.heads * headSize(config);
  const keys = config.kvHeads * headSize(config);
  const inner = config.intermediateSize;
  const layout = new Layout();
  const ones = { constant: 1 };
  const fanIn = (inputs: number) => ({ deviation: 1 / Math.sqrt(inputs) });
  // Residual branches start smaller the more of them are added up (Radford et al., 2019).
  const residual = (inputs: number) => ({ deviation: 1 / Math.sqrt(inputs * 2 * config.layers) });

  layout.add("embedding", { deviation: 1 / 16 }, [
    ["model.embed_tokens.weight", [config.vocabularySize, width]],
  ]);
  for (let i = 0; i < config.layers; i++) {
    const inGraph = (name: string) => layerParameter(i, name);
    const inFile = (name: string) => `model.layers.${i}.${name}`;
    layout.add(inGraph("attentionNorm"), ones, [[inFile("input_layernorm.weight"), [width]]]);
    layout.add(inGraph("qkv"), fanIn(width), [
      [inFile("self_attn.q_proj.weight"), [queries, width]],
      [inFile("self_attn.k_proj.weight"), [keys, width]],
      [inFile("self_attn.v_proj.weight"), [keys, width]],
    ]);
    if (config.qkvBias) {
      layout.add(inGraph("qkvBias"), { constant: 0 }, [
        [inFile("self_attn.q_proj.bias"), [queries]],
        [inFile("self_attn.k_proj.bias"), [keys]],
        [inFile("self_attn.v_proj.bias"), [keys]],
      ]);
    }
    layout.add(inGraph("attentionOut"), residual(queries), [
      [inFile("self_attn.o_proj.weight"), [width, queries]],
    ]);
    layout.add(inGraph("mlpNorm"), ones, [[inFile("post_attention_layernorm.weight"), [width]]]);
    layout.add(inGraph("gateUp"), fanIn(width), [
      [inFile("mlp.gate_proj.weight"), [inner, width]],
      [inFile("mlp.up_proj.weight"), [inner, width]],
    ]);
    layout.add(inGraph("down"), residual(inner), [[inFile("mlp.down_proj.weight"), [width, inner]]]);
  }
  layout.add("norm", ones, [["model.norm.weight", [width]]]);
  if (!config.tiedHead)
    layout.add("head", fanIn(width), [["lm_head.weight", [config.vocabularySize, width]]]);
  return layout;
}

/** The name, in a graph, of a parameter of layer `layer`. */
export function layerParameter(layer: number, name: string): string {
  return `layer${layer}.${name}`;
}

/**
 * The parameters before any training: normal deviates by Philox and Box–Muller (Box and Muller, 1958), the same everywhere for the
 * same key.
 */
export function initialParameters(config: ModelConfig, key: PhiloxKey): Float32Array {
  const { parameters, total } = parameterLayout(config);
  const flat = new Float32Array(total);
  for (const { offset, size, initial } of parameters) {
    const values = flat.subarray(offset, offset + size);
    if ("constant" in initial) {
      values.fill(initial.constant);
    } else {
      for (let i = 0; i < size; i++) values[i] = initial.deviation * normalDeviate(key, offset + i);
    }
  }
  return flat;
}

/** 1 where weight decay applies, 0 elsewhere; one a parameter of the flat array. */
export function decayMask(config: ModelConfig): Float32Array {
  const { parameters, total } = parameterLayout(config);
  const mask = new Float32Array(total);
  for (const { offset, size, decays } of parameters) if (decays) mask.fill(1, offset, offset + size);
  return mask;
}

class Layout implements ParameterLayout {
  readonly parameters: Parameter[] = [];
  readonly tensors: FileTensor[] = [];
  total = 0;

  add(
    name: string,
    initial: Parameter["initial"],
    parts: readonly (readonly [string, readonly number[]])[],
  ): void {
    const offset = this.total;
    for (const [part, shape] of parts) {
      const size = shape.reduce((product, dimension) => product * dimension, 1);
      this.tensors.push({ name: part, shape, offset: this.total, size });
      this.total += size;
    }
    const first = parts[0]![1];
    const shape = [parts.reduce((rows, [, shape]) => rows + shape[0]!, 0), ...first.slice(1)];
    this.parameters.push({
      name,
      shape,
      offset,
      size: this.total - offset,
      decays: shape.length > 1,
      initial,
    });
  }
}

function normalDeviate(key: PhiloxKey, index: number): number {
  const [a, b] = philox4x32([index, 0, 0, 0], key);
  const radius = Math.sqrt(-2 * Math.log((a + 0.5) * 2 ** -32));
  return radius * Math.cos(2 * Math.PI * b * 2 ** -32);
}
