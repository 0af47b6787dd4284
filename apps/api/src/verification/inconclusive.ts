import type { Group, Task } from "@muster/db";
import type { RunSpec } from "@muster/protocol";
import type { Tx } from "../context.ts";
import type { Loop } from "../loops.ts";
import { specOf } from "../runs/spec.ts";
import { openTask } from "../tasks/lease.ts";
import { decidedEvents } from "./decided.ts";
import { recordOutcome } from "./trust.ts";

// A check that cannot run accuses nobody. The group is measured again, on up to two other validators; when that does not
// help either it is INVALID: unpaid, and three in a row from one node quarantine it.

const retries = 2;

/** Has a group measured by somebody else, or gives it up. */
export async function retryElsewhere(
  tx: Tx,
  input: { group: Group; spec: RunSpec; validatorNodeId: string; note: string },
): Promise<void> {
  const { group, spec } = input;
  if (group.inconclusive >= retries) return invalidate(tx, group, spec, input.note);
  const previous =
    group.verifyTaskId === null ? null : await tx.task.findUnique({ where: { id: group.verifyTaskId } });
  if (previous === null || group.blindHash === null)
    throw new Error(`group ${group.id} has no VERIFY task to repeat`);
  const taskId = await openTask(tx, {
    organizationId: group.organizationId,
    runId: group.runId,
    kind: "VERIFY",
    revision: previous.revision,
    policyVersion: group.policyVersion,
    ...(previous.manifestHash === null ? {} : { manifestHash: previous.manifestHash }),
    payload: previous.payload,
    excludedNodes: [...new Set([...previous.excludedNodes, input.validatorNodeId])],
  });
  await tx.packReference.create({
    data: {
      organizationId: group.organizationId,
      runId: group.runId,
      sha256: group.blindHash,
      taskId,
      subject: taskId,
      kind: "BLIND",
    },
  });
  await tx.group.update({
    where: { id: group.id },
    data: { verifyTaskId: taskId, inconclusive: { increment: 1 }, reason: input.note },
  });
}

/** A VERIFY task that used up its attempts leaves a group that nobody could measure. */
export async function onVerifyFailed(tx: Tx, task: Task): Promise<void> {
  const group = await tx.group.findFirst({ where: { verifyTaskId: task.id, state: "VERIFYING" } });
  if (group === null) return;
  const spec = await specOf(tx, task.runId, task.revision);
  await invalidate(
    tx,
    group,
    spec,
    `No validator finished measuring it: ${task.failure ?? "the task ran out of attempts"}.`,
  );
}

/**
 * Lets the validator that was inconclusive try once more when nobody else has claimed the task for a minute: with a single
 * validator there is nobody else.
 */
export const sameValidatorLoop: Loop = {
  name: "verify-same-validator",
  everyMs: 15_000,
  leader: true,
  async run(ctx) {
    await ctx.prisma.$executeRaw`
      UPDATE "Task" t SET "excludedNodes" = ARRAY[g."nodeId"]
      FROM "Group" g
      WHERE g."verifyTaskId" = t.id AND g.inconclusive = 1 AND t.kind = 'VERIFY' AND t.state = 'OPEN'
        AND cardinality(t."excludedNodes") > 1 AND t."createdAt" < now() - interval '60 seconds'`;
    ctx.bus.publish("offers:VERIFY");
  },
};

async function invalidate(tx: Tx, group: Group, spec: RunSpec, reason: string): Promise<void> {
  const changed = await tx.group.updateMany({
    where: { id: group.id, state: "VERIFYING" },
    data: { state: "INVALID", reason, decidedAt: new Date() },
  });
  if (changed.count === 0) return;
  const { runId, nodeId, organizationId } = group;
  await recordOutcome(tx, { runId, nodeId, organizationId, outcome: "INVALID", spec, reason });
  await decidedEvents(tx, [group], "INVALID", reason);
}
