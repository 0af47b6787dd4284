import type { PackedRollout } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { type Bench, cheating } from "../cheating/generate.ts";
import { resampled } from "../cheating/resampled.ts";

const tries = 3;

export const bestOfN: Attack = {
  id: "best-of-n",
  kind: "generation",
  title: "Best of n",
  plain: `Draws every rollout ${tries} times under noise of its own as well and keeps the one with the highest reward, with genuine proofs.`,
  saved: 0,
  expectation: { kind: "detected", within: 8 },
  executors: (ledger) => ({ GENERATE: cheating(ledger, { rollouts: best }) }),
};

async function best(honest: readonly PackedRollout[], bench: Bench): Promise<readonly PackedRollout[]> {
  const { env, example } = await bench.problem();
  const reward = ({ tokens, finish }: PackedRollout) =>
    env.score(example, env.tokenizer.decode(finish === "eos" ? tokens.subarray(0, -1) : tokens), {
      finishReason: finish,
    }).reward;
  let kept = honest;
  for (let n = 1; n <= tries; n++) {
    const drawn = await resampled(honest, bench, { key: ([a, b]) => [(a + n) >>> 0, b] });
    kept = kept.map((rollout, i) => {
      const other = drawn[i] ?? rollout;
      return reward(other) > reward(rollout) ? other : rollout;
    });
  }
  return kept;
}
