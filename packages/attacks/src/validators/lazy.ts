import type { Attack } from "../attack.ts";
import { mismeasuring, nodded } from "../cheating/measure.ts";

export const lazyValidator: Attack = {
  id: "validator-lazy",
  kind: "validator",
  title: "Lazy validator",
  plain:
    "Computes the activations, which are compared, and never draws a token: it says that every one is the seed's choice. Honest workers do not notice; cheats on sampling pass.",
  saved: 0.3,
  expectation: { kind: "detected", within: 60 },
  act: async ({ work, ledger }) =>
    void (await work({
      name: "validator",
      roles: ["VALIDATOR"],
      grants: ["VALIDATOR"],
      executors: {
        VERIFY: mismeasuring(ledger, (honest, { rollouts }) =>
          honest.map((measured, i) => nodded(measured, rollouts[i]?.tokens ?? measured.argmax)),
        ),
      },
    })),
};
