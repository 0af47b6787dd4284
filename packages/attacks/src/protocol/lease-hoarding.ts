import { pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { answerTo } from "../cheating/node.ts";

export const leaseHoarding: Attack = {
  id: "lease-hoarding",
  kind: "protocol",
  title: "Lease hoarding",
  plain:
    "Claims as many tasks as it can get, as often as it can, and does none of them, so that nobody else has work.",
  saved: 1,
  expectation: {
    kind: "contained",
    bound: "never more than 2 live leases, nothing paid, and others go on",
    holds: ({ mostLive, kept, othersLately }) => mostLive <= 2 && kept === 0 && othersLately > 0,
  },
  async act({ bare, ledger, signal }) {
    const { ctx } = await bare("hoarder");
    while (!signal.aborted) {
      const answer = await answerTo(() => ctx.client.tasks.claim({ kinds: ["GENERATE"], max: 16 }));
      ledger.answer("claim of 16 tasks", answer);
      await pause(500, signal);
    }
  },
};
