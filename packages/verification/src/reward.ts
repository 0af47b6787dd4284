import {
  type Environment,
  type Example,
  environment,
  type PackedRollout,
  type Score,
} from "@muster/protocol";
import { type Check, figure, inconclusive, spoken } from "./check.ts";

/** Is the reward what the environment gives? */
export const reward: Check = {
  id: "reward",
  title: "Reward",
  plain:
    "Rewards are never taken from anyone: the environment scores every output again, from the example the seed gives.",
  cannotCatch:
    "An output that pleases the environment without deserving it: that is a fault of the environment.",
  run(evidence) {
    const { example, rewards } = evidence.task;
    if (example === undefined) return inconclusive("reward", "the example was not given.");
    let scores: Score[];
    try {
      scores = scoreRollouts(environment(evidence.spec.environment), example, evidence.rollouts);
    } catch (error) {
      return inconclusive("reward", `the environment could not score it (${messageOf(error)}).`);
    }
    const mean = scores.reduce((sum, score) => sum + score.reward, 0) / Math.max(1, scores.length);
    let worst = {
      difference: rewards !== undefined && rewards.length !== scores.length ? Infinity : 0,
      rollout: 0,
    };
    for (const [rollout, score] of scores.entries()) {
      const difference = Math.abs(score.reward - (rewards?.[rollout] ?? score.reward));
      if (!(difference <= worst.difference)) worst = { difference, rollout };
    }
    const right = worst.difference <= TOLERANCE;
    return {
      id: "reward",
      verdict: right ? "PASS" : "FAIL",
      observed: { mean, difference: figure(worst.difference), rollout: worst.rollout },
      expected: { difference: 0 },
      threshold: { difference: TOLERANCE },
      note: right
        ? ""
        : `Rollout ${worst.rollout}: on record ${rewards?.[worst.rollout]}, recomputed ${scores[worst.rollout]?.reward}.`,
      plain: right
        ? `The rewards are the environment's; their mean is ${spoken(mean)}.`
        : "A reward on record is not the one the environment gives.",
    };
  },
};

/** The environment's score of each rollout: its text without EOS. */
export function scoreRollouts(
  env: Environment,
  example: Example,
  rollouts: readonly Pick<PackedRollout, "tokens" | "finish">[],
): Score[] {
  return rollouts.map(({ tokens, finish }) => {
    const text = finish === "eos" ? tokens.subarray(0, -1) : tokens;
    return env.score(example, env.tokenizer.decode(Array.from(text)), { finishReason: finish });
  });
}

// Stored rewards went through JSON or a database's double.
const TOLERANCE = 1e-9;

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
