import type { Group } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";

/** Says how a group ended. */
export async function decidedEvent(tx: Tx, group: Group, state: "ACCEPTED" | "REJECTED" | "INVALID", reason: string | null): Promise<void> {
  await appendEvents(tx, [
    {
      stream: runStream(group.runId),
      organizationId: group.organizationId,
      type: "group.decided",
      subject: toTypeId("group", group.id),
      data: { state, reason, node: toTypeId("node", group.nodeId), version: group.policyVersion, meanReward: group.meanReward },
    },
  ]);
}
