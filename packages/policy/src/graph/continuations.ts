import type { ModelConfig } from "./config.ts";
import { type Feeds, floats, integers, padded } from "./feeds.ts";
import { parameterLayout } from "./parameters.ts";

/** Rows of hidden states [rows × hiddenSize] after the last norm and of logits [rows × vocabularySize]. */
export type ReadOut = { hidden: Float32Array; logits: Float32Array };

/** Finished outputs and the prompts they continue; `prompt` is an index among the prompts. */
export type Continuations = {
  prompts: readonly Int32Array[];
  outputs: readonly { prompt: number; tokens: Int32Array }[];
};

/** Every parameter as a view of the flat array: new weights cost no copy and no new session. */
export function parameterFeeds(model: ModelConfig, flat: Float32Array): Feeds {
  return Object.fromEntries(
    parameterLayout(model).parameters.map(({ name, shape, offset, size }) => [
      name,
      floats(flat.subarray(offset, offset + size), shape),
    ]),
  );
}

/**
 * What `continuationGraph` reads beside the parameters. It answers a row for each token of each output in turn: the one that produced
 * it, for token 0 the prompt's last position. An output's last token is not among what is read, because nothing follows it.
 */
export function continuationFeeds({ prompts, outputs }: Continuations): Feeds {
  const before = padded(prompts);
  // One column at least, padding if need be: not every provider takes an empty tensor.
  const after = padded(outputs.map(({ tokens }) => tokens.subarray(0, Math.max(tokens.length - 1, 0))));
  const [promptRows, outputRows] = [before.tokens.length, after.tokens.length];
  const width = before.length + after.length;
  const positions = new Int32Array(promptRows + outputRows);
  const seen = new Int32Array(outputs.length * width).fill(NEVER);
  const rows: number[] = [];
  for (let i = 0; i < promptRows; i++) positions[i] = i % before.length;
  outputs.forEach(({ prompt, tokens }, b) => {
    const start = prompts[prompt]!.length;
    const own = promptRows + b * after.length;
    for (let i = 0; i < start; i++) seen[b * width + i] = i;
    for (let t = 0; t < after.length; t++) {
      seen[b * width + before.length + t] = start + t;
      // Padding stands anywhere the model knows.
      positions[own + t] = t < tokens.length ? start + t : 0;
    }
    tokens.forEach((_, j) => {
      rows.push(j === 0 ? prompt * before.length + start - 1 : own + j - 1);
    });
  });
  return {
    prompts: integers(before.tokens, [prompts.length, before.length]),
    outputs: integers(after.tokens, [outputs.length, after.length]),
    sources: integers(
      outputs.map(({ prompt }) => prompt),
      [outputs.length],
    ),
    positions: integers(positions, [positions.length]),
    seen: integers(seen, [outputs.length, width]),
    parts: integers([promptRows, outputRows], [2]),
    rows: integers(rows, [rows.length]),
  };
}

/** A position behind every other. */
const NEVER = 2 ** 31 - 1;
