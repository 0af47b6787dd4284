/** Tensors as plain objects, so that any onnxruntime can be fed: each has a `Tensor` class of its own. */

export type Feed =
  | { type: "float32"; data: Float32Array; dims: readonly number[] }
  | { type: "int64"; data: BigInt64Array; dims: readonly number[] };

export type Feeds = Record<string, Feed>;

/** float32 data; the memory is read when the model runs. */
export function floats(data: Float32Array, dims: readonly number[]): Feed {
  return { type: "float32", data, dims };
}

/** int64 data. Written through 32-bit halves: making a BigInt of every token costs more than a small model's embedding. */
export function integers(values: ArrayLike<number>, dims: readonly number[]): Feed {
  const halves = new Int32Array(values.length * 2);
  for (let i = 0; i < values.length; i++) {
    halves[2 * i] = values[i]!;
    halves[2 * i + 1] = values[i]! < 0 ? -1 : 0;
  }
  return { type: "int64", data: new BigInt64Array(halves.buffer), dims };
}

/** Sequences as rows of one length, at least 1. */
export function padded(sequences: readonly Int32Array[]): { tokens: Int32Array; length: number } {
  const length = Math.max(1, ...sequences.map((sequence) => sequence.length));
  const tokens = new Int32Array(sequences.length * length);
  sequences.forEach((sequence, i) => {
    tokens.set(sequence, i * length);
  });
  return { tokens, length };
}
