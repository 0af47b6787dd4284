import type { Draws } from "../draws.ts";
import { defineEnvironment } from "../environment.ts";
import { characterTokenizer } from "../tokenizer.ts";

/** `solution` is the expression the target was made from; any other that fits earns as much. */
type Countdown = { numbers: readonly number[]; target: number; solution: string };

const count = 3;
const largest = 9;

/** The numbers game: many right answers, so the reward evaluates what was written instead of comparing it. */
export const countdown = defineEnvironment<Countdown>({
  slug: "muster/countdown@1",
  title: "Countdown",
  description:
    "Three numbers and a target, for example `2,3,7:13=`; answer with an expression in + - * / ( ) that uses every number once and equals the target, `2*3+7`. A well-formed expression of the right numbers earns 0.1, one that hits the target 1.",
  tokenizer: characterTokenizer("0123456789=$+-*/(),:"),
  // Three digits, two commas, colon, a target of at most three digits (9 · 9 · 9), equals sign.
  maxPromptTokens: 10,
  // Three digits, two operators, at most one useful pair of parentheses, EOS, and room for a needless pair.
  maxOutputTokens: 10,

  draw(draws) {
    const numbers = Array.from({ length: count }, () => draws.between(1, largest));
    for (;;) {
      const solution = expression(numbers, draws);
      const target = evaluate(solution)?.value;
      // Drawn again until the target is a whole number of at least 1; a sum is one draw in sixteen and always is.
      if (target === undefined || !Number.isInteger(target) || target < 1) continue;
      const sorted = [...numbers].sort((a, b) => a - b);
      const pose = (list: readonly number[]) => `${list.join(",")}:${target}=`;
      return { prompt: pose(numbers), canonical: pose(sorted), data: { numbers, target, solution } };
    }
  },

  score({ numbers, target }, completion, { finishReason }) {
    const result = finishReason === "eos" ? evaluate(completion) : undefined;
    const used = result?.numbers.toSorted((a, b) => a - b).join();
    const wellFormed = used === [...numbers].sort((a, b) => a - b).join() ? 1 : 0;
    const onTarget = wellFormed === 1 && Math.abs((result?.value ?? Infinity) - target) < 1e-9 ? 1 : 0;
    return { reward: onTarget === 1 ? 1 : 0.1 * wellFormed, parts: { wellFormed, onTarget } };
  },

  answer: ({ solution }) => solution,
  styles: [
    ({ solution }) => solution,
    ({ numbers }, draws) => expression(numbers, draws),
    ({ numbers }, draws) => expression(numbers, draws),
  ],
});

/** A random expression that uses every number once. */
function expression(numbers: readonly number[], draws: Draws): string {
  const list = [...numbers];
  draws.shuffle(list);
  const [a, b, c] = list;
  const [first, second] = [draws.pick("+-*/"), draws.pick("+-*/")];
  switch (draws.below(3)) {
    case 0:
      return `(${a}${first}${b})${second}${c}`;
    case 1:
      return `${a}${first}(${b}${second}${c})`;
    default:
      return `${a}${first}${b}${second}${c}`;
  }
}

/** Value of an arithmetic expression and the numbers in it, or undefined when it is not one (or divides by zero). */
function evaluate(text: string): { value: number; numbers: number[] } | undefined {
  if (text.length > 64) return undefined; // bounds the recursion below
  const numbers: number[] = [];
  let at = 0;

  function sum(): number {
    let value = product();
    while (text[at] === "+" || text[at] === "-") value += text[at++] === "+" ? product() : -product();
    return value;
  }
  function product(): number {
    let value = atom();
    while (text[at] === "*" || text[at] === "/") {
      if (text[at++] === "*") value *= atom();
      else value /= atom();
    }
    return value;
  }
  function atom(): number {
    if (text[at] === "(") {
      at++;
      const value = sum();
      return text[at++] === ")" ? value : Number.NaN;
    }
    const digits = /^\d+/.exec(text.slice(at))?.[0];
    if (digits === undefined) return Number.NaN;
    at += digits.length;
    numbers.push(Number(digits));
    return Number(digits);
  }

  const value = sum();
  return at === text.length && Number.isFinite(value) ? { value, numbers } : undefined;
}
