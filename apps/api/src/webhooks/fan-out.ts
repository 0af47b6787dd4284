import { newId } from "@muster/protocol";
import type pg from "pg";
import type { Ctx } from "../context.ts";
import { streamId } from "../events/follow.ts";
import type { Loop } from "../loops.ts";
import { typesOf } from "./subscriptions.ts";

// Invariant: every event up to an endpoint's cursor in a stream has its delivery, or needed none. A cursor moves in the transaction that
// inserts the deliveries, over numbers that are dense and given to committed events only; so nothing is left out, whoever dies when.
// What does not fit into an endpoint's queue stays in the event log: its cursor waits, and nothing grows without bound.

/** Deliveries that may wait for one endpoint. */
const queueLimit = 500;
/** Events read in one transaction. */
const stride = 5_000;

type Behind = { endpointId: string; stream: string };

/**
 * Makes deliveries of the events that endpoints have not read yet.
 * @param only look at these streams; default: at all
 * @returns how many were made
 */
export async function fanOut(
  ctx: Ctx,
  only?: readonly string[],
  signal: AbortSignal = new AbortController().signal,
): Promise<number> {
  let made = 0;
  for (const behind of await findBehind(ctx, only)) {
    for (;;) {
      if (signal.aborted) return made;
      const pass = await readOn(ctx, behind);
      made += pass.made;
      if (pass.over) break;
    }
  }
  if (made > 0) ctx.bus.publish("webhooks");
  return made;
}

async function findBehind({ db }: Ctx, only: readonly string[] | undefined): Promise<Behind[]> {
  const { rows } = await db.pool.query<Behind>({
    name: "webhooks-behind",
    text: `
      SELECT e.id AS "endpointId", s.stream
      FROM "WebhookEndpoint" e
      CROSS JOIN LATERAL (
        SELECT 'organization:' || e."organizationId" AS stream WHERE e."runId" IS NULL
        UNION ALL SELECT 'run:' || r.id FROM "Run" r
          WHERE r."organizationId" = e."organizationId" AND (e."runId" IS NULL OR r.id = e."runId")
      ) o
      JOIN "EventStream" s ON s.stream = o.stream
      LEFT JOIN "WebhookCursor" c ON c."endpointId" = e.id AND c.stream = s.stream
      WHERE e.state = 'ACTIVE' AND s.head > COALESCE(c.seq, 0) AND ($1::text[] IS NULL OR s.stream = ANY($1))`,
    values: [only ?? null],
  });
  return rows;
}

type Endpoint = { organizationId: string; eventTypes: string[]; waiting: number };
type Row = { seq: string; type: string; subject: string; data: unknown; at: Date };

/** One step of one cursor. */
async function readOn(ctx: Ctx, { endpointId, stream }: Behind): Promise<{ made: number; over: boolean }> {
  const client = await ctx.db.pool.connect();
  try {
    await client.query("BEGIN");
    const pass = await readUnderLock(client, endpointId, stream);
    await client.query("COMMIT");
    return pass;
  } catch (error) {
    await client.query("ROLLBACK").catch(() => {});
    throw error;
  } finally {
    client.release();
  }
}

async function readUnderLock(
  client: pg.PoolClient,
  endpointId: string,
  stream: string,
): Promise<{ made: number; over: boolean }> {
  // Two processes at once: the second finds the cursor where the first one left it.
  const { rows: endpoints } = await client.query<Endpoint>({
    name: "webhook-endpoint",
    text: `SELECT "organizationId", "eventTypes",
        (SELECT count(*)::int FROM "WebhookDelivery" d WHERE d."endpointId" = e.id AND d.state = 'PENDING') AS waiting
      FROM "WebhookEndpoint" e WHERE e.id = $1 AND e.state = 'ACTIVE' FOR NO KEY UPDATE`,
    values: [endpointId],
  });
  const endpoint = endpoints[0];
  if (endpoint === undefined || endpoint.waiting >= queueLimit) return { made: 0, over: true };
  const { rows: bounds } = await client.query<{ head: string; seq: string; floor: string | null }>({
    name: "webhook-bounds",
    text: `SELECT s.head, COALESCE((SELECT c.seq FROM "WebhookCursor" c WHERE c."endpointId" = $1 AND c.stream = $2), 0) AS seq,
        (SELECT min(e.seq) FROM "Event" e WHERE e.stream = $2) AS floor
      FROM "EventStream" s WHERE s.stream = $2`,
    values: [endpointId, stream],
  });
  const bound = bounds[0];
  if (bound === undefined) return { made: 0, over: true };
  const head = BigInt(bound.head);
  const before = BigInt(bound.seq);
  // What retention deleted is told to nobody any more, but it is counted.
  const kept = bound.floor === null ? head : BigInt(bound.floor) - 1n;
  const from = kept > before ? kept : before;
  const reach = from + BigInt(stride);
  const end = reach < head ? reach : head;
  const room = queueLimit - endpoint.waiting;
  const { rows } = await client.query<Row>({
    name: "webhook-events",
    text: `SELECT seq, type, subject, data, at FROM "Event"
      WHERE stream = $1 AND seq > $2 AND seq <= $3 AND type = ANY($4) ORDER BY seq LIMIT $5`,
    values: [stream, from, end, typesOf(endpoint.eventTypes), room],
  });
  const last = rows.at(-1);
  const cursor = rows.length === room && last !== undefined ? BigInt(last.seq) : end;
  await client.query({
    name: "webhook-deliveries",
    text: `INSERT INTO "WebhookDelivery" (id, "organizationId", "endpointId", "messageId", "eventType", body)
      SELECT d.id, $2, $1, d."messageId", d."eventType", d.body
      FROM jsonb_to_recordset($3::jsonb) AS d(id uuid, "messageId" text, "eventType" text, body text)
      ON CONFLICT ("endpointId", "messageId") DO NOTHING`,
    values: [endpointId, endpoint.organizationId, JSON.stringify(rows.map((row) => delivery(stream, row)))],
  });
  await client.query({
    name: "webhook-cursor",
    text: `INSERT INTO "WebhookCursor" ("endpointId", stream, seq) VALUES ($1, $2, $3)
      ON CONFLICT ("endpointId", stream) DO UPDATE SET seq = excluded.seq`,
    values: [endpointId, stream, cursor],
  });
  if (from > before)
    await client.query('UPDATE "WebhookEndpoint" SET missed = missed + $2 WHERE id = $1', [
      endpointId,
      from - before,
    ]);
  return { made: rows.length, over: cursor >= head };
}

/** The message of an event. Its id says which event it is, so that a receiver drops doubles and can read on in the event log. */
function delivery(stream: string, { seq, type, subject, data, at }: Row) {
  const id = streamId(stream);
  const body = { type, timestamp: at.toISOString(), stream: id, seq, subject, data };
  return { id: newId("delivery"), messageId: `${id}:${seq}`, eventType: type, body: JSON.stringify(body) };
}

/** Reads on as soon as events are numbered, and looks again for what did not fit or was missed. */
export const webhookFanOutLoop: Loop = {
  name: "webhook fan-out",
  everyMs: 2_000,
  atLeastMs: 250,
  topics: ["stream:*"],
  leader: true,
  run(ctx, { topics, signal }) {
    // The pattern itself is heard after a reconnect: anything may have happened.
    const streams = [...topics].map((topic) => topic.slice("stream:".length));
    return fanOut(ctx, streams.length === 0 || streams.includes("*") ? undefined : streams, signal);
  },
};
