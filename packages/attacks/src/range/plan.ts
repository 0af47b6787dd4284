import type { Attack } from "../attack.ts";
import type { StageSpec } from "./stage.ts";

/** Attacks that share a run. */
export type Step = {
  title: string;
  attacks: readonly Attack[];
  spec: StageSpec;
  honestWorkers: number;
  /** Attacks at a time. */
  lanes: number;
  /** Seconds each may take, and how long those are watched that would go on for ever. */
  seconds: number;
  watch: number;
  /** Seconds of standstill after which nothing more is expected of one. */
  calm: number;
};

/** What the tests leave out: those that need minutes, and those of which a stronger one of the same kind is there. */
const leftOut: ReadonlySet<string> = new Set([
  "newer-policy",
  "other-model",
  "bf16-weights",
  "int4-weights",
  "tampered-prompt",
  "other-temperature",
  "other-top-k",
  "truncation",
  "ghost-army",
  "intermittent-1",
  "intermittent-5",
  "intermittent-20",
  "intermittent-50",
  "time-bomb",
  "validator-echo",
  "validator-lazy",
  "validator-collusion",
]);

/** The attacks of the short form. */
export function shortForm(attacks: readonly Attack[]): Attack[] {
  return attacks.filter(({ id }) => !leftOut.has(id));
}

/** Which attacks run where. Those on trust and on validators need runs of their own. */
export function plan(attacks: readonly Attack[], { short }: { short: boolean }): Step[] {
  const steps: Step[] = [
    {
      title: "work, packs and calls",
      attacks: attacks.filter(({ id, kind }) => kind !== "validator" && !onTrust(id)),
      spec: {
        name: "Range",
        base: { kind: "warmup", steps: 60, batchSize: 64, warmupSteps: 10 },
        // the short form has little time for the versions that an older policy needs
        batch: { minSignalGroups: 1, asyncLevel: 3, ...size(short ? 24 : 48) },
        verification: { audit: { adversaryShare: 0.2, epsilon: 0.05, floor: 0.25 } },
        // what is not paid yet can be taken back: with no time for disputes that is as little as it can be
        disputeWindowSeconds: 0,
      },
      honestWorkers: 1,
      lanes: short ? 4 : 3,
      seconds: 120,
      watch: short ? 10 : 20,
      calm: 2,
    },
    {
      title: "trust",
      attacks: attacks.filter(({ id }) => onTrust(id)),
      spec: {
        name: "Range of trust",
        base: { kind: "warmup", steps: 60, batchSize: 64, warmupSteps: 10 },
        batch: { minSignalGroups: 1, asyncLevel: 4, ...size(64) },
        verification: { audit: { adversaryShare: 0.2, epsilon: 0.05, floor: 0.25 } },
        // what is not paid yet can be taken back: with no time for disputes that is as little as it can be
        disputeWindowSeconds: 0,
      },
      honestWorkers: 0,
      lanes: 5,
      seconds: 420,
      watch: 20,
      calm: 12,
    },
    {
      title: "validators",
      attacks: attacks.filter(({ kind }) => kind === "validator"),
      spec: {
        name: "Range of validators",
        base: { kind: "warmup", steps: 60, batchSize: 64, warmupSteps: 10 },
        batch: { minSignalGroups: 1, asyncLevel: 3, ...size(64) },
        // everything is measured, so that there is something to lie about
        verification: { audit: { adversaryShare: 0.2, epsilon: 0.05, floor: 1 } },
        // a validator is found out after some measurements, and what it let pass has to be unpaid until then
        disputeWindowSeconds: 600,
      },
      honestWorkers: 1,
      // one at a time: two would find each other's lies
      lanes: 1,
      seconds: 420,
      watch: 20,
      calm: 4,
    },
  ];
  return steps.filter((step) => step.attacks.length > 0);
}

function size(groups: number): { signalGroups: number; settledGroups: number } {
  return { signalGroups: groups, settledGroups: groups };
}

function onTrust(id: string): boolean {
  return id.startsWith("intermittent-") || id === "time-bomb";
}
