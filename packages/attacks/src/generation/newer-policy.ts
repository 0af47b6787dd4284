import { pause } from "@muster/sdk";
import { namedCheckpoint } from "@muster/worker";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { publishedManifest } from "../cheating/published.ts";

/** Looks this often for a newer version, and so often, before it does its work honestly. */
const [everyMs, looks] = [250, 40];

export const newerPolicy: Attack = {
  id: "newer-policy",
  kind: "generation",
  title: "Newer policy",
  plain:
    "Sits on a task until the next version is out and generates with that one, whose rollouts earn more reward, while it claims the task's.",
  saved: 0,
  expectation: { kind: "detected", within: 8 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, {
      async checkpoint(ctx, assignment) {
        const named = await namedCheckpoint(ctx, assignment);
        const { run, policyVersion } = assignment.lease;
        for (let look = 0; look < looks; look++) {
          const newer = await publishedManifest(ctx, assignment, (policyVersion ?? 0) + 1);
          if (newer !== undefined)
            return ctx.checkpoints.open({ manifest: newer, run, signal: assignment.signal });
          await pause(everyMs, assignment.signal);
        }
        return named;
      },
    }),
  }),
};
