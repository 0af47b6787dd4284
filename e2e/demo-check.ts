// Does a run learn, on this machine, as fast as promised? For each demo seed a whole installation is started and watched until
// its held-out evaluation: `npm run demo:check -- --seeds 5 [--control] [--steps 50] [--json] [--keep]`.
// One JSON line a seed on standard output; everything else goes to standard error.

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { demoRunSpec, type RunSpec } from "@muster/protocol";
import type { Evaluation } from "@muster/sdk";
import { heldOutRewards } from "./held-out.ts";
import { createRun, type Installation, startInstallation } from "./installation.ts";
import { pairedDifference } from "./paired-bootstrap.ts";
import { memoryOf } from "./processes.ts";

/** What was promised. With `--control` only `controlGain` counts: shuffled advantages must not create the skill. */
const promised = { gain: 0.5, minutes: 5, firstVerifiedStepSeconds: 60, pssMb: 3000, controlGain: 0.05 };

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "5" },
    seed: { type: "string" },
    steps: { type: "string", default: "50" },
    control: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const say = (text: string) => {
  if (!values.json) process.stderr.write(`${text}\n`);
};
const steps = wholeNumber("steps", values.steps);
const seeds =
  values.seed === undefined
    ? Array.from({ length: wholeNumber("seeds", values.seeds) }, (_, i) => i + 1)
    : [wholeNumber("seed", values.seed)];

let current: Installation | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    say("Stopping …");
    void (current?.stop() ?? Promise.resolve()).finally(() => process.exit(130));
  });
}

let missed = 0;
for (const seed of seeds) {
  const outcome = await check(seed);
  process.stdout.write(`${JSON.stringify(outcome.line)}\n`);
  for (const miss of outcome.missed) process.stderr.write(`Seed ${seed}: ${miss}\n`);
  if (outcome.missed.length > 0) missed++;
}
say(`${seeds.length - missed} of ${seeds.length} seeds held what was promised.`);
process.exit(missed === 0 ? 0 : 1);

type Line = {
  seed: number;
  /** Held-out mean reward of the base and of the version compared with it. */
  base: number;
  now: number;
  /** 95 % interval of the gain, paired by example. */
  ciLow: number;
  ciHigh: number;
  /** From the coordinator's start to the evaluation. */
  minutes: number;
  firstVerifiedStepSeconds: number;
  pssMb: number | null;
  version?: number;
};

async function check(seed: number): Promise<{ line: Line; missed: string[] }> {
  say(`Seed ${seed}: starting …`);
  const spec = specOf(seed);
  const installation = await startInstallation({
    name: `demo-check-${seed}`,
    keep: values.keep,
  });
  current = installation;
  try {
    const peak = watchMemory(installation);
    const { id: run } = await createRun(installation, spec);
    const evaluation = await evaluated(installation, run, spec);
    const pssMb = await peak.stop();
    const startedAt = Date.parse((await installation.client.health()).startedAt);
    const first = (await installation.client.runs.trainSteps({ run, from: 1, to: 1 }))[0];
    const secondsAfterStart = (at: string) => (Date.parse(at) - startedAt) / 1000;
    const gain = await gainOf(installation, spec, run, evaluation);
    const line: Line = {
      seed,
      base: round(gain.base),
      now: round(gain.now),
      ciLow: round(gain.low),
      ciHigh: round(gain.high),
      minutes: round(secondsAfterStart(evaluation.createdAt) / 60, 2),
      firstVerifiedStepSeconds: first === undefined ? Number.NaN : round(secondsAfterStart(first.at), 1),
      pssMb: pssMb === undefined ? null : Math.round(pssMb),
      ...(evaluation.version === steps ? {} : { version: evaluation.version }),
    };
    return { line, missed: misses(line) };
  } finally {
    if (values.keep) say(`Seed ${seed}: kept in ${installation.stateDir}`);
    await installation.stop();
    current = undefined;
  }
}

/** The demo's run. It stays one of 100 steps, which the learning rate's schedule goes by; we leave at the evaluation. */
function specOf(seed: number): RunSpec {
  const demo = demoRunSpec({ seed, name: values.control ? `Control ${seed}` : `Demo check ${seed}` });
  return {
    ...demo,
    limits: { ...demo.limits, steps: Math.max(100, steps) },
    evaluation: { ...demo.evaluation, versions: [0, steps] },
    training: { ...demo.training, permuteAdvantages: values.control },
  };
}

