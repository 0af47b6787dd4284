import {
  logProbability,
  type MeasuredRollout,
  type PhiloxKey,
  type Sampling,
  sampleMargin,
} from "@muster/protocol";
import { windowsOf } from "@muster/toploc";
import type { EngineContext } from "./engine.ts";
import type { Forward } from "./forward.ts";
import { inferenceFloatsPerToken, passesOf } from "./passes.ts";
import { inputOf, requirePairs, type TokenPair } from "./rollouts.ts";
import { measureWindow, type ProofSettings } from "./windows.ts";

export type MeasureInput = ProofSettings & {
  rollouts: readonly (TokenPair & { key: PhiloxKey })[];
  sampling: Sampling;
};

export type LogprobsInput = { rollouts: readonly TokenPair[]; temperature: number };

/** What a validator sees of finished rollouts: one prefill over prompt and output, nothing generated. In the order given. */
export async function measure(
  forward: Forward,
  input: MeasureInput,
  context: EngineContext,
): Promise<MeasuredRollout[]> {
  const { rollouts, sampling } = input;
  const measured: MeasuredRollout[] = [];
  await readRollouts(forward, rollouts, context, (index, { hidden, logits }) => {
    const { prompt, tokens, key } = rollouts[index]!;
    const { hiddenSize, vocabularySize } = forward.model;
    const sequence = new Int32Array(prompt.length + tokens.length);
    sequence.set(prompt);
    sequence.set(tokens, prompt.length);
    const row: MeasuredRollout = {
      logprobs: new Float32Array(tokens.length),
      argmax: new Int32Array(tokens.length),
      margins: new Float32Array(tokens.length),
      windows: windowsOf(tokens.length).map(({ start, end }) =>
        measureWindow(hidden.slice(start * hiddenSize, end * hiddenSize), input),
      ),
    };
    tokens.forEach((token, j) => {
      const own = logits.subarray(j * vocabularySize, (j + 1) * vocabularySize);
      const choice = sampleMargin(own, sequence.subarray(0, prompt.length + j), key, j, sampling, token);
      row.logprobs[j] = logProbability(own, token, sampling.temperature);
      row.argmax[j] = choice.argmax;
      row.margins[j] = choice.margin;
    });
    measured[index] = row;
  });
  return measured;
}

/** The log-probability of each token under the current weights. In the order given. */
export async function logprobs(
  forward: Forward,
  input: LogprobsInput,
  context: EngineContext,
): Promise<Float32Array[]> {
  const found: Float32Array[] = [];
  await readRollouts(forward, input.rollouts, context, (index, { logits }) => {
    const { vocabularySize } = forward.model;
    found[index] = Float32Array.from(input.rollouts[index]!.tokens, (token, j) =>
      logProbability(logits.subarray(j * vocabularySize, (j + 1) * vocabularySize), token, input.temperature),
    );
  });
  return found;
}

/** Floats a pass may take: 64 MiB. */
const PASS_FLOATS = 2 ** 24;

/** Prefills all rollouts; hands each one's rows, row j being the one that produced token j, to `receive`. */
async function readRollouts(
  forward: Forward,
  rollouts: readonly TokenPair[],
  context: EngineContext,
  receive: (index: number, rows: { hidden: Float32Array; logits: Float32Array }) => void,
): Promise<void> {
  const { model } = forward;
  requirePairs(model, rollouts);
  // By length, so that a pass is padded little.
  const order = rollouts.map((rollout, index) => ({ index, rollout, input: inputOf(rollout) }));
  order.sort((a, b) => a.input.length - b.input.length || a.index - b.index);
  const lengths = order.map(({ input }) => input.length);
  for (const { start, end } of passesOf(lengths, PASS_FLOATS, (length) =>
    inferenceFloatsPerToken(model, length),
  )) {
    context.checkpoint();
    const pass = order.slice(start, end);
    const longest = pass.at(-1)!.input.length;
    const rows = pass.flatMap(({ rollout }, i) =>
      Array.from(rollout.tokens, (_, j) => i * longest + rollout.prompt.length - 1 + j),
    );
    const sequences = pass.map(({ input }) => input);
    const read = await forward.prefill({ sequences, rows });
    let row = 0;
    for (const { index, rollout } of pass) {
      const next = row + rollout.tokens.length;
      receive(index, {
        hidden: read.hidden.subarray(row * model.hiddenSize, next * model.hiddenSize),
        logits: read.logits.subarray(row * model.vocabularySize, next * model.vocabularySize),
      });
      row = next;
    }
  }
}
