import type { Ctx } from "../context.ts";
import type { Loop } from "../loops.ts";

/** Rows deleted in one statement. */
const perPass = 5_000;

/**
 * Deletes complaints of yesterday, and receipts whose checkpoint is retired once they are as old as events may become. Who was not paid by
 * then never will be: the checkpoint cannot be had any more, so no work on it is still to come.
 */
export async function deleteOldReceipts(ctx: Ctx): Promise<number> {
  await ctx.prisma.relayReport.deleteMany({ where: { at: { lt: new Date(Date.now() - 86_400_000) } } });
  // Two days at least: what was handed in last may be final only after its dispute window.
  const days = Math.max(2, ctx.config.eventRetentionDays);
  return await ctx.prisma.$executeRaw`
    DELETE FROM "CheckpointReceipt" WHERE id IN (
      SELECT r.id FROM "CheckpointReceipt" r JOIN "Checkpoint" c ON c.id = r."checkpointId" JOIN "Run" u ON u.id = r."runId"
      WHERE r."receivedAt" < now() - make_interval(secs => ${days * 86_400}) AND (c.state = 'RETIRED' OR u."endedAt" IS NOT NULL)
        AND NOT EXISTS (SELECT 1 FROM "Group" g WHERE g."runId" = r."runId" AND g."nodeId" = r."nodeId" AND g."policyVersion" = r.version
          AND g."finalAt" IS NULL)
      LIMIT ${perPass})`;
}

export const receiptRetentionLoop: Loop = {
  name: "receipt retention",
  everyMs: 600_000,
  leader: true,
  startAfterSeconds: 45,
  async run(ctx, { signal }) {
    while ((await deleteOldReceipts(ctx)) === perPass && !signal.aborted);
  },
};
