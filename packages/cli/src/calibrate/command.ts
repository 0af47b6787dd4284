// `muster calibrate`: thresholds between what honest machines reach and what the weakest attack shows, and the proof that they hold.
import { writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import type { ExecutionProvider } from "@muster/policy";
import { hashHex, specHash } from "@muster/protocol";
import { graphql, type MusterClient } from "@muster/sdk";
import { exactUpper, type ThresholdName, thresholdNames } from "@muster/verification";
import type { Exit } from "../exit-codes.ts";
import { Failure } from "../failure.ts";
import { findRun } from "../runs.ts";
import { type Terminal, table } from "../terminal.ts";
import { measureAttacks, type Weakest } from "./attacks.ts";
import { compareHonest, type Grid, Machines } from "./honest.ts";
import { type SubjectOf, subjectOf } from "./subject.ts";
import { exceeds, type Figures, furthest, type Reach, short, thresholdBetween } from "./thresholds.ts";

export type CalibrateCommand = Grid & {
  of: SubjectOf;
  /** Folder or file of the weights; else the run's newest version, or a base made here. */
  checkpoint: string | undefined;
  windows: number;
  /** Whether the run gets the thresholds. */
  apply: boolean;
  /** File for the whole result. */
  out: string | undefined;
  signal: AbortSignal;
};

const RecordCalibrationDocument = graphql(`
  mutation RecordCalibration($input: RecordCalibrationInput!) {
    recordCalibration(input: $input) {
      __typename
      ... on RunCreated { run { id revision { number } } }
      ... on SpecInvalid { message issues { path message } }
    }
  }
`);

/** @returns `failed` when one of the fresh windows was rejected. @throws Failure `CALIBRATION_OVERLAP` when no threshold separates. */
export async function calibrate(command: CalibrateCommand, terminal: Terminal): Promise<Exit> {
  const { of, providers, batchSizes, threads, signal } = command;
  const grid: Grid = { providers, batchSizes, threads };
  const subject = await subjectOf(of, {
    checkpoint: command.checkpoint,
    signal,
    tell: (text) => terminal.status(text),
  });
  terminal.status("");
  const { spec } = subject;
  const inForce = spec.verification.thresholds;
  await using machines = new Machines(subject);

  const honest = new Map<ExecutionProvider, Figures>(providers.map((provider) => [provider, {}]));
  const learned = Math.max(Math.min(command.windows, 2_000), Math.ceil(command.windows / 10));
  let seen = 0;
  const calibrated = await compareHonest(subject, machines, grid, {
    windows: learned,
    from: 0,
    signal,
    receive({ provider, windows }) {
      const before = honest.get(provider) ?? {};
      honest.set(
        provider,
        windows.reduce((all, { figures }) => furthest(all, figures), before),
      );
      seen += windows.length;
      terminal.status(`Honest windows to learn from: ${count(seen)} …`);
    },
  });
  const attacks = await measureAttacks(subject, (name) => terminal.status(`Attack: ${name} …`));
  terminal.status("");
  const reaches = reachesOf(thresholdNames[spec.verification.form], honest, attacks);
  terminal.say(
    `${subject.name}, form ${spec.verification.form}. Honest extremes of ${count(calibrated)} windows, and the weakest attack:`,
  );
  terminal.say(reachTable(reaches, inForce));
  const derived = Object.fromEntries(reaches.map((reach) => [reach.name, thresholdBetween(reach)]));
  const thresholds = { ...inForce, ...derived };

  const wrong = { derived: 0, inForce: 0 };
  let fresh = 0;
  const windows = await compareHonest(subject, machines, grid, {
    windows: command.windows,
    from: 2 ** 32,
    signal,
    receive({ windows: found }) {
      for (const { figures } of found) {
        if (exceeds(figures, thresholds)) wrong.derived++;
        if (exceeds(figures, inForce)) wrong.inForce++;
      }
      fresh += found.length;
      terminal.status(`Fresh honest windows: ${count(fresh)} …`);
    },
  });
  terminal.status("");
  const summary = {
    windows,
    falseRejections: wrong.derived,
    upper95: Number(exactUpper(wrong.derived, windows).toPrecision(3)),
  };
  terminal.say(
    `\nThresholds: ${Object.entries(derived)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ")}.`,
  );
  terminal.say(
    `${count(windows)} fresh honest windows over ${gridText(grid)}: ${wrong.derived} rejected (with the thresholds in force ${wrong.inForce}). ` +
      `The rate of false rejections is below ${summary.upper95} with 95 % confidence.`,
  );

  const evidence = {
    version: 1,
    createdAt: new Date().toISOString(),
    subject: { of: subject.name, specHash: specHash(spec), parameters: hashOf(subject.parameters) },
    machine: `${cpus()[0]?.model ?? "unknown"}, ${process.platform} ${process.arch}`,
    grid,
    calibratedOn: calibrated,
    reaches: reaches.map(({ name, honest, attack }) => ({ name, honest: [...honest], attack })),
    attacks,
    before: inForce,
    thresholds: derived,
    falseRejectionsBefore: wrong.inForce,
    ...summary,
  };
  if (command.out !== undefined) await writeFile(command.out, `${JSON.stringify(evidence, null, 2)}\n`);
  terminal.value(evidence);
  if (wrong.derived === 0 && command.apply && "client" in of) {
    await apply(of, { thresholds: derived, evidence }, terminal, signal);
  }
  terminal.value(summary);
  return wrong.derived === 0 ? "ok" : "failed";
}

function reachesOf(
  names: readonly ThresholdName[],
  honest: ReadonlyMap<ExecutionProvider, Figures>,
  attacks: readonly Weakest[],
): Reach[] {
  return names.flatMap((name) => {
    const [first, ...rest] = attacks.filter(({ threshold }) => threshold === name);
    if (first === undefined) return [];
    const attack = rest.reduce((weakest, one) => (one.value < weakest.value ? one : weakest), first);
    return [
      {
        name,
        honest: [...honest].map(([provider, figures]) => ({ provider, value: honestReach(name, figures) })),
        attack: { name: attack.name, value: attack.value },
      },
    ];
  });
}

/**
 * A margin shows only where two scores nearly tie, which a sample may miss. Each score is off by about as much as a log-probability
 * is, so that no tie may be judged by less than twice that.
 */
function honestReach(name: ThresholdName, figures: Figures): number {
  const found = figures[name] ?? 0;
  return name === "margin" ? Math.max(found, 2 * (figures.logProbability ?? 0)) : found;
}

function reachTable(reaches: readonly Reach[], inForce: Readonly<Record<ThresholdName, number>>): string {
  const providers = reaches[0]?.honest.map(({ provider }) => `HONEST ${provider}`) ?? [];
  return table(
    ["THRESHOLD", ...providers, "WEAKEST", "ATTACK", "IN FORCE"],
    reaches.map(({ name, honest, attack }) => [
      name,
      ...honest.map(({ value }) => short(value)),
      short(attack.value),
      attack.name,
      short(inForce[name]),
    ]),
  );
}

async function apply(
  { run: name, client }: { run: string; client: MusterClient },
  input: { thresholds: Record<string, number>; evidence: unknown },
  terminal: Terminal,
  signal: AbortSignal,
): Promise<void> {
  const { id } = await findRun(client, name, signal);
  const { recordCalibration } = await client.execute(
    RecordCalibrationDocument,
    { input: { run: id, ...input } },
    { signal },
  );
  if (recordCalibration.__typename === "SpecInvalid") {
    throw new Failure({
      exit: "refused",
      code: "SPEC_INVALID",
      what: recordCalibration.message,
      fix: recordCalibration.issues.map(({ path, message }) => `${path}: ${message}`),
    });
  }
  terminal.say(`They are in force as revision ${recordCalibration.run.revision.number} of ${name}.`);
}

function gridText({ providers, batchSizes, threads }: Grid): string {
  return `batch sizes ${batchSizes.join(", ")}, ${threads.join(" and ")} threads, two graph variants and ${providers.join(" and ")}`;
}

function hashOf(parameters: Float32Array): string {
  return hashHex(new Uint8Array(parameters.buffer, parameters.byteOffset, parameters.byteLength));
}

function count(n: number): string {
  return n.toLocaleString("en-US");
}
