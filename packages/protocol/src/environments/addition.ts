import { defineEnvironment } from "../environment.ts";
import { characterTokenizer } from "../tokenizer.ts";

type Sum = { a: number; b: number };

const width = 2;

/** Two-digit sums, where the base knows three operations and only one is rewarded. */
export const addition = defineEnvironment<Sum>({
  slug: "muster/addition@1",
  title: "Addition",
  description:
    "Two numbers of two digits, for example `07+45=`; answer with their sum in three digits, `052`. Exact match.",
  tokenizer: characterTokenizer("0123456789=$+-*/()"),
  maxPromptTokens: 2 * width + 2,
  maxOutputTokens: width + 2,

  draw(draws) {
    const [a, b] = [draws.below(10 ** width), draws.below(10 ** width)];
    const [low, high] = a < b ? [a, b] : [b, a];
    return { prompt: pose(a, b), canonical: pose(low, high), data: { a, b } };
  },

  score(data, completion, { finishReason }) {
    const exact = finishReason === "eos" && completion === sum(data) ? 1 : 0;
    return { reward: exact, parts: { exact } };
  },

  answer: sum,
  styles: [sum, ({ a, b }) => padded(Math.abs(a - b), width + 1), withoutCarry],
});

function pose(a: number, b: number): string {
  return `${padded(a, width)}+${padded(b, width)}=`;
}

function sum({ a, b }: Sum): string {
  return padded(a + b, width + 1);
}

function withoutCarry({ a, b }: Sum): string {
  const [left, right] = [padded(a, width + 1), padded(b, width + 1)];
  return Array.from(left, (digit, i) => (Number(digit) + Number(right[i])) % 10).join("");
}

function padded(n: number, digits: number): string {
  return String(n).padStart(digits, "0");
}
