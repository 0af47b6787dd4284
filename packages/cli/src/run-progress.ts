// How far a run is, in one line, and how it ended.
import { setTimeout as sleep } from "node:timers/promises";
import { ApiError, type Evaluation, type MusterClient, type Run } from "@muster/sdk";
import { printable, type Terminal } from "./terminal.ts";

/** Milliseconds between two looks: a person sees no difference, and the counts cost the database something. */
const EVERY = 2_000;

/** What programs are told about a run's progress. */
export type Progress = {
  type: "progress";
  run: string;
  state: Run["state"];
  step: number;
  steps: number;
  reward: number | null;
  accepted: number;
  rejected: number;
  verificationShare: number | null;
  etaSeconds: number | null;
};

export function progressOf(run: Run): Progress {
  const { groups, reward, verificationShare, etaSeconds } = run.stats;
  return {
    type: "progress",
    run: run.id,
    state: run.state,
    step: run.step,
    steps: run.stepLimit,
    reward,
    accepted: groups.accepted + groups.setAside,
    rejected: groups.rejected,
    verificationShare,
    etaSeconds,
  };
}

export function progressLine(run: Run): string {
  const now = progressOf(run);
  const parts = [printable(run.name)];
  if (now.state === "PAUSED") parts.push(`PAUSED${run.stateReason === null ? "" : ` (${run.stateReason})`}`);
  else if (run.currentVersion === null) parts.push("preparing the base policy");
  parts.push(
    `step ${now.step}/${now.steps}`,
    `reward ${now.reward === null ? "–" : now.reward.toFixed(2)}`,
    `accepted ${now.accepted}`,
    `rejected ${now.rejected}`,
  );
  if (now.verificationShare !== null)
    parts.push(`verification ${(now.verificationShare * 100).toFixed(0)} %`);
  if (now.etaSeconds !== null && now.state === "RUNNING") parts.push(`${duration(now.etaSeconds)} left`);
  return parts.join("  ·  ");
}

/** What programs are told about a run's end. */
export type Result = {
  type: "result";
  run: string;
  state: Run["state"];
  reason: string | null;
  step: number;
  base: number | null;
  now: number | null;
  ciLow: number | null;
  ciHigh: number | null;
  gain: number | null;
  gainLow: number | null;
  gainHigh: number | null;
  n: number | null;
  version: number | null;
};

export function resultOf(run: Run, evaluations: readonly Evaluation[]): Result {
  const base = evaluations.find(({ version }) => version === 0);
  const last = lastOf(evaluations);
  return {
    type: "result",
    run: run.id,
    state: run.state,
    reason: run.stateReason,
    step: run.step,
    base: base?.mean ?? null,
    now: last?.mean ?? null,
    ciLow: last?.ciLow ?? null,
    ciHigh: last?.ciHigh ?? null,
    gain: last?.gain ?? null,
    gainLow: last?.gainLow ?? null,
    gainHigh: last?.gainHigh ?? null,
    n: last?.n ?? null,
    version: last?.version ?? null,
  };
}

function resultLine(run: Run, evaluations: readonly Evaluation[]): string {
  const { state, reason, base, now, ciLow, ciHigh, n, version, gain, gainLow, gainHigh } = resultOf(
    run,
    evaluations,
  );
  const how = `${printable(run.name)} is ${state}${reason === null ? "" : ` (${printable(reason)})`} after step ${run.step}`;
  if (base === null || now === null) return `${how}; its held-out reward was not measured.`;
  const paired = gain === null ? "" : `; gain ${signed(gain)} (${signed(gainLow)} to ${signed(gainHigh)})`;
  return `${how}: held-out reward ${base.toFixed(3)} → ${now.toFixed(3)} (95 % interval ${ciLow?.toFixed(3)} to ${ciHigh?.toFixed(3)}, n = ${n}, version ${version})${paired}.`;
}

/**
 * Shows a run's progress until it ends, then its result, once.
 * @returns the run as it ended; undefined when the signal ended the watching first.
 */
export async function showProgress(
  client: MusterClient,
  terminal: Terminal,
  options: { run: string; signal: AbortSignal },
): Promise<Run | undefined> {
  const { signal } = options;
  let told = "";
  while (!signal.aborted) {
    const run = await ask(() => client.runs.get({ id: options.run }, { signal }), signal);
    if (run === undefined) return undefined;
    if (["COMPLETED", "CANCELLED", "FAILED"].includes(run.state)) {
      // A run is COMPLETED only when its last version is evaluated.
      const evaluations = await ask(() => client.runs.evaluations({ run: run.id }, { signal }), signal);
      if (evaluations === undefined) return undefined;
      terminal.status("");
      terminal.say(resultLine(run, evaluations));
      terminal.value(resultOf(run, evaluations));
      return run;
    }
    terminal.status(progressLine(run));
    const now = progressOf(run);
    // The estimate moves with every look; it alone is no news.
    const news = JSON.stringify({ ...now, etaSeconds: null });
    if (news !== told) terminal.value(now);
    told = news;
    await sleep(EVERY, undefined, { signal }).catch(() => {});
  }
  return undefined;
}

/** Answers, however long the coordinator is away: it is started again, and the run goes on. */
async function ask<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  while (!signal.aborted) {
    try {
      return await call();
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof ApiError && error.retryable)) throw error;
      await sleep(EVERY, undefined, { signal }).catch(() => {});
    }
  }
  return undefined;
}

function lastOf(evaluations: readonly Evaluation[]): Evaluation | undefined {
  return evaluations.toSorted((a, b) => b.version - a.version)[0];
}

function signed(value: number | null): string {
  return value === null ? "–" : `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(3)}`;
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5_400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3_600).toFixed(1)} h`;
}
