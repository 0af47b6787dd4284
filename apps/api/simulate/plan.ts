import { parseRunSpec, type RunSpec, type RunSpecInput } from "@muster/protocol";
import type { Random } from "./random.ts";
import { day, hour, type World } from "./world.ts";

// Which runs there are, how far they came and how much of what was asked for falls to each.

/** How much is made. */
export type Scale = {
  readonly runs: number;
  readonly workers: number;
  /** Of the history; those of the groups that the domain makes come on top. */
  readonly rollouts: number;
  /** Values of metrics over all steps of all runs. */
  readonly points: number;
  /** Groups that take the domain's own way at the end of the history. */
  readonly groups: number;
  /** Output tokens of the two longest rollouts; 0 for none. */
  readonly longestTokens: number;
};

export const fullScale: Scale = {
  runs: 12,
  workers: 10_000,
  rollouts: 1_000_000,
  points: 10_000_000,
  groups: 10_000,
  longestTokens: 32_768,
};

/** For tests and screenshots: a second or two. */
export const smallScale: Scale = {
  runs: 8,
  workers: 120,
  rollouts: 2_400,
  points: 30_000,
  groups: 48,
  longestTokens: 0,
};

export type RunPlan = {
  readonly id: string;
  readonly organizationId: string;
  readonly createdById: string;
  readonly slug: string;
  readonly spec: RunSpec;
  readonly state: "DRAFT" | "RUNNING" | "PAUSED" | "COMPLETED" | "CANCELLED" | "FAILED";
  readonly stateReason: string | null;
  readonly createdAt: number;
  /** When its history ends: the end of the run, or a while ago. */
  readonly until: number;
  /** Groups to make. */
  readonly groups: number;
  /** Nodes that take part. */
  readonly workers: number;
  /** Newest events that are kept. */
  readonly events: number;
  readonly random: Random;
  /** The run that the domain goes on with, and live mode. */
  readonly flagship: boolean;
  /** The run that has whatever points the others leave: many steps, and no groups. */
  readonly long: boolean;
};

/** Hidden size, layers, heads: the least decoder that there is, so that a checkpoint is a few kilobytes. */
const model = { hiddenSize: 8, layers: 1, heads: 1 } as const;

/** The flagship first, the long run last. */
export function planRuns(
  world: World,
  scale: Scale,
  { random, now }: { random: Random; now: number },
): RunPlan[] {
  const all = scale.rollouts / groupSize;
  const others = Math.max(1, scale.runs - 3);
  return Array.from({ length: Math.max(3, scale.runs) }, (_, i): RunPlan => {
    const draws = random.fork(`run ${i}`);
    const flagship = i === 0;
    const long = i === Math.max(3, scale.runs) - 1;
    const role = flagship ? roles.flagship : long ? roles.long : roles.others[(i - 1) % roles.others.length];
    if (role === undefined) throw new RangeError("no role for this run");
    const draft = role.state === "DRAFT";
    const ended = role.state !== "RUNNING" && role.state !== "PAUSED" && !draft;
    const groups = draft || long ? 0 : Math.round(flagship ? 0.4 * all : (0.6 * all) / others);
    // Everything of the past is final: the end lies a dispute window and a little more back.
    const until = ended
      ? now - day - Math.floor(draws.next() * 40 * day)
      : now - windowSeconds * 1000 - 10 * 60_000;
    const steps = flagship ? 9 : 2 + 5 * draws.next();
    const createdAt = draft
      ? now - 2 * hour - Math.floor(draws.next() * 20 * hour)
      : until - Math.round(steps * day);
    const organization = world.organizations[flagship || long || i % 3 !== 2 ? 0 : 1 + (i % 2)];
    if (organization === undefined) throw new RangeError("no organization for this run");
    return {
      id: draws.uuid(createdAt),
      organizationId: organization.id,
      createdById: world.people[0]?.id ?? "",
      slug: `${slugOf(role.name)}-${i + 1}`,
      spec: specFor(role, { groups, more: flagship ? scale.groups : 0, seed: draws.hex(32), long }),
      state: role.state,
      stateReason: role.reason,
      createdAt,
      until,
      groups,
      workers: flagship
        ? scale.workers
        : Math.min(scale.workers, Math.max(12, Math.round(scale.workers / 12))),
      events: Math.min(flagship ? 100_000 : 20_000, 40 * groups + 1_000),
      random: draws,
      flagship,
      long,
    };
  });
}

