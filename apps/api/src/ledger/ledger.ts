import { newId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { CodedError } from "../errors.ts";

// Invariant: the entries of a transaction sum to zero, and no account but ISSUED goes below zero. Postgres holds
// both (a deferred trigger and a check); a `key` names what a transaction is for, so a thing is paid at most once.

type Posting = { readonly account: AccountRef; readonly amount: bigint };

type AccountRef = {
  readonly key: string;
  readonly kind: "ISSUED" | "BUDGET" | "NODE_HELD" | "NODE_AVAILABLE";
  readonly runId?: string;
  readonly nodeId?: string;
};

const issued = (organizationId: string): AccountRef => ({ key: `issued:${organizationId}`, kind: "ISSUED" });
const budget = (runId: string): AccountRef => ({ key: `budget:${runId}`, kind: "BUDGET", runId });
const held = (runId: string, nodeId: string): AccountRef => ({ key: `held:${runId}:${nodeId}`, kind: "NODE_HELD", runId, nodeId });
const available = (organizationId: string, nodeId: string): AccountRef => ({
  key: `available:${organizationId}:${nodeId}`,
  kind: "NODE_AVAILABLE",
  nodeId,
});

/** Opens a run's budget with `credits` micro-credits. */
export async function openBudget(tx: Tx, input: { organizationId: string; runId: string; credits: bigint }): Promise<void> {
  await fundBudget(tx, { ...input, key: `fund:${input.runId}:0`, memo: "Opening budget" });
}

/** Moves issued credits into a run's budget. */
export async function fundBudget(
  tx: Tx,
  input: { organizationId: string; runId: string; credits: bigint; key: string; memo?: string },
): Promise<void> {
  if (input.credits < 0n) throw new CodedError("INPUT_INVALID", "Credits cannot be negative.");
  await post(tx, {
    organizationId: input.organizationId,
    runId: input.runId,
    kind: "FUND",
    key: input.key,
    memo: input.memo ?? "Budget added",
    postings: [
      { account: issued(input.organizationId), amount: -input.credits },
      { account: budget(input.runId), amount: input.credits },
    ],
  });
}

/** Micro-credits a run can still promise. */
export async function budgetAvailable(tx: Tx, runId: string): Promise<bigint> {
  const account = await tx.account.findUnique({ where: { key: budget(runId).key }, select: { balance: true } });
  return account?.balance ?? 0n;
}

/**
 * Pays a granted role (validator, trainer, evaluator) for work the coordinator accepted.
 * @returns false when this key was paid before.
 * @throws CodedError `BUDGET_EXHAUSTED`
 */
export async function payNode(
  tx: Tx,
  input: { organizationId: string; runId: string; nodeId: string; amount: bigint; key: string; memo: string; taskId?: string },
): Promise<boolean> {
  return post(tx, {
    organizationId: input.organizationId,
    runId: input.runId,
    kind: "PAY",
    key: input.key,
    memo: input.memo,
    ...(input.taskId === undefined ? {} : { taskId: input.taskId }),
    postings: [
      { account: budget(input.runId), amount: -input.amount },
      { account: available(input.organizationId, input.nodeId), amount: input.amount },
    ],
  });
}

type GroupPosting = { organizationId: string; runId: string; nodeId: string; groupId: string; amount: bigint };

/** Promises an accepted group's credits: budget → held. They become the node's when the group is final. */
export function holdForGroup(tx: Tx, input: GroupPosting): Promise<boolean> {
  return post(tx, {
    ...input,
    kind: "HOLD",
    key: `hold:${input.groupId}`,
    memo: "Accepted group",
    postings: [
      { account: budget(input.runId), amount: -input.amount },
      { account: held(input.runId, input.nodeId), amount: input.amount },
    ],
  });
}

/** Releases a final group's credits: held → available. */
export function releaseGroup(tx: Tx, input: GroupPosting): Promise<boolean> {
  return post(tx, {
    ...input,
    kind: "RELEASE",
    key: `release:${input.groupId}`,
    memo: "Final group",
    postings: [
      { account: held(input.runId, input.nodeId), amount: -input.amount },
      { account: available(input.organizationId, input.nodeId), amount: input.amount },
    ],
  });
}

/** What was held for a group, in micro-credits; 0 when nothing was. */
export async function heldForGroup(tx: Tx, groupId: string): Promise<bigint> {
  const transaction = await tx.ledgerTransaction.findUnique({
    where: { key: `hold:${groupId}` },
    select: { entries: { where: { amount: { gt: 0 } }, select: { amount: true } } },
  });
  return transaction?.entries.reduce((sum, entry) => sum + entry.amount, 0n) ?? 0n;
}

/** A run's money in four numbers, micro-credits. */
export async function budgetOf(tx: Tx, runId: string): Promise<{ funded: bigint; available: bigint; held: bigint; paid: bigint }> {
  const [row] = await tx.$queryRaw<{ funded: bigint | null; available: bigint | null; held: bigint | null; paid: bigint | null }[]>`
    SELECT
      (SELECT sum(e.amount)::bigint FROM "LedgerEntry" e JOIN "LedgerTransaction" t ON t.id = e."transactionId"
         WHERE t."runId" = ${runId}::uuid AND t.kind = 'FUND' AND e.amount > 0) AS funded,
      (SELECT balance FROM "Account" WHERE key = ${budget(runId).key}) AS available,
      (SELECT sum(balance)::bigint FROM "Account" WHERE "runId" = ${runId}::uuid AND kind = 'NODE_HELD') AS held,
      (SELECT sum(e.amount)::bigint FROM "LedgerEntry" e JOIN "LedgerTransaction" t ON t.id = e."transactionId"
         WHERE t."runId" = ${runId}::uuid AND t.kind IN ('PAY', 'RELEASE') AND e.amount > 0) AS paid`;
  return { funded: row?.funded ?? 0n, available: row?.available ?? 0n, held: row?.held ?? 0n, paid: row?.paid ?? 0n };
}

/** Balances of the given accounts of a node in a run, micro-credits. */
export async function nodeBalances(
  tx: Tx,
  input: { organizationId: string; runId: string; nodeId: string },
): Promise<{ held: bigint; available: bigint }> {
  const keys = [held(input.runId, input.nodeId).key, available(input.organizationId, input.nodeId).key];
  const rows = await tx.account.findMany({ where: { key: { in: keys } }, select: { kind: true, balance: true } });
  const balance = (kind: string) => rows.find((row) => row.kind === kind)?.balance ?? 0n;
  return { held: balance("NODE_HELD"), available: balance("NODE_AVAILABLE") };
}

type NewTransaction = {
  organizationId: string;
  runId: string;
  kind: "FUND" | "HOLD" | "RELEASE" | "FORFEIT" | "PAY" | "REFUND";
  key: string;
  memo: string;
  groupId?: string;
  taskId?: string;
  postings: readonly Posting[];
};

async function post(tx: Tx, input: NewTransaction): Promise<boolean> {
  const id = newId("ledger");
  // The unique key settles the race of two payers: the second inserts nothing and moves nothing.
  const created = await tx.$executeRaw`
    INSERT INTO "LedgerTransaction" (id, "organizationId", "runId", kind, key, "groupId", "taskId", memo)
    VALUES (${id}::uuid, ${input.organizationId}::uuid, ${input.runId}::uuid, ${input.kind}::"LedgerKind", ${input.key},
      ${input.groupId ?? null}::uuid, ${input.taskId ?? null}::uuid, ${input.memo})
    ON CONFLICT (key) DO NOTHING`;
  if (created === 0) return false;
  // Accounts are locked in key order, so that two transactions over the same accounts never wait for each other in a circle.
  const ordered = [...input.postings].sort((a, b) => (a.account.key < b.account.key ? -1 : 1));
  for (const posting of ordered) {
    if (await move(tx, id, input.organizationId, posting)) continue;
    // Opened at zero first: an upsert would test the balance check on the proposed row, which for a debit is negative.
    await tx.$executeRaw`
      INSERT INTO "Account" (id, key, "organizationId", kind, "runId", "nodeId", balance)
      VALUES (${newId("acct")}::uuid, ${posting.account.key}, ${input.organizationId}::uuid, ${posting.account.kind}::"AccountKind",
        ${posting.account.runId ?? null}::uuid, ${posting.account.nodeId ?? null}::uuid, 0)
      ON CONFLICT (key) DO NOTHING`;
    await move(tx, id, input.organizationId, posting);
  }
  return true;
}

async function move(tx: Tx, transactionId: string, organizationId: string, { account, amount }: Posting): Promise<boolean> {
  try {
    const moved = await tx.$executeRaw`
      WITH account AS (
        UPDATE "Account" SET balance = balance + ${amount} WHERE key = ${account.key} RETURNING id
      )
      INSERT INTO "LedgerEntry" (id, "organizationId", "transactionId", "accountId", amount)
      SELECT ${newId("entry")}::uuid, ${organizationId}::uuid, ${transactionId}::uuid, id, ${amount} FROM account`;
    return moved === 1;
  } catch (error) {
    if (account.kind === "BUDGET" && isBelowZero(error))
      throw new CodedError("BUDGET_EXHAUSTED", "The run's budget does not cover this work. Fund the run, then resume it.", { cause: error });
    throw error;
  }
}

function isBelowZero(error: unknown): boolean {
  return error instanceof Error && /check constraint|23514/.test(error.message);
}
