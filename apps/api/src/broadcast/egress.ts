import type { Database } from "@muster/db";
import type { Loop } from "../loops.ts";

/**
 * Bytes of checkpoints that this process sent and that are not in the database yet. A version is fetched in hundreds of shards: written one
 * by one they would be most of a broadcast's statements, so each process adds all of them in one every few seconds.
 */
export type Egress = {
  /** Bytes of a blob that left for a node, whole or not, from here or from the store it was sent to. */
  sent(sha256: string, bytes: number): void;
  /** @returns how many of the bytes were a checkpoint's */
  flush(db: Pick<Database, "pool">): Promise<number>;
};

export function createEgress(): Egress {
  let sums = new Map<string, number>();
  const add = (sha256: string, bytes: number) => sums.set(sha256, (sums.get(sha256) ?? 0) + bytes);
  return {
    sent(sha256, bytes) {
      if (bytes > 0) add(sha256, bytes);
    },
    async flush({ pool }) {
      if (sums.size === 0) return 0;
      const writing = sums;
      sums = new Map();
      try {
        const rows = [...writing].map(([sha256, bytes]) => ({ sha256, bytes }));
        const { rows: added } = await pool.query<{ bytes: string }>({
          name: "origin-egress",
          text: addSql,
          values: [JSON.stringify(rows)],
        });
        return added.reduce((sum, row) => sum + Number(row.bytes), 0);
      } catch (error) {
        for (const [sha256, bytes] of writing) add(sha256, bytes);
        throw error;
      }
    },
  };
}

// A shard that versions share is the newest one's. What is no checkpoint's has no such reference, and is not counted.
const addSql = `
  UPDATE "Checkpoint" c SET "originBytes" = c."originBytes" + s.bytes
  FROM (
    SELECT newest.subject AS id, sum(b.bytes)::bigint AS bytes
    FROM jsonb_to_recordset($1::jsonb) AS b(sha256 text, bytes bigint)
    CROSS JOIN LATERAL (
      SELECT r.subject FROM "PackReference" r
      WHERE r.sha256 = b.sha256 AND r."taskId" IS NULL AND r.kind IN ('MANIFEST', 'SHARD') ORDER BY r."createdAt" DESC LIMIT 1
    ) newest
    GROUP BY newest.subject
  ) s
  WHERE c.id = s.id
  RETURNING s.bytes`;

/** Writes what this process sent. */
export const egressLoop: Loop = {
  name: "origin egress",
  everyMs: 3_000,
  leader: false,
  async run(ctx) {
    ctx.metrics.originBytes.inc(await ctx.egress.flush(ctx.db));
  },
};
