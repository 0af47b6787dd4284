import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { demoRunSpec, demoSeed, environments, parseRunSpec, runSpecSchema, specHash } from "../src/index.ts";

const least = { name: "A run", environment: "muster/sort-digits@1" };

function issues(input: unknown): string[] {
  const parsed = parseRunSpec(input);
  return parsed.ok ? [] : parsed.issues.map(({ path }) => path);
}

test("a name and an environment are enough; everything else is a default", () => {
  const parsed = parseRunSpec({ ...least, seed: demoSeed(1), name: "Sort digits", disputeWindowSeconds: 0 });
  expect(parsed).toEqual({ ok: true, spec: demoRunSpec() });
  expect(demoRunSpec()).toMatchObject({
    protocol: 1,
    model: { hiddenSize: 64, layers: 2, heads: 4, kvHeads: 4, intermediateSize: 160, maxPositions: 32 },
    base: { kind: "warmup", steps: 300, batchSize: 192, learningRate: 2e-3, warmupSteps: 50 },
    generation: { groupSize: 8, groupsPerTask: 16, maxOutputTokens: 7 },
    batch: { signalGroups: 64, settledGroups: 64, minSignalGroups: 4, asyncLevel: 2 },
    limits: { steps: 100 },
    evaluation: { versions: [0, 50], examples: 1024 },
  });
});

test("every environment runs on the default model", () => {
  for (const environment of Object.keys(environments)) expect(issues({ ...least, environment })).toEqual([]);
});

test("a complete spec parses to itself, so a frozen revision never changes", () => {
  const spec = demoRunSpec({ seed: 3, steps: 20, name: "Twenty" });
  expect(parseRunSpec(JSON.parse(JSON.stringify(spec)))).toEqual({ ok: true, spec });
  expect(spec.evaluation.versions).toEqual([0, 20]);
  expect(specHash(spec)).toBe(specHash(JSON.parse(JSON.stringify(spec))));
  expect(specHash(spec)).not.toBe(specHash(demoRunSpec({ seed: 4, steps: 20, name: "Twenty" })));
});

test("a seed that is left out is drawn, another one each time", () => {
  const seeds = [1, 2].map(() => {
    const parsed = parseRunSpec(least);
    return parsed.ok ? parsed.spec.seed : "";
  });
  expect(seeds[0]).toMatch(/^[0-9a-f]{64}$/);
  expect(seeds[0]).not.toBe(seeds[1]);
});

test.each([
  ["an unknown key", { surprise: 1 }, ""],
  ["an unknown key inside", { model: { hidden: 1 } }, "model"],
  ["another protocol", { protocol: 2 }, "protocol"],
  ["no such environment", { environment: "muster/none@1" }, "environment"],
  ["an empty name", { name: " " }, "name"],
  ["a short seed", { seed: "ab" }, "seed"],
  ["heads that do not divide the hidden size", { model: { heads: 3 } }, "model.heads"],
  ["an odd head size", { model: { hiddenSize: 12, heads: 4 } }, "model.heads"],
  ["key/value heads that do not divide the heads", { model: { kvHeads: 3 } }, "model.kvHeads"],
  ["too few positions", { model: { maxPositions: 13 } }, "model.maxPositions"],
  ["a group of one", { generation: { groupSize: 1 } }, "generation.groupSize"],
  ["greedy rollouts", { generation: { sampling: { temperature: 0 } } }, "generation.sampling.temperature"],
  ["a top-k beyond the vocabulary", { generation: { sampling: { topK: 19 } } }, "generation.sampling.topK"],
  ["a task too large", { generation: { groupSize: 256, groupsPerTask: 1024 } }, "generation.groupsPerTask"],
  ["more needed than sealed at", { batch: { minSignalGroups: 65 } }, "batch.minSignalGroups"],
  ["more with signal than settled", { batch: { signalGroups: 65 } }, "batch.signalGroups"],
  ["a warm-up longer than itself", { base: { kind: "warmup", steps: 10 } }, "base.warmupSteps"],
  ["an upload without its hash", { base: { kind: "upload" } }, "base.sha256"],
  ["moments the wrong way round", { training: { beta1: 0.99 } }, "training.beta1"],
  [
    "a version after the end",
    { limits: { steps: 9 }, evaluation: { versions: [0, 10] } },
    "evaluation.versions.1",
  ],
  ["half a credit", { limits: { credits: 0.5 } }, "limits.credits"],
  ["a deadline that is no time", { limits: { deadline: "tomorrow" } }, "limits.deadline"],
  ["not a number", { training: { learningRate: Number.NaN } }, "training.learningRate"],
])("%s is an issue, at its field", (_what, change, path) => {
  expect(issues({ ...least, ...change })).toContain(path);
});

test("any value at all gives a spec or issues, never an exception", () => {
  fc.assert(
    fc.property(fc.anything(), fc.anything(), (value, part) => {
      for (const input of [value, { ...least, model: part }, { ...least, evaluation: part, base: value }]) {
        const parsed = parseRunSpec(input);
        if (!parsed.ok) expect(parsed.issues.length).toBeGreaterThan(0);
      }
    }),
  );
});

describe("the form", () => {
  type Node = { description?: string; properties?: Record<string, Node>; anyOf?: Node[]; oneOf?: Node[] };

  test("has a description for every field a person may fill in", () => {
    const schema = z.toJSONSchema(runSpecSchema, { io: "input" }) as Node;
    const missing: string[] = [];
    let fields = 0;
    const visit = (node: Node, path: string): void => {
      for (const [name, field] of Object.entries(node.properties ?? {})) {
        fields++;
        if (field.description === undefined && name !== "kind") missing.push(`${path}${name}`);
        visit(field, `${path}${name}.`);
      }
      for (const option of [...(node.anyOf ?? []), ...(node.oneOf ?? [])]) visit(option, path);
    };
    visit(schema, "");
    expect(missing).toEqual([]);
    expect(fields).toBeGreaterThan(70);
  });
});

test.each([
  [{ name: "" }, "name", "Write something here."],
  [{ name: "x".repeat(101) }, "name", "Write at most 100 characters."],
  [{ limits: { steps: "abc" } }, "limits.steps", "This must be a number."],
  [{ limits: { steps: 1.5 } }, "limits.steps", "This must be a whole number."],
  [
    { limits: { deadline: "tomorrow" } },
    "limits.deadline",
    "Write a moment in UTC, such as 2030-01-31T12:00:00Z.",
  ],
  [{ training: { beta2: 1 } }, "training.beta2", "This must be less than 1."],
  [
    { training: { schedule: "spiral" } },
    "training.schedule",
    "This must be one of linear, constant, cosine.",
  ],
  [{ environment: undefined }, "environment", "This is missing."],
  [{ seeds: 1 }, "", 'There is no field "seeds" here.'],
])("what is wrong is said as a sentence: %j", (change, path, message) => {
  const parsed = parseRunSpec({ name: "A run", environment: "muster/sort-digits@1", ...change });
  expect(parsed.ok ? [] : parsed.issues).toContainEqual({ path, message });
});
