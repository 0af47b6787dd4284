import type { CheckResult } from "@muster/verification";
import { expect, test } from "vitest";
import { figureRows, parseFigures } from "../src/features/evidence/figure-rows.ts";
import { type JudgeMessage, judgeBundle, type Verdict } from "../src/features/evidence/judge.ts";
import {
  agrees,
  foldJudging,
  isSettled,
  judgingBegun,
  stageNames,
} from "../src/features/evidence/judging.ts";

const verdict = (agrees: boolean): Verdict => ({
  verdict: "REJECTED",
  checks: [],
  agrees,
  differences: agrees ? [] : ["It is ACCEPTED."],
});

test("bytes that are no bundle fail with their code and are never measured", async () => {
  const told: JudgeMessage[] = [];
  await judgeBundle(new TextEncoder().encode("A letter, not a bundle"), {
    measure: () => Promise.reject(new Error("it was measured")),
    tell: (message) => told.push(message),
    now: () => 0,
  });
  expect(told.at(-1)).toMatchObject({ kind: "failed", code: "WRONG_MAGIC" });
  const judging = told.reduce(foldJudging, judgingBegun);
  expect(isSettled(judging)).toBe(true);
  expect(judging.stages.open.state).toBe("failed");
  expect(stageNames.slice(1).map((name) => judging.stages[name].state)).toEqual(
    stageNames.slice(1).map(() => "skipped"),
  );
});

test("a bundle agrees when every judgement does, and one that could not be measured by the stored one alone", () => {
  const unmeasured = "too large";
  expect(agrees({ stored: verdict(true), fresh: verdict(true), unmeasured: null })).toBe(true);
  expect(agrees({ stored: verdict(true), fresh: verdict(false), unmeasured: null })).toBe(false);
  expect(agrees({ stored: verdict(false), fresh: verdict(true), unmeasured: null })).toBe(false);
  expect(agrees({ stored: verdict(true), fresh: null, unmeasured })).toBe(true);
});

test("a judgement is settled by its verdicts, and its stages keep their newest word", () => {
  const running = foldJudging(judgingBegun, {
    kind: "stage",
    stage: "measure",
    state: "running",
    note: "3 of 8 rollouts",
  });
  expect(isSettled(running)).toBe(false);
  expect(running.stages.measure).toEqual({ state: "running", note: "3 of 8 rollouts" });
  const judged = foldJudging(running, {
    kind: "judged",
    verdicts: { stored: verdict(true), fresh: null, unmeasured: "" },
  });
  expect(isSettled(judged)).toBe(true);
});

test("numbers stand side by side under their names, the judged ones first", () => {
  const check: Pick<CheckResult, "observed" | "threshold"> = {
    observed: { rollout: 1, meanUlp: 302055.25, margin: "Infinity" },
    threshold: { meanUlp: 64 },
  };
  expect(figureRows([undefined, check.observed, check.threshold])).toEqual([
    { name: "mean ulp", values: ["", "302055", "64"] },
    { name: "rollout", values: ["", "1", ""] },
    { name: "margin", values: ["", "without bound", ""] },
  ]);
});

test("the coordinator's words for numbers are read back", () => {
  expect(parseFigures("meanUlp 302055, outliers 5, difference 1e-9, margin Infinity")).toEqual({
    meanUlp: 302055,
    outliers: 5,
    difference: 1e-9,
    margin: "Infinity",
  });
  expect(parseFigures("")).toEqual({});
});
