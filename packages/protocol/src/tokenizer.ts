import type { JsonValue } from "./canonical.ts";
import { ProtocolError } from "./protocol-error.ts";

/** Text to token ids and back. Ids, not text, are what packs carry: nothing is ever re-tokenised. */
export type Tokenizer = {
  vocabularySize: number;
  /** Id of the token that ends a completion. */
  eos: number;
  /** @throws ProtocolError `INVALID_CHARACTER` for text the vocabulary cannot spell. */
  encode(text: string): number[];
  /** The text of the ids, without EOS. @throws ProtocolError `INVALID_TOKEN` for an id outside the vocabulary. */
  decode(ids: ArrayLike<number>): string;
  /** What one token looks like on a page; EOS shows as its own character. An id outside the vocabulary shows as `⟨id⟩`. */
  tokenText(id: number): string;
  /** The contents of a Hugging Face `tokenizer.json` that tokenises the same way. */
  toJSON(): JsonValue;
};

/**
 * One token a character, ids in the order given; `$` ends a completion.
 * @param characters distinct characters, `$` among them.
 */
export function characterTokenizer(characters: string): Tokenizer {
  const tokens = [...characters];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const eos = ids.get("$");
  if (eos === undefined || ids.size !== tokens.length) {
    throw new ProtocolError(
      "INVALID_CHARACTER",
      "A character vocabulary holds distinct characters, `$` among them.",
    );
  }
  return {
    vocabularySize: tokens.length,
    eos,
    encode: (text) =>
      Array.from(text, (character) => {
        const id = ids.get(character);
        if (id === undefined) {
          const shown = JSON.stringify(character);
          throw new ProtocolError(
            "INVALID_CHARACTER",
            `The vocabulary has no ${shown}; it has ${characters}`,
          );
        }
        return id;
      }),
    decode(list) {
      let text = "";
      for (let i = 0; i < list.length; i++) {
        const id = list[i] ?? -1;
        const token = tokens[id];
        if (token === undefined) {
          throw new ProtocolError(
            "INVALID_TOKEN",
            `Token ${id} is outside the vocabulary of ${tokens.length}.`,
          );
        }
        if (id !== eos) text += token;
      }
      return text;
    },
    tokenText: (id) => tokens[id] ?? `⟨${id}⟩`,
    toJSON: () => characterTokenizerJson(tokens, eos),
  };
}

function characterTokenizerJson(tokens: readonly string[], eos: number): JsonValue {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [
      {
        id: eos,
        content: "$",
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      },
    ],
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: "[\\s\\S]" }, behavior: "Isolated", invert: false },
    post_processor: null,
    decoder: { type: "Fuse" },
    // No unknown token: like encode() above, a reader refuses what the vocabulary cannot spell.
    model: {
      type: "WordLevel",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      unk_token: "<unk>",
    },
  };
}
