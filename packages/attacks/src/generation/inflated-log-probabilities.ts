import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";

export const inflatedLogProbabilities: Attack = {
  id: "inflated-log-probabilities",
  kind: "generation",
  title: "Inflated log-probabilities",
  plain:
    "Honest tokens and proofs; claims to have been certain of every token, which would bend the importance weights of training.",
  saved: 0,
  expectation: { kind: "detected", within: 4 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, {
      rollouts: async (honest) =>
        honest.map((rollout) => ({ ...rollout, logprobs: rollout.logprobs.map((value) => value / 10) })),
    }),
  }),
};
