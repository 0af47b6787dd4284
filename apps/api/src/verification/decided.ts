import type { Group } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";

/** Says how groups ended. */
export async function decidedEvents(
  tx: Tx,
  groups: readonly Group[],
  state: "ACCEPTED" | "REJECTED" | "INVALID",
  reason: string | null,
): Promise<void> {
  await appendEvents(
    tx,
    groups.map((group) => ({
      stream: runStream(group.runId),
      organizationId: group.organizationId,
      type: "group.decided",
      subject: toTypeId("group", group.id),
      data: {
        state,
        reason,
        node: toTypeId("node", group.nodeId),
        version: group.policyVersion,
        meanReward: group.meanReward,
      },
    })),
  );
}
