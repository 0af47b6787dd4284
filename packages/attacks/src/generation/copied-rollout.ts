import type { PackedRollout } from "@muster/protocol";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";

export const copiedRollout: Attack = {
  id: "copied-rollout",
  kind: "generation",
  title: "Copied rollouts",
  plain:
    "Gets hold of another node's pack and hands its outputs and proofs in under prompts of its own. The node that made them must keep its pay.",
  saved: 1,
  expectation: { kind: "detected", within: 4 },
  async act({ work, ledger }) {
    const stolen: (readonly PackedRollout[])[] = [];
    const record = async (honest: readonly PackedRollout[]) => {
      stolen.push(honest);
      return honest;
    };
    await work({
      name: "victim",
      victim: true,
      executors: { GENERATE: cheating(ledger, { rollouts: record }) },
      maxTasks: 1,
    });
    let next = 0;
    const copy = async (honest: readonly PackedRollout[]) => {
      const source = stolen[next++ % stolen.length] ?? [];
      return honest.map((own, i) => {
        const { tokens, logprobs, proofs, finish } = source[i] ?? own;
        return { ...own, tokens, logprobs, proofs, finish };
      });
    };
    await work({ name: "copier", executors: { GENERATE: cheating(ledger, { rollouts: copy }) } });
  },
};
