import { rolloutKey } from "@muster/protocol";
import { namedCheckpoint } from "@muster/worker";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";

export const tamperedPrompt: Attack = {
  id: "tampered-prompt",
  kind: "generation",
  title: "Another prompt",
  plain:
    "Generates after an easier prompt (the same one with its first token taken for the second, too) and hands the output in under the example's.",
  saved: 0,
  expectation: { kind: "detected", within: 4 },
  executors: (ledger) => ({
    GENERATE: cheating(ledger, {
      async rollouts(honest, { ctx, assignment }) {
        const { payload, lease, signal } = assignment;
        const policy = await ctx.engines.policy(await namedCheckpoint(ctx, assignment));
        const made = await policy.generate({
          prompts: honest.map(({ prompt }) =>
            prompt.map((token, i) => (i === 1 ? (prompt[0] ?? token) : token)),
          ),
          keys: honest.map(({ index }) => rolloutKey(payload.seed, lease.task, index)),
          sampling: payload.sampling,
          maxOutputTokens: payload.maxOutputTokens,
          eos: policy.model.eos,
          proof: payload,
          signal,
        });
        return honest.map((rollout, i) => {
          // two equal letters at the start: the tampered prompt is the real one
          if (rollout.prompt[0] === rollout.prompt[1]) return rollout;
          return { ...rollout, ...made[i] };
        });
      },
    }),
  }),
};
