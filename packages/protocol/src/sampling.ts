/**
 * Seeded sampling (Gumbel-max with counter-based noise): given the same logits, everyone who knows the key picks the same token,
 * and anyone can measure by how much another choice would have been better. docs/protocol.md §sampling fixes it to the byte.
 */

import { type PhiloxKey, philoxInto } from "./philox.ts";
import { ProtocolError } from "./protocol-error.ts";

/** How tokens are drawn. Applied in this order: penalty, temperature, top-k, top-p, min-p, noise. */
export type Sampling = {
  /** Logits are divided by it; 0 = greedy, no noise and no support. */
  temperature: number;
  /** Keep the k largest logits (ties: lowest id); 0 = all. */
  topK: number;
  /** Keep the smallest prefix, by probability, that reaches this mass; 1 = all. */
  topP: number;
  /** Keep tokens at least this fraction as probable as the most probable one; 0 = all. */
  minP: number;
  /** Positive logits of tokens already seen are divided by it, negative ones multiplied; 1 = none. */
  repetitionPenalty: number;
};

/**
 * The token for one output position.
 * @param logits the model's row, one float32 a token of the vocabulary.
 * @param contextTokens prompt and output so far (read only when there is a repetition penalty).
 * @param position of the output token, from 0.
 * @throws ProtocolError `INVALID_TOKEN` when no logit is a number.
 */
export function sampleToken(
  logits: Float32Array,
  contextTokens: ArrayLike<number>,
  key: PhiloxKey,
  position: number,
  sampling: Sampling,
): { token: number } {
  if (drawsFromAll(sampling)) {
    return { token: checked(argmaxWithNoise(logits, sampling.temperature, key, position)) };
  }
  const scaled = scaledLogits(logits, contextTokens, sampling);
  if (sampling.temperature === 0) return { token: checked(argmax(scaled)) };
  const support = supportOf(scaled, sampling);
  let token = -1;
  let best = -Infinity;
  for (let rank = 0; rank < support.size; rank++) {
    const id = support.order[rank]!;
    const score = scaled[id]! + gumbel(key, position, id);
    if (score > best || (score === best && id < token)) {
      best = score;
      token = id;
    }
  }
  return { token: checked(token) };
}

/**
 * How far `chosen` is from being the seeded choice under these logits.
 * `argmax` is the seeded choice; `margin` is 0 when it is `chosen`, else by how much its score falls short. Where a support
 * boundary decides (top-k, top-p, min-p), the margin is how far the boundary would have to move, if that explains it more cheaply.
 * A token outside the vocabulary has margin Infinity.
 */
export function sampleMargin(
  logits: Float32Array,
  contextTokens: ArrayLike<number>,
  key: PhiloxKey,
  position: number,
  sampling: Sampling,
  chosen: number,
): { argmax: number; margin: number } {
  const known = Number.isInteger(chosen) && chosen >= 0 && chosen < logits.length;
  if (drawsFromAll(sampling)) {
    const best = checked(argmaxWithNoise(logits, sampling.temperature, key, position));
    if (best === chosen) return { argmax: best, margin: 0 };
    if (!known) return { argmax: best, margin: Infinity };
    const score = (token: number) => logits[token]! / sampling.temperature + gumbel(key, position, token);
    return { argmax: best, margin: finiteOrInfinite(score(best) - score(chosen)) };
  }
  const scaled = scaledLogits(logits, contextTokens, sampling);
  if (sampling.temperature === 0) {
    const best = checked(argmax(scaled));
    return { argmax: best, margin: known ? finiteOrInfinite(scaled[best]! - scaled[chosen]!) : Infinity };
  }
  const support = supportOf(scaled, sampling);
  const best = sampleToken(logits, contextTokens, key, position, sampling).token;
  if (best === chosen) return { argmax: best, margin: 0 };
  if (!known) return { argmax: best, margin: Infinity };
  const chosenScore = scaled[chosen]! + gumbel(key, position, chosen);
  let margin = inclusionCost(scaled, support, sampling, support.order.indexOf(chosen));
  for (let rank = 0; rank < support.size; rank++) {
    const id = support.order[rank]!;
    const shortfall = scaled[id]! + gumbel(key, position, id) - chosenScore;
    if (shortfall <= margin) continue;
    margin = Math.max(margin, Math.min(shortfall, exclusionCost(scaled, support, sampling, rank)));
  }
  return { argmax: best, margin: finiteOrInfinite(margin) };
}

