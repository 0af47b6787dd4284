import { philoxInto } from "./philox.ts";
import { ProtocolError } from "./protocol-error.ts";

/** A stream of uniform draws fixed by a seed: what an environment builds its example from. */
export type Draws = {
  /** A uniform integer in 0 … bound − 1; bound ≤ 2³². Unbiased, by rejection. */
  below(bound: number): number;
  /** A uniform integer in low … high, both included. */
  between(low: number, high: number): number;
  /** One element of a non-empty list. */
  pick<T>(items: ArrayLike<T>): T;
  /** Fisher–Yates, in place. */
  shuffle<T>(items: T[]): void;
};

/**
 * Draws from Philox keyed by the seed's first two words, counter (block, stream, third word, fourth word).
 * @param seed at least 16 bytes.
 * @param stream separates independent streams of one seed: 0 … 2³² − 1.
 */
export function drawsFrom(seed: Uint8Array, stream: number): Draws {
  if (seed.length < 16) throw new ProtocolError("INVALID_SEED", `A seed has 32 bytes, not ${seed.length}.`);
  const view = new DataView(seed.buffer, seed.byteOffset, seed.byteLength);
  const [k0, k1] = [view.getUint32(0, true), view.getUint32(4, true)];
  const [c2, c3] = [view.getUint32(8, true), view.getUint32(12, true)];
  const lanes = new Uint32Array(4);
  let position = 0;

  function word(): number {
    const lane = position & 3;
    if (lane === 0) philoxInto(lanes, position >>> 2, stream, c2, c3, k0, k1);
    position++;
    return lanes[lane] ?? 0;
  }

  function below(bound: number): number {
    const limit = 2 ** 32 - (2 ** 32 % bound);
    let x = word();
    while (x >= limit) x = word();
    return x % bound;
  }

  return {
    below,
    between: (low, high) => low + below(high - low + 1),
    pick<T>(items: ArrayLike<T>): T {
      return items[below(items.length)] as T; // below() stays inside the list
    },
    shuffle<T>(items: T[]): void {
      for (let i = items.length - 1; i > 0; i--) {
        const j = below(i + 1);
        const held = items[i] as T; // i and j are inside the list
        items[i] = items[j] as T;
        items[j] = held;
      }
    },
  };
}
