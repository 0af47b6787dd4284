import { headSize, type ModelConfig } from "../graph/config.ts";
import { cacheNames } from "../graph/inference.ts";
import { type Feeds, floats } from "./session.ts";

/**
 * Keys and values of a set of sequences, [rows, kvHeads, capacity, headSize] a layer, position p in slot p. The model only reads it;
 * what a step adds is copied in here.
 */
export type KeyValueCache = {
  readonly capacity: number;
  /** The cache as feeds of the decode graph. */
  feeds(): Feeds;
  /** Adds one position to each row. `present` holds a step's new keys and values. */
  append(present: Record<string, Float32Array>, positions: ArrayLike<number>): void;
  /** Keeps only the given rows, in that order. */
  keep(rows: readonly number[]): void;
};

/**
 * A cache filled from a prefill: row i starts as a copy of sequence `sources[i]`.
 * @param present the prefill's keys and values, `length` positions a sequence.
 * @param most positions a row may come to have.
 */
export function cacheFrom(
  config: ModelConfig,
  present: Record<string, Float32Array>,
  sources: readonly number[],
  length: number,
  most: number,
): KeyValueCache {
  const size = headSize(config);
  const heads = config.kvHeads;
  const layers = Array.from({ length: config.layers }, (_, layer) => layer);
  const names = layers.flatMap((layer) => {
    const past = cacheNames.past(layer);
    const now = cacheNames.present(layer);
    return [
      { past: past.keys, present: now.keys },
      { past: past.values, present: now.values },
    ];
  });
  let rows = sources.length;
  let capacity = Math.min(most, Math.max(length, roundUp(length + 1)));
  let tensors = new Map(
    names.map((name) => [name.past, gather(present[name.present]!, sources, length, capacity)]),
  );

  /** Rows of a [?, heads, from, size] tensor, with room for `to` positions. */
  function gather(source: Float32Array, picked: readonly number[], from: number, to: number): Float32Array {
    const target = new Float32Array(picked.length * heads * to * size);
    const kept = Math.min(from, to) * size;
    picked.forEach((row, i) => {
      for (let head = 0; head < heads; head++) {
        const start = (row * heads + head) * from * size;
        target.set(source.subarray(start, start + kept), (i * heads + head) * to * size);
      }
    });
    return target;
  }

  function rebuild(picked: readonly number[], to: number): void {
    tensors = new Map([...tensors].map(([name, tensor]) => [name, gather(tensor, picked, capacity, to)]));
    rows = picked.length;
    capacity = to;
  }

  return {
    get capacity() {
      return capacity;
    },
    feeds: () =>
      Object.fromEntries(
        [...tensors].map(([name, data]) => [name, floats(data, [rows, heads, capacity, size])]),
      ),
    append(now, positions) {
      const furthest = Math.max(...Array.from(positions));
      if (furthest >= capacity) {
        const everyRow = Array.from({ length: rows }, (_, row) => row);
        rebuild(everyRow, Math.min(most, roundUp(Math.max(furthest + 1, capacity * 1.5))));
      }
      for (const name of names) {
        const source = now[name.present]!;
        const target = tensors.get(name.past)!;
        for (let row = 0; row < rows; row++) {
          for (let head = 0; head < heads; head++) {
            const pair = row * heads + head;
            const from = pair * size;
            const to = (pair * capacity + positions[row]!) * size;
            for (let i = 0; i < size; i++) target[to + i] = source[from + i]!;
          }
        }
      }
    },
    keep: (picked) => rebuild(picked, capacity),
  };
}

function roundUp(positions: number): number {
  return Math.ceil(positions / 32) * 32;
}
