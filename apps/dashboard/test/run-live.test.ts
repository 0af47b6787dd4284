import { expect, test } from "vitest";
import { emptyRunLive, foldRun } from "../src/features/runs/run-live.ts";
import type { LoggedEvent } from "../src/live/event-log.ts";

function event(seq: number, type: string, data: unknown): LoggedEvent {
  return { seq: BigInt(seq), type, subject: "x_1", data, at: "2026-01-01T00:00:00.000Z" };
}

const trained = event(7, "step.trained", {
  step: 3,
  version: 3,
  meanReward: 0.5,
  signalGroups: 60,
  settledGroups: 64,
  loss: 0.01,
  lag: { "1": 64 },
});

test("a trained step becomes a point of its metrics, and only of those", () => {
  const live = foldRun(emptyRunLive, [trained]);
  expect(live).toMatchObject({ seq: 7n, step: 3, version: 3, reward: 0.5 });
  expect(live.points).toEqual([
    {
      step: 3,
      metrics: new Map([
        ["meanReward", 0.5],
        ["loss", 0.01],
      ]),
    },
  ]);
});

test("values are absolute: the same event twice leaves the same state, step and reward", () => {
  const once = foldRun(emptyRunLive, [trained]);
  const twice = foldRun(once, [trained]);
  expect({ ...twice, points: [], touched: {} }).toEqual({ ...once, points: [], touched: {} });
});

test("a state event replaces the reason, also with none", () => {
  const paused = foldRun(emptyRunLive, [event(1, "run.state", { state: "PAUSED", reason: "lunch" })]);
  expect(paused).toMatchObject({ state: "PAUSED", reason: "lunch" });
  expect(foldRun(paused, [event(2, "run.state", { state: "RUNNING", reason: null })])).toMatchObject({
    state: "RUNNING",
    reason: undefined,
  });
});

test("an event only touches the parts of the page it is about", () => {
  const { touched, newGroups } = foldRun(emptyRunLive, [
    event(1, "group.submitted", {}),
    event(2, "evaluation.done", {}),
    event(3, "something.new", "not even an object"),
  ]);
  expect(touched).toEqual({ run: 3, workers: 0, rollouts: 0, evaluations: 1, verification: 0 });
  expect(newGroups).toBe(1);
});

test("verdicts, cases and suspicions are read again where they are shown", () => {
  const { touched } = foldRun(emptyRunLive, [
    event(1, "group.decided", {}),
    event(2, "case.opened", {}),
    event(3, "validator.suspect", {}),
  ]);
  expect(touched).toMatchObject({ verification: 3, workers: 3, rollouts: 1 });
});
