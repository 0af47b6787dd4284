import type { Sampling } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { resampled } from "../cheating/resampled.ts";

/** Draws its tokens otherwise than the task says, under the task's own noise. */
export const [otherTemperature, otherTopK] = (
  [
    ["other-temperature", "Another temperature", "at temperature 0.3", { temperature: 0.3 }],
    ["other-top-k", "Another top-k", "from the two likeliest tokens only", { topK: 2 }],
  ] satisfies [string, string, string, Partial<Sampling>][]
).map(
  ([id, title, how, sampling]): Attack => ({
    id,
    kind: "generation",
    title,
    plain: `Draws its tokens ${how}, which earns more reward and kills exploration; proofs and log-probabilities are those of the policy.`,
    saved: 0,
    expectation: { kind: "detected", within: 8 },
    executors: (ledger) => ({
      GENERATE: cheating(ledger, { rollouts: (honest, bench) => resampled(honest, bench, { sampling }) }),
    }),
  }),
) as [Attack, Attack];
