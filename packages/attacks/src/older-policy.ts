import {
  type Assignment,
  type Executor,
  type ExecutorContext,
  generateExecutor,
  type LocalCheckpoint,
  namedCheckpoint,
} from "@muster/worker";
import type { Attack } from "./attack.ts";

/**
 * From version 1 on the node claims version v and generates with v − 1. It saves the download and, if nobody looks, is paid the same;
 * its rollouts come from a policy that training does not expect. Prompts, noise, proofs, signature and log-probabilities are
 * all genuine, of the wrong weights.
 */
export const olderPolicy: Attack = {
  id: "older-policy",
  title: "Older policy",
  plain:
    "Generates with the policy before the one it claims, which saves fetching a checkpoint at every step.",
  executors: () => ({ GENERATE: olderPolicyExecutor() }),
};

export function olderPolicyExecutor(): Executor<"GENERATE"> {
  // manifest hashes this node has seen, by run and version
  const seen = new Map<string, string>();
  return generateExecutor({
    async checkpoint(ctx, assignment) {
      const { run } = assignment.lease;
      const named = await namedCheckpoint(ctx, assignment);
      const { version } = named.manifest;
      seen.set(`${run}#${version}`, named.manifestHash);
      if (version === 0) return named;
      const older = seen.get(`${run}#${version - 1}`) ?? (await published(ctx, assignment, version - 1));
      if (older === undefined) return named;
      ctx.log.debug({ claimed: version, used: version - 1 }, "generating with an older policy");
      return ctx.checkpoints.open({ manifest: older, run, signal: assignment.signal });
    },
  });
}

/** For a node that came too late to have seen the older version. */
async function published(
  ctx: ExecutorContext,
  { lease, signal }: Assignment<"GENERATE">,
  version: number,
): Promise<LocalCheckpoint["manifestHash"] | undefined> {
  for await (const checkpoint of ctx.client.runs.checkpoints({ run: lease.run }, { signal })) {
    if (checkpoint.version === version) return checkpoint.manifestHash;
  }
  return undefined;
}
