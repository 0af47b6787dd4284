import { encodeSamplesPack, packLimits, rolloutKey } from "@muster/protocol";
import type { Assignment, Executor, ExecutorContext, Outcome } from "../executor.ts";

/** EVALUATE: one completion for each held-out prompt. Its noise depends on the suite alone, so versions are compared in pairs. */
export function evaluateExecutor(): Executor<"EVALUATE"> {
  return {
    batch: 1,
    async execute(ctx, assignments) {
      const outcomes: Outcome[] = [];
      for (const assignment of assignments) outcomes.push(await evaluate(ctx, assignment));
      return outcomes;
    },
  };
}

async function evaluate(
  ctx: ExecutorContext,
  { lease, payload, signal, progress }: Assignment<"EVALUATE">,
): Promise<Outcome> {
  const total = payload.prompts.length;
  if (total > packLimits.rollouts) {
    return {
      kind: "failed",
      reason: `The suite has ${total} prompts; a pack holds at most ${packLimits.rollouts}.`,
    };
  }
  const checkpoint = await ctx.checkpoints.open({ manifest: payload.manifest, run: lease.run, signal });
  const policy = await ctx.engines.policy(checkpoint);
  const prompts = payload.prompts.map((prompt) => Int32Array.from(prompt));
  const rollouts = await policy.generate({
    prompts,
    keys: prompts.map((_, index) => rolloutKey(payload.seed, `eval:${payload.suite}`, index)),
    sampling: payload.sampling,
    maxOutputTokens: payload.maxOutputTokens,
    eos: checkpoint.model.eos,
    signal,
    onProgress: (done) => progress(done.rollouts, total),
  });
  const bytes = encodeSamplesPack({
    header: {
      kind: "samples",
      version: 1,
      run: lease.run,
      suite: payload.suite,
      manifest: payload.manifest,
      policyVersion: checkpoint.manifest.version,
    },
    samples: rollouts.map(({ tokens, finish }, index) => ({
      index,
      prompt: prompts[index] ?? new Int32Array(),
      tokens,
      finish,
    })),
  });
  return { kind: "pack", pack: "SAMPLES", bytes: new Uint8Array(bytes) };
}
