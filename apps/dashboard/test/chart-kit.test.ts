import { expect, test } from "vitest";
import { chartCsv } from "../src/ui/chart/chart-csv.ts";
import { endsOf, newerThan, panned, steadyLimits, zoomedAt } from "../src/ui/chart/chart-range.ts";
import { joinLines, slotsOf, stacked } from "../src/ui/chart/lines.ts";
import { smooth } from "../src/ui/chart/smoothing.ts";
import { parseRange, printRange } from "../src/ui/view-state.ts";

test("a range survives the address, a window of the last part too", () => {
  expect(parseRange("300..400")).toEqual({ kind: "fixed", from: 300, to: 400 });
  expect(parseRange("last..100")).toEqual({ kind: "last", span: 100 });
  expect(printRange({ kind: "last", span: 100 })).toBe("last..100");
  for (const wrong of ["", "400..300", "a..b", "1", "1..2..3", "last..-1", ".."])
    expect(parseRange(wrong)).toBeNull();
});

test("a fixed range stays while data grows, a window of the last part moves on", () => {
  expect(endsOf({ kind: "fixed", from: 3, to: 4 }, [0, 900])).toEqual([3, 4]);
  expect(endsOf({ kind: "last", span: 100 }, [0, 900])).toEqual([800, 900]);
  expect(endsOf(null, [0, 900])).toBeUndefined();
});

test("points that come while a range is held are counted and not shown", () => {
  expect(newerThan([1, 2, 3, 4, 5], 3)).toBe(2);
  expect(newerThan([1, 2, 3], undefined)).toBe(0);
});

test("moving a range keeps its width and some of the data in sight", () => {
  expect(panned([100, 200], 50, [0, 1000])).toEqual([150, 250]);
  const far = panned([100, 200], 1e9, [0, 1000]);
  expect(far[1] - far[0]).toBeCloseTo(100);
  expect(far[0]).toBeLessThan(1000);
});

test("zooming in place keeps the point under the pointer, and out of everything is everything", () => {
  expect(zoomedAt([0, 100], 25, 0.5, [0, 100])).toEqual([12.5, 62.5]);
  expect(zoomedAt([10, 90], 50, 4, [0, 100])).toBeUndefined();
});

test("limits of y stay while the data fits and fills them", () => {
  expect(steadyLimits([0.1, 0.9], [0, 1])).toEqual([0, 1]);
  expect(steadyLimits([0.1, 1.1], [0, 1])).toEqual([0.1, 1.1]);
  expect(steadyLimits([0.4, 0.5], [0, 1])).toEqual([0.4, 0.5]);
});

test("smoothing leaves a constant as it is, starts at the first value and does not cross a wide hole", () => {
  expect(smooth([1, 2, 3], [5, 5, 5], 0.9)).toEqual([5, 5, 5]);
  const [first, second] = smooth([1, 2], [0, 1], 0.5);
  expect(first).toBe(0);
  expect(second).toBeCloseTo(2 / 3);
  const x = [0, 1, 2, 3, 1000];
  const after = smooth(x, [0, 0, 0, 0, 1], 0.9).at(-1);
  expect(after).toBeCloseTo(1);
  expect(smooth([1, 2, 3], [1, null, 3], 0.5)[1]).toBeNull();
});

test("a spike that buckets kept is in the file with its range, and nothing is smoothed", () => {
  const line = { label: "Loss", values: [1, 2], low: [0, 2], high: [9, 2] };
  expect(chartCsv("step", [10, 20], [line])).toBe(
    "step,Loss,Loss least,Loss most\r\n10,1,0,9\r\n20,2,2,2\r\n",
  );
});

test("runs with different steps share one axis; where one has no point it has none", () => {
  const { x, lines } = joinLines([
    { x: [1, 3], line: { label: "a", values: [10, 30] } },
    { x: [2, 3], line: { label: "b", values: [20, 31] } },
  ]);
  expect(x).toEqual([1, 2, 3]);
  expect(lines.map(({ values }) => values)).toEqual([
    [10, null, 30],
    [null, 20, 31],
  ]);
});

test("up to six runs have six colours, and a run keeps its own when it stands alone", () => {
  const ids = ["run_a", "run_b", "run_c", "run_d", "run_e", "run_f"];
  expect(new Set(slotsOf(ids).values()).size).toBe(6);
  expect(slotsOf(["run_a"]).get("run_a")).toBe(slotsOf(ids).get("run_a"));
});

test("stacked lines are sums of what lies under them", () => {
  const tops = stacked([
    { label: "a", values: [1, 2] },
    { label: "b", values: [10, null] },
  ]);
  expect(tops.map(({ values }) => values)).toEqual([
    [1, 2],
    [11, 2],
  ]);
});
