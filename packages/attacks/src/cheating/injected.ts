import type { PackedRollout } from "@muster/protocol";
import type { Bench } from "./generate.ts";
import { withTokens } from "./tokens.ts";

/** The right answer as every rollout's output, with the proofs and log-probabilities of a genuine prefill over it. */
export async function injected(
  honest: readonly PackedRollout[],
  bench: Bench,
): Promise<readonly PackedRollout[]> {
  const { env, example } = await bench.problem();
  const { eos } = env.tokenizer;
  const answer = Int32Array.from([...env.tokenizer.encode(env.answer(example)), eos]);
  const tokens = answer.slice(0, bench.assignment.payload.maxOutputTokens);
  const edited = honest.map((rollout) => withTokens(rollout, tokens, eos));
  const proven = await bench.prefilled(edited);
  return honest.map((rollout, i) => (edited[i] === rollout ? rollout : (proven[i] ?? rollout)));
}
