import { describe, expect, test } from "vitest";
import { canaryRate, firstTasks, nextCanary } from "../src/verification/canary.ts";

describe("the times of canaries", () => {
  const key = new Uint8Array(32).fill(7);
  const validators = Array.from({ length: 100 }, (_, i) => `validator ${i}`);

  test("bring both kinds within the first tasks, for everyone", () => {
    for (const validator of validators) {
      const [first, second] = [nextCanary(key, validator, 0), nextCanary(key, validator, 1)];
      expect(first.at).toBeGreaterThanOrEqual(1);
      expect(second.at).toBeGreaterThan(first.at);
      expect(second.at).toBeLessThanOrEqual(firstTasks);
      expect(new Set([first.purpose, second.purpose]).size).toBe(2);
    }
  });

  test("come at the documented rate afterwards, half of them bad, rising and never together", () => {
    let bad = 0;
    let tasks = 0;
    const each = 20;
    for (const validator of validators) {
      let previous = nextCanary(key, validator, 1).at;
      for (let issued = 2; issued < 2 + each; issued++) {
        const { at, purpose } = nextCanary(key, validator, issued);
        expect(at).toBeGreaterThan(previous);
        previous = at;
        if (purpose === "CANARY_BAD") bad++;
      }
      tasks += previous - firstTasks;
    }
    const canaries = validators.length * each;
    // 2,000 draws of a fixed key: four standard deviations are 9 % of the mean gap and 4.5 % of the share.
    expect(canaries / tasks).toBeGreaterThan(canaryRate * 0.91);
    expect(canaries / tasks).toBeLessThan(canaryRate * 1.1);
    expect(Math.abs(bad / canaries - 0.5)).toBeLessThan(0.045);
  });
});
