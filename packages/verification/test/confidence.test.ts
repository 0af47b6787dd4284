import { describe, expect, it } from "vitest";
import { exactUpper, upperBound } from "../src/index.ts";

describe("a bound of a rate", () => {
  it("is about 3 / n when nothing failed in a sample of fixed size", () => {
    expect(exactUpper(0, 100_000)).toBeCloseTo(1 - 0.05 ** (1 / 100_000), 12);
    expect(exactUpper(0, 1)).toBeCloseTo(0.95, 10);
  });

  it("matches published values of the exact interval", () => {
    // One-sided 95 %: 5 of 50 gives .19875 (a common table value: 0.199)
    expect(exactUpper(5, 50)).toBeCloseTo(0.1988, 3);
    expect(exactUpper(1, 10)).toBeCloseTo(0.3942, 4);
  });

  it("is wider when it has to hold at every moment", () => {
    for (const [failures, trials] of [
      [0, 50],
      [3, 200],
      [40, 1000],
    ] as const)
      expect(upperBound(failures, trials)).toBeGreaterThan(exactUpper(failures, trials));
  });

  it("has the closed form of the mixture when nothing failed", () => {
    // 1 / ((n + 1) (1 − p)^n) = 1 / alpha
    const n = 500;
    expect(upperBound(0, n)).toBeCloseTo(1 - (0.05 / (n + 1)) ** (1 / n), 10);
  });

  it("is crossed in at most alpha of long histories, whenever one looks", () => {
    const rate = 0.05;
    let state = 12345;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    const histories = 400;
    let crossed = 0;
    for (let h = 0; h < histories; h++) {
      let failures = 0;
      for (let n = 1; n <= 400; n++) {
        if (random() < rate) failures++;
        if (n % 5 === 0 && upperBound(failures, n) < rate) {
          crossed++;
          break;
        }
      }
    }
    expect(crossed / histories).toBeLessThanOrEqual(0.05);
  });

  it("says nothing about no trials and refuses what is no count", () => {
    expect(upperBound(0, 0)).toBe(1);
    expect(exactUpper(7, 7)).toBe(1);
    expect(() => upperBound(3, 2)).toThrow(RangeError);
    expect(() => exactUpper(0.5, 2)).toThrow(RangeError);
  });
});
