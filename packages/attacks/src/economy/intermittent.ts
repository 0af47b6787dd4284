import type { Attack } from "../attack.ts";
import { draws } from "../cheating/draws.ts";
import { cheating } from "../cheating/generate.ts";
import { injected } from "../cheating/injected.ts";

/** Cheats on a share of its groups, from the first on: rarely enough, it hopes, for credits to be final before an audit finds one. */
export const intermittent: Attack[] = [0.01, 0.05, 0.2, 0.5].map((share) => ({
  id: `intermittent-${share * 100}`,
  kind: "economy",
  title: `Cheats on ${share * 100} % of its groups`,
  plain: `Injects the answer into ${share * 100} % of its groups, drawn at random, and is honest in the others.`,
  saved: 1,
  expectation: { kind: "detected", within: Math.ceil(60 / share) },
  executors: (ledger) => {
    const draw = draws(share * 1000);
    return { GENERATE: cheating(ledger, { rollouts: injected, when: () => draw() < share }) };
  },
}));
