import type pg from "pg";
import type { Services } from "../context.ts";
import { type Loop, lockOf } from "../loops.ts";

// Numbers are given to committed rows only, by one statement at a time: a transaction that commits late gets a later number than one
// that overtook it, so a reader that has seen number n will never find a new row below n. A sequence or a counter column filled by the
// writers cannot promise that without making every writer of a stream wait for the one before.

/** Events numbered in one statement. 2,000 keep it near 40 ms, so that a burst does not hold back other streams for long. */
const batchSize = 2_000;

/**
 * Numbers committed events densely per stream and nudges `stream:<name>`.
 * Any number of processes may call this at once: an advisory lock lets one work, the others wait and see its work.
 * @returns how many were numbered; a full batch means that there may be more.
 */
export async function numberEvents({
  db,
  bus,
  metrics,
}: Pick<Services, "db" | "bus" | "metrics">): Promise<number> {
  const { rowCount } = await db.pool.query({
    name: "unnumbered",
    text: 'SELECT 1 FROM "Event" WHERE "seq" IS NULL LIMIT 1',
  });
  if (!rowCount) return 0;
  const client = await db.pool.connect();
  let streams: { stream: string; n: string }[] = [];
  try {
    await client.query("BEGIN");
    // Its own statement: the next one takes its snapshot when the lock is held, and so sees what the process before it numbered.
    await client.query("SELECT pg_advisory_xact_lock($1, $2)", lockOf("number events"));
    streams = (await number(client)).rows;
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK").catch(() => {});
    throw error;
  } finally {
    client.release();
  }
  let total = 0;
  for (const { stream, n } of streams) {
    total += Number(n);
    bus.publish(`stream:${stream}`);
  }
  metrics.numbered.inc(total);
  return total;
}

async function number(client: pg.PoolClient): Promise<pg.QueryResult<{ stream: string; n: string }>> {
  return await client.query({
    name: "number-events",
    text: `
      WITH fresh AS MATERIALIZED (
        SELECT "id", "stream" FROM "Event" WHERE "seq" IS NULL ORDER BY "id" LIMIT $1
      ), counted AS (
        SELECT "stream", count(*) AS n FROM fresh GROUP BY "stream"
      ), moved AS (
        INSERT INTO "EventStream" AS s ("stream", "head") SELECT "stream", n FROM counted
        ON CONFLICT ("stream") DO UPDATE SET "head" = s."head" + excluded."head"
        RETURNING "stream", "head"
      ), numbered AS (
        UPDATE "Event" e SET "seq" = m."head" - c.n + f.place
        FROM (SELECT "id", "stream", row_number() OVER (PARTITION BY "stream" ORDER BY "id") AS place FROM fresh) f
        JOIN counted c USING ("stream") JOIN moved m USING ("stream")
        WHERE e."id" = f."id"
      )
      SELECT "stream", n FROM counted`,
    values: [batchSize],
  });
}

/** Numbers events as soon as somebody says there are some, and looks every second in case nobody could say it. */
export const sequencerLoop: Loop = {
  name: "sequencer",
  everyMs: 1_000,
  // Numbering every 40 ms at most: one pass takes what many transactions left, and a nudge between passes waits for the next.
  atLeastMs: 40,
  topics: ["events"],
  leader: true,
  async run(ctx, { signal }) {
    while ((await numberEvents(ctx)) >= batchSize && !signal.aborted);
  },
};

/** Deletes events beyond retention, a few thousand at a time. Their numbers are never given again: the head stays. */
export async function deleteOldEvents({ db, config }: Pick<Services, "db" | "config">): Promise<number> {
  const { rowCount } = await db.pool.query(
    `DELETE FROM "Event" WHERE "id" IN (
       SELECT "id" FROM "Event" WHERE "seq" IS NOT NULL AND "at" < now() - make_interval(secs => $1) ORDER BY "id" LIMIT 5000)`,
    [config.eventRetentionDays * 86_400],
  );
  return rowCount ?? 0;
}

export const eventRetentionLoop: Loop = {
  name: "event retention",
  everyMs: 60_000,
  leader: true,
  startAfterSeconds: 20,
  async run(ctx, { signal }) {
    while ((await deleteOldEvents(ctx)) === 5_000 && !signal.aborted);
  },
};
