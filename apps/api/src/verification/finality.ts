import type { Ctx } from "../context.ts";
import { releaseGroups } from "../ledger/stakes.ts";
import type { Loop } from "../loops.ts";

/** Groups settled in one pass. */
const perPass = 512;

type Due = { id: string; organizationId: string; runId: string; nodeId: string };

/**
 * Makes decided groups FINAL and releases what was held for them: after the node's next ⌈3 / floor⌉ audited-valid groups, or the run's
 * end, or 24 hours after the node's last submission, and never before the dispute window has passed. What is not final is the node's stake. So nothing of it is released
 * while a case against the node is open, or while the group rests on a trust that the node has lost.
 */
export const finalityLoop: Loop = { name: "finality", everyMs: 5_000, leader: true, run: settleFinal };

/** Settles what is due, in one transaction. @returns how many groups became final. */
export function settleFinal(ctx: Ctx): Promise<number> {
  return ctx.prisma.$transaction(async (tx) => {
    const final = await tx.$queryRaw<Due[]>`
      WITH due AS MATERIALIZED (
        SELECT g.id
        FROM "Run" r
        JOIN "RunRevision" v ON v."runId" = r.id AND v.number = r.revision
        JOIN "Group" g ON g."runId" = r.id
        LEFT JOIN "NodeTrust" t ON t."runId" = g."runId" AND t."nodeId" = g."nodeId"
        WHERE g."finalAt" IS NULL AND g."decidedAt" < now() - make_interval(secs => (v.spec->>'disputeWindowSeconds')::float8)
          AND (g.state IN ('REJECTED', 'INVALID')
            OR (g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE')
              AND (t.accepted >= g."finalAfter" OR r."endedAt" IS NOT NULL OR (g."decidedAt" < now() - interval '24 hours'
                -- Counted from the group alone, a node with a few groups a day would have next to nothing at stake.
                AND NOT EXISTS (SELECT 1 FROM "Group" l WHERE l."runId" = g."runId" AND l."nodeId" = g."nodeId"
                  AND l."submittedAt" > now() - interval '24 hours')))
              -- Trusted and unaudited: only as long as the node is, and never while it is being measured after all.
              AND (g.acceptance IS DISTINCT FROM 'TRUSTED' OR (t.state = 'TRUSTED' AND NOT g.retroactive))))
          AND NOT EXISTS (SELECT 1 FROM "Case" c WHERE c."runId" = g."runId" AND c."nodeId" = g."nodeId" AND c.state = 'OPEN')
        ORDER BY g.id LIMIT ${perPass} FOR UPDATE OF g SKIP LOCKED
      )
      UPDATE "Group" g SET "finalAt" = now() FROM due WHERE g.id = due.id
      RETURNING g.id, g."organizationId", g."runId", g."nodeId"`;
    await releaseGroups(
      tx,
      final.map(({ id, ...owner }) => ({ ...owner, groupId: id })),
    );
    return final.length;
  });
}