/** Rollouts in a group. */
const groupSize = 8;
export const windowSeconds = 3_600;

type Role = {
  readonly name: string;
  readonly environment: string;
  readonly state: RunPlan["state"];
  readonly reason: string | null;
};

const roles: { flagship: Role; long: Role; others: readonly Role[] } = {
  flagship: { name: "Open swarm", environment: "muster/sort-digits@1", state: "RUNNING", reason: null },
  long: { name: "Marathon", environment: "muster/addition@1", state: "COMPLETED", reason: "STEPS" },
  others: [
    { name: "Sort digits", environment: "muster/sort-digits@1", state: "COMPLETED", reason: "SOLVED" },
    { name: "Reverse text", environment: "muster/reverse-text@1", state: "PAUSED", reason: "ORGANIZER" },
    { name: "Countdown", environment: "muster/countdown@1", state: "COMPLETED", reason: "STEPS" },
    { name: "Addition draft", environment: "muster/addition@1", state: "DRAFT", reason: null },
    {
      name: "Countdown, hot",
      environment: "muster/countdown@1",
      state: "FAILED",
      reason: "TRAIN_FAILED: the weights are not finite (attempt 5 of 5)",
    },
    { name: "Addition", environment: "muster/addition@1", state: "CANCELLED", reason: "ORGANIZER" },
    { name: "Reverse, small", environment: "muster/reverse-text@1", state: "RUNNING", reason: null },
    { name: "Countdown II", environment: "muster/countdown@1", state: "PAUSED", reason: "BUDGET_EXHAUSTED" },
    { name: "Sort, overnight", environment: "muster/sort-digits@1", state: "COMPLETED", reason: "DEADLINE" },
    {
      name: "Permuted control",
      environment: "muster/sort-digits@1",
      state: "COMPLETED",
      reason: "NO_SIGNAL",
    },
  ],
};

function specFor(
  { name, environment }: Role,
  { groups, more, seed, long }: { groups: number; more: number; seed: string; long: boolean },
): RunSpec {
  // Some eighty steps of the past and forty of those that come, in batches of a power of two.
  const wanted = 2 ** Math.round(Math.log2(Math.max(8, groups / 80, more / 40)));
  const settled = Math.min(more > 0 ? 256 : 64, wanted);
  const input: RunSpecInput = {
    name,
    environment,
    seed,
    model: { ...model, maxPositions: 24 },
    base: { kind: "warmup", steps: 200 },
    generation: { groupSize, groupsPerTask: Math.min(16, Math.max(2, settled / 8)) },
    batch: { signalGroups: settled, settledGroups: settled, minSignalGroups: 1, asyncLevel: 2 },
    limits: { steps: long ? 1_000_000 : 2_000 },
    // Trust after nine audited-valid groups: ten thousand nodes share the work, few of them do much of it.
    verification: {
      topK: 16,
      thresholds: { meanUlp: 256 },
      audit: { adversaryShare: 0.2, epsilon: 0.2, floor: 0.1 },
    },
    evaluation: { examples: 64, versions: [0], every: long ? 20_000 : 20 },
    prices: { relayedMiB: 20_000 },
    disputeWindowSeconds: windowSeconds,
    leaseSeconds: 60,
  };
  const parsed = parseRunSpec(input);
  if (!parsed.ok) throw new Error(parsed.issues.map(({ path, message }) => `${path}: ${message}`).join("; "));
  return parsed.spec;
}

const slugOf = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
