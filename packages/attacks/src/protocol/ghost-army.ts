import { type Lease, pause } from "@muster/sdk";
import type { Attack } from "../attack.ts";
import { answerTo, type BareNode } from "../cheating/node.ts";

/** More than a run has tasks open, at two leases each. */
const identities = 24;

export const ghostArmy: Attack = {
  id: "ghost-army",
  kind: "protocol",
  title: "Army of ghosts",
  plain:
    "Registers again and again until its identities hold every open task, and renews all of those leases, so that the run stands still.",
  saved: 1,
  // the coordinator gives a task up after five lengths of its lease
  watch: 100,
  expectation: {
    kind: "contained",
    bound:
      "never more than 2 live leases a node, nothing paid, and others go on: a task that is held for longer than five leases is replaced",
    holds: ({ mostLive, kept, othersLately }) => mostLive <= 2 && kept === 0 && othersLately > 0,
  },
  async act({ bare, ledger, signal }) {
    const army: { node: BareNode; held: Lease[] }[] = [];
    for (let n = 1; n <= identities && !signal.aborted; n++) {
      army.push({ node: await bare(`ghost-${n}`), held: [] });
    }
    while (!signal.aborted) {
      for (const ghost of army) {
        const { tasks } = ghost.node.ctx.client;
        const claim = async () =>
          void ghost.held.push(...(await tasks.claim({ kinds: ["GENERATE"], max: 2 })));
        if (ghost.held.length < 2) ledger.answer("claim", await answerTo(claim));
        for (const { task, attempt } of ghost.held)
          ledger.answer("renewal", await answerTo(() => tasks.renew({ task, attempt })));
      }
      await pause(500, signal);
    }
  },
};