/**
 * Standard Gumbel noise of one token at one output position: word `token & 3` of Philox at counter (token >>> 2, position, 0, 0)
 * gives x; u = (x + 0.5) · 2⁻³²; the noise is −ln(−ln u).
 */
export function gumbel(key: PhiloxKey, position: number, token: number): number {
  philoxInto(lanes, token >>> 2, position, 0, 0, key[0], key[1]);
  return gumbelOf(lanes[token & 3]!);
}

/**
 * Log-softmax over the whole vocabulary of logits / temperature at `token`, before penalty and support, rounded to float32:
 * what a claim, a measurement and the loss all mean by log-probability. Temperature 0 counts as 1.
 */
export function logProbability(logits: Float32Array, token: number, temperature: number): number {
  const scale = temperature === 0 ? 1 : temperature;
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i++) if (logits[i]! > largest) largest = logits[i]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i]! - largest) / scale);
  return Math.fround((logits[token]! - largest) / scale - Math.log(sum));
}

/** Scratch for one Philox block: sampling runs once for every token of every rollout. */
const lanes = new Uint32Array(4);

/** Above the largest noise there is: u ≤ 1 − 2⁻³³, so −ln(−ln u) ≤ 22.88. */
const noiseCeiling = 22.9;

/** ln 2, and a little for rounding: a bound must never be too low. */
const logTwo = Math.LN2 + 1e-6;

function gumbelOf(x: number): number {
  return -Math.log(-Math.log((x + 0.5) * 2 ** -32));
}

function drawsFromAll({ temperature, topK, topP, minP, repetitionPenalty }: Sampling): boolean {
  return temperature !== 0 && topK === 0 && topP === 1 && minP === 0 && repetitionPenalty === 1;
}

function argmaxWithNoise(
  logits: Float32Array,
  temperature: number,
  key: PhiloxKey,
  position: number,
): number {
  let token = -1;
  let best = -Infinity;
  for (let start = 0; start < logits.length; start += 4) {
    const end = Math.min(start + 4, logits.length);
    let largest = logits[start]!;
    for (let i = start + 1; i < end; i++) if (logits[i]! > largest) largest = logits[i]!;
    // No noise can lift these four above the best so far: with a large vocabulary this skips nearly all of them.
    if (largest / temperature + noiseCeiling < best) continue;
    philoxInto(lanes, start >>> 2, position, 0, 0, key[0], key[1]);
    for (let i = start; i < end; i++) {
      const x = lanes[i & 3]!;
      const logit = logits[i]! / temperature;
      // −ln u ≥ 1 − u, so the noise is at most −ln(1 − u), which leading ones of x bound: two logarithms saved for most tokens.
      if (logit + (Math.clz32(~x) + 1) * logTwo < best) continue;
      const score = logit + gumbelOf(x);
      if (score > best) {
        best = score;
        token = i;
      }
    }
  }
  return token;
}

function argmax(values: Float64Array): number {
  let token = -1;
  let best = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > best) {
      best = values[i]!;
      token = i;
    }
  }
  return token;
}

function scaledLogits(logits: Float32Array, context: ArrayLike<number>, sampling: Sampling): Float64Array {
  const scaled = Float64Array.from(logits);
  if (sampling.repetitionPenalty !== 1) {
    const seen = new Set<number>();
    for (let i = 0; i < context.length; i++) seen.add(context[i]!);
    for (const token of seen) {
      const logit = scaled[token];
      if (logit === undefined) continue;
      scaled[token] = logit > 0 ? logit / sampling.repetitionPenalty : logit * sampling.repetitionPenalty;
    }
  }
  if (sampling.temperature !== 0)
    for (let i = 0; i < scaled.length; i++) scaled[i] = scaled[i]! / sampling.temperature;
  return scaled;
}

