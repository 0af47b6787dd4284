import type { Group } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";

/** Says what groups are, after they were decided or went back to be measured. */
export async function decidedEvents(tx: Tx, groups: readonly Group[], reason: string | null): Promise<void> {
  await appendEvents(
    tx,
    groups.map((group) => ({
      stream: runStream(group.runId),
      organizationId: group.organizationId,
      type: "group.decided",
      subject: toTypeId("group", group.id),
      data: {
        state: group.state,
        acceptance: group.acceptance,
        reason,
        node: toTypeId("node", group.nodeId),
        version: group.policyVersion,
        meanReward: group.meanReward,
      },
    })),
  );
}
