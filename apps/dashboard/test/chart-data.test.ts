import { expect, test } from "vitest";
import {
  axisOf,
  type Bucket,
  columnOf,
  cursorAfterKey,
  joinLive,
  nearest,
  tableRows,
} from "../src/ui/chart/chart-data.ts";

function bucket(from: number, to: number, values: Record<string, [number, number, number]>): Bucket {
  const metrics = new Map(
    Object.entries(values).map(([name, [min, max, last]]) => [name, { min, max, last }]),
  );
  return { from, to, n: to - from + 1, metrics };
}
const point = (step: number, loss: number) => ({ step, metrics: new Map([["loss", loss]]) });

test("live points follow the buckets, each step once and in order", () => {
  const joined = joinLive(
    [bucket(1, 2, { loss: [1, 3, 2] })],
    [point(4, 0.4), point(2, 9), point(3, 0.3), point(4, 0.4)],
  );
  expect(axisOf(joined)).toEqual([2, 3, 4]);
  expect(columnOf(joined, ["loss"])).toEqual({
    values: [2, 0.3, 0.4],
    low: [1, 0.3, 0.4],
    high: [3, 0.3, 0.4],
  });
});

test("a chart of single steps has no band", () => {
  expect(columnOf([bucket(1, 1, { loss: [2, 2, 2] })], ["loss"])).toEqual({ values: [2] });
});

test("a metric goes by the first of its names that was reported; one that never was has no column", () => {
  const buckets = [bucket(1, 1, { kl: [1, 1, 1] }), bucket(2, 2, {})];
  expect(columnOf(buckets, ["divergence", "kl"])).toEqual({ values: [1, null] });
  expect(columnOf(buckets, ["entropy"])).toBeUndefined();
});

test("what is not a number is a hole", () => {
  const column = columnOf(
    [bucket(1, 1, { loss: [0, 0, Number.NaN] }), bucket(2, 2, { loss: [1, 1, 1] })],
    ["loss"],
  );
  expect(column?.values).toEqual([null, 1]);
});

test("a table lists every row up to its limit, and then evenly with both ends", () => {
  expect(tableRows(3)).toEqual([0, 1, 2]);
  const rows = tableRows(10_000);
  expect(rows).toHaveLength(500);
  expect([rows[0], rows.at(-1)]).toEqual([0, 9_999]);
  expect(new Set(rows).size).toBe(500);
});

test("the nearest point is found between, before and after the points", () => {
  const x = [1, 3, 10];
  expect([0, 1, 2.1, 6, 7, 99].map((target) => nearest(x, target))).toEqual([0, 0, 1, 1, 2, 2]);
  expect(nearest([], 5)).toBe(-1);
});

test("keys move the cursor by a point, by a tenth and to the ends, and never off the chart", () => {
  const go = (key: string, index: number | null) => cursorAfterKey(key, index, 100);
  expect([
    go("ArrowLeft", 5),
    go("ArrowRight", 5),
    go("PageUp", 5),
    go("PageDown", 5),
    go("Home", 5),
    go("End", 5),
  ]).toEqual([4, 6, 0, 15, 0, 99]);
  expect([go("ArrowRight", 99), go("ArrowLeft", 0), go("ArrowLeft", null), go("ArrowRight", null)]).toEqual([
    99, 0, 98, 99,
  ]);
  expect(go("x", 5)).toBeUndefined();
  expect(cursorAfterKey("Home", null, 0)).toBeUndefined();
});
