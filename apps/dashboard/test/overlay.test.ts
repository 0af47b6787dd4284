import { expect, test } from "vitest";
import { heatOf, isBeyond, overlayValue, type Token } from "../src/features/rollouts/overlay.ts";

const scale = { logProbability: 1e-3, margin: 1e-3 };
const token = (change: Partial<Token>): Token => ({
  position: 0,
  token: 1,
  text: "a",
  claimedLogProbability: -1,
  measuredLogProbability: -1,
  margin: 0,
  ...change,
});

test("the difference is the distance of claim and measurement, and unknown without one of them", () => {
  expect(overlayValue(token({ measuredLogProbability: -1.5 }), "difference")).toBe(0.5);
  expect(overlayValue(token({ measuredLogProbability: null }), "difference")).toBeNull();
});

test("a token exactly at the threshold is within it, a token above or not a number is beyond", () => {
  expect(isBeyond(token({ margin: 1e-3 }), "margin", scale)).toBe(false);
  expect(isBeyond(token({ margin: 1.1e-3 }), "margin", scale)).toBe(true);
  expect(isBeyond(token({ margin: Number.NaN }), "margin", scale)).toBe(true);
  expect(isBeyond(token({ margin: null }), "margin", scale)).toBe(false);
  expect(isBeyond(token({ claimedLogProbability: -9 }), "claimed", scale)).toBe(false);
});

test("colour grows with the value up to its end and is none where nothing is known", () => {
  const heats = [0, 1e-4, 5e-4, 1e-3, 1].map((margin) => heatOf(token({ margin }), "margin", scale));
  expect(heats).toEqual([0, 1, 3, 5, 5]);
  expect(heatOf(token({ claimedLogProbability: -2.5 }), "claimed", scale)).toBe(3);
  expect(heatOf(token({ margin: null }), "margin", scale)).toBe(0);
  expect(heatOf(token({ margin: 1 }), "none", scale)).toBe(0);
});
