import type { RunSpec } from "@muster/protocol";
import { toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { reopenTask } from "../tasks/lease.ts";

/** REJECTED groups in a run, or INVALID ones in a row, at which a node is quarantined. */
const strikes = 3;

/** What a decided group does to its node's standing. REFUSED is a pack that failed at intake. */
export type Outcome = "ACCEPTED" | "REJECTED" | "INVALID" | "REFUSED";

/**
 * Audited-valid groups before a node is trusted: N ≥ a(1 − f) / (ε f), for an assumed adversary share a, a bound ε on accepted
 * poison and an audit floor f (docs/protocol.md, "Audit").
 */
export function probationGroups(audit: RunSpec["verification"]["audit"]): number {
  return Math.ceil((audit.adversaryShare * (1 - audit.floor)) / (audit.epsilon * audit.floor));
}

/** Makes sure a node has a standing in a run. */
export async function joinRun(
  tx: Tx,
  input: { runId: string; nodeId: string; organizationId: string; auditRate: number },
): Promise<void> {
  const created = await tx.nodeTrust.createMany({ data: [input], skipDuplicates: true });
  if (created.count === 0) return;
  await appendEvents(tx, [
    {
      stream: runStream(input.runId),
      organizationId: input.organizationId,
      type: "node.joined",
      subject: toTypeId("node", input.nodeId),
      data: { trust: "PROBATION", auditRate: input.auditRate },
    },
  ]);
}

/**
 * Moves a node's standing after decided groups (`count`, 1 unless said) and returns it; the node has joined the run. A failure sends it back to full audits; the third quarantines it:
 * its live attempts are cancelled, what it has submitted is still judged.
 */
export async function recordOutcome(
  tx: Tx,
  input: {
    runId: string;
    nodeId: string;
    organizationId: string;
    outcome: Outcome;
    count?: number;
    spec: RunSpec;
    reason?: string;
  },
) {
  const { runId, nodeId, organizationId, outcome, count = 1, spec } = input;
  // Locked, because two groups of one node may be decided at once and both count.
  const [before] = await tx.$queryRaw<{ auditedValid: number; state: string }[]>`
    SELECT "auditedValid", state::text FROM "NodeTrust" WHERE "runId" = ${runId}::uuid AND "nodeId" = ${nodeId}::uuid FOR UPDATE`;
  const key = { runId_nodeId: { runId, nodeId } };
  const valid = outcome === "ACCEPTED";
  const failed = outcome === "REJECTED" || outcome === "REFUSED";
  const auditedValid = valid ? (before?.auditedValid ?? 0) + count : 0;
  const trusted = auditedValid >= probationGroups(spec.verification.audit);
  const after = await tx.nodeTrust.update({
    where: key,
    data: {
      auditedValid,
      accepted: { increment: valid ? count : 0 },
      rejected: { increment: failed ? count : 0 },
      invalid: { increment: outcome === "INVALID" ? count : 0 },
      ...(outcome === "INVALID" ? { invalidStreak: { increment: 1 } } : {}),
      ...(valid ? { invalidStreak: 0 } : {}),
      auditRate: spec.verification.audit.rate,
      ...(before?.state === "PROBATION" || before?.state === "TRUSTED"
        ? { state: trusted ? "TRUSTED" : "PROBATION" }
        : {}),
    },
  });
  const struckOut = after.rejected >= strikes || after.invalidStreak >= strikes;
  if (struckOut && (after.state === "PROBATION" || after.state === "TRUSTED")) {
    const reason = failed
      ? `${after.rejected} groups were rejected; the last: ${input.reason ?? "no reason given"}`
      : `${after.invalidStreak} groups in a row could not be verified`;
    await quarantine(tx, { runId, nodeId, organizationId, reason });
    return { ...after, state: "QUARANTINED" as const, reason };
  }
  if (after.state !== before?.state)
    await trustEvent(tx, { runId, nodeId, organizationId, state: after.state, reason: null });
  return after;
}

async function quarantine(
  tx: Tx,
  input: { runId: string; nodeId: string; organizationId: string; reason: string },
): Promise<void> {
  const { runId, nodeId } = input;
  await tx.nodeTrust.update({
    where: { runId_nodeId: { runId, nodeId } },
    data: { state: "QUARANTINED", quarantinedAt: new Date(), reason: input.reason },
  });
  // Tasks first, in the order of their ids: whoever submits or claims locks them so too.
  await tx.$queryRaw`
    SELECT 1 FROM "Task" WHERE id IN (
      SELECT "taskId" FROM "Attempt" WHERE "runId" = ${runId}::uuid AND "nodeId" = ${nodeId}::uuid AND state = 'LIVE'
    ) ORDER BY id FOR UPDATE`;
  const live = await tx.attempt.findMany({ where: { runId, nodeId, state: "LIVE" } });
  for (const attempt of live) {
    await tx.attempt.update({
      where: { id: attempt.id },
      data: { state: "CANCELLED", endedAt: new Date(), reason: "NODE_QUARANTINED" },
    });
    await reopenTask(tx, { id: attempt.taskId }, "NODE_QUARANTINED");
  }
  await trustEvent(tx, { ...input, state: "QUARANTINED" });
}

async function trustEvent(
  tx: Tx,
  input: { runId: string; nodeId: string; organizationId: string; state: string; reason: string | null },
): Promise<void> {
  await appendEvents(tx, [
    {
      stream: runStream(input.runId),
      organizationId: input.organizationId,
      type: "node.trust",
      subject: toTypeId("node", input.nodeId),
      data: { trust: input.state, reason: input.reason },
    },
  ]);
}
