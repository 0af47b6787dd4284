import { activations } from "./activations.ts";
import type { CheckDescription, CheckId } from "./check.ts";
import { decoys } from "./decoys.ts";
import { duplicates } from "./duplicates.ts";
import { form } from "./form.ts";
import { logProbabilities } from "./log-probabilities.ts";
import { reward } from "./reward.ts";
import { sampling } from "./sampling.ts";

/** Every check by id, in the order they are made: for pages and documentation. */
export const checks: Readonly<Record<CheckId, CheckDescription>> = {
  form,
  duplicates,
  activations,
  decoys,
  sampling,
  "log-probabilities": logProbabilities,
  reward,
};

/** The checks that compare a rollout pack with a measurement. */
export const measuredChecks = [activations, decoys, sampling, logProbabilities] as const;
