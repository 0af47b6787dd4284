import type { Group, Prisma, Verification } from "@muster/db";
import type { Ctx, Tx } from "../context.ts";
import { openTasks } from "../tasks/lease.ts";
import { epochKeyOf, secretDraws } from "./audit.ts";

// What one validator measured, measured again by one of the organizer's own.

/** Whether an accepted audit is measured again: fixed by the epoch's secret when the pack was committed. */
export async function isReexecuted(ctx: Ctx, group: Group): Promise<boolean> {
  const { canary } = secretDraws(await epochKeyOf(ctx, group.runId, group.epoch), group);
  return Number(Buffer.from(canary).readBigUInt64BE(0) >> 11n) / 2 ** 53 < ctx.config.reexecutionShare;
}

/** The validators of a run that may re-execute: those marked as the organizer's own, or all of them where none is. */
export async function ownValidators(tx: Tx, runId: string): Promise<Set<string>> {
  const grants = await tx.roleGrant.findMany({
    where: { runId, role: "VALIDATOR", revokedAt: null },
    select: { nodeId: true, own: true },
  });
  const own = grants.filter((grant) => grant.own);
  return new Set((own.length > 0 ? own : grants).map(({ nodeId }) => nodeId));
}

/** A validator is looked for among those seen within this time. */
const seenWithinMs = 120_000;

/**
 * Has what was measured measured again by one of the organizer's own, somebody else than before where there is one.
 * @param again the measurements to compare with, all of one run.
 */
export async function openReexecutions(
  tx: Tx,
  runId: string,
  again: readonly { readonly group: Group; readonly verification: Pick<Verification, "id" | "taskId"> }[],
): Promise<void> {
  if (again.length === 0) return;
  const own = await ownValidators(tx, runId);
  const present = await tx.node.findMany({
    where: {
      id: { in: [...own] },
      lastSeenAt: { gt: new Date(Date.now() - seenWithinMs) },
      trust: { none: { runId, state: { in: ["QUARANTINED", "EJECTED"] } } },
    },
    select: { id: true },
  });
  const tasks = await tx.task.findMany({
    where: { id: { in: again.map(({ verification }) => verification.taskId) } },
  });
  const measurers = await measurersOf(
    tx,
    again.map(({ group }) => group.id),
  );
  const wanted = again.flatMap(({ group, verification }) => {
    const task = tasks.find(({ id }) => id === verification.taskId);
    const { blindHash } = group;
    if (task === undefined || blindHash === null || task.manifestHash === null) return [];
    const before = measurers.get(group.id) ?? [];
    const others = present.some(({ id }) => id !== group.nodeId && !before.includes(id));
    return [{ group, verification, task, blindHash, excluded: [group.nodeId, ...(others ? before : [])] }];
  });
  const taskIds = await openTasks(
    tx,
    wanted.map(({ group, task, excluded }) => ({
      organizationId: group.organizationId,
      runId,
      kind: "VERIFY" as const,
      revision: task.revision,
      policyVersion: group.policyVersion,
      ...(task.manifestHash === null ? {} : { manifestHash: task.manifestHash }),
      payload: task.payload,
      excludedNodes: [...new Set(excluded)],
    })),
  );
  await insertProbes(
    tx,
    wanted.map(({ group, verification, blindHash }, i) => ({
      taskId: taskIds[i] ?? "",
      organizationId: group.organizationId,
      runId,
      groupId: group.id,
      policyVersion: group.policyVersion,
      purpose: "REEXECUTION" as const,
      verificationId: verification.id,
      blindHash,
    })),
  );
}

/** Stores probes whose tasks were opened in this transaction, and keeps their BLIND packs for them. */
export async function insertProbes(tx: Tx, probes: readonly Prisma.ProbeCreateManyInput[]): Promise<void> {
  await tx.probe.createMany({ data: [...probes] });
  await tx.packReference.createMany({
    data: probes.map(({ organizationId, runId, blindHash, taskId }) => ({
      organizationId,
      runId,
      sha256: blindHash,
      taskId,
      subject: taskId,
      kind: "BLIND" as const,
    })),
  });
}

/** Who has measured each of these groups, for its verdict or as a probe. */
async function measurersOf(tx: Tx, groupIds: readonly string[]): Promise<Map<string, string[]>> {
  const where = { groupId: { in: [...groupIds] } };
  const verdicts = await tx.verification.findMany({
    where,
    select: { groupId: true, validatorNodeId: true },
  });
  const probes = await tx.probe.findMany({ where, select: { groupId: true, nodeId: true } });
  const found = new Map<string, string[]>();
  const add = (groupId: string, nodeId: string) =>
    found.set(groupId, [...(found.get(groupId) ?? []), nodeId]);
  for (const { groupId, validatorNodeId } of verdicts) add(groupId, validatorNodeId);
  for (const { groupId, nodeId } of probes) if (nodeId !== null) add(groupId, nodeId);
  return found;
}
