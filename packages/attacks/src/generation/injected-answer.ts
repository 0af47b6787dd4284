import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { injected } from "../cheating/injected.ts";

export const injectedAnswer: Attack = {
  id: "injected-answer",
  kind: "generation",
  title: "Injected answer",
  plain:
    "Solves the problem itself and hands the right answer in as the policy's, with the proofs and log-probabilities of a genuine prefill over it. Priced as if it had computed nothing.",
  saved: 1,
  expectation: { kind: "detected", within: 4 },
  executors: (ledger) => ({ GENERATE: cheating(ledger, { rollouts: injected }) }),
};
