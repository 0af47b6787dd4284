import type { Group, Task } from "@muster/db";
import { type RunSpec, toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { specOf } from "../runs/spec.ts";
import { openTask } from "../tasks/lease.ts";
import { awaitsVerdict, decideAgainst } from "./acceptance.ts";
import { recordEntries } from "./record.ts";
import { ownValidators } from "./reexecution.ts";
import { lockStandings, recordOutcome } from "./trust.ts";

// A check that cannot run accuses nobody. The group is measured again, on up to two other validators; when that does not help either it
// is INVALID and unpaid. That counts against its node only when there is reason to think that the pack is the trouble and not
// the measuring.

const retries = 2;

/** Has a group measured by somebody else, or gives it up. */
export async function retryElsewhere(
  tx: Tx,
  input: { group: Group; spec: RunSpec; validatorNodeId: string; note: string },
): Promise<void> {
  const { group, spec } = input;
  if (group.inconclusive >= retries) return giveUp(tx, group, spec, input.note);
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
  const group = await tx.group.findFirst({ where: { verifyTaskId: task.id, ...awaitsVerdict } });
  if (group === null) return;
  await lockStandings(tx, group.runId, [group.nodeId]);
  const spec = await specOf(tx, task.runId, task.revision);
  await giveUp(
    tx,
    group,
    spec,
    `No validator finished measuring it: ${task.failure ?? "the task ran out of attempts"}.`,
  );
}

async function giveUp(tx: Tx, group: Group, spec: RunSpec, reason: string): Promise<void> {
  const ours = await isOurs(tx, group);
  if (!(await decideAgainst(tx, group, "INVALID", reason))) return;
  const { runId, nodeId, organizationId } = group;
  if (!ours)
    await recordOutcome(tx, {
      runId,
      nodeId,
      organizationId,
      outcome: "INVALID",
      groupIds: [group.id],
      spec,
      reason,
    });
  await recordEntries(tx, [
    {
      runId,
      organizationId,
      kind: "verdict.invalid",
      subject: toTypeId("group", group.id),
      data: { node: toTypeId("node", nodeId), reason, ours },
    },
  ]);
}

/**
 * Whether the trouble is on our side. It is, unless several validators, one of the organizer's own among them, failed at this very group
 * while probes of the same policy version whose outcome is known came out right, all of them: with no evidence either way nobody's trust
 * is touched.
 */
async function isOurs(tx: Tx, group: Group): Promise<boolean> {
  const inconclusive = await tx.verification.findMany({
    where: { groupId: group.id, verdict: "INCONCLUSIVE" },
    select: { validatorNodeId: true },
  });
  const failed = await tx.attempt.findMany({
    where: {
      taskId: group.verifyTaskId ?? "",
      OR: [{ state: { in: ["EXPIRED", "RELEASED"] } }, { state: "SUBMITTED", reason: { not: null } }],
    },
    select: { nodeId: true },
  });
  const validators = new Set([
    ...inconclusive.map(({ validatorNodeId }) => validatorNodeId),
    ...failed.map(({ nodeId }) => nodeId),
  ]);
  // Strangers may tell each other whose tokens they have: two of them alone accuse nobody.
  const own = await ownValidators(tx, group.runId);
  if (validators.size < 2 || ![...validators].some((id) => own.has(id))) return true;
  const probes = await tx.probe.findMany({
    where: {
      runId: group.runId,
      policyVersion: group.policyVersion,
      purpose: { in: ["CANARY_GOOD", "REEXECUTION"] },
      decidedAt: { gt: group.submittedAt },
    },
    select: { outcome: true },
  });
  return probes.length === 0 || probes.some(({ outcome }) => outcome !== "AGREED");
}
