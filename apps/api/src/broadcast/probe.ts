import { randomBytes, randomInt } from "node:crypto";
import type { Relay } from "@muster/db";
import { newId } from "@muster/protocol";
import { type Fetched, fetchShard } from "@muster/shardcast";
import type { Ctx } from "../context.ts";
import { guardedAgents, refusalText, refusedHost } from "../http/outbound.ts";
import type { Loop } from "../loops.ts";
import { manifestOf } from "./manifests.ts";
import { relaysReach } from "./relay-url.ts";
import { failuresToOffline, probeGapSeconds } from "./relays.ts";
import { issueTicket } from "./tickets.ts";
import { lockRelays, mendTree, silentAfterSeconds, tellRelays } from "./tree.ts";

// What the coordinator sees with its own eyes is all that moves a relay. A probe is a worker's request to the byte: the same client, headers
// and ticket, in the name of a node of the run. What it cannot hide is the address it comes from.

/** Probes under way at once in this process. */
const atOnce = 8;
/** Seconds between two probes of a relay that is well, beside a second for each MiB that one takes. */
const restSeconds = 60;
/** A relay may lag behind a new version for this many seconds, and beside it for four times what its uplink needs to send it. */
const lagSeconds = 60;
const lagTransfers = 4;
/** One probe in so many of a LIVE relay is followed by one with another relay's ticket. */
const foreignOnceIn = 8;
/** Minutes for which a complaint decides what is looked at. */
const complaintMinutes = 10;
const stallMs = 10_000;
/** A probe may take this long, and beside it what a line of 2 Mbit/s needs. */
const patienceMs = 20_000;
const leastBytesPerMs = 256;

type DueRelay = Pick<
  Relay,
  | "id"
  | "runId"
  | "organizationId"
  | "nodeId"
  | "url"
  | "state"
  | "newestVersion"
  | "probeFailures"
  | "uplinkMbps"
>;
type Target = {
  version: number;
  sha256: string;
  size: number;
  /** Whether the relay may not have it yet. */
  fresh: boolean;
};

/** What a probe found. */
type Observation =
  | { readonly kind: "well"; readonly bytes: number }
  | { readonly kind: "corrupt"; readonly note: string }
  | { readonly kind: "failed"; readonly note: string }
  /** It said that it is too busy, which is no failure: later. */
  | { readonly kind: "busy"; readonly waitMs: number }
  /** There is nothing to ask it for yet. */
  | { readonly kind: "nothing" }
  /** Something went wrong on this side. */
  | { readonly kind: "unsure" }
  /** This process stops. */
  | { readonly kind: "stopped" };

/** Looks at every relay that is due, a few at a time, until none is. @returns how many probes were made */
export async function probeRelays(
  ctx: Ctx,
  signal: AbortSignal = new AbortController().signal,
): Promise<number> {
  const under = new Set<Promise<void>>();
  let made = 0;
  while (!signal.aborted) {
    const due = under.size < atOnce ? await takeDue(ctx, atOnce - under.size) : [];
    for (const relay of due) {
      const probing = probeOne(ctx, relay, signal)
        .then((done) => {
          made += done ? 1 : 0;
        })
        .catch((error: unknown) =>
          ctx.log.error({ err: error, relay: relay.id }, "what a probe showed could not be noted"),
        )
        .finally(() => under.delete(probing));
      under.add(probing);
    }
    if (under.size === 0) return made;
    // Others may fall due while a slow one is being looked at.
    let timer: NodeJS.Timeout | undefined;
    const pause = new Promise<void>((end) => {
      timer = setTimeout(end, 1_000);
    });
    await Promise.race([...under, pause]);
    clearTimeout(timer);
  }
  await Promise.all(under);
  return made;
}

