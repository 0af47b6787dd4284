/** What callers hand in, checked before a model sees it: a wrong id would read beside the embedding. */

import type { ModelConfig } from "./config.ts";
import { PolicyError } from "./policy-error.ts";

/** A prompt and what followed it (EOS included), as token ids. */
export type TokenPair = { prompt: Int32Array; tokens: Int32Array };

/** @throws PolicyError `INVALID_TOKEN`, `TOO_LONG` */
export function requirePairs(model: ModelConfig, pairs: readonly TokenPair[]): void {
  pairs.forEach(({ prompt, tokens }, i) => {
    requirePrompt(model, prompt, i, tokens.length);
    requireTokens(model, tokens, i);
  });
}

/** @throws PolicyError `INVALID_TOKEN`, `TOO_LONG` */
export function requirePrompt(
  model: ModelConfig,
  prompt: Int32Array,
  index: number,
  outputTokens: number,
): void {
  if (prompt.length === 0)
    throw new PolicyError(
      "INVALID_TOKEN",
      `Prompt ${index} is empty; a rollout starts from at least one token.`,
    );
  if (prompt.length + outputTokens > model.maxPositions) {
    throw new PolicyError(
      "TOO_LONG",
      `Rollout ${index} has ${prompt.length} prompt and ${outputTokens} output tokens; the model has ${model.maxPositions} positions.`,
    );
  }
  requireTokens(model, prompt, index);
}

/** What the model reads of a pair: all but the last token, which nothing follows. */
export function inputOf({ prompt, tokens }: TokenPair): Int32Array {
  const input = new Int32Array(prompt.length + Math.max(tokens.length - 1, 0));
  input.set(prompt);
  input.set(tokens.subarray(0, Math.max(tokens.length - 1, 0)), prompt.length);
  return input;
}

/** Each prompt once, and which of them every given one is. */
export function distinctPrompts(given: readonly Int32Array[]): { prompts: Int32Array[]; sources: number[] } {
  const places = new Map<string, number>();
  const prompts: Int32Array[] = [];
  const sources = given.map((prompt) => {
    const key = prompt.join();
    const known = places.get(key);
    if (known !== undefined) return known;
    places.set(key, prompts.length);
    return prompts.push(prompt) - 1;
  });
  return { prompts, sources };
}

function requireTokens(model: ModelConfig, tokens: Int32Array, index: number): void {
  for (const token of tokens) {
    if (token >= 0 && token < model.vocabularySize) continue;
    throw new PolicyError(
      "INVALID_TOKEN",
      `Rollout ${index} has token ${token}; the vocabulary has ${model.vocabularySize}.`,
    );
  }
}
