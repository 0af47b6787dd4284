import type { AlertKind } from "@muster/db";
import { CodedError } from "../errors.ts";

/** When a rule fires: its kind with its numbers. */
export type Condition = {
  readonly kind: AlertKind;
  /** In the unit of the kind; null where only the window counts. */
  readonly threshold: number | null;
  readonly windowSeconds: number;
};

/** What was measured at one moment, and what it is compared with. */
export type Reading = { readonly value: number; readonly limit: number; readonly firing: boolean };

type Bounds = { readonly least: number; readonly most: number; readonly whole?: boolean };

/** What the threshold of each kind may be. `none`: the window is all there is. `optional`: it is a least value beside what is computed. */
const thresholds: Record<AlertKind, { readonly needs: "none" | "optional" | "one" } & Partial<Bounds>> = {
  RUN_STALLED: { needs: "none" },
  NO_ACCEPTED: { needs: "none" },
  REJECT_RATE: { needs: "optional", least: 0, most: 1 },
  KL_ABOVE: { needs: "one", least: 0, most: 1e6 },
  ENTROPY_BELOW: { needs: "one", least: 0, most: 1e6 },
  BROADCAST_P95: { needs: "one", least: 0, most: 86_400 },
  WORKER_OFFLINE: { needs: "one", least: 1, most: 100_000, whole: true },
  VERIFY_QUEUE_AGE: { needs: "one", least: 1, most: 604_800 },
  BUDGET_SPENT: { needs: "one", least: 0, most: 1 },
};

const shortestWindow = 60;
const longestWindow = 604_800;

/** @throws CodedError `INPUT_INVALID` */
export function assertCondition({ kind, threshold, windowSeconds }: Condition): void {
  const { needs, least = 0, most = 0, whole = false } = thresholds[kind];
  const refuse = (message: string) => new CodedError("INPUT_INVALID", message);
  if (!(Number.isInteger(windowSeconds) && windowSeconds >= shortestWindow && windowSeconds <= longestWindow))
    throw refuse(`A window is ${shortestWindow} to ${longestWindow} whole seconds.`);
  if (threshold === null) {
    if (needs === "one") throw refuse(`${kind} needs a threshold.`);
    return;
  }
  if (needs === "none") throw refuse(`${kind} has no threshold: its window says it all.`);
  if (!(threshold >= least && threshold <= most) || (whole && !Number.isInteger(threshold)))
    throw refuse(`The threshold of ${kind} is a ${whole ? "whole " : ""}number from ${least} to ${most}.`);
}

/** What a reading says, in one sentence. */
export function summaryOf({ kind, windowSeconds }: Condition, { value, limit }: Reading): string {
  const window = duration(windowSeconds);
  switch (kind) {
    case "RUN_STALLED":
      return `No training step for ${duration(value)}; the limit is ${duration(limit)}.`;
    case "NO_ACCEPTED":
      return `No group was accepted for ${duration(value)}; the limit is ${duration(limit)}.`;
    case "REJECT_RATE":
      return `${percent(value)} of the groups decided in ${window} were rejected; the control limit is ${percent(limit)}.`;
    case "KL_ABOVE":
      return `Mean KL over ${window} is ${number(value)}, above ${number(limit)}.`;
    case "ENTROPY_BELOW":
      return `Mean entropy over ${window} is ${number(value)}, below ${number(limit)}.`;
    case "BROADCAST_P95":
      return `A checkpoint took ${duration(value)} to reach 95 % of its nodes; the limit is ${duration(limit)}.`;
    case "WORKER_OFFLINE":
      return `${value} ${value === 1 ? "node was" : "nodes were"} here today and not within ${window}.`;
    case "VERIFY_QUEUE_AGE":
      return `The oldest group has waited ${duration(value)} for a validator; the limit is ${duration(limit)}.`;
    case "BUDGET_SPENT":
      return `${percent(value)} of the run's credits are spent or held; the limit is ${percent(limit)}.`;
  }
}

const percent = (share: number): string => `${number(share * 100)} %`;
const number = (value: number): string => String(Number(value.toPrecision(3)));

function duration(seconds: number): string {
  if (seconds < 120) return `${number(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${number(seconds / 3_600)} h` : `${number(seconds / 86_400)} d`;
}
