import type { LoggedEvent } from "../../live/event-log.ts";
import type { Point } from "../../ui/chart/chart-data.ts";

/** What a run page knows beyond its last snapshot: values from events, and how often each part of the page was touched. */
export type RunLive = {
  /** Number of the newest event in it: values here are newer than a snapshot whose cursor is smaller. */
  readonly seq: bigint;
  readonly state: string | undefined;
  readonly reason: string | undefined;
  readonly step: number | undefined;
  readonly version: number | undefined;
  readonly reward: number | undefined;
  /** Steps that were trained since, in the order they came. */
  readonly points: readonly Point[];
  /** Grow when something there changed: read it again. */
  readonly touched: {
    readonly run: number;
    readonly workers: number;
    readonly rollouts: number;
    readonly evaluations: number;
    /** Verdicts, cases, and what was learned about validators. */
    readonly verification: number;
  };
  /** Groups submitted since the page was opened: rollouts that a table of the newest does not show yet. */
  readonly newGroups: number;
};

export const emptyRunLive: RunLive = {
  seq: 0n,
  state: undefined,
  reason: undefined,
  step: undefined,
  version: undefined,
  reward: undefined,
  points: [],
  touched: { run: 0, workers: 0, rollouts: 0, evaluations: 0, verification: 0 },
  newGroups: 0,
};

/** Folds events into the view. Their values are absolute, so an event adds what it says and never a difference. */
export function foldRun(live: RunLive, events: readonly LoggedEvent[]): RunLive {
  const touched = { ...live.touched };
  const points: Point[] = [];
  let { state, reason, step, version, reward, newGroups } = live;
  for (const { type, data: raw } of events) {
    const data = isRecord(raw) ? raw : {};
    touched.run++;
    switch (type) {
      case "run.state":
        state = text(data.state) ?? state;
        reason = text(data.reason);
        break;
      case "run.progress":
        step = number(data.step) ?? step;
        version = number(data.version) ?? number(data.currentVersion) ?? version;
        break;
      case "step.trained": {
        const trained = number(data.step);
        if (trained === undefined) break;
        const metrics = metricsOf(data);
        step = Math.max(step ?? 0, trained);
        version = number(data.version) ?? version;
        reward = metrics.get("meanReward") ?? reward;
        points.push({ step: trained, metrics });
        break;
      }
      case "checkpoint.available":
        version = number(data.version) ?? version;
        touched.workers++;
        break;
      case "group.submitted":
        newGroups++;
        break;
      case "group.decided":
      case "group.reaudited":
        touched.rollouts++;
        touched.workers++;
        touched.verification++;
        break;
      case "case.opened":
      case "case.disputed":
      case "case.decided":
      case "validator.suspect":
      case "validator.missing":
        touched.workers++;
        touched.verification++;
        break;
      case "evaluation.done":
        touched.evaluations++;
        break;
      case "node.joined":
      case "node.trust":
      case "grant.changed":
        touched.workers++;
        break;
    }
  }
  return {
    seq: events.at(-1)?.seq ?? live.seq,
    state,
    reason,
    step,
    version,
    reward,
    points: points.length === 0 ? live.points : [...live.points, ...points].slice(-mostPoints),
    touched,
    newGroups,
  };
}

/** Live points a page keeps; a run that trains more than this while it is open is read again in buckets. */
const mostPoints = 2_000;

const notMetrics: ReadonlySet<string> = new Set(["step", "version", "signalGroups", "settledGroups"]);

/** Every other number of a trained step: what the trainer reported, and the mean reward, which the coordinator computed. */
function metricsOf(data: Record<string, unknown>): ReadonlyMap<string, number> {
  const numbers = Object.entries(data).flatMap(([name, value]) => {
    const n = number(value);
    return n === undefined || notMetrics.has(name) ? [] : [[name, n] as const];
  });
  return new Map(numbers);
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
