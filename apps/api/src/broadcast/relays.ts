import type { Prisma } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import type { Loop } from "../loops.ts";
import { nodeOf } from "../tasks/lease.ts";
import { assignmentsOf, type RelayAssignment } from "./assignments.ts";
import { readRelayUrl } from "./relay-url.ts";
import { lockRelays, mendTree, silentAfterSeconds, tellRelays } from "./tree.ts";

// A relay's life: PROBING → LIVE by the coordinator's own probe, LIVE → OFFLINE by silence or failed probes, OFFLINE → PROBING when it
// speaks again (after failed probes: when one succeeds), anything → DROPPED by a corrupt shard the coordinator itself received, and from
// there only by the organizer. What nodes report never moves it.

export type Announcement = {
  readonly url: string;
  readonly uplinkMbps: number;
  readonly region?: string | null | undefined;
  readonly health: {
    readonly newestVersion?: number | null | undefined;
    readonly heldBytes: bigint;
    readonly sentBytes: bigint;
    readonly clients: number;
  };
};

/** Failed probes in a row that make a relay OFFLINE. */
export const failuresToOffline = 3;

/** Least seconds between two probes of a relay. */
export const probeGapSeconds = 10;

/**
 * Notes that a relay is there, in every run that granted its node RELAY and that the node said it works for.
 * @returns its place in each
 * @throws CodedError `UNAUTHENTICATED`, `INPUT_INVALID`, `TLS_REQUIRED`, `ROLE_NOT_GRANTED`
 */
export async function announceRelay(ctx: Ctx, input: Announcement): Promise<RelayAssignment[]> {
  const nodeId = nodeOf(ctx);
  const url = readRelayUrl(ctx, input.url, { template: false });
  const said = { nodeId, url, ...readFigures(input) };
  const runs = await grantedRuns(ctx, nodeId);
  const known = await refresh(ctx, said, runs);
  const news = runs.filter(({ id }) => !known.some(({ runId }) => runId === id));
  if (news.length > 0) await refuseMirrors(ctx, news, url);
  for (const run of news) {
    await ctx.prisma.$transaction(async (tx) => {
      await lockRelays(tx, run.id);
      await enter(tx, said, run);
      await mendTree(tx, ctx, run.id);
    });
    ctx.bus.publish(`relays:${run.id}`);
  }
  if (news.length > 0 || known.some(({ due }) => due)) ctx.bus.publish("probes");
  return await assignmentsOf(ctx, nodeId);
}

type Said = ReturnType<typeof readFigures> & { readonly nodeId: string; readonly url: string };

/**
 * The announcement of a relay that says nothing new, in one statement for all its runs: it speaks every ten seconds.
 * @returns the runs in which it is known as it is
 */
async function refresh(
  ctx: Ctx,
  { nodeId, url, uplinkMbps, region, health }: Said,
  runs: readonly { id: string }[],
): Promise<{ runId: string; due: boolean }[]> {
  // With a version to show, one that waits to be probed is due.
  const { rows } = await ctx.db.pool.query<{ runId: string; due: boolean }>({
    name: "refresh-relay",
    text: `
      UPDATE "Relay" r SET "uplinkMbps" = $4, "newestVersion" = $6::int, "heldBytes" = $7, "sentBytes" = $8, clients = $9, "lastSeenAt" = now(),
        "updatedAt" = now(), "nextProbeAt" = CASE WHEN $6::int IS NOT NULL AND r."nextProbeAt" IS NULL AND r.state <> 'DROPPED'
          THEN greatest(now(), r."probedAt" + interval '${probeGapSeconds} seconds') ELSE r."nextProbeAt" END
      WHERE r."nodeId" = $1 AND r."runId" = ANY ($2::uuid[]) AND r.url = $3 AND r.region IS NOT DISTINCT FROM $5
        AND NOT (r.state = 'OFFLINE' AND r."probeFailures" < ${failuresToOffline})
      RETURNING r."runId", COALESCE(r."nextProbeAt" <= now(), false) AS due`,
    values: [
      nodeId,
      runs.map(({ id }) => id),
      url,
      uplinkMbps,
      region,
      health.newestVersion,
      health.heldBytes,
      health.sentBytes,
      health.clients,
    ],
  });
  return rows;
}

/**
 * Enters a relay that is new, has moved, or comes back: it is PROBING. What failed probes took offline comes back by a probe at its time,
 * and what was dropped by the organizer only; speaking changes neither. Under {@link lockRelays}.
 */
