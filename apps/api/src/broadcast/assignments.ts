import type { Ctx } from "../context.ts";
import { nudges, type Topic, type TopicPattern } from "../events/bus.ts";
import { nodeOf } from "../tasks/lease.ts";
import { coordinatorPublicKey } from "../verification/coordinator-key.ts";
import { issueTicket } from "./tickets.ts";

/** A relay's place in one run. */
export type RelayAssignment = {
  readonly relayId: string;
  readonly runId: string;
  /** Null for the coordinator itself. */
  readonly parentId: string | null;
  readonly parentUrl: string;
  /** For the parent; null where it needs none. */
  readonly ticket: string | null;
  readonly ticketExpiresAt: Date | null;
  /** Ed25519 public key that signs tickets, hexadecimal. */
  readonly ticketKey: string;
  /** Relays that may pull from it. */
  readonly fanOut: number;
  /** What to hold, newest first. */
  readonly versions: readonly { readonly version: number; readonly manifest: string }[];
};

/** Versions that a relay is told to hold; how many of them it keeps is for its disk to say. */
const versionsHeld = 8;

type Row = {
  id: string;
  runId: string;
  parentId: string | null;
  parentUrl: string | null;
  parentIsMirror: boolean | null;
  versions: { version: number; manifest: string }[] | null;
};

/** The places that a node's relay has now, one for each run. */
export async function assignmentsOf(ctx: Ctx, nodeId: string): Promise<RelayAssignment[]> {
  const { rows } = await ctx.db.pool.query<Row>({
    name: "relay-assignments",
    text: `
      SELECT l.id, l."runId", l."parentId", p.url AS "parentUrl", p."nodeId" IS NULL AS "parentIsMirror",
        (SELECT jsonb_agg(jsonb_build_object('version', c.version, 'manifest', c."manifestHash") ORDER BY c.version DESC)
         FROM (SELECT version, "manifestHash" FROM "Checkpoint" k WHERE k."runId" = l."runId" AND k.state = 'AVAILABLE'
           ORDER BY version DESC LIMIT ${versionsHeld}) c) AS versions
      FROM "Relay" l LEFT JOIN "Relay" p ON p.id = l."parentId"
      WHERE l."nodeId" = $1 AND l.placed ORDER BY l.id`,
    values: [nodeId],
  });
  return rows.map((row) => {
    const { parentId, runId } = row;
    const issued =
      parentId === null || row.parentIsMirror
        ? undefined
        : issueTicket(ctx, { runId, relayId: parentId, nodeId });
    return {
      relayId: row.id,
      runId,
      parentId,
      parentUrl: row.parentUrl ?? ctx.publicUrl,
      ticket: issued?.ticket ?? null,
      ticketExpiresAt: issued?.expiresAt ?? null,
      ticketKey: coordinatorPublicKey(ctx),
      fanOut: ctx.config.relayFanOut,
      versions: row.versions ?? [],
    };
  });
}

// A tree that is mended nudges once for each relay that speaks up.
const atLeastMs = 100;
const atMostMs = 15_000;

/**
 * The node's places: each at once, then each that changed. A nudge only says "look", and every 15 seconds it is looked unasked, so who
 * misses one is late and never wrong. Listening starts when this returns.
 */
export function relayAssignments(ctx: Ctx): AsyncIterableIterator<RelayAssignment> {
  const nodeId = nodeOf(ctx);
  const heard = nudges(ctx.bus, ["relays:*"], { everyMs: atMostMs });
  const told = new Map<string, string>();
  let waiting: RelayAssignment[] = [];
  let last: number | undefined;

  const concerns = (topics: ReadonlySet<Topic | TopicPattern>): boolean =>
    topics.size === 0 ||
    told.size === 0 ||
    topics.has("relays:*") ||
    [...told.keys()].some((runId) => topics.has(`relays:${runId}`));
  const look = async () => {
    last = Date.now();
    const places = await assignmentsOf(ctx, nodeId);
    const now = new Set(places.map(({ runId }) => runId));
    for (const runId of told.keys()) if (!now.has(runId)) told.delete(runId);
    waiting = places.filter(({ runId, ...place }) => {
      const seen = JSON.stringify(place);
      const news = told.get(runId) !== seen;
      told.set(runId, seen);
      return news;
    });
  };

  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      if (last === undefined) await look();
      while (waiting.length === 0) {
        const { value, done } = await heard.next();
        if (done) return { value: undefined, done: true };
        if (!concerns(value)) continue;
        const pause = atLeastMs - (Date.now() - (last ?? 0));
        if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
        await look();
      }
      const [value, ...rest] = waiting;
      waiting = rest;
      if (value === undefined) throw new Error("there is no assignment to tell");
      return { value, done: false };
    },
    async return() {
      await heard.return?.();
      return { value: undefined, done: true };
    },
  };
}
