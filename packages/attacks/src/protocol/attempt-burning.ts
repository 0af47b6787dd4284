import { pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { answerTo } from "../cheating/node.ts";

export const attemptBurning: Attack = {
  id: "attempt-burning",
  kind: "protocol",
  title: "Attempt burning",
  plain:
    "Claims tasks and hands them back at once, to pick those it likes and to use up the attempts of the others until they fail.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "nothing paid, the examples of a task stay the same whoever takes it, and others go on",
    holds: ({ kept, othersLately, runState }) => kept === 0 && othersLately > 0 && runState === "RUNNING",
  },
  async act({ bare, ledger, signal }) {
    const { ctx } = await bare("picker");
    const prompts = new Map<string, string>();
    while (!signal.aborted) {
      const leases = await ctx.client.tasks.claim({ kinds: ["GENERATE"], max: 16 }).catch(() => []);
      for (const { task, attempt, payload } of leases) {
        const seen = prompts.get(task) ?? JSON.stringify(payload);
        prompts.set(task, seen);
        ledger.answer("same task again", seen === JSON.stringify(payload) ? "the same" : "another");
        ledger.answer(
          "release",
          await answerTo(() => ctx.client.tasks.release({ task, attempt, reason: "not this one" })),
        );
      }
      await pause(250, signal);
    }
  },
};
