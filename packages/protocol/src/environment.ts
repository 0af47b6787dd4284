import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";
import type { JsonValue } from "./canonical.ts";
import { type Draws, drawsFrom } from "./draws.ts";
import { ProtocolError } from "./protocol-error.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Training examples and those kept for evaluation never meet: the split is a property of the problem, not of the seed. */
export type Split = "train" | "held-out";

/** Why a completion ended: EOS was drawn, or the length limit was reached. */
export type FinishReason = "eos" | "length";

/** One problem. */
export type Example = {
  /** What the policy reads. */
  prompt: string;
  /** The same for every way to pose the same problem; decides the split. */
  canonical: string;
  /** What scoring needs. */
  data: JsonValue;
};

/** A reward in [0, 1] and the named parts it was made of. */
export type Score = { reward: number; parts: Record<string, number> };

/** A prompt with a text to imitate (EOS comes after it and is not part of it). */
export type WarmupPair = { prompt: string; answer: string };

/** A family of problems with a verifiable reward. Everything in it is a pure function of its arguments. */
export type Environment = {
  /** `owner/name@version`: what a run spec names. */
  slug: string;
  title: string;
  description: string;
  tokenizer: Tokenizer;
  /** No prompt has more tokens. */
  maxPromptTokens: number;
  /** Enough for every correct answer and its EOS. */
  maxOutputTokens: number;
  /** The example of a 32-byte seed: the same seed and split give the same example. */
  example(seed: Uint8Array, split: Split): Example;
  /** Judges a completion (its text without EOS). Total: any text gets a score. */
  score(example: Example, completion: string, outcome: { finishReason: FinishReason }): Score;
  /** An answer that earns the maximum, 1. */
  answer(example: Example): string;
  /**
   * Pairs `from` … `from + count − 1` of the warm-up corpus of a 32-byte seed, all from the training split. The answers come in
   * several styles of which one is rewarded: the base learns the skill and not the preference.
   */
  corpus(seed: Uint8Array, from: number, count: number): WarmupPair[];
};

/** What the author of an environment writes; `defineEnvironment` adds seeds, split and corpus. */
export type EnvironmentDefinition<Data extends JsonValue> = {
  slug: string;
  title: string;
  description: string;
  tokenizer: Tokenizer;
  maxPromptTokens: number;
  maxOutputTokens: number;
  draw(draws: Draws): { prompt: string; canonical: string; data: Data };
  score(data: Data, completion: string, outcome: { finishReason: FinishReason }): Score;
  answer(data: Data): string;
  /** The styles of the warm-up corpus, drawn with equal probability. */
  styles: readonly ((data: Data, draws: Draws) => string)[];
};

/** Makes an environment of a definition: redraws until the split fits, never an example that depends on anything but its seed. */
export function defineEnvironment<Data extends JsonValue>(
  definition: EnvironmentDefinition<Data>,
): Environment {
  const { draw, score, answer, styles, ...rest } = definition;

  function find(seed: Uint8Array, split: Split, stream: number) {
    // One draw in ten is held out, so 1,000 misses in a row mean that the environment has no such example at all.
    for (let attempt = 0; attempt < 1000; attempt++) {
      const draws = drawsFrom(seed, stream + attempt);
      const example = draw(draws);
      if (splitOf(example.canonical) === split) return { example, draws };
    }
    throw new ProtocolError("SPLIT_EXHAUSTED", `${rest.slug} has no ${split} example for this seed.`);
  }

  // `data` came out of this definition's draw(): the wire never carries examples, both sides derive them from the seed.
  const dataOf = (example: Example) => example.data as Data;

  return {
    ...rest,
    example: (seed, split) => find(seed, split, 0).example,
    score: (example, completion, outcome) => score(dataOf(example), completion, outcome),
    answer: (example) => answer(dataOf(example)),
    corpus: (seed, from, count) =>
      Array.from({ length: count }, (_, i) => {
        // 2^31 up: away from the streams of example(); 1,024 apart: room for every attempt.
        const { example, draws } = find(seed, "train", (2 ** 31 + (from + i) * 1024) >>> 0);
        return { prompt: example.prompt, answer: draws.pick(styles)(example.data, draws) };
      }),
  };
}

/** Held out iff the first byte of SHA-256(`"muster/split/v1\0"` ‖ canonical prompt) is below 26: about one in ten. */
export function splitOf(canonical: string): Split {
  return sha256(utf8ToBytes(`muster/split/v1\0${canonical}`))[0]! < 26 ? "held-out" : "train";
}
