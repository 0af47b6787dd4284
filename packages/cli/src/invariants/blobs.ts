// What the database says is stored must be stored, and nothing else may lie around for long.
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type pg from "pg";

/** Milliseconds: the collectors' grace of an hour and their own pace of an hour. */
const STRAY_AFTER = 2.5 * 3_600_000;

export const blobInvariants = {
  stored: {
    id: "packs-are-stored",
    sentence: "Every pack that something refers to is on the disk, with its size.",
  },
  strays: {
    id: "blobs-are-known",
    sentence: "Every blob on the disk is a known pack, or younger than its grace.",
  },
} as const;

/** Packs that are referred to and not stored as recorded. */
export async function missingBlobs(pool: pg.Pool, folder: string): Promise<string[]> {
  const found: string[] = [];
  let after = "";
  for (;;) {
    const { rows } = await pool.query<{ sha256: string; kind: string; size: string }>(
      `SELECT p.sha256, p.kind, p.size FROM "Pack" p
       WHERE p.sha256 > $1 AND EXISTS (SELECT 1 FROM "PackReference" r WHERE r.sha256 = p.sha256)
       ORDER BY p.sha256 LIMIT 1000`,
      [after],
    );
    for (const { sha256, kind, size } of rows) {
      const stored = await stat(join(folder, sha256.slice(0, 2), sha256)).catch(() => undefined);
      if (stored !== undefined && String(stored.size) === size) continue;
      // Retention may have passed between the two looks.
      if (!(await isReferred(pool, sha256))) continue;
      const state = stored === undefined ? "is not stored" : `is stored with ${stored.size} bytes`;
      found.push(`pack ${sha256} (${kind}, ${size} bytes) ${state}`);
    }
    const last = rows.at(-1);
    if (last === undefined) return found;
    after = last.sha256;
  }
}

/** Old files that no row knows. */
export async function strayBlobs(pool: pg.Pool, folder: string): Promise<string[]> {
  const found: string[] = [];
  const shelves = await readdir(folder).catch(() => []);
  for (const shelf of shelves.filter((name) => /^[0-9a-f]{2}$/.test(name))) {
    const names = await readdir(join(folder, shelf));
    const { rows } = await pool.query<{ sha256: string }>(
      'SELECT sha256 FROM "Pack" WHERE sha256 = ANY($1)',
      [names],
    );
    const known = new Set(rows.map(({ sha256 }) => sha256));
    for (const name of names) {
      if (known.has(name)) continue;
      const file = await stat(join(folder, shelf, name)).catch(() => undefined);
      if (file !== undefined && Date.now() - file.mtimeMs > STRAY_AFTER)
        found.push(`file ${name} is no known pack`);
    }
  }
  return found;
}

async function isReferred(pool: pg.Pool, sha256: string): Promise<boolean> {
  const { rowCount } = await pool.query('SELECT 1 FROM "PackReference" WHERE sha256 = $1 LIMIT 1', [sha256]);
  return rowCount !== 0;
}
