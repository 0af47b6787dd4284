import type { Attack } from "../attack.ts";
import { measurement } from "../cheating/measure.ts";
import { acceptedStates, type Facts, type GroupFacts } from "../facts.ts";

/** How an attack ended. */
export type Score = {
  attack: Attack;
  outcome: "detected" | "contained" | "missed";
  /** Groups from its first cheated one, that one included, to the first that was noticed; null when none was. */
  untilDetection: number | null;
  /** The same to the last one it could hand in before it was quarantined. */
  untilQuarantine: number | null;
  /** Micro-credits its nodes have in the end, held ones included. */
  kept: number;
  /** Micro-credits it was promised and then lost. */
  forfeited: number;
  /** Cheated groups that were accepted and stayed so. */
  poison: number;
  /** See `expectedValue`. */
  expectedValue: number;
  /** Checks that failed, the most frequent first; `intake` for refused packs. */
  caughtBy: readonly string[];
  /** Why it is missed; empty when it is not. */
  why: string;
  /** Of its groups, those that were honest: measured, and rejected all the same. */
  honest: { measured: number; rejected: number };
  seconds: number;
};

export function score(attack: Attack, facts: Facts, seconds: number): Score {
  const { untilDetection, untilQuarantine } =
    attack.kind === "validator" ? conviction(facts) : detection(facts);
  const { outcome, why } = judge(attack, facts, untilDetection);
  const honest = facts.groups.filter(({ cheated }) => !cheated);
  return {
    attack,
    outcome,
    why,
    untilDetection,
    untilQuarantine,
    kept: facts.kept,
    forfeited: forfeitedOf(facts),
    poison: facts.poison,
    expectedValue: expectedValue(attack.saved, facts),
    caughtBy: caughtBy(facts),
    honest: {
      measured: honest.filter(({ state, acceptance }) => acceptance === "AUDITED" || state === "REJECTED")
        .length,
      rejected: honest.filter(({ state }) => state === "REJECTED").length,
    },
    seconds,
  };
}

/** What is promised about an attack, in a sentence. */
export function acceptedBound({ expectation, kind, saved }: Attack): string {
  switch (expectation.kind) {
    case "contained":
      return `Bound: ${expectation.bound}.`;
    case "detected": {
      const what = kind === "validator" ? "false measurements" : "groups";
      return `Budget: ${expectation.within} ${what}. Saves ${Math.round(saved * 100)} % of the compute.`;
    }
  }
}

type Until = Pick<Score, "untilDetection" | "untilQuarantine">;

/** Of a worker, in groups. */
function detection(facts: Facts): Until {
  const first = facts.groups.findIndex(({ cheated }) => cheated);
  const since = first < 0 ? [] : facts.groups.slice(first);
  const noticed = since.findIndex((group) => wasNoticed(group, facts));
  const quarantined = facts.nodes.some(({ trust }) => trust === "QUARANTINED");
  return {
    untilDetection: noticed < 0 ? null : noticed + 1,
    untilQuarantine: quarantined && since.length > 0 ? since.length : null,
  };
}

/** Of a validator: its false measurements until it was convicted, and all of its measurements from the first of them on. */
function conviction({ answers, nodes }: Facts): Until {
  const given = answers.filter(({ asked }) => asked === measurement);
  const first = given.findIndex(({ answer }) => answer === "lie");
  const convicted = nodes.some(({ trust, roles }) => trust === "QUARANTINED" && roles.includes("VALIDATOR"));
  if (!convicted || first < 0) return { untilDetection: null, untilQuarantine: null };
  const lies = given.filter(({ answer }) => answer === "lie").length;
  return { untilDetection: lies, untilQuarantine: given.length - first };
}

function judge(
  { expectation }: Attack,
  facts: Facts,
  untilDetection: number | null,
): Pick<Score, "outcome" | "why"> {
  switch (expectation.kind) {
    case "contained":
      return expectation.holds(facts)
        ? { outcome: "contained", why: "" }
        : { outcome: "missed", why: `not so: ${expectation.bound}` };
    case "detected": {
      if (untilDetection === null) {
        const lies =
          facts.groups.filter(({ cheated }) => cheated).length +
          facts.answers.filter(({ answer }) => answer === "lie").length;
        return { outcome: "missed", why: `${lies} lies, none noticed` };
      }
      const late = untilDetection > expectation.within;
      return late
        ? { outcome: "missed", why: `noticed at group ${untilDetection}, not within ${expectation.within}` }
        : { outcome: "detected", why: "" };
    }
  }
}

function wasNoticed({ cheated, state, retroactive }: GroupFacts, { refusals }: Facts): boolean {
  return cheated && ((state === "REJECTED" && !retroactive) || (state === "UNTAKEN" && refusals > 0));
}

/** What was promised for accepted groups and is not there any more. */
function forfeitedOf({ earnable, kept }: Facts): number {
  return Math.max(0, earnable - kept);
}

/**
 * What cheating was worth, in micro-credits, with compute priced at what it earns: the credits kept for cheated groups, minus all
 * that was forfeited (what was promised and taken back, and the pay of cheated groups that were not accepted), plus the compute that
 * was not spent on cheated groups. A node whose one cheated group is rejected has spent (1 − saved) of its price for nothing.
 */
function expectedValue(saved: number, facts: Facts): number {
  const total = (groups: readonly GroupFacts[]) => groups.reduce((sum, { price }) => sum + price, 0);
  const cheated = facts.groups.filter((group) => group.cheated);
  const [paid, unpaid] = [true, false].map((is) =>
    total(cheated.filter(({ state }) => acceptedStates.has(state) === is)),
  ) as [number, number];
  return Math.round(paid - unpaid - forfeitedOf(facts) + saved * total(cheated));
}

function caughtBy({ groups, refusals }: Facts): string[] {
  const counts = new Map<string, number>(refusals > 0 ? [["intake", refusals]] : []);
  for (const id of groups.flatMap(({ failed }) => [...new Set(failed)]))
    counts.set(id, (counts.get(id) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a).map(([id]) => id);
}
