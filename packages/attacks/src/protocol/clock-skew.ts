import { pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { answerTo } from "../cheating/node.ts";

export const clockSkew: Attack = {
  id: "clock-skew",
  kind: "protocol",
  title: "Clock skew",
  plain:
    "Its clock is hours behind: it believes that leases and challenges still hold, works on past every deadline and says so in its heartbeats.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound:
      "only the coordinator's clock counts: the lease ends, its task goes to somebody else, nothing is paid",
    holds: ({ allAnswered, kept, mostLive }) =>
      allAnswered("renewal after the deadline", "LEASE_LOST") && kept === 0 && mostLive <= 2,
  },
  async act({ bare, ledger, signal }) {
    const { ctx } = await bare("late");
    const { tasks, nodes } = ctx.client;
    while (!signal.aborted) {
      const [lease] = await tasks.claim({ kinds: ["GENERATE"], max: 1 });
      if (lease === undefined) {
        await pause(200, signal);
        continue;
      }
      const { task, attempt } = lease;
      const yesterday = new Date(Date.now() - 12 * 3_600_000).toISOString();
      // the sweeper looks once a second
      const deadline = Date.parse(lease.leaseUntil) + 3_000;
      while (Date.now() < deadline && !signal.aborted) {
        await answerTo(() => nodes.heartbeat({ progress: { at: yesterday, leaseUntil: yesterday } }));
        await pause(1_000, signal);
      }
      if (signal.aborted) return;
      ledger.answer("renewal after the deadline", await answerTo(() => tasks.renew({ task, attempt })));
      return;
    }
  },
};
