import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeCheckpoint, initialParameters, type ModelConfig } from "@muster/policy";
import { demoRunSpec, environment } from "@muster/protocol";
import { expect, test } from "vitest";
import { type ThresholdReach, thresholdBetween } from "../src/index.ts";
import { muster, testFolder } from "./muster.ts";

const reach = (over: Partial<ThresholdReach> = {}): ThresholdReach => ({
  name: "meanUlp",
  honest: [
    { provider: "cpu", value: 4 },
    { provider: "wasm", value: 7 },
  ],
  attack: { name: "slightly other weights", value: 105 },
  ...over,
});

test("a threshold is the rounded geometric middle, at least four times the honest extreme", () => {
  // √(7 · 105) = 27.1 is less than 4 · 7.
  expect(thresholdBetween(reach())).toBe(30);
  // √(7 · 10,000) = 264.6
  expect(thresholdBetween(reach({ attack: { name: "a", value: 10_000 } }))).toBe(300);
  expect(
    thresholdBetween(
      reach({
        name: "logProbability",
        honest: [{ provider: "cpu", value: 1e-5 }],
        attack: { name: "a", value: 7.6e-3 },
      }),
    ),
  ).toBe(3e-4);
});

test("a count is a whole number, and an honest zero counts as one", () => {
  const name = "outliers";
  expect(
    thresholdBetween(
      reach({ name, honest: [{ provider: "cpu", value: 0 }], attack: { name: "a", value: 54 } }),
    ),
  ).toBe(8);
  expect(
    thresholdBetween(
      reach({ name, honest: [{ provider: "cpu", value: 0 }], attack: { name: "a", value: 5 } }),
    ),
  ).toBe(4);
});

test("where nothing human lies between, the threshold is a number that does", () => {
  const found = thresholdBetween(reach({ attack: { name: "a", value: 28.5 } }));
  expect(found).toBeGreaterThanOrEqual(28);
  expect(found).toBeLessThan(28.5);
});

test("a provider whose honest extreme overlaps the weakest attack is refused by name, with both numbers", () => {
  for (const value of [28, 7, 0]) {
    const overlap = () => thresholdBetween(reach({ attack: { name: "slightly other weights", value } }));
    expect(overlap).toThrow(
      expect.objectContaining({
        code: "CALIBRATION_OVERLAP",
        message: expect.stringContaining(
          `On wasm honest work reaches meanUlp 7, and "slightly other weights" shows only ${value}`,
        ),
      }),
    );
  }
});

const demo = demoRunSpec();
const { tokenizer } = environment(demo.environment);
const spec = {
  ...demo,
  model: { ...demo.model, hiddenSize: 32, layers: 1, heads: 2, kvHeads: 2, intermediateSize: 64 },
  generation: { ...demo.generation, groupSize: 4 },
};
const { initSeed: _, ...shape } = spec.model;
const model: ModelConfig = { ...shape, vocabularySize: tokenizer.vocabularySize, eos: tokenizer.eos };

test("a small model is calibrated across providers, batch sizes and graphs, and the last line says what was proved", async () => {
  await using folder = await testFolder();
  const at = (name: string) => join(folder.path, name);
  const files = encodeCheckpoint(model, initialParameters(model, [3, 4]), tokenizer);
  await writeFile(at("model.safetensors"), files.model);
  await writeFile(at("config.json"), files.config);
  await writeFile(at("spec.json"), JSON.stringify(spec));
  const { status, stdout } = await muster([
    ...["calibrate", "--spec", at("spec.json"), "--checkpoint", folder.path, "--out", at("calibration.json")],
    ...["--windows", "300", "--batch-sizes", "1,8", "--threads", "1", "--json"],
  ]);
  const lines = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const summary = lines.at(-1);
  expect(Object.keys(summary)).toEqual(["windows", "falseRejections", "upper95"]);
  expect(summary.windows).toBeGreaterThanOrEqual(300);
  expect(summary.falseRejections).toBe(0);
  expect(summary.upper95).toBeCloseTo(3 / summary.windows, 3);

  const [report] = lines;
  expect(JSON.parse(await readFile(at("calibration.json"), "utf8"))).toEqual(report);
  expect(report.calibratedOn).toBeGreaterThanOrEqual(300);
  expect(Object.keys(report.thresholds)).toEqual([
    "outliers",
    "meanUlp",
    "decoys",
    "margin",
    "logProbability",
  ]);
  for (const { name, honest, attack } of report.reaches) {
    const threshold = report.thresholds[name];
    expect(honest.map(({ provider }: { provider: string }) => provider)).toEqual(["cpu", "wasm"]);
    for (const { value } of honest) expect(threshold).toBeGreaterThanOrEqual(4 * value);
    expect(threshold).toBeLessThan(attack.value);
  }
  const ulp = report.reaches.find(({ name }: { name: string }) => name === "meanUlp");
  expect(ulp.honest[1].value).toBeGreaterThan(0);
  expect(status).toBe(0);
});

test.for([
  [["calibrate"], "Say what to calibrate"],
  [["calibrate", "--run", "a", "--spec", "b"], "Say what to calibrate"],
  [["calibrate", "--spec", "b", "--apply"], "--apply gives thresholds to a run"],
  [["calibrate", "--spec", "b", "--batch-sizes", "1,none"], "whole number from 1 to 4096"],
  [["calibrate", "--spec", "b", "--providers", "abacus"], '"abacus" is no execution provider'],
] as const)("muster %s is told what is wrong", async ([args, said]) => {
  const { status, stderr } = await muster(args);
  expect(stderr).toContain(said);
  expect(status).toBe(2);
});
