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
const held = (runId: string, nodeId: string): AccountRef => ({
  key: `held:${runId}:${nodeId}`,
  kind: "NODE_HELD",
  runId,
  nodeId,
});
const available = (organizationId: string, nodeId: string): AccountRef => ({
  key: `available:${organizationId}:${nodeId}`,
  kind: "NODE_AVAILABLE",
  nodeId,
});

/** Opens a run's budget with `credits` micro-credits. */
export async function openBudget(
  tx: Tx,
  input: { organizationId: string; runId: string; credits: bigint },
): Promise<void> {
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
  const account = await tx.account.findUnique({
    where: { key: budget(runId).key },
    select: { balance: true },
  });
  return account?.balance ?? 0n;
}

export type Payment = {
  readonly organizationId: string;
  readonly runId: string;
  readonly nodeId: string;
  readonly amount: bigint;
  readonly key: string;
  readonly memo: string;
  readonly taskId?: string;
};

/**
 * Pays a granted role (validator, trainer, evaluator) for work the coordinator accepted.
 * @returns false when this key was paid before.
 * @throws CodedError `BUDGET_EXHAUSTED`
 */
export async function payNode(tx: Tx, payment: Payment): Promise<boolean> {
  return (await payNodes(tx, [payment])).size === 1;
}

/** The same for several pieces of work at once. @returns the keys that were paid now */
export function payNodes(tx: Tx, payments: readonly Payment[]): Promise<Set<string>> {
  return postMany(
    tx,
    payments.map(({ nodeId, amount, ...payment }) => ({
      ...payment,
      kind: "PAY",
      postings: [
        { account: budget(payment.runId), amount: -amount },
        { account: available(payment.organizationId, nodeId), amount },
      ],
    })),
  );
}

export type GroupPosting = {
  organizationId: string;
  runId: string;
  nodeId: string;
  groupId: string;
  amount: bigint;
};

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

/** Releases what was held for groups that are final: held → available. Groups that nothing was held for are passed over. */
export async function releaseGroups(tx: Tx, groups: readonly Omit<GroupPosting, "amount">[]): Promise<void> {
  const holds = await tx.ledgerTransaction.findMany({
    where: { key: { in: groups.map((group) => `hold:${group.groupId}`) } },
    select: { groupId: true, entries: { where: { amount: { gt: 0 } }, select: { amount: true } } },
  });
  const amounts = new Map(
    holds.map(({ groupId, entries }) => [groupId, entries.reduce((sum, entry) => sum + entry.amount, 0n)]),
  );
  await postMany(
    tx,
    groups.flatMap((group) => {
      const amount = amounts.get(group.groupId) ?? 0n;
      if (amount === 0n) return [];
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

/** A run's money in four numbers, micro-credits. */
export async function budgetOf(
  tx: Tx,
  runId: string,
): Promise<{ funded: bigint; available: bigint; held: bigint; paid: bigint }> {
  const [row] = await tx.$queryRaw<
    { funded: bigint | null; available: bigint | null; held: bigint | null; paid: bigint | null }[]
  >`
    SELECT
      (SELECT sum(e.amount)::bigint FROM "LedgerEntry" e JOIN "LedgerTransaction" t ON t.id = e."transactionId"
         WHERE t."runId" = ${runId}::uuid AND t.kind = 'FUND' AND e.amount > 0) AS funded,
      (SELECT balance FROM "Account" WHERE key = ${budget(runId).key}) AS available,
      (SELECT sum(balance)::bigint FROM "Account" WHERE "runId" = ${runId}::uuid AND kind = 'NODE_HELD') AS held,
      (SELECT sum(e.amount)::bigint FROM "LedgerEntry" e JOIN "LedgerTransaction" t ON t.id = e."transactionId"
         WHERE t."runId" = ${runId}::uuid AND t.kind IN ('PAY', 'RELEASE') AND e.amount > 0) AS paid`;
  return {
    funded: row?.funded ?? 0n,
    available: row?.available ?? 0n,
    held: row?.held ?? 0n,
    paid: row?.paid ?? 0n,
  };
}

/** Balances of the given accounts of a node in a run, micro-credits. */
export async function nodeBalances(
  tx: Tx,
  input: { organizationId: string; runId: string; nodeId: string },
): Promise<{ held: bigint; available: bigint }> {
  const keys = [held(input.runId, input.nodeId).key, available(input.organizationId, input.nodeId).key];
  const rows = await tx.account.findMany({
    where: { key: { in: keys } },
    select: { kind: true, balance: true },
  });
  const balance = (kind: string) => rows.find((row) => row.kind === kind)?.balance ?? 0n;
  return { held: balance("NODE_HELD"), available: balance("NODE_AVAILABLE") };
}

type NewTransaction = {
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

async function post(tx: Tx, input: NewTransaction): Promise<boolean> {
  return (await postMany(tx, [input])).size === 1;
}

/**
 * Posts any number of transactions in four statements. A batch of verdicts moves money for dozens of groups over a handful of
 * accounts: one by one, the statements took longer than the checks.
 * @returns the keys that were posted now; one that was posted before moves nothing.
 */
async function postMany(tx: Tx, inputs: readonly NewTransaction[]): Promise<Set<string>> {
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
