import { expect, test } from "vitest";
import {
  counted,
  formatAge,
  formatBytes,
  formatCount,
  formatCredits,
  formatDifference,
  formatDuration,
  formatMetric,
  formatReward,
  formatShare,
  parseCredits,
  sentence,
  shortId,
} from "../src/ui/format.ts";

test("counts are exact below ten thousand and short above", () => {
  expect([0, 412, 9_999, 12_431, 190_000, 3_100_000, 4_200_000_000n].map(formatCount)).toEqual([
    "0",
    "412",
    "9,999",
    "12.4 k",
    "190 k",
    "3.1 M",
    "4.2 G",
  ]);
});

test("one of a thing is no plural", () => {
  expect([0, 1, 2, 12_431].map((n) => counted(n, "task"))).toEqual([
    "0 tasks",
    "1 task",
    "2 tasks",
    "12.4 k tasks",
  ]);
});

test("credits are exact in micro-credits, whatever their size", () => {
  expect(["0", "1", "499", "500", "1240500", "98000000", "-1500000"].map(formatCredits)).toEqual([
    "0",
    "0",
    "0",
    "0.001",
    "1.241",
    "98",
    "−1.5",
  ]);
  expect(formatCredits("9007199254740993000000")).toBe("9,007,199,254,740,993");
});

test("typed credits become micro-credits or nothing", () => {
  expect([" 120 ", "0.5", "1,200.000001", "0"].map(parseCredits)).toEqual([
    120_000_000n,
    500_000n,
    1_200_000_001n,
    0n,
  ]);
  for (const wrong of ["", "-1", "1e3", "1.0000001", "ten", ".5", "1."])
    expect([wrong, parseCredits(wrong)]).toEqual([wrong, undefined]);
});

test("what is shown as credits can be typed again", () => {
  for (const micro of [0n, 1_000n, 123_456_000n, 9_999_999_000n])
    expect(parseCredits(formatCredits(micro))).toBe(micro);
});

test("durations and ages use the two largest units", () => {
  expect([0, 0.084, 12, 200, 180, 11_520, 187_200].map(formatDuration)).toEqual([
    "0 s",
    "84 ms",
    "12 s",
    "3 min 20 s",
    "3 min",
    "3 h 12 m",
    "2 d 4 h",
  ]);
  const now = new Date("2026-01-01T12:00:00Z");
  const ago = (seconds: number) => formatAge(new Date(now.getTime() - seconds * 1000), now);
  expect([0, 12, 200, 18_000, 200_000, -60].map(ago)).toEqual([
    "now",
    "12 s ago",
    "3 min ago",
    "5 h ago",
    "2 d ago",
    "in 1 min",
  ]);
});

test("numbers that are not there or not finite are a dash", () => {
  expect([null, undefined, Number.NaN].map(formatReward)).toEqual(["–", "–", "–"]);
  expect([null, Number.POSITIVE_INFINITY].map(formatMetric)).toEqual(["–", "–"]);
  expect(formatDuration(null)).toBe("–");
});

test("differences carry a real sign, and none when they round to nothing", () => {
  expect([0.104, -0.02, 0.0001, -0.0001].map(formatDifference)).toEqual([
    "+0.104",
    "−0.020",
    "0.000",
    "0.000",
  ]);
});

test("metrics keep four digits at any size", () => {
  expect([0, 0.92346, -0.00152, 0.0000194, 12_345.6, 2_500_000].map(formatMetric)).toEqual([
    "0",
    "0.9235",
    "−0.00152",
    "1.94e−5",
    "12,346",
    "2.50e+6",
  ]);
});

test("ids are short by their random end, and constants read as words", () => {
  expect(shortId("run_01kay4f0p5e7xr9d2m8t7qk3fz")).toBe("run_qk3fz");
  expect(shortId("v12")).toBe("v12");
  expect(sentence("SET_ASIDE")).toBe("Set aside");
});

test("shares have the digits that a reader needs", () => {
  expect([0, 0.0042, 0.01, 0.0577, 0.361, 1, null].map(formatShare)).toEqual([
    "0 %",
    "0.42 %",
    "1 %",
    "5.8 %",
    "36 %",
    "100 %",
    "–",
  ]);
});

test("bytes are in powers of a thousand", () => {
  expect([0, 999, 1_485, 486_447, 14_239_897, 2e9].map(formatBytes)).toEqual([
    "0 B",
    "999 B",
    "1.5 kB",
    "486.4 kB",
    "14.2 MB",
    "2.0 GB",
  ]);
});
