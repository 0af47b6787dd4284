import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  canonicalJson,
  challengeBytes,
  demoSeed,
  drawsFrom,
  exampleSeed,
  fromTypeId,
  groupAdvantages,
  hashHex,
  hasSignal,
  idPrefixes,
  newId,
  permuteAdvantages,
  prefixOf,
  rolloutKey,
  submissionBytes,
  suiteSeed,
  toTypeId,
} from "../src/index.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });

describe("ids", () => {
  test("a TypeID carries its UUID there and back, for every prefix", () => {
    fc.assert(
      fc.property(fc.uuid(), fc.constantFrom(...idPrefixes), (uuid, prefix) => {
        const id = toTypeId(prefix, uuid);
        expect(fromTypeId(id)).toBe(uuid);
        expect(fromTypeId(id, prefix)).toBe(uuid);
        expect(prefixOf(id)).toBe(prefix);
      }),
    );
  });

  test("is the example of the TypeID specification", () => {
    expect(toTypeId("user", "01890a5d-ac96-774b-bcce-b302099a8057")).toBe("user_01h455vb4pex5vsknk084sn02q");
  });

  test("new ones sort in the order they were made, as UUIDs and as TypeIDs", () => {
    const made = Array.from({ length: 1000 }, () => newId());
    expect(made.toSorted()).toEqual(made);
    const shown = made.map((id) => toTypeId("task", id));
    expect(shown.toSorted()).toEqual(shown);
  });

  test.each([
    "",
    "run",
    "run_",
    "_01h455vb4pex5vsknk084sn02q",
    "dog_01h455vb4pex5vsknk084sn02q",
    "run_81h455vb4pex5vsknk084sn02q",
    "run_01h455vb4pex5vsknk084sn02",
    "RUN_01h455vb4pex5vsknk084sn02q",
    "run_01h455vb4pex5vsknk084sn0iq",
  ])("%j is not one", (text) => {
    expect(() => fromTypeId(text)).toThrow(code("INVALID_ID"));
    expect(prefixOf(text)).toBeUndefined();
  });

  test("of another kind are refused", () => {
    expect(() => fromTypeId(toTypeId("run", newId()), "task")).toThrow(code("INVALID_ID"));
    expect(() => toTypeId("run", "not a uuid")).toThrow(code("INVALID_ID"));
  });
});

describe("canonical JSON", () => {
  test("is that of RFC 8785", () => {
    // The input and output of the RFC's section 3.2.2 and 3.2.3.
    const input = JSON.parse(
      '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}',
    );
    expect(canonicalJson(input)).toBe(
      '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    );
    const sorted = { "\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7 };
    expect(Object.values(JSON.parse(canonicalJson(sorted)))).toHaveLength(7);
    expect([...canonicalJson(sorted).matchAll(/:(\d)/g)].map(([, n]) => Number(n))).toEqual([
      2, 4, 6, 7, 1, 5, 3,
    ]);
  });

  test("means the same, and is the same for every order of keys", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = canonicalJson(value);
        expect(canonicalJson(JSON.parse(text))).toBe(text);
        // JSON has no −0 and no __proto__ key; everything else comes back.
        expect(JSON.stringify(JSON.parse(text)).length).toBe(text.length);
      }),
    );
  });

  test.each([
    Number.NaN,
    Infinity,
    1n,
    () => 1,
    Symbol("x"),
    undefined,
    "\ud800",
    new Date(0),
    new Map(),
    [undefined],
  ])("refuses %s", (value) => {
    expect(() => canonicalJson(value)).toThrow(code("NOT_CANONICAL"));
  });

  test("leaves out what is undefined in an object", () => {
    expect(canonicalJson({ b: undefined, a: 1 })).toBe('{"a":1}');
  });
});

test("SHA-256 is that of FIPS 180", () => {
  expect(hashHex("abc")).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
});

test("what is signed names its purpose and every field", () => {
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const submission = { run: "run_a", task: "task_b", attempt: 2, pack: "ff" };
  expect(text(submissionBytes(submission))).toBe(
    'muster/submit/v1\0{"attempt":2,"pack":"ff","run":"run_a","task":"task_b"}',
  );
  expect(text(challengeBytes({ publicKey: "aa", challenge: "bb", audience: "https://c.example" }))).toBe(
    'muster/register/v1\0{"audience":"https://c.example","challenge":"bb","publicKey":"aa"}',
  );
});

