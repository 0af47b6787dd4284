import fc from "fast-check";
import { expect, test } from "vitest";
import {
  type Candidate,
  countFailure,
  countShard,
  drawIndex,
  type Standings,
  weightsOf,
} from "../src/index.ts";

const MB = 1_000_000;
const idle = (id: string): Candidate => ({ id, open: 0 });
const known = (entries: Record<string, [bandwidth: number | undefined, success: number]>): Standings =>
  new Map(Object.entries(entries).map(([id, [bandwidth, success]]) => [id, { bandwidth, success }]));

test("the weight of a source is its bandwidth times its success", () => {
  const standings = known({ a: [10, 1], b: [4, 0.5] });
  expect(weightsOf(standings, [idle("a"), idle("b")])).toEqual([10, 2]);
});

test("both terms are moving averages with α = 0.3, and every update heals every success by 0.01", () => {
  const standings: Standings = known({ other: [MB, 0.5] });
  countShard(standings, "a", { bytes: 2 * MB, seconds: 1 });
  expect(standings.get("a")).toEqual({ bandwidth: 2 * MB, success: 1 });
  countShard(standings, "a", { bytes: 4 * MB, seconds: 1 });
  expect(standings.get("a")?.bandwidth).toBeCloseTo(0.3 * 4 * MB + 0.7 * 2 * MB, 3);
  expect(standings.get("other")?.success).toBeCloseTo(0.52, 10);
  countFailure(standings, "a");
  expect(standings.get("a")?.success).toBeCloseTo(0.7 + 0.01, 10);
  expect(standings.get("a")?.bandwidth).toBeCloseTo(2.6 * MB, 3);
  expect(standings.get("other")?.success).toBeCloseTo(0.53, 10);
});

test("a failure never enters the bandwidth, and success stays between 0 and 1, whatever happens", () => {
  const event = fc.record({
    id: fc.constantFrom("a", "b", "c"),
    bytes: fc.integer({ min: 0, max: 10 * MB }),
    seconds: fc.double({ min: 0, max: 100, noNaN: true }),
    fails: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const standings: Standings = new Map();
      for (const { id, fails, ...shard } of events) {
        const before = standings.get(id)?.bandwidth;
        if (fails) countFailure(standings, id);
        else countShard(standings, id, shard);
        if (fails) expect(standings.get(id)?.bandwidth).toBe(before);
      }
      for (const { success, bandwidth = 0 } of standings.values()) {
        expect(success).toBeGreaterThanOrEqual(0);
        expect(success).toBeLessThanOrEqual(1);
        expect(Number.isFinite(bandwidth)).toBe(true);
      }
      const weights = weightsOf(standings, ["a", "b", "c", "d"].map(idle));
      expect(weights.every((weight) => weight >= 0 && Number.isFinite(weight))).toBe(true);
    }),
  );
});

test("a source that failed comes back by healing alone", () => {
  const standings: Standings = known({ good: [MB, 1], bad: [MB, 1] });
  for (let i = 0; i < 10; i++) countFailure(standings, "bad");
  expect(standings.get("bad")?.success).toBeLessThan(0.1);
  for (let i = 0; i < 100; i++) countShard(standings, "good", { bytes: MB, seconds: 1 });
  expect(standings.get("bad")?.success).toBe(1);
});

test("an unknown source counts as the mean of the known ones, one connection at a time", () => {
  const standings = known({ a: [10, 1], b: [20, 1] });
  expect(weightsOf(standings, [idle("a"), idle("b"), idle("new")])[2]).toBe(15);
  expect(weightsOf(standings, [idle("a"), idle("b"), { id: "new", open: 1 }])[2]).toBe(0);
  expect(weightsOf(new Map(), [idle("x"), idle("y")])).toEqual([1, 1]);
  const tried = [
    { id: "x", open: 2 },
    { id: "y", open: 1 },
    { id: "z", open: 1 },
  ];
  expect(weightsOf(new Map(), tried)).toEqual([0, 1, 1]);
});

test("of sources about as good the idle ones come first; one that is much slower does not", () => {
  const standings = known({ a: [12, 1], b: [9, 1], slow: [3, 1] });
  const used = { id: "a", open: 3 };
  expect(weightsOf(standings, [used, idle("b"), idle("slow")])).toEqual([3, 9, 3]);
  expect(weightsOf(standings, [used, idle("slow")])).toEqual([12, 3]);
  expect(weightsOf(standings, [used, { id: "b", open: 1 }])).toEqual([12, 9]);
});

test("a source that brings less than a quarter of what it used to counts as what it brings", () => {
  const standings = known({ a: [100, 1], b: [100, 1] });
  const weights = weightsOf(standings, [
    { id: "a", open: 1, arriving: 24 },
    { id: "b", open: 1, arriving: 60 },
  ]);
  expect(weights).toEqual([24, 100]);
  const [, unknown] = weightsOf(standings, [idle("a"), { id: "new", open: 1, arriving: 0 }]);
  expect(unknown).toBe(0);
});

test("sources are drawn in proportion to their weights", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 1_000 }), { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 500, max: 3_000 }),
      (weights, draws) => {
        const sum = weights.reduce((total, weight) => total + weight, 0);
        const drawn = weights.map(() => 0);
        for (let i = 0; i < draws; i++) {
          const index = drawIndex(weights, (i + 0.5) / draws) ?? -1;
          drawn[index] = (drawn[index] ?? 0) + 1;
        }
        weights.forEach((weight, i) => {
          const share = sum === 0 ? draws / weights.length : (draws * weight) / sum;
          expect(Math.abs((drawn[i] ?? 0) - share)).toBeLessThanOrEqual(1.001);
        });
      },
    ),
  );
  expect(drawIndex([], 0.5)).toBeUndefined();
});