/** The evaluation of version `steps`; of a run that ended before, that of its last version. */
async function evaluated(installation: Installation, run: string, spec: RunSpec): Promise<Evaluation> {
  const { runs } = installation.client;
  let said = -1;
  // A slow machine is told how slow it is, not that it ran out of time; a run that stands still is given up.
  for (let moved = performance.now(); ; await sleep(500)) {
    const [{ state, stateReason, step, currentVersion, stats }, evaluations] = await Promise.all([
      runs.get({ id: run }),
      runs.evaluations({ run }),
    ]);
    const ended = state === "COMPLETED";
    const wanted = ended ? Math.min(steps, currentVersion ?? 0) : steps;
    const base = evaluations.some((evaluation) => evaluation.version === 0);
    const found = evaluations.find((evaluation) => evaluation.version === wanted);
    if (base && found !== undefined) return found;
    if (state === "FAILED" || state === "CANCELLED" || state === "PAUSED")
      throw new Error(`The run is ${state}: ${stateReason ?? "no reason given"}.`);
    if (step !== said) {
      if (step % 10 === 0 || said < 1) say(`  step ${step}, reward ${stats.reward?.toFixed(3) ?? "–"}`);
      said = step;
      moved = performance.now();
    }
    if (performance.now() - moved > 120_000)
      throw new Error(
        `The run stands still at step ${step} of ${spec.limits.steps} (${state}). Keep its state with --keep and see up.log.`,
      );
  }
}

/** The paired gain from the evaluators' samples, and that the coordinator says the same. */
async function gainOf(
  installation: Installation,
  spec: RunSpec,
  run: string,
  evaluation: Evaluation,
): Promise<{ base: number; now: number; low: number; high: number }> {
  const { suite, examples } = spec.evaluation;
  const of = (version: number) =>
    heldOutRewards(installation, { id: run, environment: spec.environment, suite, examples, version });
  const [before, after] = await Promise.all([of(0), of(evaluation.version)]);
  const { low, high } = pairedDifference(after, before);
  const now = mean(after);
  if (Math.abs(now - evaluation.mean) > 1e-9)
    throw new Error(`The coordinator says the reward is ${evaluation.mean}; its samples earn ${now}.`);
  return { base: mean(before), now, low, high };
}

function misses(line: Line): string[] {
  if (values.control)
    return line.ciHigh <= promised.controlGain
      ? []
      : [`the control gained up to ${line.ciHigh}; at most ${promised.controlGain} is noise`];
  const gain = round(line.now - line.base);
  const found: string[] = [];
  if (!(gain >= promised.gain)) found.push(`gain ${gain} is below ${promised.gain}`);
  if (!(line.minutes <= promised.minutes))
    found.push(`${line.minutes} minutes are more than ${promised.minutes}`);
  if (!(line.firstVerifiedStepSeconds <= promised.firstVerifiedStepSeconds))
    found.push(
      `the first step after ${line.firstVerifiedStepSeconds} s; promised ${promised.firstVerifiedStepSeconds} s`,
    );
  if (line.pssMb !== null && line.pssMb > promised.pssMb)
    found.push(`${line.pssMb} MB of memory are more than ${promised.pssMb}`);
  return found;
}

/** Peak of what all processes take together, looked at every two seconds. */
function watchMemory(installation: Installation): { stop(): Promise<number | undefined> } {
  const done = new AbortController();
  const watching = (async () => {
    let peak: number | undefined;
    while (!done.signal.aborted) {
      const size = await memoryOf(await installation.pids());
      if (size !== undefined) peak = Math.max(peak ?? 0, size);
      await sleep(2_000, undefined, { signal: done.signal }).catch(() => {});
    }
    return peak;
  })();
  return {
    stop: () => {
      done.abort();
      return watching;
    },
  };
}

function mean(numbers: readonly number[]): number {
  return numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
}

function round(value: number, digits = 4): number {
  return Number(value.toFixed(digits));
}

function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  process.stderr.write(`--${option} wants a whole number above 0, not "${text}".\n`);
  process.exit(2);
}
