import { Prisma } from "@muster/db";
import type { Ctx } from "../context.ts";
import type { Loop } from "../loops.ts";

// What only a doubt about a verdict needs, and there is much of it: BLIND and MEASUREMENT packs, and a fingerprint for each window.
// ROLLOUTS and BATCH packs say what was trained on and stay as long as their run.

/** References or fingerprints deleted in one statement. */
const perPass = 5_000;

/**
 * A group that may still be doubted, or used: it is final for less than that many days, has a case, which may be overturned at any time, or
 * is of a version that can still be measured, of which canaries are made and batches filled.
 */
const isKept = (days: number) => Prisma.sql`(
  g."finalAt" IS NULL OR g."finalAt" > now() - make_interval(secs => ${days * 86_400})
  OR EXISTS (SELECT 1 FROM "Case" c WHERE c."groupId" = g.id)
  OR EXISTS (SELECT 1 FROM "Checkpoint" c JOIN "Run" r ON r.id = c."runId" AND r."endedAt" IS NULL
    WHERE c."runId" = g."runId" AND c.version = g."policyVersion" AND c.state = 'AVAILABLE'))`;

/** Drops the references to what was measured of groups that are not kept; the blob collector deletes the bytes. @returns how many */
export function dropMeasurements({ prisma, config }: Ctx): Promise<number> {
  return prisma.$executeRaw`
    DELETE FROM "PackReference" WHERE id IN (
      SELECT p.id FROM "PackReference" p
      JOIN "Task" t ON t.id = p."taskId" AND t.kind = 'VERIFY' AND t.state IN ('DONE', 'FAILED', 'CANCELLED')
      WHERE p.kind IN ('BLIND', 'MEASUREMENT') AND NOT EXISTS (
        SELECT 1 FROM "Group" g WHERE g.id IN (
          SELECT id FROM "Group" WHERE "verifyTaskId" = t.id
          UNION ALL SELECT "groupId" FROM "Verification" WHERE "taskId" = t.id
          UNION ALL SELECT "groupId" FROM "Probe" WHERE "taskId" = t.id)
        AND ${isKept(config.evidenceRetentionDays)})
      LIMIT ${perPass})`;
}

/** Forgets the windows of groups that are not kept. @returns how many */
export function dropFingerprints({ prisma, config }: Ctx): Promise<number> {
  return prisma.$executeRaw`
    DELETE FROM "WindowFingerprint" WHERE ("runId", hash, "groupId") IN (
      SELECT w."runId", w.hash, w."groupId" FROM "WindowFingerprint" w JOIN "Group" g ON g.id = w."groupId"
      WHERE NOT ${isKept(config.evidenceRetentionDays)} LIMIT ${perPass})`;
}

export const evidenceRetentionLoop: Loop = {
  name: "evidence retention",
  everyMs: 3_600_000,
  leader: true,
  startAfterSeconds: 60,
  async run(ctx, { signal }) {
    for (const drop of [dropMeasurements, dropFingerprints])
      while ((await drop(ctx)) === perPass && !signal.aborted);
  },
};
