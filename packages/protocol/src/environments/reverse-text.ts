import { defineEnvironment } from "../environment.ts";
import { characterTokenizer } from "../tokenizer.ts";

const [shortest, longest] = [4, 8] as const;
const letters = "abcdefghijklmnopqrstuvwxyz";

/** Partial credit in it: the reward is the share of letters in place, so every group has signal early on. */
export const reverseText = defineEnvironment<string>({
  slug: "muster/reverse-text@1",
  title: "Reverse text",
  description:
    "Four to eight letters and `=`; answer with the letters in reverse order. Reward: the share of letters in place.",
  tokenizer: characterTokenizer(`${letters}=$`),
  maxPromptTokens: longest + 1,
  maxOutputTokens: longest + 1,

  draw(draws) {
    const length = draws.between(shortest, longest);
    const text = Array.from({ length }, () => draws.pick(letters)).join("");
    return { prompt: `${text}=`, canonical: `${text}=`, data: text };
  },

  score(text, completion, { finishReason }) {
    const expected = reversed(text);
    let matches = 0;
    for (let i = 0; i < expected.length; i++) if (completion[i] === expected[i]) matches++;
    // The longer of the two lengths: letters too many cost as much as letters missing.
    const inPlace = matches / Math.max(expected.length, completion.length);
    const ended = finishReason === "eos" ? 1 : 0;
    return { reward: inPlace * ended, parts: { inPlace, ended } };
  },

  answer: reversed,
  styles: [reversed, (text) => text, (text) => [...text].sort().join("")],
});

function reversed(text: string): string {
  return [...text].reverse().join("");
}
