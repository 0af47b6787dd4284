import type { Ctx } from "../context.ts";
import { heldForGroup, releaseGroup } from "../ledger/ledger.ts";
import type { Loop } from "../loops.ts";

/** Groups settled in one pass: each is a transaction of its own, so that a crash between two loses nothing. */
const perPass = 256;

type Due = { id: string; organizationId: string; runId: string; nodeId: string };

/**
 * Makes decided groups FINAL and releases what was held for them: after the node's next ⌈3 / auditRate⌉ audited-valid groups, or
 * the run's end, or 24 hours, and never before the dispute window has passed.
 */
export const finalityLoop: Loop = { name: "finality", everyMs: 5_000, leader: true, run: settleFinal };

/** @returns how many groups became final. */
export async function settleFinal(ctx: Ctx): Promise<number> {
  const due = await ctx.prisma.$queryRaw<Due[]>`
    SELECT g.id, g."organizationId", g."runId", g."nodeId"
    FROM "Group" g
    JOIN "Run" r ON r.id = g."runId"
    JOIN "RunRevision" v ON v."runId" = r.id AND v.number = r.revision
    LEFT JOIN "NodeTrust" t ON t."runId" = g."runId" AND t."nodeId" = g."nodeId"
    WHERE g."finalAt" IS NULL AND g."decidedAt" IS NOT NULL
      AND g."decidedAt" < now() - make_interval(secs => (v.spec->>'disputeWindowSeconds')::float8)
      AND (g.state IN ('REJECTED', 'INVALID')
        OR (g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE')
          AND (t.accepted >= g."finalAfter" OR r."endedAt" IS NOT NULL OR g."decidedAt" < now() - interval '24 hours')))
    ORDER BY g."decidedAt" LIMIT ${perPass}`;
  for (const group of due) await makeFinal(ctx, group);
  return due.length;
}

async function makeFinal(ctx: Ctx, group: Due): Promise<void> {
  await ctx.prisma.$transaction(async (tx) => {
    const changed = await tx.group.updateMany({ where: { id: group.id, finalAt: null }, data: { finalAt: new Date() } });
    if (changed.count === 0) return;
    const amount = await heldForGroup(tx, group.id);
    if (amount > 0n) await releaseGroup(tx, { ...group, groupId: group.id, amount });
  });
}
