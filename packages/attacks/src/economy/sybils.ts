import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { injected } from "../cheating/injected.ts";

/** Identities one after the other. */
const identities = 4;

export const sybils: Attack = {
  id: "sybils",
  kind: "economy",
  title: "Free re-registration",
  plain:
    "Cheats until it is quarantined, throws its key away and begins anew as somebody else, again and again.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "every identity begins with full audits: none of its cheated groups is accepted",
    holds: ({ poison, nodes, kept }) =>
      poison === 0 &&
      kept === 0 &&
      nodes.length === identities &&
      nodes.every(({ rejected }) => rejected > 0),
  },
  async act({ work, ledger, signal }) {
    for (let n = 1; n <= identities && !signal.aborted; n++) {
      // one pack is enough to be quarantined: its groups are rejected one by one
      await work({
        name: `identity-${n}`,
        executors: { GENERATE: cheating(ledger, { rollouts: injected }) },
        maxTasks: 1,
      });
    }
  },
};
