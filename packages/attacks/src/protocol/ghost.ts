import { type Lease, pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { answerTo } from "../cheating/node.ts";

export const ghost: Attack = {
  id: "ghost-heartbeats",
  kind: "protocol",
  title: "Ghost heartbeats",
  plain: "Claims, renews its leases and sends heartbeats as a good worker does, and never hands anything in.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "never more than 2 live leases, nothing paid, and others go on",
    holds: ({ mostLive, kept, othersLately }) => mostLive <= 2 && kept === 0 && othersLately > 0,
  },
  async act({ bare, ledger, signal }) {
    const { ctx } = await bare("ghost");
    let held: Lease[] = [];
    while (!signal.aborted) {
      const claim = async () => {
        held = [...held, ...(await ctx.client.tasks.claim({ kinds: ["GENERATE"], max: 16 }))];
      };
      ledger.answer("claim of 16 tasks", await answerTo(claim));
      for (const { task, attempt } of held)
        ledger.answer("renewal", await answerTo(() => ctx.client.tasks.renew({ task, attempt })));
      await answerTo(() => ctx.client.nodes.heartbeat({ progress: { busy: true } }));
      await pause(1_000, signal);
    }
  },
};
