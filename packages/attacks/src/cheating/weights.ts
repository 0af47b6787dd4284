import { type ModelConfig, parameterLayout } from "@muster/policy/graph";
import { type ChooseCheckpoint, namedCheckpoint } from "@muster/worker";

/** The named checkpoint with its weights changed. @param change gets a copy of the flat parameters, in the order of `parameterLayout`. */
export function withWeights(
  id: string,
  change: (flat: Float32Array, model: ModelConfig) => Float32Array,
): ChooseCheckpoint {
  return async (ctx, assignment) => {
    const named = await namedCheckpoint(ctx, assignment);
    return {
      ...named,
      // a name of its own, so that the engine takes it for other weights
      manifestHash: `${id}:${named.manifestHash}`,
      weights: async () => change(Float32Array.from(await named.weights()), named.model),
    };
  };
}

/** Rounds each value to one of 2^(bits − 1) − 1 steps either side of 0, with one scale for each row of a matrix. */
export function quantized(flat: Float32Array, model: ModelConfig, bits: number): Float32Array {
  const steps = 2 ** (bits - 1) - 1;
  for (const { offset, size, shape } of parameterLayout(model).tensors) {
    const width = shape[shape.length - 1] ?? size;
    for (let start = offset; start < offset + size; start += width) {
      const row = flat.subarray(start, start + width);
      const scale = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / steps;
      if (scale > 0) for (let i = 0; i < row.length; i++) row[i] = Math.round((row[i] ?? 0) / scale) * scale;
    }
  }
  return flat;
}

/** Half of the layers do nothing: what they would add to the residual stream is 0. A smaller model with the same tokenizer. */
export function halved(flat: Float32Array, model: ModelConfig): Float32Array {
  const kept = Math.max(1, Math.floor(model.layers / 2));
  for (const { name, offset, size } of parameterLayout(model).tensors) {
    const [, layer] = /^model\.layers\.(\d+)\..*(?:o_proj|down_proj)\.weight$/.exec(name) ?? [];
    if (layer !== undefined && Number(layer) >= kept) flat.fill(0, offset, offset + size);
  }
  return flat;
}
