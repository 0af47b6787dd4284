import type { RunSpecInput } from "@muster/protocol";
import type { Attack } from "../attack.ts";

/** Attacks that share a run. */
export type Step = {
  title: string;
  attacks: readonly Attack[];
  spec: { name: string } & Pick<RunSpecInput, "base" | "batch" | "verification">;
  honestWorkers: number;
  /** Attacks at a time. */
  lanes: number;
  /** Seconds each may take, and how long those are watched that would go on for ever. */
  seconds: number;
  watch: number;
  /** Seconds of standstill after which nothing more is expected of one. */
  calm: number;
};

/** Which attacks run where. Those on trust and on validators need runs of their own. */
export function plan(attacks: readonly Attack[], { short }: { short: boolean }): Step[] {
  const steps: Step[] = [
    {
      title: "work, packs and calls",
      attacks: attacks.filter(({ id, kind }) => kind !== "validator" && !onTrust(id)),
      spec: {
        name: "Range",
        base: { kind: "warmup", steps: 60, batchSize: 64, warmupSteps: 10 },
        batch: { signalGroups: 48, settledGroups: 48, minSignalGroups: 1, asyncLevel: 3 },
        verification: { audit: { adversaryShare: 0.2, epsilon: 0.05, floor: 0.25 } },
      },
      honestWorkers: 1,
      lanes: short ? 4 : 3,
      seconds: short ? 30 : 60,
      watch: short ? 10 : 20,
      calm: 2,
    },
    {
      title: "trust",
      attacks: attacks.filter(({ id }) => onTrust(id)),
      spec: {
        name: "Range of trust",
        base: { kind: "warmup", steps: 60, batchSize: 64, warmupSteps: 10 },
        batch: { signalGroups: 64, settledGroups: 64, minSignalGroups: 1, asyncLevel: 4 },
        verification: { audit: { adversaryShare: 0.2, epsilon: 0.05, floor: 0.25 } },
      },
      honestWorkers: 0,
      lanes: 5,
      seconds: short ? 40 : 300,
      watch: 20,
      calm: 12,
    },
    {
      title: "validators",
      attacks: attacks.filter(({ kind }) => kind === "validator"),
      spec: {
        name: "Range of validators",
        base: { kind: "warmup", steps: 60, batchSize: 64, warmupSteps: 10 },
        batch: { signalGroups: 64, settledGroups: 64, minSignalGroups: 1, asyncLevel: 3 },
        // everything is measured, so that there is something to lie about
        verification: { audit: { adversaryShare: 0.2, epsilon: 0.05, floor: 1 } },
      },
      honestWorkers: 2,
      // one at a time: two would find each other's lies
      lanes: 1,
      seconds: short ? 40 : 150,
      watch: 20,
      calm: 4,
    },
  ];
  return steps.filter((step) => step.attacks.length > 0);
}

function onTrust(id: string): boolean {
  return id.startsWith("intermittent-") || id === "time-bomb";
}