/** Takes relays that are due; another process takes others. The time set here is when one is looked at again if this process ends under way. */
async function takeDue(ctx: Ctx, most: number): Promise<DueRelay[]> {
  const { rows } = await ctx.db.pool.query<DueRelay>({
    name: "probes-due",
    text: `UPDATE "Relay" l SET "nextProbeAt" = now() + interval '10 minutes', "probedAt" = now(), "updatedAt" = l."updatedAt" WHERE l.id IN (
        SELECT d.id FROM "Relay" d JOIN "Run" r ON r.id = d."runId"
        WHERE d."nextProbeAt" <= now() AND d.state <> 'DROPPED' AND r.state IN ('RUNNING', 'PAUSED')
          AND (d."nodeId" IS NULL OR d."lastSeenAt" > now() - interval '${silentAfterSeconds} seconds')
        ORDER BY d."nextProbeAt" LIMIT $1 FOR UPDATE OF d SKIP LOCKED)
      RETURNING l.id, l."runId", l."organizationId", l."nodeId", l.url, l.state, l."newestVersion", l."probeFailures", l."uplinkMbps"`,
    values: [most],
  });
  return rows;
}

async function probeOne(ctx: Ctx, relay: DueRelay, signal: AbortSignal): Promise<boolean> {
  const seen = await observe(ctx, relay, signal).catch((error: unknown): Observation => {
    // What goes wrong here says nothing of the relay.
    ctx.log.error({ err: error, relay: relay.id }, "a relay could not be looked at; it is tried again");
    return { kind: "unsure" };
  });
  ctx.metrics.relayProbes.inc({ result: seen.kind });
  await settle(ctx, relay, seen);
  return seen.kind === "well" || seen.kind === "corrupt" || seen.kind === "failed" || seen.kind === "busy";
}

async function observe(ctx: Ctx, relay: DueRelay, signal: AbortSignal): Promise<Observation> {
  const target = await chooseTarget(ctx, relay);
  if (target === undefined) return { kind: "nothing" };
  const asked = await ask(ctx, relay, relay.id, target, signal);
  const seen = judge(asked, target, signal);
  // A node's relay serves those who show a ticket for this very relay. One that serves with another's is somebody else's server, a mirror
  // or another node's, and its bandwidth is not this node's to be paid for.
  const proven = relay.state === "LIVE" && relay.probeFailures === 0 && randomInt(foreignOnceIn) !== 0;
  if (seen.kind !== "well" || relay.nodeId === null || proven) return seen;
  const foreign = await ask(ctx, relay, newId("relay"), target, signal);
  if (foreign.kind !== "whole") return foreign.kind === "aborted" ? judge(foreign, target, signal) : seen;
  return {
    kind: "failed",
    note: "It serves whoever asks, with another relay's ticket too: that is a mirror, or not this node's own server.",
  };
}

function judge(asked: Fetched, { version, size, fresh }: Target, signal: AbortSignal): Observation {
  switch (asked.kind) {
    case "whole":
      return { kind: "well", bytes: asked.bytes.length };
    case "busy":
      return { kind: "busy", waitMs: asked.waitMs };
    case "absent":
      return fresh
        ? { kind: "busy", waitMs: 0 }
        : { kind: "failed", note: `It does not have version ${version}.` };
    case "aborted":
      return signal.aborted
        ? { kind: "stopped" }
        : { kind: "failed", note: `It did not send ${size} bytes in time.` };
    case "fault":
      return asked.fault === "CORRUPT"
        ? { kind: "corrupt", note: `Asked for a shard of version ${version}: ${asked.detail}.` }
        : { kind: "failed", note: `${asked.fault}: ${asked.detail}.`.slice(0, 400) };
  }
}

