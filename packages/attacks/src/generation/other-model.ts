import { initialParameters } from "@muster/policy/graph";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { withWeights } from "../cheating/weights.ts";

export const otherModel: Attack = {
  id: "other-model",
  kind: "generation",
  title: "Another model",
  plain: "Generates with weights of its own that have the policy's shape, and never fetches the policy.",
  saved: 0.1,
  expectation: { kind: "detected", within: 4 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, {
      checkpoint: withWeights("other", (_, model) => initialParameters(model, [7, 11])),
    }),
  }),
};
