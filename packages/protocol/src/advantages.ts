import { hexToBytes } from "@noble/hashes/utils.js";
import { drawsFrom } from "./draws.ts";

/**
 * Group-relative advantages (GRPO, Shao et al. 2024): (reward − mean) / (population standard deviation + epsilon).
 * A group whose rewards are all equal gets zeros.
 * @param rewards one a rollout, each in [0, 1].
 * @param epsilon `training.advantageEpsilon` of the spec.
 */
export function groupAdvantages(rewards: readonly number[], epsilon: number): number[] {
  if (!hasSignal(rewards)) return rewards.map(() => 0);
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  const variance = rewards.reduce((sum, reward) => sum + (reward - mean) ** 2, 0) / rewards.length;
  const scale = Math.sqrt(variance) + epsilon;
  return rewards.map((reward) => (reward - mean) / scale);
}

/** Whether a group can teach anything: false when all its rewards are equal (or it is empty). */
export function hasSignal(rewards: readonly number[]): boolean {
  return rewards.some((reward) => reward !== rewards[0]);
}

/**
 * The control experiment: the same advantages on the wrong rollouts. Fisher–Yates over the whole batch, so a policy can only
 * improve under it by luck.
 * @param seedHex 32 bytes in hexadecimal; the same seed gives the same order.
 */
export function permuteAdvantages(advantages: readonly number[], seedHex: string): number[] {
  const shuffled = [...advantages];
  const draws = drawsFrom(hexToBytes(seedHex), 0);
  draws.shuffle(shuffled);
  return shuffled;
}
