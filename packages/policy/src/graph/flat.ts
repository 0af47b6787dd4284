/**
 * Rollouts and what was measured of them, as a few long arrays. Crossing to a thread costs about as much for an array of seven
 * numbers as for one of seven thousand: as one array a field, a thousand rollouts took longer to send than to measure.
 */

import type { MeasuredRollout, PhiloxKey } from "@muster/protocol";
import { pointCount, windowsOf } from "@muster/toploc";
import type { TokenPair } from "./rollouts.ts";

/** Rollouts one after another. */
export type FlatPairs = {
  /** Two numbers a rollout: the lengths of its prompt and of its output. */
  lengths: Int32Array;
  /** Prompt and output of each. */
  tokens: Int32Array;
};

export function flattenPairs(pairs: readonly TokenPair[]): FlatPairs {
  const lengths = new Int32Array(2 * pairs.length);
  let total = 0;
  for (const { prompt, tokens } of pairs) total += prompt.length + tokens.length;
  const flat = new Int32Array(total);
  let at = 0;
  pairs.forEach(({ prompt, tokens }, i) => {
    lengths[2 * i] = prompt.length;
    lengths[2 * i + 1] = tokens.length;
    flat.set(prompt, at);
    flat.set(tokens, at + prompt.length);
    at += prompt.length + tokens.length;
  });
  return { lengths, tokens: flat };
}

/** Views of the flat arrays. */
export function pairsOf({ lengths, tokens }: FlatPairs): TokenPair[] {
  let at = 0;
  return Array.from({ length: lengths.length / 2 }, (_, i) => {
    const middle = at + lengths[2 * i]!;
    const end = middle + lengths[2 * i + 1]!;
    const pair = { prompt: tokens.subarray(at, middle), tokens: tokens.subarray(middle, end) };
    at = end;
    return pair;
  });
}

/** Two words a rollout. */
export function flattenKeys(keys: readonly PhiloxKey[]): Uint32Array {
  const words = new Uint32Array(2 * keys.length);
  keys.forEach(([first, second], i) => {
    words[2 * i] = first;
    words[2 * i + 1] = second;
  });
  return words;
}

/** What was measured, rollouts one after another. */
export type FlatMeasurement = {
  logprobs: Float32Array;
  argmax: Int32Array;
  margins: Float32Array;
  /** Of every window of every rollout. */
  indices: Uint32Array;
  values: Float32Array;
};

/** Room for the measurement of outputs of these lengths, and views of it for each. */
export function roomFor(
  outputs: readonly number[],
  hiddenSize: number,
  topK: number,
): { flat: FlatMeasurement; rollouts: MeasuredRollout[] } {
  let tokens = 0;
  let points = 0;
  for (const length of outputs) {
    tokens += length;
    for (const { start, end } of windowsOf(length)) points += pointCount(end - start, hiddenSize, topK);
  }
  const flat: FlatMeasurement = {
    logprobs: new Float32Array(tokens),
    argmax: new Int32Array(tokens),
    margins: new Float32Array(tokens),
    indices: new Uint32Array(points),
    values: new Float32Array(points),
  };
  return { flat, rollouts: measurementsOf(flat, outputs, hiddenSize, topK) };
}

/** Views of the flat arrays. */
export function measurementsOf(
  flat: FlatMeasurement,
  outputs: readonly number[],
  hiddenSize: number,
  topK: number,
): MeasuredRollout[] {
  let token = 0;
  let point = 0;
  return outputs.map((length) => {
    const from = token;
    token += length;
    return {
      logprobs: flat.logprobs.subarray(from, token),
      argmax: flat.argmax.subarray(from, token),
      margins: flat.margins.subarray(from, token),
      windows: windowsOf(length).map(({ start, end }) => {
        const first = point;
        point += pointCount(end - start, hiddenSize, topK);
        return { indices: flat.indices.subarray(first, point), values: flat.values.subarray(first, point) };
      }),
    };
  });
}
