import { encodeBlindPack, type RolloutPack, type RunSpec, rolloutKey, toTypeId } from "@muster/protocol";
import type { Ctx } from "../context.ts";

/**
 * Writes what a validator may know of one group: tokens, the Philox words of each rollout, sampling and manifest. Never the
 * producer, its proofs or log-probabilities, the task or the run seed: a validator that cannot tell whose work it measures
 * cannot favour anyone, and cannot echo a claim it never saw.
 * @returns SHA-256 and size of the BLIND pack.
 */
export async function writeBlindPack(
  ctx: Ctx,
  input: {
    readonly spec: RunSpec;
    readonly taskId: string;
    readonly manifest: string;
    readonly eos: number;
    readonly rollouts: RolloutPack["rollouts"];
  },
): Promise<{ sha256: string; size: number }> {
  const { spec } = input;
  const task = toTypeId("task", input.taskId);
  const bytes = encodeBlindPack({
    header: {
      kind: "blind",
      version: 1,
      manifest: input.manifest,
      form: spec.verification.form,
      topK: spec.verification.topK,
      sampling: spec.generation.sampling,
      eos: input.eos,
      maxOutputTokens: spec.generation.maxOutputTokens,
    },
    rollouts: input.rollouts.map((rollout) => ({
      prompt: rollout.prompt,
      tokens: rollout.tokens,
      key: rolloutKey(spec.seed, task, rollout.index),
    })),
  });
  return { sha256: await ctx.blobs.putBytes(bytes), size: bytes.length };
}
