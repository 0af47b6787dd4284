// Applies prisma/migrations with the semantics and the bookkeeping table of `prisma migrate deploy`, so that
// either may follow the other; it takes tens of milliseconds where starting the Prisma CLI takes seconds.
import { createHash, randomUUID } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { codeOf, DatabaseError, messageOf } from "./errors.ts";

/** Where this repository keeps its migrations. */
export const migrationsFolder: string = fileURLToPath(new URL("../../../prisma/migrations", import.meta.url));

/**
 * Brings the database up to date and returns the names of the migrations it applied, in order. The database
 * must exist.
 *
 * Each migration runs in one transaction with its bookkeeping row: it is there whole or not at all. One whose
 * first line is `-- no transaction` (`CREATE INDEX CONCURRENTLY` needs it) is recorded before it starts and
 * again when it is done. Any number of processes may call this at once; one works, the others wait and find
 * nothing to do.
 *
 * @throws DatabaseError `MIGRATION_EDITED` (an applied file changed), `MIGRATION_FAILED` (one failed, now or earlier),
 * `MIGRATION_UNKNOWN` (the database is ahead of this version), `MIGRATION_LOCKED` (another process migrates
 * for over a minute).
 */
export async function migrate(url: string, folder: string = migrationsFolder): Promise<string[]> {
  const migrations = await readMigrations(folder);
  const client = new pg.Client({
    connectionString: url,
    statement_timeout: 0,
    application_name: "muster migrate",
  });
  await client.connect();
  try {
    await lock(client);
    const before = await appliedMigrations(client);
    refuseForeignHistory(migrations, before);
    const applied: string[] = [];
    for (const migration of migrations) {
      if (before.has(migration.name)) continue;
      await (migration.inTransaction ? applyWhole(client, migration) : applyInParts(client, migration));
      applied.push(migration.name);
    }
    return applied;
  } finally {
    await client.end();
  }
}

type Migration = { name: string; sql: string; checksum: string; inTransaction: boolean };
type Applied = { checksum: string; finished: boolean };

export async function readMigrations(folder: string): Promise<Migration[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  return await Promise.all(
    names.sort().map(async (name) => {
      const sql = await readFile(join(folder, name, "migration.sql"), "utf8");
      const checksum = createHash("sha256").update(sql).digest("hex");
      return { name, sql, checksum, inTransaction: !/^-- no transaction\b/.test(sql) };
    }),
  );
}

/** The key that Prisma's own engine locks: its CLI and this runner exclude each other. */
const lockKey = 72_707_369;

async function lock(client: pg.Client): Promise<void> {
  try {
    await client.query("SET lock_timeout = '60s'");
    await client.query("SELECT pg_advisory_lock($1)", [lockKey]);
  } catch (error) {
    if (codeOf(error) !== "55P03") throw error;
    throw new DatabaseError(
      "MIGRATION_LOCKED",
      `Another process has been migrating this database for over a minute. Find it with: SELECT pid, application_name, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = ${lockKey})`,
      { cause: error },
    );
  }
}

async function appliedMigrations(client: pg.Client): Promise<Map<string, Applied>> {
  await client.query(`CREATE TABLE IF NOT EXISTS _prisma_migrations (
    id VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    finished_at TIMESTAMPTZ,
    migration_name VARCHAR(255) NOT NULL,
    logs TEXT,
    rolled_back_at TIMESTAMPTZ,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
  )`);
  const { rows } = await client.query<{ name: string; checksum: string; finished: boolean }>(
    `SELECT migration_name AS name, checksum, finished_at IS NOT NULL AS finished
     FROM _prisma_migrations WHERE rolled_back_at IS NULL`,
  );
  return new Map(rows.map(({ name, checksum, finished }) => [name, { checksum, finished }]));
}

function refuseForeignHistory(migrations: Migration[], applied: Map<string, Applied>): void {
  const known = new Map(migrations.map((migration) => [migration.name, migration.checksum]));
  for (const [name, { checksum, finished }] of applied) {
    const expected = known.get(name);
    if (!finished) {
      throw new DatabaseError(
        "MIGRATION_FAILED",
        `Migration ${name} failed earlier and may be half applied. Repair the database, then run: npx prisma migrate resolve --rolled-back ${name} (or --applied ${name})`,
      );
    }
    if (expected === undefined) {
      throw new DatabaseError(
        "MIGRATION_UNKNOWN",
        `The database holds migration ${name}, which this version does not have: a newer version migrated it. Update this installation, or use another database.`,
      );
    }
    if (expected !== checksum) {
      throw new DatabaseError(
        "MIGRATION_EDITED",
        `Migration ${name} was edited after it was applied. Restore prisma/migrations/${name}/migration.sql and put the change into a new migration.`,
      );
    }
  }
}

async function applyWhole(client: pg.Client, migration: Migration): Promise<void> {
  await client.query("BEGIN");
  try {
    await client.query(migration.sql);
    await client.query(
      `INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at, applied_steps_count)
       VALUES ($1, $2, $3, now(), 1)`,
      [randomUUID(), migration.checksum, migration.name],
    );
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK").catch(() => {});
    throw new DatabaseError(
      "MIGRATION_FAILED",
      `Migration ${migration.name} failed and left the database as it was: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

async function applyInParts(client: pg.Client, migration: Migration): Promise<void> {
  const id = randomUUID();
  await client.query("INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ($1, $2, $3)", [
    id,
    migration.checksum,
    migration.name,
  ]);
  try {
    // One query per statement: several in one message are one implicit transaction, which is what such a
    // migration must avoid.
    for (const statement of statements(migration.sql)) await client.query(statement);
  } catch (error) {
    const logs = error instanceof Error ? (error.stack ?? error.message) : String(error);
    await client.query("UPDATE _prisma_migrations SET logs = $2 WHERE id = $1", [id, logs]).catch(() => {});
    throw new DatabaseError(
      "MIGRATION_FAILED",
      `Migration ${migration.name} failed and may be half applied: ${messageOf(error)}`,
      { cause: error },
    );
  }
  await client.query(
    "UPDATE _prisma_migrations SET finished_at = now(), applied_steps_count = 1 WHERE id = $1",
    [id],
  );
}

// Enough for what runs outside a transaction (index builds, new enum values): no function bodies, one `;` at
// the end of a line each.
function statements(sql: string): string[] {
  return sql
    .replaceAll(/^\s*--.*$/gm, "")
    .split(/;\s*$/m)
    .map((statement) => statement.trim())
    .filter((statement) => statement !== "");
}
