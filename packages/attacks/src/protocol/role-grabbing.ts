import { pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { answerTo, submitted } from "../cheating/node.ts";

const forbidden = ["UNAUTHENTICATED", "FORBIDDEN", "ROLE_NOT_GRANTED", "INPUT_INVALID", "NOT_FOUND"];

export const roleGrabbing: Attack = {
  id: "role-grabbing",
  kind: "protocol",
  title: "Role grabbing",
  plain:
    "Claims work of every role without a grant, grants roles to itself, hands in measurements and checkpoints under a worker's lease, and steers the run.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "every call is refused, and the node has no role but that of a worker",
    holds: ({ answers, roles, runState, kept }) =>
      answers.length > 0 &&
      answers.every(({ answer }) => forbidden.includes(answer)) &&
      roles.every((role) => role === "WORKER") &&
      runState === "RUNNING" &&
      kept === 0,
  },
  async act({ bare, run, ledger, signal }) {
    const { ctx, node, put, signed } = await bare("grabber");
    const { tasks, runs } = ctx.client;
    const told = async (asked: string, call: () => Promise<unknown>) =>
      ledger.answer(asked, await answerTo(call));
    for (const kind of ["VERIFY", "TRAIN", "BASE", "EVALUATE"] as const)
      await told(`claim of ${kind}`, () => tasks.claim({ kinds: [kind], max: 1, run }));
    for (const role of ["VALIDATOR", "TRAINER"] as const)
      await told(`grant of ${role} to itself`, () => runs.grantRole({ run, node, role }));
    await told("pause of the run", () => runs.pause({ run, reason: "mine now" }));
    await told("cancelling the run", () => runs.cancel({ run }));
    await told("credits for the run", () => runs.fund({ run, credits: "1" }));
    while (!signal.aborted) {
      const [lease] = await tasks.claim({ kinds: ["GENERATE"], max: 1 });
      if (lease === undefined) {
        await pause(200, signal);
        continue;
      }
      const bytes = new TextEncoder().encode("weights of mine");
      await told("a checkpoint under a worker's lease", () => put(lease, bytes, "SHARD"));
      const submission = signed(lease, await put(lease, bytes));
      ledger.answer(
        "a measurement under a worker's lease",
        await submitted(() => tasks.submitMeasurement(submission)),
      );
      await tasks.release({ task: lease.task, attempt: lease.attempt, reason: "done" });
      return;
    }
  },
};
