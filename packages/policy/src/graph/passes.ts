/** How much goes through a model at once. Fixed by the model and the sequences, never by the machine: sums must not depend on it. */

import { headSize, type ModelConfig } from "./config.ts";
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
    requireRoom(length, length * floatsPerToken(length));
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

/** An output to be read after its prompt, which is an index among prompts. */
export type Continuation = { prompt: number; tokens: Int32Array };

/** Floats a pass over continuations may take: 64 MiB. */
const CONTINUATION_FLOATS = 2 ** 24;

/**
 * Cuts outputs into passes of `Forward.readOutputs`, each within 64 MiB unless one output alone needs more. Outputs of one prompt lie
 * together, so that it is read once, or outputs of one length, so that little is padded: whichever has fewer positions in all.
 * @throws PolicyError `TOO_LARGE` when an output with its prompt needs more than 2 GiB.
 */
export function continuationPasses<C extends Continuation>(
  model: ModelConfig,
  prompts: readonly Int32Array[],
  outputs: readonly C[],
): C[][] {
  const longest = prompts.map(() => 0);
  for (const { prompt, tokens } of outputs) longest[prompt] = Math.max(longest[prompt]!, tokens.length);
  const byPrompt = [...outputs].sort(
    (a, b) =>
      longest[a.prompt]! - longest[b.prompt]! || a.prompt - b.prompt || a.tokens.length - b.tokens.length,
  );
  const byLength = [...outputs].sort((a, b) => a.tokens.length - b.tokens.length || a.prompt - b.prompt);
  const [together, even] = [byPrompt, byLength].map((order) => cut(model, prompts, order)) as [
    Cut<C>,
    Cut<C>,
  ];
  return (even.positions < together.positions ? even : together).passes;
}

type Cut<C> = { passes: C[][]; positions: number };

function cut<C extends Continuation>(
  model: ModelConfig,
  prompts: readonly Int32Array[],
  order: readonly C[],
): Cut<C> {
  const passes: C[][] = [];
  let positions = 0;
  let pass: C[] = [];
  let read = new Set<number>();
  let [before, after, size] = [0, 0, 0];
  for (const output of order) {
    const alone = { before: prompts[output.prompt]!.length, after: Math.max(output.tokens.length - 1, 1) };
    requireRoom(alone.before + alone.after, floatsOf(model, 1, 1, alone.before, alone.after));
    const wider = [Math.max(before, alone.before), Math.max(after, alone.after)] as const;
    const sources = read.has(output.prompt) ? read.size : read.size + 1;
    if (pass.length > 0 && floatsOf(model, sources, pass.length + 1, ...wider) > CONTINUATION_FLOATS) {
      positions += size;
      passes.push(pass);
      pass = [];
      read = new Set();
      [before, after] = [alone.before, alone.after];
    } else [before, after] = wider;
    pass.push(output);
    read.add(output.prompt);
    size = read.size * before + pass.length * after;
  }
  if (pass.length > 0) passes.push(pass);
  return { passes, positions: positions + size };
}

/** What a pass over prompts of `before` positions and outputs of `after` may need. */
function floatsOf(
  model: ModelConfig,
  prompts: number,
  outputs: number,
  before: number,
  after: number,
): number {
  const width = before + after;
  const copied = 2 * model.kvHeads * headSize(model) * outputs * width;
  return (prompts * before + outputs * after) * inferenceFloatsPerToken(model, width) + copied;
}

/** Floats one sequence may take when it goes alone: 2 GiB. */
const MOST_FLOATS = 2 ** 29;

function requireRoom(length: number, floats: number): void {
  if (floats <= MOST_FLOATS) return;
  throw new PolicyError(
    "TOO_LARGE",
    `A sequence of ${length} positions needs about ${megabytes(floats)} MB of activations; at most ${megabytes(MOST_FLOATS)} MB are used. ` +
      "Use shorter sequences or a smaller model.",
  );
}

function megabytes(count: number): number {
  return Math.ceil((count * 4) / 2 ** 20);
}