async function enter(
  tx: Tx,
  { nodeId, url, uplinkMbps, region, health }: Said,
  run: { id: string; organizationId: string },
): Promise<void> {
  const key = { runId: run.id, nodeId };
  const before = await tx.relay.findUnique({ where: { runId_nodeId: key } });
  const now = new Date();
  const data = {
    url,
    uplinkMbps,
    region,
    ...health,
    heldBytes: BigInt(health.heldBytes),
    sentBytes: BigInt(health.sentBytes),
    lastSeenAt: now,
  };
  const nextProbeAt = health.newestVersion === null ? null : now;
  if (before === null) {
    await tx.relay.create({
      data: { id: newId("relay"), organizationId: run.organizationId, ...key, ...data, nextProbeAt },
    });
    return;
  }
  const anew =
    before.state !== "DROPPED" &&
    (before.url !== url || (before.state === "OFFLINE" && before.probeFailures < failuresToOffline));
  const soonest = (before.probedAt?.getTime() ?? 0) + probeGapSeconds * 1000;
  await tx.relay.update({
    where: { id: before.id },
    data: {
      ...data,
      ...(anew
        ? {
            state: "PROBING",
            reason: null,
            probeFailures: 0,
            nextProbeAt: nextProbeAt && new Date(Math.max(now.getTime(), soonest)),
          }
        : {}),
    },
  });
}

/**
 * Says that the node's relay goes away. @returns in how many runs it was there
 */
export async function withdrawRelay(ctx: Ctx): Promise<number> {
  const nodeId = nodeOf(ctx);
  const present = await ctx.prisma.relay.findMany({
    where: { nodeId, state: { in: ["PROBING", "LIVE"] } },
    select: { id: true, runId: true },
  });
  for (const { id, runId } of present) await takeOffline(ctx, runId, { id }, "It said that it goes away.");
  return present.length;
}

/**
 * Makes relays OFFLINE and gives those that pulled from them new parents.
 * @returns how many it were; a relay that is OFFLINE or DROPPED already stays as it is
 */
async function takeOffline(
  ctx: Ctx,
  runId: string,
  which: Prisma.RelayWhereInput,
  reason: string,
): Promise<number> {
  const gone = await ctx.prisma.$transaction(async (tx) => {
    await lockRelays(tx, runId);
    const relays = await tx.relay.updateManyAndReturn({
      where: { AND: [which, { runId, state: { in: ["PROBING", "LIVE"] } }] },
      data: { state: "OFFLINE", reason, nextProbeAt: null, probeFailures: 0 },
    });
    await tellRelays(tx, "relay.offline", relays);
    await mendTree(tx, ctx, runId);
    return relays.length;
  });
  ctx.bus.publish("events");
  ctx.bus.publish(`relays:${runId}`);
  return gone;
}

/** Runs in which the node may relay. @throws CodedError `ROLE_NOT_GRANTED` without any */
async function grantedRuns(ctx: Ctx, nodeId: string): Promise<{ id: string; organizationId: string }[]> {
  const { rows } = await ctx.db.pool.query<{
    id: string;
    organizationId: string;
    named: boolean;
    over: boolean;
  }>({
    name: "relay-grants",
    text: `SELECT r.id, r."organizationId", (r.id = ANY (n."worksFor") OR r."organizationId" = ANY (n."worksFor")) AS named,
        (r.state NOT IN ('RUNNING', 'PAUSED') OR COALESCE(t.state IN ('QUARANTINED', 'EJECTED'), false)) AS over
      FROM "RoleGrant" g JOIN "Run" r ON r.id = g."runId" JOIN "Node" n ON n.id = g."nodeId"
        LEFT JOIN "NodeTrust" t ON t."runId" = g."runId" AND t."nodeId" = g."nodeId"
      WHERE g."nodeId" = $1 AND g.role = 'RELAY' AND g."revokedAt" IS NULL ORDER BY r.id LIMIT 256`,
    values: [nodeId],
  });
  const granted = rows.filter(({ named, over }) => named && !over);
  if (granted.length > 0) return granted;
  throw new CodedError(
    "ROLE_NOT_GRANTED",
    rows.some(({ over }) => !over)
      ? "This node was granted RELAY in a run that it did not say it works for. Start it with --run or --organization to accept that."
      : `This node needs RELAY in a run that is not over. Ask the organizer to grant it to ${toTypeId("node", nodeId)}.`,
  );
}

/** A mirror serves without tickets, so nothing would show that the node is not the one who serves. */
async function refuseMirrors(ctx: Ctx, runs: readonly { id: string }[], url: string): Promise<void> {
  const mirrors = await ctx.prisma.relay.findMany({
    where: { runId: { in: runs.map(({ id }) => id) }, nodeId: null },
    select: { url: true },
  });
  const { host } = new URL(url);
  if (mirrors.some((mirror) => hostWithPort(mirror.url) === host))
    throw new CodedError(
      "INPUT_INVALID",
      `${host} is a mirror of the run and no node's relay. Announce your own address.`,
    );
}

const hostWithPort = (url: string): string => new URL(url.replaceAll(/[{}]/g, "")).host;