/** A shard at random of the newest version, or one that somebody complained of. */
async function chooseTarget(ctx: Ctx, relay: DueRelay): Promise<Target | undefined> {
  const reports = await ctx.prisma.relayReport.findMany({
    where: { relayId: relay.id, at: { gt: new Date(Date.now() - complaintMinutes * 60_000) } },
    select: { sha256: true, manifestHash: true },
    orderBy: { at: "desc" },
    take: 64,
  });
  // One at random: who complains of a sound shard again and again hides nothing. And not always, so that complaining steers nothing either.
  const complaint = randomInt(4) === 0 ? undefined : reports[randomInt(Math.max(1, reports.length))];
  const checkpoint =
    complaint === undefined
      ? null
      : await ctx.prisma.checkpoint.findFirst({
          where: { runId: relay.runId, state: "AVAILABLE", manifestHash: complaint.manifestHash },
          select: { version: true, availableAt: true, size: true },
        });
  if (complaint === undefined || checkpoint === null) return await newestTarget(ctx, relay);
  const { sha256, manifestHash } = complaint;
  const { shards } = await manifestOf(ctx, manifestHash);
  const size = sha256 === manifestHash ? await ctx.blobs.size(sha256) : shards.get(sha256);
  // What we do not know ourselves proves nothing against anybody.
  return size === undefined
    ? await newestTarget(ctx, relay)
    : { version: checkpoint.version, sha256, size, fresh: isFresh(checkpoint, relay) };
}

async function newestTarget(ctx: Ctx, relay: DueRelay): Promise<Target | undefined> {
  const newest = await ctx.prisma.checkpoint.findFirst({
    where: { runId: relay.runId, state: "AVAILABLE" },
    orderBy: { version: "desc" },
    select: { version: true, manifestHash: true, availableAt: true, size: true },
  });
  if (newest === null) return undefined;
  // A new relay says when it has something to show; a proven one is taken at its word no more.
  if (relay.nodeId !== null && relay.newestVersion === null && relay.state === "PROBING") return undefined;
  const fresh = isFresh(newest, relay);
  const behind =
    fresh && relay.newestVersion !== null && relay.newestVersion < newest.version
      ? await ctx.prisma.checkpoint.findFirst({
          where: { runId: relay.runId, state: "AVAILABLE", version: relay.newestVersion },
          select: { version: true, manifestHash: true },
        })
      : null;
  const { version, manifestHash } = behind ?? newest;
  const { shards } = await manifestOf(ctx, manifestHash);
  const all = [...shards];
  const drawn = all[randomInt(all.length)];
  return drawn && { version, sha256: drawn[0], size: drawn[1], fresh: fresh && behind === null };
}

function isFresh(
  { availableAt, size }: { availableAt: Date | null; size: bigint },
  { uplinkMbps }: DueRelay,
): boolean {
  const seconds = lagSeconds + (lagTransfers * 8 * Number(size)) / (uplinkMbps * 1e6);
  return availableAt !== null && availableAt.getTime() > Date.now() - seconds * 1000;
}

/** Asks a relay for one blob as a worker does, with a ticket for `ticketFor`. */
async function ask(
  ctx: Ctx,
  relay: DueRelay,
  ticketFor: string,
  { sha256, size }: Target,
  signal: AbortSignal,
): Promise<Fetched> {
  const url = new URL(relay.url.replaceAll(/[{}]/g, "x"));
  const may = relaysReach(ctx);
  const refusal = refusedHost(may, url);
  if (refusal !== undefined) return unreachable(refusalText(refusal, url));
  const agents = guardedAgents(may, url);
  const nodeId = relay.nodeId === null ? undefined : await someNode(ctx, relay);
  const end = AbortSignal.any([signal, AbortSignal.timeout(patienceMs + Math.ceil(size / leastBytesPerMs))]);
  try {
    return await fetchShard({
      source: {
        id: relay.id,
        url: relay.url,
        ...(nodeId === undefined
          ? {}
          : { token: issueTicket(ctx, { runId: relay.runId, relayId: ticketFor, nodeId }).ticket }),
      },
      sha256,
      size,
      maxBytes: size,
      stallMs,
      signal: end,
      agents,
    });
  } finally {
    agents.http.destroy();
    agents.https.destroy();
  }
}

const unreachable = (detail: string): Fetched => ({
  kind: "fault",
  fault: "UNREACHABLE",
  detail,
  unauthorized: false,
});