/** Token ids by falling logit, and how many of them may be drawn. Every filter keeps a prefix. */
type Support = {
  order: Int32Array;
  size: number;
  /** Kept by top-k. */
  afterTopK: number;
  /** Kept by top-p of those. */
  afterTopP: number;
  /** Probability, among those that top-k kept, of everything ranked before each. */
  massBefore: Float64Array;
};

function supportOf(scaled: Float64Array, { topK, topP, minP }: Sampling): Support {
  const order = Int32Array.from(scaled.keys()).sort((a, b) => scaled[b]! - scaled[a]! || a - b);
  const afterTopK = topK === 0 ? order.length : Math.min(topK, order.length);
  const top = scaled[order[0]!]!;
  let total = 0;
  for (let rank = 0; rank < afterTopK; rank++) total += Math.exp(scaled[order[rank]!]! - top);
  const massBefore = new Float64Array(afterTopK);
  let afterTopP = topP < 1 ? 0 : afterTopK;
  let mass = 0;
  for (let rank = 0; rank < afterTopK; rank++) {
    massBefore[rank] = mass;
    if (topP < 1 && (rank === 0 || mass < topP)) afterTopP = rank + 1;
    mass += Math.exp(scaled[order[rank]!]! - top) / total;
  }
  let size = afterTopP;
  while (size > 1 && Math.exp(scaled[order[size - 1]!]! - top) < minP) size--;
  return { order, size, afterTopK, afterTopP, massBefore };
}

/** By how much boundaries must move for the token at `rank` to be in the support; 0 when it is. */
function inclusionCost(
  scaled: Float64Array,
  support: Support,
  { topP, minP }: Sampling,
  rank: number,
): number {
  if (rank < support.size) return 0;
  const { order, afterTopK, afterTopP, massBefore } = support;
  const logitAt = (position: number) => scaled[order[position]!]!;
  const logit = logitAt(rank);
  let cost = rank >= afterTopK ? logitAt(afterTopK - 1) - logit : 0;
  if (topP < 1 && rank >= afterTopP) {
    // Either it overtakes the last one kept, or it climbs to some rank and the mass boundary moves there.
    let cheapest = logitAt(afterTopP - 1) - logit;
    for (let target = Math.min(rank, afterTopK - 1); target >= afterTopP; target--) {
      cheapest = Math.min(cheapest, Math.max(logitAt(target) - logit, massBefore[target]! - topP));
    }
    cost = Math.max(cost, cheapest);
  }
  if (minP > 0) cost = Math.max(cost, logitAt(0) + Math.log(minP) - logit);
  return cost;
}

/** By how much one boundary must move for the token at `rank`, now in the support, to fall out of it. */
function exclusionCost(
  scaled: Float64Array,
  support: Support,
  { topP, minP }: Sampling,
  rank: number,
): number {
  const { order, afterTopK, afterTopP, massBefore } = support;
  const logitAt = (position: number) => scaled[order[position]!]!;
  const logit = logitAt(rank);
  let cost = afterTopK < order.length ? logit - logitAt(afterTopK) : Infinity;
  if (topP < 1) {
    // Either the first one dropped overtakes it, or it sinks to some rank and the mass boundary moves there.
    if (afterTopP < afterTopK) cost = Math.min(cost, logit - logitAt(afterTopP));
    for (let target = Math.max(rank, 1); target < afterTopP; target++) {
      cost = Math.min(cost, Math.max(logit - logitAt(target), topP - massBefore[target]!));
    }
  }
  if (minP > 0 && rank > 0) cost = Math.min(cost, logit - (logitAt(0) + Math.log(minP)));
  return Math.max(cost, 0);
}

/** Infinite logits can make a difference NaN; a margin that cannot be measured is not a small one. */
function finiteOrInfinite(margin: number): number {
  return Number.isNaN(margin) ? Infinity : margin;
}

function checked(token: number): number {
  if (token < 0) {
    throw new ProtocolError(
      "INVALID_TOKEN",
      "No logit is a number, so no token can be drawn; the weights are broken.",
    );
  }
  return token;
}
