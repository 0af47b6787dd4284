import { newId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { CodedError } from "../errors.ts";

// Invariant: the entries of a transaction sum to zero, and no account but ISSUED goes below zero. Postgres holds
// both (a deferred trigger and a check); a `key` names what a transaction is for, so a thing is paid at most once.

export type Posting = { readonly account: AccountRef; readonly amount: bigint };

export type AccountRef = {
  readonly key: string;
  readonly kind: "ISSUED" | "BUDGET" | "NODE_HELD" | "NODE_AVAILABLE";
  readonly runId?: string;
  readonly nodeId?: string;
};

export const issued = (organizationId: string): AccountRef => ({
  key: `issued:${organizationId}`,
  kind: "ISSUED",
});
export const budget = (runId: string): AccountRef => ({ key: `budget:${runId}`, kind: "BUDGET", runId });
export const held = (runId: string, nodeId: string): AccountRef => ({
  key: `held:${runId}:${nodeId}`,
  kind: "NODE_HELD",
  runId,
  nodeId,
});
export const available = (organizationId: string, nodeId: string): AccountRef => ({
  key: `available:${organizationId}:${nodeId}`,
  kind: "NODE_AVAILABLE",
  nodeId,
});

/**
 * Locks the accounts a transaction is going to post to, in key order. One that posts more than once calls this before the first: each set
 * of postings locks in key order, but two sets together would not.
 */
export async function lockAccounts(
  tx: Tx,
  input: {
    organizationId: string;
    runId: string;
    /** Nodes whose credits are held or forfeited. */
    producers: Iterable<string>;
    /** Nodes that are paid. */
    payees: Iterable<string>;
  },
): Promise<void> {
  const { organizationId, runId } = input;
  const accounts = [
    budget(runId),
    ...[...new Set(input.producers)].map((nodeId) => held(runId, nodeId)),
    ...[...new Set(input.payees)].map((nodeId) => available(organizationId, nodeId)),
  ].sort((a, b) => (a.key < b.key ? -1 : 1));
  await tx.account.createMany({
    data: accounts.map((account) => ({ ...account, organizationId, id: newId("acct") })),
    skipDuplicates: true,
  });
  await tx.$queryRaw`
    SELECT 1 FROM "Account" WHERE key = ANY(${accounts.map(({ key }) => key)}::text[]) ORDER BY key FOR UPDATE`;
}

export type NewTransaction = {
  organizationId: string;
  runId: string;
  /** Whose credits they are, where it is somebody's; not stored, the accounts say it. */
  nodeId?: string;
  kind: "FUND" | "HOLD" | "RELEASE" | "FORFEIT" | "PAY" | "REFUND";
  key: string;
  memo: string;
  groupId?: string;
  taskId?: string;
  postings: readonly Posting[];
};

export async function post(tx: Tx, input: NewTransaction): Promise<boolean> {
  return (await postMany(tx, [input])).size === 1;
}

/**
 * Posts any number of transactions in four statements. A batch of verdicts moves money for dozens of groups over a handful of
 * accounts: one by one, the statements took longer than the checks.
 * @returns the keys that were posted now; one that was posted before moves nothing.
 */
export async function postMany(tx: Tx, inputs: readonly NewTransaction[]): Promise<Set<string>> {
  if (inputs.length === 0) return new Set();
  const rows = inputs.map((input) => ({ ...input, id: newId("ledger") }));
  // The unique key settles the race of two payers: the second inserts nothing and moves nothing.
  const created = await tx.$queryRaw<{ key: string }[]>`
    INSERT INTO "LedgerTransaction" (id, "organizationId", "runId", kind, key, "groupId", "taskId", memo)
    SELECT id, "organizationId", "runId", kind::"LedgerKind", key, "groupId", "taskId", memo
    FROM jsonb_to_recordset(${JSON.stringify(rows.map(({ postings: _, ...row }) => row))}::jsonb)
      AS t(id uuid, "organizationId" uuid, "runId" uuid, kind text, key text, "groupId" uuid, "taskId" uuid, memo text)
    ON CONFLICT (key) DO NOTHING RETURNING key`;
  const posted = new Set(created.map((row) => row.key));
  const postings = rows.flatMap((row) =>
    posted.has(row.key)
      ? row.postings.map((posting) => ({
          ...posting,
          transactionId: row.id,
          organizationId: row.organizationId,
        }))
      : [],
  );
  if (postings.length === 0) return posted;

  const accounts = new Map(
    postings.map(({ account, organizationId }) => [account.key, { ...account, organizationId }]),
  );
  const sums = new Map<string, bigint>();
  for (const { account, amount } of postings) sums.set(account.key, (sums.get(account.key) ?? 0n) + amount);
  // In key order, so that two transactions over the same accounts never wait for each other in a circle.
  const keys = [...accounts.keys()].sort();
  const ids = await move(tx, keys, sums, accounts);
  const entries = postings.map(({ account, amount, transactionId, organizationId }) => {
    const accountId = ids.get(account.key);
    if (accountId === undefined) throw new Error(`account ${account.key} is neither there nor opened`);
    return { id: newId("entry"), organizationId, transactionId, accountId, amount: amount.toString() };
  });
  await tx.$executeRaw`
    INSERT INTO "LedgerEntry" (id, "organizationId", "transactionId", "accountId", amount)
    SELECT id, "organizationId", "transactionId", "accountId", amount
    FROM jsonb_to_recordset(${JSON.stringify(entries)}::jsonb)
      AS e(id uuid, "organizationId" uuid, "transactionId" uuid, "accountId" uuid, amount bigint)`;
  return posted;
}

/** Changes the balances, opening accounts that are not there. @returns account ids by key */
async function move(
  tx: Tx,
  keys: readonly string[],
  sums: ReadonlyMap<string, bigint>,
  accounts: ReadonlyMap<string, AccountRef & { organizationId: string }>,
): Promise<Map<string, string>> {
  const known = await addTo(tx, keys, sums);
  const missing = keys.filter((key) => !known.has(key));
  if (missing.length === 0) return known;
  // Opened at zero first: an upsert would test the balance check on the proposed row, which for a debit is negative.
  await tx.account.createMany({
    data: missing.flatMap((key) => {
      const account = accounts.get(key);
      return account === undefined ? [] : [{ ...account, id: newId("acct") }];
    }),
    skipDuplicates: true,
  });
  return new Map([...known, ...(await addTo(tx, missing, sums))]);
}

async function addTo(
  tx: Tx,
  keys: readonly string[],
  sums: ReadonlyMap<string, bigint>,
): Promise<Map<string, string>> {
  const amounts = keys.map((key) => String(sums.get(key) ?? 0n));
  try {
    const rows = await tx.$queryRaw<{ id: string; key: string }[]>`
      WITH change AS (SELECT * FROM unnest(${[...keys]}::text[], ${amounts}::bigint[]) AS c(key, amount)),
      locked AS MATERIALIZED (
        SELECT a.id, c.amount FROM "Account" a JOIN change c ON c.key = a.key ORDER BY a.key FOR UPDATE OF a
      )
      UPDATE "Account" a SET balance = a.balance + locked.amount FROM locked WHERE a.id = locked.id RETURNING a.id, a.key`;
    return new Map(rows.map((row) => [row.key, row.id]));
  } catch (error) {
    if (isBelowZero(error) && keys.some((key) => key.startsWith("budget:")))
      throw new CodedError(
        "BUDGET_EXHAUSTED",
        "The run's budget does not cover this work. Fund the run, then resume it.",
        { cause: error },
      );
    throw error;
  }
}

function isBelowZero(error: unknown): boolean {
  return error instanceof Error && /check constraint|23514/.test(error.message);
}
