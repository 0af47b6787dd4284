import type { Prisma } from "@muster/db";
import type { Tx } from "../context.ts";
import { forfeitGroups } from "../ledger/stakes.ts";
import { awaitsVerdict } from "./acceptance.ts";
import { decidedEvents } from "./decided.ts";

/** States in which a group accepted by trust may be until it is final. */
const trustedStates = ["ACCEPTED", "SET_ASIDE", "STALE"] as const;

/** Groups accepted by a trust that their node has lost since, or still waiting for it to be confirmed, that nobody has begun to measure. */
export const restsOnLostTrust = (runId: string) =>
  ({
    runId,
    finalAt: null,
    retroactive: false,
    OR: [
      { acceptance: "TRUSTED", state: { in: [...trustedStates] } },
      { state: "SUBMITTED", verifyTaskId: null },
    ],
    node: { trust: { some: { runId, state: { not: "TRUSTED" } } } },
  }) satisfies Prisma.GroupWhereInput;

/**
 * Declares INVALID what a run that ends leaves unmeasured: groups without a verdict, and those that rest on a trust which was lost. What
 * was held for them goes back into the budget.
 */
export async function giveUpUndecided(tx: Tx, runId: string): Promise<number> {
  const reason = "The run ended before anybody had measured it.";
  const groups = await tx.group.updateManyAndReturn({
    where: { runId, OR: [{ state: "SUBMITTED" }, awaitsVerdict, restsOnLostTrust(runId)] },
    data: { state: "INVALID", acceptance: null, advantagesReady: false, reason, decidedAt: new Date() },
  });
  await forfeitGroups(
    tx,
    groups.map(({ organizationId, nodeId, id }) => ({ organizationId, runId, nodeId, groupId: id })),
    reason,
  );
  await decidedEvents(tx, groups, reason);
  return groups.length;
}