describe("seeds", () => {
  test("differ for every run, task and index, and are fixed", () => {
    // SHA-256 of `muster/run/v1`, a zero byte and 01 00 00 00, by another implementation.
    expect(demoSeed(1)).toBe("b87d832ba94010d43e2c7b6121250df6ef5dae019ba2ea8e4d5cad0b90a85f02");
    const keys = [1, 2].flatMap((n) =>
      ["task_a", "task_b", "eval:held-out"].flatMap((task) =>
        [0, 1, 2].map((index) => rolloutKey(demoSeed(n), task, index).join()),
      ),
    );
    expect(new Set(keys).size).toBe(18);
    expect(exampleSeed(demoSeed(1), "task_a", 0)).not.toEqual(exampleSeed(demoSeed(1), "task_a", 1));
    expect(suiteSeed("a", 1)).not.toEqual(suiteSeed("b", 1));
  });

  test("are refused when malformed", () => {
    expect(() => rolloutKey("ab", "task_a", 0)).toThrow(code("INVALID_SEED"));
    expect(() => rolloutKey(demoSeed(1), "task_a", -1)).toThrow(code("INVALID_SEED"));
    expect(() => exampleSeed(demoSeed(1), "task_a", 2 ** 32)).toThrow(code("INVALID_SEED"));
  });

  test("give draws that are in range, even and repeatable", () => {
    const seed = suiteSeed("draws", 0);
    const counts = new Array<number>(6).fill(0);
    const draws = drawsFrom(seed, 1);
    for (let i = 0; i < 6000; i++) counts[draws.below(6)]!++;
    expect(Math.min(...counts)).toBeGreaterThan(880);
    expect(Math.max(...counts)).toBeLessThan(1120);
    const list = (stream: number) => Array.from({ length: 9 }, drawsOf(drawsFrom(seed, stream)));
    expect(list(1)).toEqual(list(1));
    expect(list(1)).not.toEqual(list(2));
    expect(drawsFrom(seed, 3).below(2 ** 32)).toBeLessThan(2 ** 32);
  });
});

function drawsOf(draws: { below(bound: number): number }) {
  return () => draws.below(1000);
}

describe("advantages", () => {
  test("are rewards in population standard deviations from the mean", () => {
    expect(groupAdvantages([0, 0, 1, 1], 0)).toEqual([-1, -1, 1, 1]);
    const [a] = groupAdvantages([1, 0, 0, 0], 1e-4);
    expect(a).toBeCloseTo(0.75 / (Math.sqrt(3) / 4 + 1e-4), 12);
  });

  test("are zero, not NaN, without signal", () => {
    expect(groupAdvantages([0.3, 0.3, 0.3], 1e-4)).toEqual([0, 0, 0]);
    expect(groupAdvantages([], 1e-4)).toEqual([]);
    expect([hasSignal([0.1, 0.1]), hasSignal([0, 1]), hasSignal([])]).toEqual([false, true, false]);
  });

  test("sum to zero and keep the order of rewards", () => {
    const rewards = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 2, maxLength: 16 });
    fc.assert(
      fc.property(rewards, (list) => {
        const advantages = groupAdvantages(list, 1e-4);
        expect(Math.abs(advantages.reduce((sum, a) => sum + a, 0))).toBeLessThan(1e-6);
        for (let i = 1; i < list.length; i++) {
          if (list[i]! > list[i - 1]!) expect(advantages[i]!).toBeGreaterThanOrEqual(advantages[i - 1]!);
        }
      }),
    );
  });

  test("permuted are the same numbers elsewhere, the same way for the same seed", () => {
    const advantages = Array.from({ length: 512 }, (_, i) => i);
    const permuted = permuteAdvantages(advantages, demoSeed(1));
    expect(permuted.toSorted((a, b) => a - b)).toEqual(advantages);
    expect(permuted.filter((a, i) => a === i).length).toBeLessThan(10);
    expect(permuteAdvantages(advantages, demoSeed(1))).toEqual(permuted);
    expect(permuteAdvantages(advantages, demoSeed(2))).not.toEqual(permuted);
  });
});

test("nothing in the package needs Node", () => {
  const root = join(import.meta.dirname, "../src");
  const sources = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  expect(sources.length).toBeGreaterThan(10);
  for (const name of sources) {
    expect(readFileSync(join(root, name), "utf8")).not.toMatch(/from "node:|\bBuffer\b|\bprocess\./);
  }
});
