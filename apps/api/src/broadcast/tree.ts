import type { Relay } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import { assignParents } from "@muster/shardcast";
import type { Config } from "../config.ts";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";

/** Seconds without a word after which a relay is OFFLINE. */
export const silentAfterSeconds = 30;

/**
 * Gives every relay of a run its parent, and takes the place of those that have none any more. LIVE relays feed others; those that are
 * not proven are leaves and get what is left over; those that failed last.
 * Whoever changes a relay's state calls it in the same transaction: no commit shows a parent that is not LIVE.
 * @returns whether anybody's place changed: then `relays:<run>` is nudged after the commit.
 */
export async function mendTree(
  tx: Tx,
  { config }: { config: Pick<Config, "relayFanOut"> },
  runId: string,
): Promise<boolean> {
  await lockRelays(tx, runId);
  const run = await tx.run.findUniqueOrThrow({ where: { id: runId }, select: { state: true } });
  const relays = await tx.relay.findMany({ where: { runId }, orderBy: { id: "asc" } });
  const going = run.state === "RUNNING" || run.state === "PAUSED";
  const wanted = going ? relays.filter(wantsPlace) : [];
  const parents = assignParents(
    wanted.map((relay) => ({
      id: relay.id,
      region: relay.region,
      ...placeOf(relay),
    })),
    config.relayFanOut,
  );
  const moved = relays.filter(
    ({ id, placed, parentId }) =>
      placed !== parents.has(id) || (placed && parentId !== (parents.get(id) ?? null)),
  );
  if (moved.length === 0) return false;
  const rows = moved.map(({ id }) => ({ id, placed: parents.has(id), parentId: parents.get(id) ?? null }));
  await tx.$executeRaw`
    UPDATE "Relay" r SET placed = m.placed, "parentId" = m."parentId", "updatedAt" = now()
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS m(id uuid, placed boolean, "parentId" uuid) WHERE r.id = m.id`;
  return true;
}

/** Whoever changes states or places of a run's relays takes this lock first, before any row. */
export async function lockRelays(tx: Tx, runId: string): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('relays:' || ${runId}, 0))`;
}

function wantsPlace(relay: Relay): boolean {
  const { state, nodeId, lastSeenAt, probeFailures } = relay;
  const speaks =
    nodeId !== null && lastSeenAt !== null && lastSeenAt.getTime() > Date.now() - silentAfterSeconds * 1000;
  switch (state) {
    case "LIVE":
      return true;
    case "PROBING":
      return speaks;
    // Withdrawn or silent, it has no failures; with failures it is there, and must get what it can be probed for.
    case "OFFLINE":
      return speaks && probeFailures > 0;
    case "DROPPED":
      return false;
  }
}

function placeOf(relay: Relay) {
  const parent = relay.placed ? relay.parentId : undefined;
  if (relay.nodeId === null) return { rank: "root" as const, uplinkMbps: relay.uplinkMbps, parent };
  switch (relay.state) {
    case "LIVE":
      return { rank: "inner" as const, uplinkMbps: relay.uplinkMbps, parent };
    case "PROBING":
      return { rank: "leaf" as const, uplinkMbps: relay.uplinkMbps, parent };
    // It asks for a place anew each time, after everyone else: who keeps failing must not keep out who has not been tried.
    case "OFFLINE":
    case "DROPPED":
      return { rank: "leaf" as const, uplinkMbps: Number.MIN_VALUE, parent: undefined };
  }
}

/** Records that relays changed their state. Under {@link lockRelays}. */
export async function tellRelays(
  tx: Tx,
  type: "relay.live" | "relay.offline" | "relay.dropped",
  relays: readonly Pick<Relay, "id" | "runId" | "organizationId" | "nodeId" | "reason">[],
): Promise<void> {
  await appendEvents(
    tx,
    relays.map(({ id, runId, organizationId, nodeId, reason }) => ({
      stream: runStream(runId),
      organizationId,
      type,
      subject: toTypeId("relay", id),
      data: { node: nodeId === null ? null : toTypeId("node", nodeId), reason },
    })),
  );
}

/** What a run's relays are in the tree, and what they were paid: by relay. */
type RelayFigures = {
  readonly depth: ReadonlyMap<string, number>;
  readonly children: ReadonlyMap<string, number>;
  readonly paid: ReadonlyMap<string, bigint>;
};

// A page of relays asks for each of them: the tree is read once a request.
const figures = new WeakMap<Ctx, Map<string, Promise<RelayFigures>>>();

export function relayFigures(ctx: Ctx, runId: string): Promise<RelayFigures> {
  const known = figures.get(ctx) ?? new Map<string, Promise<RelayFigures>>();
  figures.set(ctx, known);
  const reading = known.get(runId) ?? readFigures(ctx, runId);
  known.set(runId, reading);
  return reading;
}

async function readFigures({ prisma }: Ctx, runId: string): Promise<RelayFigures> {
  const relays = await prisma.relay.findMany({
    where: { runId, placed: true },
    select: { id: true, parentId: true },
  });
  const sums = await prisma.receiptSource.groupBy({
    by: ["relayId"],
    where: { runId, paid: { not: null } },
    _sum: { paid: true },
  });
  const children = new Map<string, number>();
  for (const { parentId } of relays)
    if (parentId !== null) children.set(parentId, (children.get(parentId) ?? 0) + 1);
  const parentOf = new Map(relays.map(({ id, parentId }) => [id, parentId]));
  const depth = new Map<string, number>();
  for (const { id } of relays) {
    let level = 0;
    // Never longer than the tree is large: what is read here may be caught between two moves.
    for (let at: string | null = id; at !== null && level < relays.length; level++)
      at = parentOf.get(at) ?? null;
    depth.set(id, level);
  }
  return { depth, children, paid: new Map(sums.map(({ relayId, _sum }) => [relayId, _sum.paid ?? 0n])) };
}
