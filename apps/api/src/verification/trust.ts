import type { NodeTrust, OutcomeKind } from "@muster/db";
import { type RunSpec, toTypeId } from "@muster/protocol";
import { auditRate, newStanding, nextStanding, type Standing } from "@muster/verification";
import type { Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { reopenTask } from "../tasks/lease.ts";
import { recordEntries } from "./record.ts";

// Invariant: a standing is the fold of packages/verification over the node's outcomes that are not annulled, in their order. The columns
// of NodeTrust repeat it, so that a claim reads one row; `replayStanding` computes them anew when the past has changed.

/** What a decided group does to its node's standing. REFUSED is a pack that failed at intake. */
export type Outcome = OutcomeKind;

/** Makes sure a node has a standing in a run: everybody begins with full audits. */
export async function joinRun(
  tx: Tx,
  input: { runId: string; nodeId: string; organizationId: string },
): Promise<void> {
  const { runId, nodeId, organizationId } = input;
  const created = await tx.nodeTrust.createMany({
    data: [{ runId, nodeId, organizationId }],
    skipDuplicates: true,
  });
  if (created.count === 0) return;
  await appendEvents(tx, [
    {
      stream: runStream(runId),
      organizationId,
      type: "node.joined",
      subject: toTypeId("node", nodeId),
      data: { trust: "PROBATION", auditRate: 1 },
    },
  ]);
}

/**
 * Locks the standings of these nodes in a run, in the order of their ids, and returns them by node. Whoever changes standings, tasks and
 * accounts in one transaction calls this before it locks any task: then no two of them wait for each other.
 */
export async function lockStandings(
  tx: Tx,
  runId: string,
  nodeIds: Iterable<string>,
): Promise<Map<string, NodeTrust>> {
  const ids = [...new Set(nodeIds)];
  if (ids.length === 0) return new Map();
  await tx.$queryRaw`
    SELECT 1 FROM "NodeTrust" WHERE "runId" = ${runId}::uuid AND "nodeId" = ANY(${ids}::uuid[]) ORDER BY "nodeId" FOR UPDATE`;
  const rows = await tx.nodeTrust.findMany({ where: { runId, nodeId: { in: ids } } });
  return new Map(rows.map((row) => [row.nodeId, row]));
}

/** The standing that a row repeats; without one the node is new. */
export function standingOf(row: NodeTrust | null | undefined): Standing {
  if (row == null) return newStanding;
  const { state, auditedValid, accepted, rejected, invalid, invalidStreak } = row;
  return { state, auditedValid, accepted, rejected, invalid, invalidStreak };
}

type Subject = {
  readonly runId: string;
  readonly nodeId: string;
  readonly organizationId: string;
  readonly spec: RunSpec;
};

/**
 * Counts outcomes of a node that has joined the run, one for each of `groupIds` (one of no group when left out), and returns its
 * standing after them. A failure sends it back to full audits; the third quarantines it.
 */
export async function recordOutcome(
  tx: Tx,
  input: Subject & {
    readonly outcome: Outcome;
    readonly groupIds?: readonly string[];
    readonly reason?: string;
  },
): Promise<NodeTrust> {
  const { runId, nodeId, organizationId, outcome, spec, reason = null } = input;
  const groups = input.groupIds ?? [null];
  const before = await lockedStanding(tx, input);
  await tx.nodeOutcome.createMany({
    data: groups.map((groupId) => ({ organizationId, runId, nodeId, groupId, kind: outcome, reason })),
  });
  let standing = standingOf(before);
  for (const _ of groups) standing = nextStanding(standing, outcome, spec.verification.audit);
  return store(tx, before, standing, { ...input, reason: quarantineReason(standing, reason) });
}

/**
 * Computes a standing from its outcomes anew, after one of them was annulled. An outcome that replaces another takes its place: a group's
 * outcomes stand where its first one stood. A quarantine that does not follow any more is lifted, unless the node is distrusted as a
 * validator.
 */
export async function replayStanding(tx: Tx, input: Subject): Promise<NodeTrust> {
  const { runId, nodeId, spec } = input;
  const before = await lockedStanding(tx, input);
  const outcomes = await tx.$queryRaw<{ kind: OutcomeKind; reason: string | null }[]>`
    SELECT o.kind::text AS kind, o.reason
    FROM (
      SELECT id, kind, reason, annulled, CASE WHEN "groupId" IS NULL THEN id ELSE min(id) OVER (PARTITION BY "groupId") END AS place
      FROM "NodeOutcome" WHERE "runId" = ${runId}::uuid AND "nodeId" = ${nodeId}::uuid
    ) o
    WHERE NOT o.annulled ORDER BY o.place, o.id`;
  let standing = newStanding;
  let reason: string | null = null;
  for (const outcome of outcomes) {
    const next = nextStanding(standing, outcome.kind, spec.verification.audit);
    if (next.state === "QUARANTINED" && standing.state !== "QUARANTINED")
      reason = quarantineReason(next, outcome.reason);
    standing = next;
  }
  return store(tx, before, standing, { ...input, reason });
}

async function lockedStanding(tx: Tx, { runId, nodeId }: Subject): Promise<NodeTrust> {
  const row = (await lockStandings(tx, runId, [nodeId])).get(nodeId);
  if (row === undefined) throw new Error(`node ${nodeId} has not joined run ${runId}`);
  return row;
}

async function store(
  tx: Tx,
  before: NodeTrust,
  folded: Standing,
  input: Subject & { readonly reason: string | null },
): Promise<NodeTrust> {
  const { runId, nodeId, organizationId, spec, reason } = input;
  const { state: earned, ...counts } = folded;
  // Whoever is distrusted as a validator, or was ejected, stays out of the run, however good its groups are.
  const barred = before.state === "EJECTED" || before.distrustedAt !== null;
  const state = barred ? before.state : earned;
  const rate = auditRate({ state }, spec.verification.audit);
  const key = { runId_nodeId: { runId, nodeId } };
  if (state === "QUARANTINED" && before.state !== "QUARANTINED") {
    await tx.nodeTrust.update({ where: key, data: counts });
    return quarantine(tx, { runId, nodeId, organizationId, reason: reason ?? "no reason was given" });
  }
  const lifted = before.state === "QUARANTINED" && state !== "QUARANTINED";
  const after = await tx.nodeTrust.update({
    where: key,
    data: { ...counts, state, auditRate: rate, ...(lifted ? { quarantinedAt: null, reason: null } : {}) },
  });
  if (state !== before.state)
    await trustEvent(tx, { runId, nodeId, organizationId, state, auditRate: rate, reason: null });
  return after;
}

/** Why these counts quarantine a node. */
function quarantineReason({ rejected, invalidStreak }: Standing, last: string | null): string {
  return invalidStreak > 0
    ? `${invalidStreak} groups in a row could not be verified`
    : `${rejected} of its submissions were rejected or refused; the last: ${last ?? "no reason was given"}`;
}

/**
 * Keeps a node out of a run: it claims no more, its live attempts are cancelled, what it has submitted is still judged. Under its
 * standing's lock.
 */
export async function quarantine(
  tx: Tx,
  input: { runId: string; nodeId: string; organizationId: string; reason: string },
): Promise<NodeTrust> {
  const { runId, nodeId, organizationId, reason } = input;
  const trust = await tx.nodeTrust.update({
    where: { runId_nodeId: { runId, nodeId } },
    data: { state: "QUARANTINED", auditRate: 1, quarantinedAt: new Date(), reason },
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
  await trustEvent(tx, { runId, nodeId, organizationId, state: "QUARANTINED", auditRate: 1, reason });
  await recordEntries(tx, [
    {
      runId,
      organizationId,
      kind: "node.quarantined",
      subject: toTypeId("node", nodeId),
      data: { reason },
    },
  ]);
  return trust;
}

async function trustEvent(
  tx: Tx,
  input: {
    runId: string;
    nodeId: string;
    organizationId: string;
    state: string;
    auditRate: number;
    reason: string | null;
  },
): Promise<void> {
  await appendEvents(tx, [
    {
      stream: runStream(input.runId),
      organizationId: input.organizationId,
      type: "node.trust",
      subject: toTypeId("node", input.nodeId),
      data: { trust: input.state, auditRate: input.auditRate, reason: input.reason },
    },
  ]);
}
