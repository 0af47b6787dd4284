import { encodeRolloutPack, packLimits, rolloutKey } from "@muster/protocol";
import type { LocalCheckpoint } from "../checkpoints.ts";
import type { Assignment, Executor, ExecutorContext, Outcome } from "../executor.ts";

/** Which checkpoint to generate with. An honest node takes the one its task names. */
export type ChooseCheckpoint = (
  ctx: ExecutorContext,
  assignment: Assignment<"GENERATE">,
) => Promise<LocalCheckpoint>;

/** GENERATE: draws the task's rollouts under its noise, proves them, packs them. */
export function generateExecutor(options: { checkpoint?: ChooseCheckpoint } = {}): Executor<"GENERATE"> {
  const choose = options.checkpoint ?? namedCheckpoint;
  return {
    batch: 1,
    async execute(ctx, assignments) {
      const outcomes: Outcome[] = [];
      for (const assignment of assignments) {
        outcomes.push(await generate(ctx, assignment, await choose(ctx, assignment)));
      }
      return outcomes;
    },
  };
}

/** The checkpoint whose manifest the task names. */
export const namedCheckpoint: ChooseCheckpoint = async (ctx, { lease, payload, signal }) => {
  const checkpoint = await ctx.checkpoints.open({ manifest: payload.manifest, run: lease.run, signal });
  const { version } = checkpoint.manifest;
  if (lease.policyVersion !== null && version !== lease.policyVersion) {
    throw new Error(`The task says version ${lease.policyVersion}; its manifest says ${version}.`);
  }
  return checkpoint;
};

async function generate(
  ctx: ExecutorContext,
  { lease, payload, signal, progress }: Assignment<"GENERATE">,
  checkpoint: LocalCheckpoint,
): Promise<Outcome> {
  const { groupSize, form, topK } = payload;
  const total = payload.prompts.length * groupSize;
  if (total > packLimits.rollouts) {
    return {
      kind: "failed",
      reason: `The task asks for ${total} rollouts; a pack holds at most ${packLimits.rollouts}.`,
    };
  }
  const prompts = payload.prompts.flatMap((prompt) => {
    const ids = Int32Array.from(prompt);
    return Array.from({ length: groupSize }, () => ids);
  });
  const policy = await ctx.engines.policy(checkpoint);
  const rollouts = await policy.generate({
    prompts,
    keys: prompts.map((_, index) => rolloutKey(payload.seed, lease.task, index)),
    sampling: payload.sampling,
    maxOutputTokens: payload.maxOutputTokens,
    eos: checkpoint.model.eos,
    proof: { form, topK },
    signal,
    onProgress: (done) => progress(done.rollouts, total),
  });
  const bytes = encodeRolloutPack({
    header: {
      kind: "rollouts",
      version: 1,
      run: lease.run,
      task: lease.task,
      manifest: payload.manifest,
      form,
      topK,
    },
    rollouts: rollouts.map((rollout, index) => ({
      index,
      prompt: prompts[index] ?? new Int32Array(),
      ...rollout,
    })),
  });
  return { kind: "pack", pack: "ROLLOUTS", bytes: new Uint8Array(bytes) };
}
