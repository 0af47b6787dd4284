import type { Ctx } from "../context.ts";

/** How a checkpoint reached the nodes of its run. Seconds count from the moment it became AVAILABLE. */
export type CheckpointBroadcast = {
  readonly checkpointId: string;
  /** Nodes it is for. */
  readonly nodes: number;
  /** Nodes that have it. */
  readonly received: number;
  readonly secondsTo50: number | null;
  readonly secondsTo95: number | null;
  readonly secondsTo100: number | null;
  readonly originBytes: bigint;
  readonly relayedBytes: bigint;
  readonly wastedBytes: bigint;
  readonly slowest: { readonly nodeId: string; readonly seconds: number } | null;
};

/** Seconds since a node was seen for which it counts as one that the newest version is for. */
const hereSeconds = 30;

/**
 * What the receipts of one checkpoint say. The newest version is for every node that is here and works in the run, relays that do nothing
 * else left out; an older one is nobody's to fetch any more, so it is for those that have it.
 */
export async function checkpointBroadcast(
  { prisma }: Ctx,
  checkpoint: { id: string; runId: string; newest: boolean; availableAt: Date | null; originBytes: bigint },
): Promise<CheckpointBroadcast> {
  const { id, runId, newest, availableAt, originBytes } = checkpoint;
  const [row] = await prisma.$queryRaw<
    Omit<CheckpointBroadcast, "checkpointId" | "originBytes" | "slowest">[]
  >`
    WITH got AS (
      SELECT "nodeId", "wastedBytes", greatest(0, extract(epoch FROM "receivedAt" - ${availableAt}::timestamptz))::float8 AS seconds,
        row_number() OVER (ORDER BY "receivedAt") AS place
      FROM "CheckpointReceipt" WHERE "checkpointId" = ${id}::uuid
    ), here AS (
      SELECT t."nodeId" FROM "NodeTrust" t JOIN "Node" n ON n.id = t."nodeId"
      WHERE ${newest} AND t."runId" = ${runId}::uuid AND n."lastSeenAt" > now() - make_interval(secs => ${hereSeconds}) AND NOT n.draining
        AND t.state NOT IN ('QUARANTINED', 'EJECTED')
        AND (t.accepted + t.rejected + t.invalid > 0 OR EXISTS (SELECT 1 FROM "RoleGrant" g
          WHERE g."runId" = t."runId" AND g."nodeId" = t."nodeId" AND g.role <> 'RELAY' AND g."revokedAt" IS NULL))
    ), size AS (
      SELECT count(*)::int AS nodes FROM (SELECT "nodeId" FROM got UNION SELECT "nodeId" FROM here) u
    )
    SELECT size.nodes, (SELECT count(*) FROM got)::int AS received,
      (SELECT seconds FROM got WHERE place = ceil(size.nodes * 0.5)) AS "secondsTo50",
      (SELECT seconds FROM got WHERE place = ceil(size.nodes * 0.95)) AS "secondsTo95",
      (SELECT seconds FROM got WHERE place = size.nodes) AS "secondsTo100",
      (SELECT COALESCE(sum("wastedBytes"), 0)::bigint FROM got) AS "wastedBytes",
      (SELECT COALESCE(sum(s.bytes), 0)::bigint FROM "ReceiptSource" s JOIN "CheckpointReceipt" r ON r.id = s."receiptId"
       WHERE r."checkpointId" = ${id}::uuid) AS "relayedBytes"
    FROM size`;
  const last = await prisma.checkpointReceipt.findFirst({
    where: { checkpointId: id },
    orderBy: [{ receivedAt: "desc" }, { id: "desc" }],
    select: { nodeId: true, receivedAt: true },
  });
  const since = (at: Date) => Math.max(0, at.getTime() - (availableAt ?? at).getTime()) / 1000;
  return {
    checkpointId: id,
    originBytes,
    slowest: last === null ? null : { nodeId: last.nodeId, seconds: since(last.receivedAt) },
    ...(row ?? {
      nodes: 0,
      received: 0,
      secondsTo50: null,
      secondsTo95: null,
      secondsTo100: null,
      relayedBytes: 0n,
      wastedBytes: 0n,
    }),
  };
}
