import { Prisma, type PrismaClient } from "@muster/db";
import type { Loop } from "../loops.ts";

/** What a heartbeat tells. */
export type Beat = { readonly progress?: unknown; readonly draining?: boolean };

/**
 * Heartbeats of this process that are not in the database yet. Ten thousand nodes beat a thousand times a second; written one by one
 * they would be most of the database's work, so each process writes all of its nodes in one statement every ten seconds.
 */
export type Presence = {
  beat(nodeId: string, beat: Beat): void;
  flush(prisma: PrismaClient): Promise<number>;
};

export function createPresence(): Presence {
  let beats = new Map<string, Beat & { at: Date }>();
  return {
    beat(nodeId, beat) {
      beats.set(nodeId, { ...beats.get(nodeId), ...beat, at: new Date() });
    },
    async flush(prisma) {
      if (beats.size === 0) return 0;
      const writing = beats;
      beats = new Map();
      try {
        return await write(prisma, [...writing]);
      } catch (error) {
        // That a node is there is what counts. What it said may be what cannot be written, so it is not tried again.
        for (const [id, { progress: _, ...beat }] of writing) beats.set(id, { ...beat, ...beats.get(id) });
        throw error;
      }
    },
  };
}

function write(prisma: PrismaClient, beats: readonly [string, Beat & { at: Date }][]): Promise<number> {
  const rows = beats.map(([id, { at, progress, draining }]) => ({ id, at, progress, draining }));
  // The least of several replicas must not undo the newest; what was not said stays.
  return prisma.$executeRaw(Prisma.sql`
    UPDATE "Node" n SET "lastSeenAt" = greatest(n."lastSeenAt", b.at),
      "draining" = coalesce(b.draining, n."draining"), "progress" = coalesce(b.progress, n."progress")
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS b(id uuid, at timestamptz, progress jsonb, draining boolean)
    WHERE n."id" = b.id`);
}

/** Writes this process's heartbeats. */
export const presenceLoop: Loop = {
  name: "presence",
  everyMs: 10_000,
  leader: false,
  run: (ctx) => ctx.presence.flush(ctx.prisma),
};
