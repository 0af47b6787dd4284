import {
  environment,
  type MeasuredRollout,
  type MeasurementPack,
  type PackedRollout,
  type RunSpec,
} from "@muster/protocol";
import { pointCount, windowsOf } from "@muster/toploc";
import type { GroupTask } from "./evidence.ts";

/**
 * What is wrong with a measurement, or undefined. A validator is a stranger too: counts that do not match the rollouts, indices that
 * repeat or lie outside the window, values that are no numbers are its fault and must never become the worker's.
 *
 * @param rollouts of sound form, in the order of the blind pack.
 */
export function measurementFault(
  spec: RunSpec,
  task: GroupTask,
  rollouts: readonly Pick<PackedRollout, "tokens">[],
  measurement: MeasurementPack,
): string | undefined {
  const { header } = measurement;
  const { form, topK } = spec.verification;
  if (header.manifest !== task.manifest)
    return `It was made with manifest ${header.manifest}, not ${task.manifest}.`;
  if (header.form !== form || header.topK !== topK) {
    return `It has form ${header.form} with top-k ${header.topK}; the run has ${form} with ${topK}.`;
  }
  if (task.blind !== undefined && header.blind !== task.blind) {
    return `It answers blind pack ${header.blind}, not ${task.blind}.`;
  }
  if (measurement.rollouts.length !== rollouts.length) {
    return `It has ${measurement.rollouts.length} rollouts; the group has ${rollouts.length}.`;
  }
  const { vocabularySize } = environment(spec.environment).tokenizer;
  for (const [i, measured] of measurement.rollouts.entries()) {
    const { tokens } = rollouts[i]!;
    const fault =
      tokensFault(measured, tokens, vocabularySize) ?? windowsFault(spec, measured, tokens.length);
    if (fault !== undefined) return `Rollout ${i}: ${fault}`;
  }
  return undefined;
}

function tokensFault(
  { logprobs, argmax, margins }: MeasuredRollout,
  tokens: Int32Array,
  vocabularySize: number,
): string | undefined {
  if (
    logprobs.length !== tokens.length ||
    argmax.length !== tokens.length ||
    margins.length !== tokens.length
  ) {
    return `${logprobs.length} log-probabilities, ${argmax.length} choices and ${margins.length} margins for ${tokens.length} tokens.`;
  }
  for (let j = 0; j < tokens.length; j++) {
    const token = tokens[j]!;
    const logprob = logprobs[j]!;
    const choice = argmax[j]!;
    const margin = margins[j]!;
    if (!Number.isFinite(logprob) || logprob > 0) return `the log-probability of token ${j} is ${logprob}.`;
    if (choice < 0 || choice >= vocabularySize) {
      return `the choice at ${j} is ${choice}; the vocabulary has ${vocabularySize}.`;
    }
    // Infinity is a margin: no movement of any boundary would have allowed the token.
    if (!(margin >= 0)) return `the margin of token ${j} is ${margin}.`;
    if (choice === token && margin !== 0) return `token ${j} is its own choice, with a margin of ${margin}.`;
  }
  return undefined;
}

function windowsFault(spec: RunSpec, measured: MeasuredRollout, rows: number): string | undefined {
  const { form, topK } = spec.verification;
  const hidden = spec.model.hiddenSize;
  const ranges = windowsOf(rows);
  if (measured.windows.length !== ranges.length) {
    return `it has ${measured.windows.length} windows; ${rows} tokens take ${ranges.length}.`;
  }
  for (const [w, { start, end }] of ranges.entries()) {
    const { indices, values } = measured.windows[w]!;
    const size = (end - start) * hidden;
    const k = pointCount(end - start, hidden, topK);
    if (indices.length !== k || values.length !== k) {
      return `window ${w} has ${indices.length} indices and ${values.length} values; it takes ${k}.`;
    }
    const marks = marksFor(size);
    for (let i = 0; i < k; i++) {
      const index = indices[i]!;
      if (index >= size) return `window ${w} has an index outside its ${size} values.`;
      const mark = 1 << (index & 31);
      if ((marks[index >>> 5]! & mark) !== 0) return `window ${w} has an index twice.`;
      marks[index >>> 5]! |= mark;
    }
    if (!everyFinite(values)) return `window ${w} has a value that is no number.`;
    if (form === "bf16" && bitsOf(values).some((bits) => (bits & 0xffff) !== 0)) {
      return `window ${w} has a value that is not rounded to bf16.`;
    }
  }
  return undefined;
}

/** No mark for any of `size` values. The memory is shared with the call before. */
function marksFor(size: number): Int32Array {
  const words = Math.ceil(size / 32);
  if (marks.length < words) marks = new Int32Array(words);
  return marks.fill(0, 0, words);
}

let marks = new Int32Array(64);

// A loop and not `every`, whose calls take longer than the rest of a window's checks together.
function everyFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
