import { type Check, spoken } from "./check.ts";

/** Does the worker know the probabilities of its own tokens? */
export const logProbabilities: Check = {
  id: "log-probabilities",
  title: "Log-probabilities",
  plain:
    "The worker says how likely each of its tokens was. A validator computes the same numbers; they must agree for every token.",
  cannotCatch: "Anything but the claim itself: training uses the validator's numbers, never the worker's.",
  run(evidence) {
    const { logProbability: limit } = evidence.spec.verification.thresholds;
    let tokens = 0;
    let failed = 0;
    let worst = { difference: 0, rollout: 0, position: 0 };
    for (const [rollout, { logprobs }] of evidence.measurement.entries()) {
      const claimed = evidence.rollouts[rollout]!.logprobs;
      for (let position = 0; position < logprobs.length; position++) {
        const difference = Math.abs(claimed[position]! - logprobs[position]!);
        tokens++;
        if (difference > limit) failed++;
        if (difference > worst.difference) worst = { difference, rollout, position };
      }
    }
    const { difference, rollout, position } = worst;
    return {
      id: "log-probabilities",
      verdict: failed === 0 ? "PASS" : "FAIL",
      observed: { ...worst, tokens, failedTokens: failed },
      expected: { difference: 0 },
      threshold: { difference: limit },
      note:
        failed === 0
          ? ""
          : `Rollout ${rollout}, position ${position}: claimed ${evidence.rollouts[rollout]?.logprobs[position]}, measured ${evidence.measurement[rollout]?.logprobs[position]}.`,
      plain:
        failed === 0
          ? `The claimed log-probabilities are right: at most ${spoken(difference)} off, where ${limit} is allowed.`
          : `${failed} of ${tokens} claimed log-probabilities are wrong: the worst by ${spoken(difference)}, where ${limit} is allowed.`,
    };
  },
};
