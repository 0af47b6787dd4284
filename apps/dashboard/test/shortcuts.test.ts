import { expect, test } from "vitest";
import { densityOf } from "../src/features/runs/event-density.ts";
import { specDiff } from "../src/features/runs/spec-diff.ts";
import { placeOf, readId } from "../src/features/session/id-place.ts";
import { isAt, nav } from "../src/features/session/nav.ts";
import { keyCaps, readPress } from "../src/ui/shortcut-keys.ts";

const known = new Set(["n", "g r", "?", "mod+k", "/"]);
const press = (key: string, more: Partial<Parameters<typeof readPress>[0]> = {}) => ({
  key,
  mod: false,
  alt: false,
  typing: false,
  ...more,
});
const on = { pending: undefined, known, single: true };

test("a key is a shortcut, two in a row are another", () => {
  expect(readPress(press("n"), on)).toEqual({ keys: "n" });
  expect(readPress(press("g"), on)).toEqual({ pending: "g" });
  expect(readPress(press("r"), { ...on, pending: "g" })).toEqual({ keys: "g r" });
  expect(readPress(press("r"), on)).toBeUndefined();
  expect(readPress(press("n"), { ...on, pending: "g" })).toEqual({ keys: "n" });
});

test("no single key is a shortcut while text is typed or when they are switched off; ⌘K is", () => {
  expect(readPress(press("n", { typing: true }), on)).toBeUndefined();
  expect(readPress(press("n"), { ...on, single: false })).toBeUndefined();
  expect(readPress(press("k", { mod: true, typing: true }), { ...on, single: false })).toEqual({
    keys: "mod+k",
  });
  expect(readPress(press("n", { mod: true }), on)).toBeUndefined();
});

test("keys are written as they stand on the keyboard", () => {
  expect(keyCaps("mod+k", true)).toEqual(["⌘", "K"]);
  expect(keyCaps("g r", false)).toEqual(["G", "R"]);
});

test("a whole id is looked up, a part of one is not", () => {
  expect(readId(" run_01kb2x5ycdfg9r0e4h7m1n8q3s ")).toBe("run_01kb2x5ycdfg9r0e4h7m1n8q3s");
  expect(readId("run_01kb")).toBeUndefined();
  expect(placeOf("Run", "run_x", "/runs")?.href).toBe("/runs/run_x");
  expect(placeOf("Rollout", "rollout_x", "/runs/run_y?tab=events")?.href).toBe(
    "/runs/run_y/rollouts/rollout_x",
  );
  expect(placeOf("Rollout", "rollout_x", "/runs")).toBeUndefined();
});

test("a place of the rail is current at and below its own path, and every key leads to one place", () => {
  expect(isAt("/runs/run_x", "/runs")).toBe(true);
  expect(isAt("/runsheet", "/runs")).toBe(false);
  const keys = nav.flatMap(({ key }) => key ?? []);
  expect(new Set(keys).size).toBe(keys.length);
});

test("only settings that differ are listed, lists as a whole", () => {
  const a = { seed: 1, batch: { groups: 8, tags: ["x"] }, same: true };
  const b = { seed: 2, batch: { groups: 8, tags: ["x", "y"] }, same: true, more: "z" };
  expect(specDiff([a, b])).toEqual([
    { path: "seed", values: ["1", "2"] },
    { path: "batch.tags", values: ['["x"]', '["x","y"]'] },
    { path: "more", values: [undefined, "z"] },
  ]);
});

test("every kept event is in exactly one part of the time, and the parts have fixed edges", () => {
  const at = (seconds: number) => ({ at: new Date(1_700_000_000_000 + seconds * 1000).toISOString() });
  const events = Array.from({ length: 1000 }, (_, i) => at(i * 0.7));
  const bins = densityOf(events);
  expect(bins.reduce((sum, { count }) => sum + count, 0)).toBe(1000);
  expect(bins.length).toBeLessThanOrEqual(80);
  const later = densityOf([...events, at(701)]);
  expect(later[0]?.from).toBe(bins[0]?.from);
  expect(densityOf([])).toEqual([]);
});
