import type { MeasuredRollout } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { mismeasuring, nodded } from "../cheating/measure.ts";

export const echoValidator: Attack = {
  id: "validator-echo",
  kind: "validator",
  title: "Echoing validator",
  plain:
    "Measures each length of output once and then says the same again of every other: no prefill, plausible numbers. What it repeats does not fit the workers' proofs, so honest work is rejected.",
  saved: 1,
  expectation: { kind: "detected", within: 60 },
  act: async ({ work, ledger }) => {
    const known = new Map<number, MeasuredRollout>();
    await work({
      name: "validator",
      roles: ["VALIDATOR"],
      grants: ["VALIDATOR"],
      executors: {
        VERIFY: mismeasuring(ledger, (honest, { rollouts }) =>
          honest.map((measured, i) => {
            const tokens = rollouts[i]?.tokens ?? measured.argmax;
            const before = known.get(tokens.length);
            if (before === undefined) known.set(tokens.length, measured);
            return nodded(before ?? measured, tokens);
          }),
        ),
      },
    });
  },
};
