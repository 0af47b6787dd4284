import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { gumbel, logProbability, philox4x32, rolloutKey, sampleMargin, sampleToken } from "../src/index.ts";
import vectors from "./vectors/sampling.json" with { type: "json" };

const words = (list: number[]): [number, number, number, number] => [list[0]!, list[1]!, list[2]!, list[3]!];
const key = (list: number[]): [number, number] => [list[0]!, list[1]!];

test.each(vectors.philox4x32_10)("Philox known answer $out", (vector) => {
  expect(philox4x32(words(vector.counter), key(vector.key))).toEqual(vector.out);
});

describe.each(vectors.cases)("vector $taskId", (vector) => {
  const logits = Float32Array.from(vector.logits);

  test("the rollout key is as published", () => {
    expect(rolloutKey(vector.runSeedHex, vector.taskId, vector.rolloutIndex)).toEqual(vector.key);
  });

  test("the noise is as published", () => {
    const noise = vector.gumbel0to4.map((_, token) => gumbel(key(vector.key), vector.position, token));
    for (const [token, g] of noise.entries()) expect(g).toBeCloseTo(vector.gumbel0to4[token]!, 12);
  });

  test("the token is as published, and its margin is zero", () => {
    const { token } = sampleToken(
      logits,
      vector.contextTokens,
      key(vector.key),
      vector.position,
      vector.sampling,
    );
    expect(token).toBe(vector.expected.token);
    expect(
      sampleMargin(logits, vector.contextTokens, key(vector.key), vector.position, vector.sampling, token),
    ).toEqual({ argmax: token, margin: 0 });
  });
});

const logitsOf = (size: number) =>
  fc
    .array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: size, maxLength: size })
    .map((list) => Float32Array.from(list));
const word = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const anyKey = fc.tuple(word, word);
const anySampling = fc.record({
  temperature: fc.constantFrom(0, 0.5, 1, 1.4),
  topK: fc.constantFrom(0, 1, 3, 9),
  topP: fc.constantFrom(0.3, 0.9, 1),
  minP: fc.constantFrom(0, 0.05, 0.3),
  repetitionPenalty: fc.constantFrom(1, 1.3),
});
const plain = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const context = [1, 4, 4, 7];

describe("the margin", () => {
  test("is zero exactly for the seeded choice, positive for every other token", () => {
    fc.assert(
      fc.property(logitsOf(18), anyKey, fc.nat(100), anySampling, (logits, key, position, sampling) => {
        fc.pre(new Set(logits).size === logits.length);
        const { token } = sampleToken(logits, context, key, position, sampling);
        for (let chosen = 0; chosen < logits.length; chosen++) {
          const { argmax, margin } = sampleMargin(logits, context, key, position, sampling, chosen);
          expect(argmax).toBe(token);
          if (chosen === token) expect(margin).toBe(0);
          else if (sampling.topK !== 0 || sampling.topP !== 1) expect(margin).toBeGreaterThanOrEqual(0);
          else expect(margin).toBeGreaterThan(0);
        }
      }),
    );
  });

  test("of an honest choice stays as small as the difference in logits, at support boundaries too", () => {
    const [noise, bound] = [1e-4, 1e-3];
    fc.assert(
      fc.property(
        logitsOf(18),
        fc.array(fc.float({ min: -1, max: 1, noNaN: true }), { minLength: 18, maxLength: 18 }),
        anyKey,
        anySampling,
        (logits, jitter, key, sampling) => {
          const other = logits.map((logit, i) => logit + noise * jitter[i]!);
          const { token } = sampleToken(other, context, key, 3, sampling);
          expect(sampleMargin(logits, context, key, 3, sampling, token).margin).toBeLessThanOrEqual(bound);
        },
      ),
      { numRuns: 10000 },
    );
  });

  test("of a token far outside the support is as large as the boundary is far", () => {
    const logits = Float32Array.of(5, 4, 3, -4);
    const greedy = { ...plain, topK: 2 };
    expect(sampleMargin(logits, [], [1, 2], 0, greedy, 3).margin).toBeGreaterThanOrEqual(8);
    expect(sampleMargin(logits, [], [1, 2], 0, { ...plain, minP: 0.1 }, 3).margin).toBeGreaterThan(6);
    expect(sampleMargin(logits, [], [1, 2], 0, { ...plain, topP: 0.5 }, 3).margin).toBeGreaterThan(0.1);
  });

  test("of a token outside the vocabulary is infinite", () => {
    for (const sampling of [plain, { ...plain, topK: 2 }, { ...plain, temperature: 0 }]) {
      for (const chosen of [-1, 18, 1.5]) {
        expect(sampleMargin(new Float32Array(18), [], [1, 2], 0, sampling, chosen).margin).toBe(Infinity);
      }
    }
  });
});

test("skipping hopeless tokens never changes the choice", () => {
  fc.assert(
    fc.property(logitsOf(64), anyKey, fc.nat(1000), (base, key, position) => {
      const logits = base.map((logit) => logit * 10);
      const scores = Array.from(logits, (logit, token) => logit + gumbel(key, position, token));
      expect(sampleToken(logits, [], key, position, plain).token).toBe(scores.indexOf(Math.max(...scores)));
    }),
  );
});

test("tokens come as often as the softmax says", () => {
  const logits = Float32Array.of(1, 0, -1, 2);
  const counts = [0, 0, 0, 0];
  const draws = 20_000;
  for (let position = 0; position < draws; position++) {
    counts[sampleToken(logits, [], [123, 456], position, plain).token]!++;
  }
  for (const [token, count] of counts.entries()) {
    // Four standard deviations of a binomial share are below 0.015 here, and the draws are fixed by the key.
    expect(Math.abs(count / draws - Math.exp(logProbability(logits, token, 1)))).toBeLessThan(0.015);
  }
});

test("log-probabilities are those of the softmax at a temperature, which 0 does not change", () => {
  const logits = Float32Array.of(1, 2, 3);
  const expected = (t: number) =>
    Math.fround(2 / t - Math.log(Math.exp(1 / t) + Math.exp(2 / t) + Math.exp(3 / t)));
  expect(logProbability(logits, 1, 1)).toBeCloseTo(expected(1), 6);
  expect(logProbability(logits, 1, 0.5)).toBeCloseTo(expected(0.5), 6);
  expect(logProbability(logits, 1, 0)).toBe(logProbability(logits, 1, 1));
  expect(logProbability(Float32Array.of(3e38, -3e38), 0, 1)).toBe(0);
});

test("weights that give no number give an error, not a token", () => {
  expect(() => sampleToken(new Float32Array(4).fill(Number.NaN), [], [1, 2], 0, plain)).toThrow(
    expect.objectContaining({ code: "INVALID_TOKEN" }),
  );
});
