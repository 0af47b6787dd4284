import type { Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { available, budget, held, issued, post, postMany } from "./postings.ts";

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

/** A run's money in four numbers, micro-credits: funded = available + held + paid. */
export async function budgetOf(
  tx: Tx,
  runId: string,
): Promise<{ funded: bigint; available: bigint; held: bigint; paid: bigint }> {
  const [row] = await tx.$queryRaw<
    { funded: bigint | null; available: bigint | null; held: bigint | null }[]
  >`
    SELECT
      (SELECT sum(e.amount)::bigint FROM "LedgerTransaction" t JOIN "LedgerEntry" e ON e."transactionId" = t.id
         WHERE t."runId" = ${runId}::uuid AND t.kind = 'FUND' AND e.amount > 0) AS funded,
      (SELECT balance FROM "Account" WHERE key = ${budget(runId).key}) AS available,
      (SELECT sum(balance)::bigint FROM "Account" WHERE "runId" = ${runId}::uuid AND kind = 'NODE_HELD') AS held`;
  const funded = row?.funded ?? 0n;
  const free = row?.available ?? 0n;
  const promised = row?.held ?? 0n;
  // What left the budget and is not held was paid: a sum over all payments would grow with the run.
  return { funded, available: free, held: promised, paid: funded - free - promised };
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
