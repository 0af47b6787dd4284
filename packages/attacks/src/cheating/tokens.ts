import type { PackedRollout } from "@muster/protocol";

/** The rollout with another output; the same object when the output is the same. How it ended follows from the tokens. */
export function withTokens(rollout: PackedRollout, tokens: Int32Array, eos: number): PackedRollout {
  const same =
    tokens.length === rollout.tokens.length && tokens.every((token, i) => token === rollout.tokens[i]);
  if (same) return rollout;
  return { ...rollout, tokens, finish: tokens[tokens.length - 1] === eos ? "eos" : "length" };
}
