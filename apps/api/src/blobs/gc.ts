import type { Services } from "../context.ts";
import type { Loop } from "../loops.ts";

/**
 * Deletes packs that nothing refers to and that are older than the grace in which a submission or a transaction may still refer to them.
 * First the row, which a reference created meanwhile keeps (foreign key), then the file, which storing it again meanwhile keeps.
 * @returns how many packs were deleted
 */
export async function collectGarbage({
  db,
  blobs,
  config,
}: Pick<Services, "db" | "blobs" | "config">): Promise<number> {
  const before = new Date(Date.now() - config.blobGraceSeconds * 1000);
  const { rows } = await db.pool.query<{ sha256: string }>(
    `DELETE FROM "Pack" p WHERE p."sha256" IN (
       SELECT old."sha256" FROM "Pack" old WHERE old."createdAt" < $1
         AND NOT EXISTS (SELECT 1 FROM "PackReference" r WHERE r."sha256" = old."sha256")
       ORDER BY old."createdAt" LIMIT 500 FOR UPDATE SKIP LOCKED)
     AND NOT EXISTS (SELECT 1 FROM "PackReference" r WHERE r."sha256" = p."sha256")
     RETURNING p."sha256"`,
    [before],
  );
  for (const { sha256 } of rows) await blobs.deleteOlder(sha256, before);
  return rows.length;
}

/** Deletes files that no row knows: left by a process that ended between storing and recording. Returns how many. */
export async function collectStrayFiles({
  db,
  blobs,
  config,
}: Pick<Services, "db" | "blobs" | "config">): Promise<number> {
  const before = new Date(Date.now() - config.blobGraceSeconds * 1000);
  let deleted = await blobs.sweep(config.blobGraceSeconds * 1000);
  const judge = async (hashes: string[]) => {
    const { rows } = await db.pool.query<{ sha256: string }>(
      'SELECT "sha256" FROM "Pack" WHERE "sha256" = ANY($1)',
      [hashes],
    );
    const known = new Set(rows.map(({ sha256 }) => sha256));
    for (const sha256 of hashes)
      if (!known.has(sha256) && (await blobs.deleteOlder(sha256, before))) deleted++;
  };
  let hashes: string[] = [];
  for await (const { sha256, storedAt } of blobs.list()) {
    if (storedAt >= before) continue;
    hashes.push(sha256);
    if (hashes.length === 500) {
      await judge(hashes);
      hashes = [];
    }
  }
  await judge(hashes);
  return deleted;
}

export const garbageLoop: Loop = {
  name: "blob garbage",
  everyMs: 60_000,
  leader: true,
  startAfterSeconds: 15,
  async run(ctx, { signal }) {
    while ((await collectGarbage(ctx)) === 500 && !signal.aborted);
    const day = new Date(Date.now() - 24 * 3_600_000);
    await ctx.prisma.uploadGrant.deleteMany({ where: { expiresAt: { lt: day } } });
  },
};

export const strayFilesLoop: Loop = {
  name: "stray files",
  everyMs: 3_600_000,
  leader: true,
  startAfterSeconds: 60,
  run: (ctx) => collectStrayFiles(ctx),
};
