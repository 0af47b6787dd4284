import type { RunSpec } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { releaseGroups } from "../ledger/stakes.ts";
import type { Loop } from "../loops.ts";
import { specOf } from "../runs/spec.ts";
import { lockStandings, recordOutcome } from "./trust.ts";

/** Groups settled in one pass. */
const perPass = 512;

/** Nodes that fell silent, settled in one pass. */
const silentPerPass = 32;

type Due = { id: string; organizationId: string; runId: string; nodeId: string };

/**
 * Makes decided groups FINAL and releases what was held for them: after the node's next ⌈3 / floor⌉ audited-valid groups, or the run's
 * end, or 24 hours after the node's last submission when none of its groups waits for a verdict, and never before the dispute window has
 * passed. What is not final is the node's stake. So nothing of it is released while a case against the node is open, or while the group
 * rests on a trust that the node has lost.
 */
export const finalityLoop: Loop = { name: "finality", everyMs: 5_000, leader: true, run: settleFinal };

/** Settles what is due. @returns how many groups became final. */
export async function settleFinal(ctx: Ctx): Promise<number> {
  return (await settleEarned(ctx)) + (await settleSilent(ctx));
}

/** Groups that were rejected, outlived by enough audited ones, or whose run is over; in one transaction. */
function settleEarned(ctx: Ctx): Promise<number> {
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
              AND (t.accepted >= g."finalAfter" OR r."endedAt" IS NOT NULL)
              -- Trusted and unaudited: only as long as the node is, and never while it is being measured after all.
              AND (g.acceptance IS DISTINCT FROM 'TRUSTED' OR (t.state = 'TRUSTED' AND NOT g.retroactive))))
          AND NOT EXISTS (SELECT 1 FROM "Case" c WHERE c."runId" = g."runId" AND c."nodeId" = g."nodeId" AND c.state = 'OPEN')
        ORDER BY g.id LIMIT ${perPass} FOR UPDATE OF g SKIP LOCKED
      )
      UPDATE "Group" g SET "finalAt" = now() FROM due WHERE g.id = due.id
      RETURNING g.id, g."organizationId", g."runId", g."nodeId"`;
    await release(tx, final);
    return final.length;
  });
}

/** Releases everything of nodes that have handed in nothing for a day, one node at a time. */
async function settleSilent(ctx: Ctx): Promise<number> {
  const silent = await ctx.prisma.$queryRaw<{ runId: string; nodeId: string }[]>`
    SELECT g."runId", g."nodeId" FROM "Group" g JOIN "Run" r ON r.id = g."runId"
    WHERE g."finalAt" IS NULL AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE') AND r."endedAt" IS NULL
      AND g."decidedAt" < now() - interval '24 hours'
      AND NOT EXISTS (SELECT 1 FROM "Group" l WHERE l."runId" = g."runId" AND l."nodeId" = g."nodeId"
        AND l."submittedAt" > now() - interval '24 hours')
    -- In no order: nodes whose groups wait for a case must not stand before all others for ever.
    GROUP BY 1, 2 ORDER BY random() LIMIT ${silentPerPass}`;
  let settled = 0;
  for (const node of silent) settled += await releaseSilent(ctx, node);
  return settled;
}

function releaseSilent(ctx: Ctx, { runId, nodeId }: { runId: string; nodeId: string }): Promise<number> {
  return ctx.prisma.$transaction(async (tx) => {
    // Under its standing: what it hands in meanwhile is judged by the standing after this.
    const standing = (await lockStandings(tx, runId, [nodeId])).get(nodeId);
    const { revision } = await tx.run.findUniqueOrThrow({ where: { id: runId }, select: { revision: true } });
    const spec: RunSpec = await specOf(tx, runId, revision);
    const final = await tx.$queryRaw<Due[]>`
      UPDATE "Group" g SET "finalAt" = now()
      WHERE g."runId" = ${runId}::uuid AND g."nodeId" = ${nodeId}::uuid AND g."finalAt" IS NULL
        AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE')
        AND g."decidedAt" < now() - greatest(interval '24 hours', make_interval(secs => ${spec.disputeWindowSeconds}::float8))
        AND (g.acceptance IS DISTINCT FROM 'TRUSTED' OR (${standing?.state === "TRUSTED"} AND NOT g.retroactive))
        -- Counted from the group alone, a node with a few groups a day would have next to nothing at stake.
        -- And whoever waits for a verdict may have what it holds to lose yet; only not for ever, for a run may be paused.
        AND NOT EXISTS (SELECT 1 FROM "Group" l WHERE l."runId" = g."runId" AND l."nodeId" = g."nodeId"
          AND l."submittedAt" > now() - CASE l.state WHEN 'VERIFYING' THEN interval '7 days' ELSE interval '24 hours' END)
        AND NOT EXISTS (SELECT 1 FROM "Case" c WHERE c."runId" = g."runId" AND c."nodeId" = g."nodeId" AND c.state = 'OPEN')
      RETURNING g.id, g."organizationId", g."runId", g."nodeId"`;
    await release(tx, final);
    const [first] = final;
    // Nothing at stake any more: whoever came back still trusted could cheat nine packs in ten for nothing.
    if (first !== undefined && standing?.state === "TRUSTED")
      await recordOutcome(tx, {
        runId,
        nodeId,
        organizationId: first.organizationId,
        spec,
        outcome: "RELEASED",
        reason: "A day without a submission released all it had at stake.",
      });
    return final.length;
  });
}

async function release(tx: Tx, final: readonly Due[]): Promise<void> {
  await releaseGroups(
    tx,
    final.map(({ id, ...owner }) => ({ ...owner, groupId: id })),
  );
}
