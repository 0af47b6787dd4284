import { toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { recordEntries } from "../verification/record.ts";
import { available, budget, held, type NewTransaction, postMany } from "./postings.ts";

// What is held for a node's groups is its stake: released when they are final, forfeited when it is found to cheat, refunded when that
// was a mistake. Every amount is read from the entries, so nothing can be taken or given twice.

export type GroupPosting = {
  organizationId: string;
  runId: string;
  nodeId: string;
  groupId: string;
  amount: bigint;
};

export type GroupOwner = Omit<GroupPosting, "amount">;

/** Promises accepted groups' credits: budget → held. They become the nodes' when the groups are final. */
export function holdForGroups(tx: Tx, groups: readonly GroupPosting[]): Promise<Set<string>> {
  return postMany(
    tx,
    groups.map(({ amount, ...group }) => ({
      ...group,
      kind: "HOLD",
      key: `hold:${group.groupId}`,
      memo: "Accepted group",
      postings: [
        { account: budget(group.runId), amount: -amount },
        { account: held(group.runId, group.nodeId), amount },
      ],
    })),
  );
}

/**
 * Releases what is held for groups that are final: held → available. What was forfeited is not there any more; groups that nothing is held
 * for are passed over.
 */
export async function releaseGroups(tx: Tx, groups: readonly GroupOwner[]): Promise<void> {
  const stakes = await stakesOf(
    tx,
    groups.map((group) => group.groupId),
  );
  await postMany(
    tx,
    groups.flatMap((group) => {
      const amount = stakes.get(group.groupId)?.held ?? 0n;
      if (amount <= 0n) return [];
      return [
        {
          ...group,
          kind: "RELEASE" as const,
          key: `release:${group.groupId}`,
          memo: "Final group",
          postings: [
            { account: held(group.runId, group.nodeId), amount: -amount },
            { account: available(group.organizationId, group.nodeId), amount },
          ],
        },
      ];
    }),
  );
}

/**
 * Takes back what is held for groups: held → budget. Doing it twice takes nothing more; after a refund it takes what was refunded.
 * @returns micro-credits taken.
 */
export async function forfeitGroups(
  tx: Tx,
  groups: readonly GroupOwner[],
  memo = "Forfeited: its node was found to cheat",
): Promise<bigint> {
  const ids = groups.map((group) => group.groupId);
  await lockGroups(tx, ids);
  const stakes = await stakesOf(tx, ids);
  return moveStakes(
    tx,
    groups.flatMap((group) => {
      const { held: amount, refunds } = stakes.get(group.groupId) ?? noStake;
      if (amount <= 0n) return [];
      return [
        {
          ...group,
          kind: "FORFEIT" as const,
          // One more after each refund, and at most one between two.
          key: refunds === 0 ? `forfeit:${group.groupId}` : `forfeit:${group.groupId}:${refunds + 1}`,
          memo,
          amount,
          postings: [
            { account: held(group.runId, group.nodeId), amount: -amount },
            { account: budget(group.runId), amount },
          ],
        },
      ];
    }),
  );
}

/**
 * Gives back what was forfeited for groups: budget → held, or → available for a group that is final. Doing it twice gives nothing more.
 * @returns micro-credits given back.
 * @throws CodedError `BUDGET_EXHAUSTED`
 */
export async function refundGroups(
  tx: Tx,
  groups: readonly GroupOwner[],
  memo = "Refunded: a case was overturned",
): Promise<bigint> {
  const ids = groups.map((group) => group.groupId);
  const final = await lockGroups(tx, ids);
  const stakes = await stakesOf(tx, ids);
  return moveStakes(
    tx,
    groups.flatMap((group) => {
      const { forfeited: amount, forfeits } = stakes.get(group.groupId) ?? noStake;
      if (amount <= 0n) return [];
      const { runId, nodeId, organizationId, groupId } = group;
      return [
        {
          ...group,
          kind: "REFUND" as const,
          key: forfeits === 1 ? `refund:${groupId}` : `refund:${groupId}:${forfeits}`,
          memo,
          amount,
          postings: [
            { account: budget(runId), amount: -amount },
            { account: final.has(groupId) ? available(organizationId, nodeId) : held(runId, nodeId), amount },
          ],
        },
      ];
    }),
  );
}

type NodeInRun = { readonly organizationId: string; readonly runId: string; readonly nodeId: string };

/** Forfeits everything a node still has at stake in a run for what it submitted until then. @returns micro-credits taken. */
export async function forfeitHeld(
  tx: Tx,
  { memo, submittedUntil, ...node }: NodeInRun & { memo: string; submittedUntil: Date },
): Promise<bigint> {
  const { runId, nodeId } = node;
  const groups = await tx.group.findMany({
    where: { runId, nodeId, finalAt: null, decidedAt: { not: null }, submittedAt: { lte: submittedUntil } },
    select: { id: true },
    orderBy: { id: "asc" },
  });
  return forfeitGroups(
    tx,
    groups.map(({ id }) => ({ ...node, groupId: id })),
    memo,
  );
}

/**
 * Gives back what was forfeited of a node's groups in a run (of those it submitted after a moment, if one is given), but for groups that
 * stand REJECTED or INVALID: those earn nothing whoever made them. @returns micro-credits given back.
 */
export async function refundHeld(
  tx: Tx,
  { memo, submittedAfter = null, ...node }: NodeInRun & { memo: string; submittedAfter?: Date | null },
): Promise<bigint> {
  const { runId, nodeId } = node;
  const groups = await tx.$queryRaw<{ id: string }[]>`
    SELECT DISTINCT g.id FROM "LedgerTransaction" t JOIN "Group" g ON g.id = t."groupId"
    WHERE t."runId" = ${runId}::uuid AND t.kind = 'FORFEIT'
      AND g."nodeId" = ${nodeId}::uuid AND g.state NOT IN ('REJECTED', 'INVALID')
      AND (${submittedAfter}::timestamptz IS NULL OR g."submittedAt" > ${submittedAfter}::timestamptz) ORDER BY g.id`;
  return refundGroups(
    tx,
    groups.map(({ id }) => ({ ...node, groupId: id })),
    memo,
  );
}

type Stake = {
  /** Micro-credits held for the group now. */
  readonly held: bigint;
  /** Micro-credits forfeited and not refunded. */
  readonly forfeited: bigint;
  readonly forfeits: number;
  readonly refunds: number;
};
const noStake: Stake = { held: 0n, forfeited: 0n, forfeits: 0, refunds: 0 };

/** A group that becomes final meanwhile would be released and forfeited both. @returns those that are final */
async function lockGroups(tx: Tx, ids: readonly string[]): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const rows = await tx.$queryRaw<{ id: string; final: boolean }[]>`
    SELECT id, "finalAt" IS NOT NULL AS final FROM "Group" WHERE id = ANY(${[...ids]}::uuid[]) ORDER BY id FOR UPDATE`;
  return new Set(rows.filter((row) => row.final).map((row) => row.id));
}

