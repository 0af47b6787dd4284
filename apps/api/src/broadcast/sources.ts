import type { Relay } from "@muster/db";
import type { Ctx } from "../context.ts";
import { nodeOf } from "../tasks/lease.ts";
import { checkpointNamed } from "./participation.ts";
import { issueTicket } from "./tickets.ts";

/** Where a node may fetch a checkpoint from. */
export type CheckpointSource = {
  readonly relayId: string;
  readonly url: string;
  /** Null for a mirror, which asks for none. */
  readonly ticket: string | null;
  readonly expiresAt: Date | null;
};

/** More would only make a worker measure relays that it hardly uses. */
const mostSources = 6;

/** How much less likely a relay is that does not say it holds the version, and one of another region. */
const lacksIt = 1 / 4;
const farAway = 1 / 4;

/**
 * Relays that a node may fetch a checkpoint from, best first. They are drawn without replacement, each in proportion to what its uplink has
 * left for one client more: so many nodes that ask at once do not all go to the same one, and who is loaded gets fewer. What a relay says
 * of its uplink and its clients gets it asked more or less often, and nothing else: each worker goes on by what it measures itself.
 * @throws CodedError `UNAUTHENTICATED`, `INPUT_INVALID`, `BLOB_NOT_FOUND`
 */
export async function checkpointSources(ctx: Ctx, manifestHash: string): Promise<CheckpointSource[]> {
  const nodeId = nodeOf(ctx);
  const { runId, version } = await checkpointNamed(ctx, manifestHash);
  const relays = await ctx.prisma.relay.findMany({
    where: { runId, OR: [{ state: "LIVE" }, { nodeId }] },
    select: {
      id: true,
      url: true,
      nodeId: true,
      state: true,
      parentId: true,
      region: true,
      uplinkMbps: true,
      clients: true,
      newestVersion: true,
    },
  });
  const own = relays.find((relay) => relay.nodeId === nodeId);
  const below = own === undefined ? new Set<string>() : withDescendants(own.id, relays);
  const children = new Map<string, number>();
  for (const { parentId } of relays)
    if (parentId !== null) children.set(parentId, (children.get(parentId) ?? 0) + 1);
  const weightOf = (relay: (typeof relays)[number]): number => {
    const busyWith = relay.clients + (children.get(relay.id) ?? 0);
    const holds = relay.nodeId === null || (relay.newestVersion ?? -1) >= version;
    const near = own?.region == null || relay.region === own.region;
    return (relay.uplinkMbps / (busyWith + 1)) * (holds ? 1 : lacksIt) * (near ? 1 : farAway);
  };
  return (
    relays
      .filter(({ id, state }) => state === "LIVE" && !below.has(id))
      // Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): the largest u^(1/w) are such a draw; here in logarithms.
      .map((relay) => ({ relay, key: Math.log(1 - Math.random()) / weightOf(relay) }))
      .sort((a, b) => b.key - a.key)
      .slice(0, mostSources)
      .map(({ relay: { id, url, nodeId: owner } }) => {
        const issued = owner === null ? undefined : issueTicket(ctx, { runId, relayId: id, nodeId });
        return { relayId: id, url, ticket: issued?.ticket ?? null, expiresAt: issued?.expiresAt ?? null };
      })
  );
}

/** A relay that pulled from what pulls from it would wait for itself. */
function withDescendants(id: string, relays: readonly Pick<Relay, "id" | "parentId">[]): Set<string> {
  const found = new Set([id]);
  for (let before = 0; before < found.size; ) {
    before = found.size;
    for (const relay of relays) if (relay.parentId !== null && found.has(relay.parentId)) found.add(relay.id);
  }
  return found;
}
