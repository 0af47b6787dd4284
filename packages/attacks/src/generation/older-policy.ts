import { type ChooseCheckpoint, namedCheckpoint } from "@muster/worker";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { publishedManifest } from "../cheating/published.ts";

export const olderPolicy: Attack = {
  id: "older-policy",
  kind: "generation",
  title: "Older policy",
  plain:
    "Generates with the policy before the one it claims, which saves fetching a checkpoint at every step.",
  saved: 0.05,
  expectation: { kind: "detected", within: 8 },
  executors: (ledger) => ({ GENERATE: cheating(ledger, { checkpoint: olderCheckpoint() }) }),
};

/** From version 1 on the version before; prompts, noise, proofs, signature and log-probabilities are all genuine, of the wrong weights. */
function olderCheckpoint(): ChooseCheckpoint {
  // manifest hashes this node has seen, by run and version
  const seen = new Map<string, string>();
  return async (ctx, assignment) => {
    const { run } = assignment.lease;
    const named = await namedCheckpoint(ctx, assignment);
    const { version } = named.manifest;
    seen.set(`${run}#${version}`, named.manifestHash);
    if (version === 0) return named;
    const older =
      seen.get(`${run}#${version - 1}`) ?? (await publishedManifest(ctx, assignment, version - 1));
    if (older === undefined) return named;
    return ctx.checkpoints.open({ manifest: older, run, signal: assignment.signal });
  };
}
