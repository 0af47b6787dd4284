import { demoRunSpec, environments, parseRunSpec, runSpecSchema } from "@muster/protocol";
import { expect, test } from "vitest";
import { costBound } from "../src/features/runs/spec-cost.ts";
import {
  issuesAt,
  labelOf,
  parseTyped,
  pathsOf,
  placeOf,
  type SpecField,
  type SpecSection,
  sectionOf,
  shownValue,
  valueAt,
  withValueAt,
} from "../src/features/runs/spec-schema.ts";
import { startFrom, withEnvironment } from "../src/features/runs/spec-start.ts";

const schema = runSpecSchema.toJSONSchema({ io: "input" });
const demo: Record<string, unknown> = { ...demoRunSpec() };
const form = sectionOf(schema, demo);

function fieldsOf(section: SpecSection): SpecField[] {
  return [...section.fields, ...section.sections.flatMap(fieldsOf)];
}
function field(path: string, section = form): SpecField {
  const found = fieldsOf(section).find((each) => each.path === path);
  if (!found) throw new Error(`no field ${path}`);
  return found;
}
function leavesOf(value: unknown, path = ""): string[] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [path];
  return Object.entries(value).flatMap(([key, inner]) =>
    leavesOf(inner, path === "" ? key : `${path}.${key}`),
  );
}

test("every value of the demo's spec has a field, its discriminators and the protocol apart", () => {
  const fields = new Set(fieldsOf(form).map((each) => each.path));
  expect(leavesOf(demo).filter((path) => !fields.has(path))).toEqual(["protocol", "base.kind"]);
});

test("a field knows what it holds", () => {
  expect(field("training.learningRate")).toMatchObject({
    kind: "number",
    limits: "More than 0, at most 1",
    fallback: 0.001,
  });
  expect(field("model.layers")).toMatchObject({ kind: "integer", limits: "1 to 256" });
  expect(field("training.schedule")).toMatchObject({
    kind: "choice",
    choices: ["linear", "constant", "cosine"],
  });
  expect(field("model.tiedHead").kind).toBe("boolean");
  expect(field("evaluation.versions").kind).toBe("list");
  expect(field("name")).toMatchObject({ kind: "text", required: true });
});

test("an object with several shapes shows the fields of the one it has", () => {
  const base = (spec: Record<string, unknown>) =>
    sectionOf(schema, spec).sections.find(({ path }) => path === "base");
  expect(base(demo)?.variants).toEqual({ key: "kind", names: ["warmup", "checkpoint", "upload"] });
  expect(base(demo)?.fields.map(({ name }) => name)).toContain("batchSize");
  expect(base({ ...demo, base: { kind: "checkpoint" } })?.fields.map(({ name }) => name)).toEqual([
    "run",
    "version",
  ]);
});

test("every field of the demo survives being shown and typed again", () => {
  let spec: Readonly<Record<string, unknown>> = demo;
  for (const each of fieldsOf(form)) {
    spec = withValueAt(spec, each.path, parseTyped(each, shownValue(valueAt(demo, each.path))));
  }
  expect(parseRunSpec(spec)).toEqual({ ok: true, spec: demo });
});

test("text that is no number stays text, so that the schema can say what is wrong", () => {
  const spec = withValueAt(demo, "limits.steps", parseTyped(field("limits.steps"), "abc"));
  const parsed = parseRunSpec(spec);
  expect(parsed.ok ? [] : issuesAt(parsed.issues, "limits.steps")).toHaveLength(1);
});

test("an emptied field leaves the spec, and its default applies", () => {
  const spec = withValueAt(demo, "training.learningRate", parseTyped(field("training.learningRate"), " "));
  expect(valueAt(spec, "training")).not.toHaveProperty("learningRate");
  expect(parseTyped(field("name"), "")).toBe("");
});

test("an issue inside a list belongs to its field, and to no other of a similar name", () => {
  const issues = [{ path: "evaluation.versions.1" }, { path: "evaluation.versionsOther" }];
  expect(issuesAt(issues, "evaluation.versions")).toEqual([{ path: "evaluation.versions.1" }]);
  expect(pathsOf(form)).toContain("evaluation.versions");
});

test("a problem is named as the form names its place", () => {
  expect(placeOf(form, "evaluation.versions.1")).toBe("Evaluation › Versions, entry 2");
  expect(placeOf(form, "generation.sampling.topK")).toBe("Generation › Sampling › Top k");
  expect(placeOf(form, "model")).toBe("Model");
  expect(placeOf(form, "nowhere.at.all")).toBe("nowhere.at.all");
});

test("the form's start hinders no first change: it stays valid with fewer steps or another environment", () => {
  const start = startFrom(demo);
  expect(start.seed).not.toBe(demo.seed);
  const completed = (spec: unknown) => {
    const parsed = parseRunSpec(spec);
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.issues));
    return parsed.spec;
  };
  expect(completed(withValueAt(start, "limits.steps", 6)).evaluation.versions).toEqual([0, 6]);
  for (const { slug, title } of Object.values(environments)) {
    const moved = completed(withEnvironment(start, slug, Object.values(environments)));
    expect([moved.name, moved.generation.maxOutputTokens]).toEqual([
      title,
      environments[slug]?.maxOutputTokens,
    ]);
  }
  const mine = withValueAt(start, "name", "Mine");
  expect(withEnvironment(mine, "muster/addition@1", Object.values(environments)).name).toBe("Mine");
});

test("changing a value leaves the spec it came from alone", () => {
  const changed = withValueAt(demo, "training.clipLow", 0.3);
  expect(valueAt(changed, "training.clipLow")).toBe(0.3);
  expect(valueAt(demo, "training.clipLow")).toBe(0.2);
});

test("labels read as words", () => {
  expect(["maxGradientNorm", "kvHeads", "klCoefficient", "relayedMiB", "beta1"].map(labelOf)).toEqual([
    "Max gradient norm",
    "KV heads",
    "KL coefficient",
    "Relayed MiB",
    "Beta1",
  ]);
});

test("the bound on the cost counts every token of every step and evaluation at its price", () => {
  // 100 steps × 64 groups × 8 rollouts × 7 tokens × (100 + 20 + 50), and two evaluations of 1,024 × 7 tokens × 100
  expect(costBound(demo)).toBe(60_928_000n + 1_433_600n);
  expect(costBound(withValueAt(demo, "limits.steps", "abc"))).toBeUndefined();
});
