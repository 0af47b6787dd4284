import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { answerTo, submitted } from "../cheating/node.ts";

export const stolenLease: Attack = {
  id: "stolen-lease",
  kind: "protocol",
  title: "Stolen lease",
  plain:
    "Knows task and attempt of another node's lease and renews it, hands it back, stores under it and submits for it.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "every call is refused, and the lease's holder hands in and is paid",
    holds: ({ answers, othersAccepted }) =>
      answers.length >= 4 &&
      answers.every(({ answer }) => answer === "NOT_FOUND" || answer === "LEASE_LOST") &&
      othersAccepted > 0,
  },
  async act({ bare, work, ledger }) {
    const thief = await bare("thief");
    const { tasks } = thief.ctx.client;
    await work({
      name: "victim",
      victim: true,
      maxTasks: 1,
      executors: {
        GENERATE: {
          batch: 1,
          async execute(ctx, assignments) {
            const [assignment] = assignments;
            if (assignment === undefined) return [];
            const { lease } = assignment;
            const { task, attempt } = lease;
            const bytes = new TextEncoder().encode("mine");
            const told = async (asked: string, call: () => Promise<unknown>) =>
              ledger.answer(asked, await answerTo(call));
            await told("renewal of another's lease", () => tasks.renew({ task, attempt }));
            await told("release of another's lease", () => tasks.release({ task, attempt, reason: "mine" }));
            await told("a pack under another's lease", () => thief.put(lease, bytes));
            const submission = thief.signed(lease, "0".repeat(64));
            ledger.answer(
              "submission for another's lease",
              await submitted(() => tasks.submitRollouts(submission)),
            );
            return cheating(ledger, {}).execute(ctx, assignments);
          },
        },
      },
    });
  },
};
