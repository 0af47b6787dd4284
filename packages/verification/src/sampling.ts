import { type Check, figure, spoken } from "./check.ts";

/** Is every token the one that the task's seed draws? */
export const sampling: Check = {
  id: "sampling",
  title: "Sampling",
  plain:
    "Randomness is fixed by the task, so the policy can only have drawn one token at each place, the end included. A validator draws again: tokens from another model, picked by hand, kept from a lucky try or cut short are not the ones.",
  cannotCatch:
    "A token whose score ties with the best within the margin. Where the seed leaves no choice, work by another model that would have chosen the same.",
  run(evidence) {
    const { margin: limit } = evidence.spec.verification.thresholds;
    let tokens = 0;
    let different = 0;
    let failed = 0;
    let worst = { margin: 0, rollout: 0, position: 0 };
    for (const [rollout, { margins }] of evidence.measurement.entries()) {
      for (let position = 0; position < margins.length; position++) {
        const margin = margins[position]!;
        tokens++;
        if (margin > 0) different++;
        if (margin > limit) failed++;
        if (margin > worst.margin) worst = { margin, rollout, position };
      }
    }
    return {
      id: "sampling",
      verdict: failed === 0 ? "PASS" : "FAIL",
      observed: {
        margin: figure(worst.margin),
        rollout: worst.rollout,
        position: worst.position,
        tokens,
        differentTokens: different,
        failedTokens: failed,
      },
      expected: { margin: 0 },
      threshold: { margin: limit },
      note: failed === 0 ? "" : detail(worst.rollout, worst.position),
      plain:
        failed === 0
          ? `All ${tokens} tokens are what the seed draws${different === 0 ? "" : `, ${different} of them within the margin of a tie`}.`
          : `${failed} of ${tokens} tokens are not what the seed draws: the worst falls short by ${spoken(worst.margin)}, where ${limit} is allowed.`,
    };

    function detail(rollout: number, position: number): string {
      const chosen = evidence.rollouts[rollout]?.tokens[position];
      const drawn = evidence.measurement[rollout]?.argmax[position];
      return `Rollout ${rollout}, position ${position}: token ${chosen}; the seed draws ${drawn}.`;
    }
  },
};
