import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { withWeights } from "../cheating/weights.ts";

/** Relative change of every weight. */
const amount = 1e-5;

export const perturbedWeights: Attack = {
  id: "perturbed-weights",
  kind: "generation",
  title: "Slightly other weights",
  plain:
    "Changes every weight by a hundred-thousandth of itself: sabotage that leaves nearly every token as it was.",
  saved: 0,
  expectation: { kind: "detected", within: 4 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, {
      checkpoint: withWeights("perturbed", (flat) =>
        flat.map((value, i) => value * (1 + amount * Math.sin(i))),
      ),
    }),
  }),
};
