import { Prisma } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { budgetAvailable, type Payment, payNodes } from "../ledger/ledger.ts";
import { lockAccounts } from "../ledger/postings.ts";
import { refundable } from "../ledger/stakes.ts";
import type { Loop } from "../loops.ts";

/** Receipts looked at in one pass and run. */
const perPass = 256;

type Due = { id: string; organizationId: string; checkpointId: string; nodeId: string; version: number };
type Share = { receiptId: string; relayId: string; nodeId: string; creditedBytes: bigint };

/**
 * Pays relays for what nodes receipted, once the node has an accepted group on that version that is final: before that nothing shows that
 * anybody worked with the bytes. In the order the receipts came and never beyond the budget: what it does not cover waits until it does.
 * @returns how many receipts were settled
 */
export async function payRelays(ctx: Ctx): Promise<number> {
  const runs = await ctx.prisma.$queryRaw<{ runId: string }[]>`
    SELECT DISTINCT "runId" FROM "CheckpointReceipt" c WHERE "settledAt" IS NULL AND ${finalWork}`;
  let settled = 0;
  for (const { runId } of runs)
    settled += await ctx.prisma.$transaction((tx) => payRun(tx, runId), { timeout: 30_000 });
  return settled;
}

async function payRun(tx: Tx, runId: string): Promise<number> {
  const due = await tx.$queryRaw<Due[]>`
    SELECT id, "organizationId", "checkpointId", "nodeId", version FROM "CheckpointReceipt" c
    WHERE "runId" = ${runId}::uuid AND "settledAt" IS NULL AND ${finalWork}
    ORDER BY id LIMIT ${perPass} FOR UPDATE SKIP LOCKED`;
  const [first] = due;
  if (first === undefined) return 0;
  const shares = await tx.$queryRaw<Share[]>`
    SELECT s."receiptId", s."relayId", l."nodeId", s."creditedBytes" FROM "ReceiptSource" s JOIN "Relay" l ON l.id = s."relayId"
    WHERE s."receiptId" = ANY(${due.map(({ id }) => id)}::uuid[]) AND s."creditedBytes" > 0 AND s.paid IS NULL AND l."nodeId" IS NOT NULL`;
  const price = await priceOf(tx, runId);
  await lockAccounts(tx, {
    organizationId: first.organizationId,
    runId,
    producers: [],
    payees: shares.map(({ nodeId }) => nodeId),
  });
  // What cases may have to give back is not there to be spent.
  let left = (await budgetAvailable(tx, runId)) - (await refundable(tx, runId));
  const payments: Payment[] = [];
  const paid: { receiptId: string; relayId: string; paid: string }[] = [];
  const settled: string[] = [];
  for (const receipt of due) {
    const owed = shares
      .filter(({ receiptId }) => receiptId === receipt.id)
      .map((share) => ({ ...share, amount: (share.creditedBytes * price) / mebibyte }));
    const sum = owed.reduce((total, { amount }) => total + amount, 0n);
    // In order: a smaller one behind it must not keep it waiting for ever.
    if (sum > left) break;
    left -= sum;
    settled.push(receipt.id);
    for (const { relayId, nodeId, amount } of owed) {
      paid.push({ receiptId: receipt.id, relayId, paid: amount.toString() });
      if (amount === 0n) continue;
      payments.push({
        organizationId: receipt.organizationId,
        runId,
        nodeId,
        amount,
        // By what it is for and not by the receipt: whatever becomes of rows, it is paid once.
        key: `relay:${receipt.checkpointId}:${receipt.nodeId}:${relayId}`,
        memo: `Version ${receipt.version} relayed to ${toTypeId("node", receipt.nodeId)}`,
      });
    }
  }
  if (settled.length === 0) return 0;
  await payNodes(tx, payments);
  await tx.$executeRaw`
    UPDATE "ReceiptSource" s SET paid = p.paid, "paidAt" = now()
    FROM jsonb_to_recordset(${JSON.stringify(paid)}::jsonb) AS p("receiptId" uuid, "relayId" uuid, paid bigint)
    WHERE s."receiptId" = p."receiptId" AND s."relayId" = p."relayId"`;
  await tx.checkpointReceipt.updateMany({ where: { id: { in: settled } }, data: { settledAt: new Date() } });
  return settled.length;
}

/** That the node of receipt `c` has work on its version that was accepted and cannot be taken back any more. */
const finalWork = Prisma.sql`EXISTS (SELECT 1 FROM "Group" g WHERE g."runId" = c."runId" AND g."nodeId" = c."nodeId"
  AND g."policyVersion" = c.version AND g.state IN ('ACCEPTED', 'SET_ASIDE') AND g."finalAt" IS NOT NULL)`;

const mebibyte = 1024n * 1024n;

/** Micro-credits a MiB, by the revision in force. */
async function priceOf(tx: Tx, runId: string): Promise<bigint> {
  const [row] = await tx.$queryRaw<{ price: number }[]>`
    SELECT (v.spec->'prices'->>'relayedMiB')::float8 AS price FROM "Run" r
    JOIN "RunRevision" v ON v."runId" = r.id AND v.number = r.revision WHERE r.id = ${runId}::uuid`;
  return BigInt(Math.floor(row?.price ?? 0));
}

/** Pays what became due. Finality is settled every five seconds, so is this. */
export const relayPayLoop: Loop = { name: "relay pay", everyMs: 5_000, leader: true, run: payRelays };
