import type { RelayFault } from "@muster/db";
import type { Ctx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { nodeOf } from "../tasks/lease.ts";
import { manifestOf } from "./manifests.ts";
import { checkpointNamed, takesPart } from "./participation.ts";
import { probeGapSeconds } from "./relays.ts";

export type Report = {
  readonly relayId: string;
  readonly manifest: string;
  /** The blob that was asked for: a shard of the checkpoint, or its manifest. */
  readonly sha256: string;
  readonly fault: RelayFault;
};

/** Seconds in which a second complaint of one node about one relay makes nobody look again. */
const patienceSeconds = 30;
/** Relays that one node makes the coordinator look at within those seconds. */
const mostAtOnce = 6;

/**
 * Takes a complaint. Nobody is believed: it changes what the coordinator looks at next, and nothing else, whoever and however many complain.
 * @returns whether it makes the coordinator look now; false when it was just there, or when this node has complained enough
 * @throws CodedError `UNAUTHENTICATED`, `INPUT_INVALID`, `BLOB_NOT_FOUND`, `NOT_FOUND`
 */
export async function reportRelay(ctx: Ctx, { relayId, manifest, sha256, fault }: Report): Promise<boolean> {
  const nodeId = nodeOf(ctx);
  const { runId, organizationId } = await checkpointNamed(ctx, manifest);
  const relay = await ctx.prisma.relay.findUnique({
    where: { id: relayId },
    select: { runId: true, nodeId: true },
  });
  if (relay === null || relay.runId !== runId) throw notFound("The relay");
  if (relay.nodeId === nodeId)
    throw new CodedError("INPUT_INVALID", "A node does not complain of its own relay. Withdraw it instead.");
  if (sha256 !== manifest && !(await manifestOf(ctx, manifest)).shards.has(sha256))
    throw new CodedError(
      "INPUT_INVALID",
      "The checkpoint has no such shard. Name what was asked for, by its hash.",
    );
  if (!(await takesPart(ctx, runId, nodeId))) return false;
  const heard = await ctx.prisma.relayReport.count({
    where: { nodeId, at: { gt: new Date(Date.now() - patienceSeconds * 1000) } },
  });
  const { rows } = await ctx.db.pool.query<{ fresh: boolean }>({
    name: "report-relay",
    text: `
      WITH before AS MATERIALIZED (SELECT at FROM "RelayReport" WHERE "relayId" = $1 AND "nodeId" = $2)
      INSERT INTO "RelayReport" AS r ("relayId", "nodeId", "organizationId", "runId", fault, sha256, "manifestHash")
      VALUES ($1, $2, $3, $4, $5, $6, $7)
      ON CONFLICT ("relayId", "nodeId") DO UPDATE SET fault = excluded.fault, sha256 = excluded.sha256,
        "manifestHash" = excluded."manifestHash", count = r.count + 1, at = now()
      RETURNING NOT EXISTS (SELECT 1 FROM before WHERE before.at > now() - interval '${patienceSeconds} seconds') AS fresh`,
    values: [relayId, nodeId, organizationId, runId, fault, sha256, manifest],
  });
  if (rows[0]?.fresh !== true || heard >= mostAtOnce) return false;
  // Many who complain make it look once: never sooner than a while after the last time, whatever the outcome was.
  const { rowCount } = await ctx.db.pool.query({
    name: "suspect-relay",
    text: `UPDATE "Relay" SET "nextProbeAt" = greatest(now(), "probedAt" + interval '${probeGapSeconds} seconds'), "updatedAt" = now()
      WHERE id = $1 AND state IN ('PROBING', 'LIVE')
        AND ("nextProbeAt" IS NULL OR "nextProbeAt" > greatest(now(), "probedAt" + interval '${probeGapSeconds} seconds'))`,
    values: [relayId],
  });
  if (rowCount) ctx.bus.publish("probes");
  return (rowCount ?? 0) > 0;
}
