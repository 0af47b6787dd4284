import { newId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { readRelayUrl } from "./relay-url.ts";
import { relayFor } from "./relays.ts";
import { lockRelays, mendTree } from "./tree.ts";

/** Mirrors of a run: each is asked for a shard every few minutes. */
const mostMirrors = 32;

/**
 * Names a static server or CDN that holds a run's blobs. It is probed before anybody is sent to it. Naming it again changes its uplink.
 * @param input.uplinkMbps default 1,000
 * @returns the relay's id
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `UNAUTHENTICATED`, `INPUT_INVALID`, `TLS_REQUIRED`, `STATE_CONFLICT`
 */
export async function addMirror(
  ctx: Ctx,
  { runId, url: text, uplinkMbps = 1_000 }: { runId: string; url: string; uplinkMbps?: number },
): Promise<string> {
  const run = await ctx.prisma.run.findUnique({ where: { id: runId }, select: { organizationId: true } });
  const { actor } = ctx;
  if (run === null || (actor.kind !== "anonymous" && !allows(actor, "run:read", run.organizationId)))
    throw notFound("The run");
  const { organizationId } = run;
  assertAllowed(actor, "node:grant", organizationId);
  const url = readRelayUrl(ctx, text, { template: true });
  if (!(uplinkMbps > 0 && uplinkMbps <= 1e6))
    throw new CodedError("INPUT_INVALID", "`uplinkMbps` is above 0 and at most 1,000,000.");
  const id = await ctx.prisma.$transaction(async (tx) => {
    await lockRelays(tx, runId);
    const mirrors = await tx.relay.findMany({
      where: { runId, nodeId: null },
      select: { id: true, url: true },
    });
    const known = mirrors.find((mirror) => mirror.url === url);
    if (known !== undefined) {
      await tx.relay.update({ where: { id: known.id }, data: { uplinkMbps } });
      return known.id;
    }
    if (mirrors.length >= mostMirrors)
      throw new CodedError("STATE_CONFLICT", `A run has at most ${mostMirrors} mirrors. Remove one first.`);
    const made = await tx.relay.create({
      data: { id: newId("relay"), organizationId, runId, url, uplinkMbps, nextProbeAt: new Date() },
    });
    return made.id;
  });
  ctx.bus.publish("probes");
  return id;
}

/**
 * Forgets a mirror; one that is not there is forgotten already.
 * @throws CodedError `FORBIDDEN`, `UNAUTHENTICATED`, `NOT_FOUND` for what others have, `STATE_CONFLICT` for a node's relay
 */
export async function removeMirror(ctx: Ctx, id: string): Promise<void> {
  if ((await ctx.prisma.relay.count({ where: { id } })) === 0) return;
  const relay = await relayFor(ctx, id);
  if (relay.nodeId !== null)
    throw new CodedError("STATE_CONFLICT", "This relay is a node's: revoke its RELAY grant instead.");
  await ctx.prisma.$transaction(async (tx) => {
    await lockRelays(tx, relay.runId);
    await tx.relay.deleteMany({ where: { id } });
    await mendTree(tx, ctx, relay.runId);
  });
  ctx.bus.publish(`relays:${relay.runId}`);
}
