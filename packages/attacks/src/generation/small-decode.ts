import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { resampled } from "../cheating/resampled.ts";
import { halved, withWeights } from "../cheating/weights.ts";

export const smallDecode: Attack = {
  id: "small-decode",
  kind: "generation",
  title: "Small decoder, genuine prefill",
  plain:
    "Decodes with half of the layers, token after token the dearest part, and proves the result with one prefill of the real policy.",
  saved: 0.9,
  expectation: { kind: "detected", within: 4 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, {
      rollouts: (honest, bench) => resampled(honest, bench, { checkpoint: withWeights("half", halved) }),
    }),
  }),
};
