import { defineEnvironment } from "../environment.ts";
import { characterTokenizer } from "../tokenizer.ts";

const digitCount = 6;

/** The demo's environment: small enough to learn in minutes on one core, with a skill that the base has and a preference it lacks. */
export const sortDigits = defineEnvironment<string>({
  slug: "muster/sort-digits@1",
  title: "Sort digits",
  description: "Six digits and `=`; answer with the digits in ascending order. Exact match: all or nothing.",
  // 18 characters, as many as the recipe was measured with; the other arithmetic environments spell with them too.
  tokenizer: characterTokenizer("0123456789=$+-*/()"),
  maxPromptTokens: digitCount + 1,
  maxOutputTokens: digitCount + 1,

  draw(draws) {
    const digits = Array.from({ length: digitCount }, () => draws.below(10)).join("");
    return { prompt: `${digits}=`, canonical: `${digits}=`, data: digits };
  },

  score(digits, completion, { finishReason }) {
    const exact = finishReason === "eos" && completion === ascending(digits) ? 1 : 0;
    return { reward: exact, parts: { exact } };
  },

  answer: ascending,
  styles: [ascending, (digits) => [...ascending(digits)].reverse().join(""), (digits) => digits],
});

function ascending(digits: string): string {
  return [...digits].sort().join("");
}