/** In whose name a probe asks: any node of the run but the relay's own, whose requests this one is to look like. */
async function someNode(ctx: Ctx, relay: DueRelay): Promise<string> {
  const [row] = await ctx.prisma.$queryRaw<{ nodeId: string }[]>`
    SELECT t."nodeId" FROM "NodeTrust" t JOIN "Node" n ON n.id = t."nodeId"
    WHERE t."runId" = ${relay.runId}::uuid AND t."nodeId" IS DISTINCT FROM ${relay.nodeId}::uuid
    ORDER BY n."lastSeenAt" < now() - interval '5 minutes', random() LIMIT 1`;
  return row?.nodeId ?? randomBytes(16).toString("hex");
}

/** Applies what was seen, unless the relay moved, was reinstated or withdrew meanwhile: then it is looked at again. */
async function settle(ctx: Ctx, relay: DueRelay, seen: Observation): Promise<void> {
  const { runId } = relay;
  const changed = await ctx.prisma.$transaction(async (tx) => {
    await lockRelays(tx, runId);
    const now = await tx.relay.findUnique({ where: { id: relay.id } });
    if (now === null || now.state === "DROPPED") return false;
    if (now.url !== relay.url || now.state !== relay.state) {
      await tx.relay.update({ where: { id: relay.id }, data: { nextProbeAt: inSeconds(probeGapSeconds) } });
      return false;
    }
    const next = nextOf(now, seen);
    const relays = await tx.relay.updateManyAndReturn({ where: { id: relay.id }, data: next });
    if (next.state === undefined || next.state === now.state) return false;
    if (next.state === "LIVE") await tellRelays(tx, "relay.live", relays);
    else if (next.state === "DROPPED") await tellRelays(tx, "relay.dropped", relays);
    else if (now.state === "LIVE") await tellRelays(tx, "relay.offline", relays);
    await mendTree(tx, ctx, runId);
    return true;
  });
  if (!changed) return;
  ctx.bus.publish("events");
  ctx.bus.publish(`relays:${runId}`);
}

type Next = {
  state?: "LIVE" | "OFFLINE" | "DROPPED";
  probeFailures?: number;
  reason?: string | null;
  nextProbeAt: Date | null;
  placed?: boolean;
  parentId?: string | null;
};

function nextOf(relay: Relay, seen: Observation): Next {
  switch (seen.kind) {
    case "well":
      return {
        state: "LIVE",
        probeFailures: 0,
        reason: null,
        nextProbeAt: inSeconds((restSeconds + seen.bytes / 2 ** 20) * (0.75 + Math.random() / 2)),
      };
    case "corrupt":
      return { state: "DROPPED", reason: seen.note, nextProbeAt: null, placed: false, parentId: null };
    case "failed": {
      const probeFailures = relay.probeFailures + 1;
      const offline = probeFailures >= failuresToOffline;
      return {
        probeFailures,
        reason: seen.note,
        ...(offline ? { state: "OFFLINE" } : {}),
        // After it went offline twice as long each time, up to half an hour.
        nextProbeAt: inSeconds(
          offline
            ? Math.min(1_800, 30 * 2 ** Math.min(10, probeFailures - failuresToOffline))
            : probeGapSeconds,
        ),
      };
    }
    case "busy":
      return { nextProbeAt: inSeconds(probeGapSeconds + seen.waitMs / 1000) };
    case "nothing":
      // A mirror says nothing of itself: it is asked again.
      return { nextProbeAt: relay.nodeId === null ? inSeconds(probeGapSeconds) : null };
    case "unsure":
      return { nextProbeAt: inSeconds(restSeconds) };
    case "stopped":
      return { nextProbeAt: new Date() };
  }
}

const inSeconds = (seconds: number): Date => new Date(Date.now() + seconds * 1000);

/** Looks at relays that are due, and at once when a new one speaks up or somebody complains. */
export const relayProbeLoop: Loop = {
  name: "relay probes",
  everyMs: 1_000,
  atLeastMs: 200,
  topics: ["probes"],
  leader: true,
  run: (ctx, { signal }) => probeRelays(ctx, signal),
};
