import type { PackedRollout, PhiloxKey, Sampling } from "@muster/protocol";
import { rolloutKey } from "@muster/protocol";
import { type ChooseCheckpoint, namedCheckpoint } from "@muster/worker";
import type { Bench } from "./generate.ts";

/**
 * The group generated again, with something else chosen, and handed in with a genuine prefill over the tokens that came of it, so
 * that only the choice of tokens is a lie. Where the tokens came out the same, the rollout is honest.
 */
export async function resampled(
  honest: readonly PackedRollout[],
  { ctx, assignment, prefilled }: Pick<Bench, "ctx" | "assignment" | "prefilled">,
  other: { sampling?: Partial<Sampling>; checkpoint?: ChooseCheckpoint; key?: (key: PhiloxKey) => PhiloxKey },
): Promise<PackedRollout[]> {
  const { payload, lease, signal } = assignment;
  const policy = await ctx.engines.policy(await (other.checkpoint ?? namedCheckpoint)(ctx, assignment));
  const keys = honest.map(({ index }) => rolloutKey(payload.seed, lease.task, index));
  const made = await policy.generate({
    prompts: honest.map(({ prompt }) => prompt),
    keys: other.key === undefined ? keys : keys.map(other.key),
    sampling: { ...payload.sampling, ...other.sampling },
    maxOutputTokens: payload.maxOutputTokens,
    eos: policy.model.eos,
    signal,
  });
  const drawn = honest.map((rollout, i) => {
    const { tokens, finish } = made[i] ?? rollout;
    return { ...rollout, tokens, finish };
  });
  const lies = await prefilled(drawn);
  return honest.map((rollout, i) =>
    String(rollout.tokens) === String(drawn[i]?.tokens) ? rollout : (lies[i] ?? rollout),
  );
}
