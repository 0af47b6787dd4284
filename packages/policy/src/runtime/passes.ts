/** How much goes through a model at once. Fixed by the model and the sequences, never by the machine: sums must not depend on it. */

import { headSize, type ModelConfig } from "../graph/config.ts";
import { PolicyError } from "./policy-error.ts";

/** What one sequence position may need, in floats, at the widest point of a forward pass over sequences of `length`. */
export function inferenceFloatsPerToken(model: ModelConfig, length: number): number {
  const attention = 2 * model.heads * length + 2 * (model.heads + 2 * model.kvHeads) * headSize(model);
  const feedForward = 4 * model.intermediateSize;
  const cached = 2 * model.layers * model.kvHeads * headSize(model);
  return 4 * model.hiddenSize + Math.max(attention, feedForward) + cached + 2 * model.vocabularySize;
}

/** The same for forward and backward: what the forward pass leaves for the backward pass adds up over the layers. */
export function trainingFloatsPerToken(model: ModelConfig, length: number): number {
  const layer = 20 * model.hiddenSize + 12 * model.intermediateSize + 4 * model.heads * length;
  return model.layers * layer + 8 * model.vocabularySize + 8 * model.hiddenSize;
}

/** Floats one sequence may take when it goes alone: 2 GiB. */
const MOST_FLOATS = 2 ** 29;

/**
 * Cuts a list into consecutive passes of which none, padded to its longest member, needs more than `budget` floats. A member that
 * needs more goes alone.
 * @param lengths positions of each member.
 * @returns ranges [start, end).
 * @throws PolicyError `TOO_LARGE` when a member needs more than 2 GiB.
 */
export function passesOf(
  lengths: readonly number[],
  budget: number,
  floatsPerToken: (length: number) => number,
): { start: number; end: number }[] {
  const passes: { start: number; end: number }[] = [];
  let start = 0;
  let longest = 0;
  lengths.forEach((length, i) => {
    const alone = length * floatsPerToken(length);
    if (alone > MOST_FLOATS) {
      throw new PolicyError(
        "TOO_LARGE",
        `A sequence of ${length} positions needs about ${megabytes(alone)} MB of activations; at most ${megabytes(MOST_FLOATS)} MB are used. ` +
          "Use shorter sequences or a smaller model.",
      );
    }
    const wider = Math.max(longest, length);
    if (i > start && (i - start + 1) * wider * floatsPerToken(wider) > budget) {
      passes.push({ start, end: i });
      start = i;
      longest = length;
    } else {
      longest = wider;
    }
  });
  if (start < lengths.length) passes.push({ start, end: lengths.length });
  return passes;
}

function megabytes(count: number): number {
  return Math.ceil((count * 4) / 2 ** 20);
}
