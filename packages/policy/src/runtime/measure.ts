import { logProbability, type Sampling } from "@muster/protocol";
import { type FlatMeasurement, type FlatPairs, pairsOf } from "../graph/flat.ts";
import { measurePairs, type Reader, readRollouts } from "../graph/measure.ts";
import type { TokenPair } from "../graph/rollouts.ts";
import type { ProofSettings } from "../graph/windows.ts";
import type { EngineContext } from "./engine.ts";
import type { Forward } from "./forward.ts";

/** `keys`: two words a rollout. */
export type MeasureInput = ProofSettings & FlatPairs & { keys: Uint32Array; sampling: Sampling };

export type LogprobsInput = FlatPairs & { temperature: number };

/** What a validator sees of finished rollouts: outputs read after their prompts, nothing generated. In the order given. */
export async function measure(
  forward: Forward,
  input: MeasureInput,
  context: EngineContext,
): Promise<FlatMeasurement> {
  const { keys } = input;
  const pairs = pairsOf(input).map((pair, i) => ({
    ...pair,
    key: [keys[2 * i]!, keys[2 * i + 1]!] as const,
  }));
  const { flat } = await measurePairs(readerOf(forward, context), pairs, input);
  return flat;
}

/** The log-probability of each token under the current weights, rollouts one after another. */
export async function logprobs(
  forward: Forward,
  input: LogprobsInput,
  context: EngineContext,
): Promise<Float32Array> {
  const { vocabularySize } = forward.model;
  const pairs = pairsOf(input);
  const starts = startsOf(pairs);
  const found = new Float32Array(starts.at(-1)!);
  await readRollouts(readerOf(forward, context), pairs, (index, { logits }) => {
    pairs[index]!.tokens.forEach((token, j) => {
      const own = logits.subarray(j * vocabularySize, (j + 1) * vocabularySize);
      found[starts[index]! + j] = logProbability(own, token, input.temperature);
    });
  });
  return found;
}

function readerOf({ model, readOutputs }: Forward, { checkpoint }: EngineContext): Reader {
  return { model, read: readOutputs, checkpoint };
}

/** Where each output begins among all outputs, and where the last one ends. */
function startsOf(pairs: readonly TokenPair[]): number[] {
  const starts = [0];
  for (const { tokens } of pairs) starts.push(starts.at(-1)! + tokens.length);
  return starts;
}
