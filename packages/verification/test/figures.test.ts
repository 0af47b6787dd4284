import { expect, test } from "vitest";
import { thresholdNames, verifyGroup, windowFigures } from "../src/index.ts";
import { generate, measure, spec } from "./tiny-policy.ts";

const decoyKey = [11, 22] as const;
const validator = { weights: 1, kernel: 2 };
const names = {
  outliers: ["activations", "outliers"],
  meanUlp: ["activations", "meanUlp"],
  exponentMismatches: ["activations", "exponentMismatches"],
  mantissaMean: ["activations", "mantissaMean"],
  mantissaMedian: ["activations", "mantissaMedian"],
  decoys: ["decoys", "hits"],
  margin: ["sampling", "margin"],
  logProbability: ["log-probabilities", "difference"],
} as const;

for (const form of ["f32", "bf16"] as const) {
  for (const weights of [1, 2]) {
    test(`the worst window's figures are those of the verdict: ${form}, ${weights === 1 ? "honest" : "another policy"}`, () => {
      const runSpec = spec(form);
      const work = generate(runSpec, { weights, kernel: 1 });
      const measurement = measure(runSpec, validator, work);
      const { rollouts } = work.pack;
      const windows = windowFigures({ spec: runSpec, rollouts, measurement: measurement.rollouts, decoyKey });
      expect(windows).toHaveLength(rollouts.reduce((sum, { proofs }) => sum + proofs.length, 0));
      const { checks } = verifyGroup({ spec: runSpec, task: work.task, rollouts, measurement, decoyKey });
      for (const name of thresholdNames[form]) {
        const [id, figure] = names[name];
        const { observed } = checks.find((check) => check.id === id)!;
        // Where a check has several figures it shows those of its worst window.
        const shown = windows.filter(
          ({ rollout, window }) =>
            id !== "activations" || (rollout === observed.rollout && window === observed.window),
        );
        const value = Math.max(...shown.map(({ figures }) => figures[name]!));
        const other = name === "exponentMismatches" ? Number(observed.signMismatches) : 0;
        expect([name, value]).toEqual([name, Math.max(Number(observed[figure]), other)]);
      }
      const beyond = windows.some(({ figures }) =>
        thresholdNames[form].some((name) => figures[name]! > runSpec.verification.thresholds[name]),
      );
      expect(beyond).toBe(weights !== 1);
    });
  }
}
