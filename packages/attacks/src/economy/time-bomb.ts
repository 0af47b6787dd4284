import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { injected } from "../cheating/injected.ts";

/** Groups it hands in honestly: more than any probation of the range's runs. */
const honestGroups = 80;

export const timeBomb: Attack = {
  id: "time-bomb",
  kind: "economy",
  title: "Time bomb",
  plain: "Works honestly until it is trusted and audited seldom, then cheats on everything.",
  saved: 1,
  expectation: { kind: "detected", within: 60 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, { rollouts: injected, when: (n) => n >= honestGroups }),
  }),
};
