import { canonicalJson, hashHex } from "./canonical.ts";
import type { Environment, Example } from "./environment.ts";
import { addition } from "./environments/addition.ts";
import { countdown } from "./environments/countdown.ts";
import { reverseText } from "./environments/reverse-text.ts";
import { sortDigits } from "./environments/sort-digits.ts";
import { ProtocolError } from "./protocol-error.ts";
import { suiteSeed } from "./seeds.ts";

/** Every environment this version knows, by slug. To add one, write a file and name it here. */
export const environments: Readonly<Record<string, Environment>> = Object.fromEntries(
  [sortDigits, reverseText, addition, countdown].map((known) => [known.slug, known]),
);

/** @throws ProtocolError `UNKNOWN_ENVIRONMENT` when this version has no such environment. */
export function environment(slug: string): Environment {
  const found = Object.hasOwn(environments, slug) ? environments[slug] : undefined;
  if (found === undefined) {
    const known = Object.keys(environments).join(", ");
    throw new ProtocolError(
      "UNKNOWN_ENVIRONMENT",
      `There is no environment "${slug}"; this version has ${known}.`,
    );
  }
  return found;
}

/** Example `index` of a named evaluation suite, always from the held-out split. */
export function heldOutExample(env: Environment, suite: string, index: number): Example {
  return env.example(suiteSeed(suite, index), "held-out");
}

/**
 * SHA-256 that changes when an environment's behaviour does: its vocabulary, limits and, for a fixed set of examples, the prompts
 * and what answers to them earn. Two parties with the same hash compute the same rewards.
 */
export function environmentHash(env: Environment): string {
  const known = hashes.get(env);
  if (known !== undefined) return known;
  const probes = Array.from({ length: 16 }, (_, i) => {
    const seed = suiteSeed(`fingerprint:${env.slug}`, i);
    const example = env.example(seed, i % 2 === 0 ? "train" : "held-out");
    const [pair] = env.corpus(seed, i, 1);
    const completions = [env.answer(example), pair?.answer ?? "", example.prompt, ""];
    const scores = completions.flatMap((completion) => [
      env.score(example, completion, { finishReason: "eos" }),
      env.score(example, completion, { finishReason: "length" }),
    ]);
    return { example, pair, scores };
  });
  const { slug, maxPromptTokens, maxOutputTokens, tokenizer } = env;
  const hash = hashHex(
    canonicalJson({ slug, maxPromptTokens, maxOutputTokens, tokenizer: tokenizer.toJSON(), probes }),
  );
  hashes.set(env, hash);
  return hash;
}

const hashes = new WeakMap<Environment, string>();