/** What lies in the accounts for each of these groups; those without a posting are missing. */
async function stakesOf(tx: Tx, groupIds: readonly string[]): Promise<Map<string, Stake>> {
  if (groupIds.length === 0) return new Map();
  const rows = await tx.$queryRaw<(Stake & { groupId: string })[]>`
    SELECT t."groupId",
      COALESCE(sum(e.amount) FILTER (WHERE a.kind = 'NODE_HELD'), 0)::bigint AS held,
      COALESCE(sum(e.amount) FILTER (WHERE a.kind = 'BUDGET' AND t.kind IN ('FORFEIT', 'REFUND')), 0)::bigint AS forfeited,
      (count(DISTINCT t.id) FILTER (WHERE t.kind = 'FORFEIT'))::int AS forfeits,
      (count(DISTINCT t.id) FILTER (WHERE t.kind = 'REFUND'))::int AS refunds
    FROM "LedgerTransaction" t JOIN "LedgerEntry" e ON e."transactionId" = t.id JOIN "Account" a ON a.id = e."accountId"
    WHERE t."groupId" = ANY(${[...groupIds]}::uuid[]) GROUP BY t."groupId"`;
  return new Map(rows.map(({ groupId, ...stake }) => [groupId, stake]));
}

/** Posts forfeits or refunds and tells the audit log. @returns micro-credits moved now. */
async function moveStakes(
  tx: Tx,
  moves: readonly (NewTransaction & GroupOwner & { kind: "FORFEIT" | "REFUND"; amount: bigint })[],
): Promise<bigint> {
  const posted = await postMany(
    tx,
    moves.map(({ amount: _, ...transaction }) => transaction),
  );
  const made = moves.filter(({ key }) => posted.has(key));
  await recordEntries(
    tx,
    made.map(({ runId, organizationId, kind, groupId, nodeId, amount, memo }) => ({
      runId,
      organizationId,
      kind: kind === "FORFEIT" ? "ledger.forfeit" : "ledger.refund",
      subject: toTypeId("group", groupId),
      data: { node: toTypeId("node", nodeId), amount: amount.toString(), memo },
    })),
  );
  return made.reduce((sum, { amount }) => sum + amount, 0n);
}

/** Micro-credits forfeited in a run and not refunded, by node. */
export async function forfeitedByNode(tx: Tx, runId: string): Promise<Map<string, bigint>> {
  const rows = await tx.$queryRaw<{ nodeId: string; amount: bigint }[]>`
    SELECT g."nodeId", sum(e.amount)::bigint AS amount
    FROM "LedgerTransaction" t JOIN "Group" g ON g.id = t."groupId"
      JOIN "LedgerEntry" e ON e."transactionId" = t.id JOIN "Account" a ON a.id = e."accountId" AND a.kind = 'BUDGET'
    WHERE t."runId" = ${runId}::uuid AND t.kind IN ('FORFEIT', 'REFUND') GROUP BY g."nodeId"`;
  return new Map(rows.map(({ nodeId, amount }) => [nodeId, amount]));
}

/**
 * Micro-credits that forfeits put back into the budget and that may have to be refunded yet: their groups are not final.
 */
export async function refundable(tx: Tx, runId: string): Promise<bigint> {
  const [row] = await tx.$queryRaw<{ amount: bigint | null }[]>`
    SELECT sum(e.amount)::bigint AS amount
    FROM "LedgerTransaction" t JOIN "Group" g ON g.id = t."groupId" AND g."finalAt" IS NULL
      JOIN "LedgerEntry" e ON e."transactionId" = t.id JOIN "Account" a ON a.id = e."accountId" AND a.kind = 'BUDGET'
    WHERE t."runId" = ${runId}::uuid AND t.kind IN ('FORFEIT', 'REFUND')`;
  return row?.amount ?? 0n;
}
