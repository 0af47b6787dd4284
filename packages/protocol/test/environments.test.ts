import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  characterTokenizer,
  demoSeed,
  environment,
  environmentHash,
  environments,
  exampleSeed,
  heldOutExample,
  type Split,
  splitOf,
} from "../src/index.ts";

const seedOf = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Uint8Array.from(bytes));
const splits: Split[] = ["train", "held-out"];
const eos = { finishReason: "eos" } as const;

test("an unknown environment is a coded error that names the known ones", () => {
  for (const slug of ["muster/none@1", "", "toString", "__proto__"]) {
    expect(() => environment(slug)).toThrow(expect.objectContaining({ code: "UNKNOWN_ENVIRONMENT" }));
  }
  expect(() => environment("x")).toThrow(/muster\/sort-digits@1/);
});

describe.each(Object.entries(environments))("%s", (slug, env) => {
  test("is registered under its slug and has a hash of its own", () => {
    expect(environment(slug)).toBe(env);
    const hashes = Object.values(environments).map(environmentHash);
    expect(new Set(hashes).size).toBe(hashes.length);
    expect(environmentHash({ ...env })).toBe(environmentHash(env));
    expect(environmentHash({ ...env, maxOutputTokens: env.maxOutputTokens + 1 })).not.toBe(
      environmentHash(env),
    );
    expect(environmentHash({ ...env, score: () => ({ reward: 1, parts: {} }) })).not.toBe(
      environmentHash(env),
    );
  });

  test("gives the same example for the same seed, in the split that was asked for", () => {
    fc.assert(
      fc.property(seedOf, fc.constantFrom(...splits), (seed, split) => {
        const example = env.example(seed, split);
        expect(env.example(seed, split)).toEqual(example);
        expect(splitOf(example.canonical)).toBe(split);
      }),
    );
  });

  test("keeps prompts and answers inside its vocabulary and limits", () => {
    fc.assert(
      fc.property(seedOf, fc.constantFrom(...splits), (seed, split) => {
        const example = env.example(seed, split);
        const prompt = env.tokenizer.encode(example.prompt);
        expect(prompt.length).toBeLessThanOrEqual(env.maxPromptTokens);
        expect(prompt).not.toContain(env.tokenizer.eos);
        expect(env.tokenizer.decode(prompt)).toBe(example.prompt);
        expect(env.tokenizer.encode(env.answer(example)).length + 1).toBeLessThanOrEqual(env.maxOutputTokens);
      }),
      { numRuns: 300 },
    );
  });

  test("rewards the correct answer with 1, unless it never ended", () => {
    fc.assert(
      fc.property(seedOf, fc.constantFrom(...splits), (seed, split) => {
        const example = env.example(seed, split);
        expect(env.score(example, env.answer(example), eos).reward).toBe(1);
        expect(env.score(example, env.answer(example), { finishReason: "length" }).reward).toBe(0);
      }),
    );
  });

  test("scores any text within 0 and 1, and less than 1 when a character is added", () => {
    const alphabet = Array.from({ length: env.tokenizer.vocabularySize }, (_, id) =>
      env.tokenizer.tokenText(id),
    );
    const text = fc.oneof(
      fc.string(),
      fc.array(fc.constantFrom(...alphabet), { maxLength: 80 }).map((list) => list.join("")),
      fc.constantFrom("((((", ")", "1//0", "9".repeat(400), "(".repeat(100_000)),
    );
    fc.assert(
      fc.property(
        seedOf,
        text,
        fc.constantFrom("eos" as const, "length" as const),
        (seed, completion, finishReason) => {
          const example = env.example(seed, "train");
          const { reward, parts } = env.score(example, completion, { finishReason });
          expect(reward).toBeGreaterThanOrEqual(0);
          expect(reward).toBeLessThanOrEqual(1);
          for (const part of Object.values(parts)) expect(Number.isFinite(part)).toBe(true);
          expect(env.score(example, `${env.answer(example)}=`, eos).reward).toBeLessThan(1);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("warms up on prompts that no evaluation asks, the same pairs for the same seed wherever it starts", () => {
    const seed = exampleSeed(demoSeed(1), "warmup", 0);
    const pairs = env.corpus(seed, 0, 600);
    const asked = new Set(Array.from({ length: 600 }, (_, i) => heldOutExample(env, "held-out", i).prompt));
    const answers = new Map<string, Set<string>>();
    for (const { prompt, answer } of pairs) {
      expect(env.tokenizer.encode(prompt).length).toBeLessThanOrEqual(env.maxPromptTokens);
      expect(env.tokenizer.encode(answer).length + 1).toBeLessThanOrEqual(env.maxOutputTokens);
      expect(answer).not.toContain("$");
      expect(asked).not.toContain(prompt);
      answers.set(prompt, (answers.get(prompt) ?? new Set()).add(answer));
    }
    expect(answers.size).toBeGreaterThan(300);
    for (const at of [0, 1, 299]) expect(env.corpus(seed, at, 1)).toEqual([pairs[at]]);
    expect(env.corpus(exampleSeed(demoSeed(2), "warmup", 0), 0, 600)).not.toEqual(pairs);
  });

  test("holds out about one problem in ten", () => {
    let heldOut = 0;
    for (let i = 0; i < 1000; i++) {
      const example = env.example(exampleSeed(demoSeed(2), "task", i), "train");
      if (splitOf(`${example.canonical}?`) === "held-out") heldOut++;
    }
    // 101.6 expected, standard deviation 9.6.
    expect(heldOut).toBeGreaterThan(60);
    expect(heldOut).toBeLessThan(145);
  });

  test("has a tokenizer that is a Hugging Face tokenizer.json", () => {
    const json = JSON.parse(JSON.stringify(env.tokenizer.toJSON()));
    const vocabulary: Record<string, number> = json.model.vocab;
    expect(Object.keys(vocabulary)).toHaveLength(env.tokenizer.vocabularySize);
    for (const [token, id] of Object.entries(vocabulary)) expect(env.tokenizer.tokenText(id)).toBe(token);
    expect(json.added_tokens).toEqual([
      expect.objectContaining({ id: env.tokenizer.eos, content: "$", special: true }),
    ]);
  });
});

test("sort-digits: a third of the corpus each ascending, descending and copied", () => {
  const env = environment("muster/sort-digits@1");
  const counts = { ascending: 0, descending: 0, copied: 0 };
  for (const { prompt, answer } of env.corpus(exampleSeed(demoSeed(1), "x", 0), 0, 3000)) {
    const digits = prompt.slice(0, -1);
    const ascending = [...digits].sort().join("");
    if (answer === ascending) counts.ascending++;
    else if (answer === [...ascending].reverse().join("")) counts.descending++;
    else {
      expect(answer).toBe(digits);
      counts.copied++;
    }
  }
  for (const count of Object.values(counts)) expect(Math.abs(count - 1000)).toBeLessThan(110);
});

test("countdown: any expression that uses every number once and hits the target earns 1", () => {
  const env = environment("muster/countdown@1");
  const example = {
    prompt: "2,3,7:13=",
    canonical: "2,3,7:13=",
    data: { numbers: [2, 3, 7], target: 13, solution: "2*3+7" },
  };
  const reward = (completion: string) => env.score(example, completion, eos).reward;
  expect(["2*3+7", "7+3*2", "(7)+(2*3)"].map(reward)).toEqual([1, 1, 1]);
  expect(["2+3+7", "7*3-2"].map(reward)).toEqual([0.1, 0.1]);
  expect(
    ["13", "2*3+7+0", "6+7", "2*3+7)", "7+2*3=", "-2+3*7", "2 * 3+7", "", "23+7", "2*3*7/0"].map(reward),
  ).toEqual(new Array(10).fill(0));
});

test("reverse-text: partial credit for letters in place, none for padding", () => {
  const env = environment("muster/reverse-text@1");
  const example = { prompt: "abcd=", canonical: "abcd=", data: "abcd" };
  const reward = (completion: string) => env.score(example, completion, eos).reward;
  expect([reward("dcba"), reward("dcbx"), reward("dc"), reward(""), reward("dcbaaaaa")]).toEqual([
    1, 0.75, 0.5, 0, 0.5,
  ]);
});

test("a prompt's spelling decides nothing where two spellings pose one problem", () => {
  const addition = environment("muster/addition@1");
  const byProblem = new Map<string, Split>();
  for (let i = 0; i < 2000; i++) {
    const split = splits[i % 2]!;
    const { prompt } = addition.example(exampleSeed(demoSeed(3), "task", i), split);
    const problem = prompt.slice(0, -1).split("+").toSorted().join("+");
    expect(byProblem.get(problem) ?? split).toBe(split);
    byProblem.set(problem, split);
  }
});

describe("a tokenizer", () => {
  const tokenizer = characterTokenizer("ab$");
  test("refuses what it cannot spell", () => {
    expect(tokenizer.encode("abba")).toEqual([0, 1, 1, 0]);
    expect(() => tokenizer.encode("abc")).toThrow(expect.objectContaining({ code: "INVALID_CHARACTER" }));
    expect(() => tokenizer.decode([3])).toThrow(expect.objectContaining({ code: "INVALID_TOKEN" }));
    expect(() => characterTokenizer("aa$")).toThrow(expect.objectContaining({ code: "INVALID_CHARACTER" }));
    expect(() => characterTokenizer("ab")).toThrow(expect.objectContaining({ code: "INVALID_CHARACTER" }));
  });
  test("leaves EOS out of the text and shows it as a token", () => {
    expect(tokenizer.decode([0, 2])).toBe("a");
    expect([tokenizer.tokenText(2), tokenizer.tokenText(9)]).toEqual(["$", "⟨9⟩"]);
  });
});