function readFigures({ uplinkMbps, region, health }: Announcement) {
  const wrong = (what: string) => new CodedError("INPUT_INVALID", what);
  if (!(uplinkMbps > 0 && uplinkMbps <= 1e6))
    throw wrong("`uplinkMbps` is what the uplink carries, above 0 and at most 1,000,000.");
  if (region != null && !/^[\w.-]{1,40}$/.test(region))
    throw wrong("`region` is a name of at most 40 letters, digits, dots and dashes.");
  const { newestVersion = null, heldBytes, sentBytes, clients } = health;
  if (newestVersion !== null && newestVersion < 0) throw wrong("`newestVersion` is 0 or more, or left out.");
  if (heldBytes < 0n || sentBytes < 0n || clients < 0) throw wrong("A relay's figures are 0 or more.");
  return {
    uplinkMbps,
    region: region?.toLowerCase() ?? null,
    health: { newestVersion, heldBytes: heldBytes.toString(), sentBytes: sentBytes.toString(), clients },
  };
}

/**
 * Gives a DROPPED relay another chance. It is probed before anybody is sent to it. @returns its id
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `UNAUTHENTICATED`, `STATE_CONFLICT`
 */
export async function reinstateRelay(ctx: Ctx, id: string): Promise<string> {
  const relay = await relayFor(ctx, id);
  await ctx.prisma.$transaction(async (tx) => {
    await lockRelays(tx, relay.runId);
    const { count } = await tx.relay.updateMany({
      where: { id, state: "DROPPED" },
      data: { state: "PROBING", reason: null, probeFailures: 0, nextProbeAt: new Date() },
    });
    if (count === 0)
      throw new CodedError(
        "STATE_CONFLICT",
        `The relay is ${relay.state}: only a DROPPED one is reinstated.`,
      );
    await mendTree(tx, ctx, relay.runId);
  });
  ctx.bus.publish(`relays:${relay.runId}`);
  ctx.bus.publish("probes");
  return id;
}

/** A relay, when the actor may decide about it. @throws CodedError `NOT_FOUND`, also to those who may not see it; `FORBIDDEN` */
export async function relayFor(ctx: Ctx, id: string) {
  const relay = await ctx.prisma.relay.findUnique({ where: { id } });
  const { actor } = ctx;
  if (relay === null || (actor.kind !== "anonymous" && !allows(actor, "run:read", relay.organizationId)))
    throw notFound("The relay");
  assertAllowed(actor, "node:grant", relay.organizationId);
  return relay;
}

type Lost = { id: string; runId: string; reason: string; silent: boolean };

/**
 * Takes relays offline that fell silent, lost their grant, or whose run is over, and looks after every tree.
 * @returns how many went offline
 */
export async function sweepRelays(ctx: Ctx): Promise<number> {
  const lost = await ctx.prisma.$queryRaw<Lost[]>`
    SELECT l.id, l."runId",
      CASE WHEN NOT r.state IN ('RUNNING', 'PAUSED') THEN 'The run is over.'
        WHEN g."nodeId" IS NULL OR t.state IN ('QUARANTINED', 'EJECTED') THEN 'Its node may not relay for this run any more.'
        ELSE 'It was silent for ' || ${silentAfterSeconds}::int || ' seconds.' END AS reason,
      (r.state IN ('RUNNING', 'PAUSED') AND g."nodeId" IS NOT NULL AND t.state IS DISTINCT FROM 'QUARANTINED' AND t.state IS DISTINCT FROM 'EJECTED') AS silent
    FROM "Relay" l JOIN "Run" r ON r.id = l."runId"
      LEFT JOIN "RoleGrant" g ON g."runId" = l."runId" AND g."nodeId" = l."nodeId" AND g.role = 'RELAY' AND g."revokedAt" IS NULL
      LEFT JOIN "NodeTrust" t ON t."runId" = l."runId" AND t."nodeId" = l."nodeId"
    WHERE l.state IN ('PROBING', 'LIVE') AND (NOT r.state IN ('RUNNING', 'PAUSED')
      OR (l."nodeId" IS NOT NULL AND (g."nodeId" IS NULL OR t.state IN ('QUARANTINED', 'EJECTED')
        OR l."lastSeenAt" IS NULL OR l."lastSeenAt" < now() - make_interval(secs => ${silentAfterSeconds}::int))))`;
  let gone = 0;
  // One at a time: few are lost at once, and one that speaks meanwhile stays.
  for (const { id, runId, reason, silent } of lost) {
    const since = new Date(Date.now() - silentAfterSeconds * 1000);
    const still = silent ? { OR: [{ lastSeenAt: null }, { lastSeenAt: { lt: since } }] } : {};
    gone += await takeOffline(ctx, runId, { id, ...still }, reason);
  }
  const runs = await ctx.prisma.relay.findMany({
    where: { OR: [{ state: { in: ["PROBING", "LIVE"] } }, { placed: true }] },
    select: { runId: true },
    distinct: ["runId"],
  });
  for (const { runId } of runs) {
    const moved = await ctx.prisma.$transaction((tx) => mendTree(tx, ctx, runId));
    if (moved) ctx.bus.publish(`relays:${runId}`);
  }
  return gone;
}

/** Looks for relays that fell silent; silence of 30 seconds is noticed within five more. */
export const relaySweepLoop: Loop = { name: "relay sweep", everyMs: 5_000, leader: true, run: sweepRelays };
