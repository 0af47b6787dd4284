// Databases for tests: one server for all test processes, one migrated template, a clone of it for each who
// asks.
import { createHash, randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { type Database, type OpenDatabaseOptions, openDatabase, withDatabase } from "./client.ts";
import { removePostgres, startPostgres } from "./embedded.ts";
import { migrate, migrationsFolder, readMigrations } from "./migrate.ts";

/** A migrated, empty database of one's own. */
export type TestDatabase = Database & {
  readonly url: string;
  /** Closes the connections and removes the database. */
  drop(): Promise<void>;
};

/**
 * Clones the template into a new database and opens it. The server is `DATABASE_URL`'s (whose user must be
 * allowed to create databases) or an embedded one below the repository's `.muster/`, left running for the
 * next test file: see `stopTestPostgres`.
 */
export async function createTestDatabase(options: OpenDatabaseOptions = {}): Promise<TestDatabase> {
  const server = await testServer();
  const template = await ensureTemplate(server);
  const name = `muster_test_${randomUUID().replaceAll("-", "")}`;
  await asAdmin(server, (admin) => admin.query(`CREATE DATABASE ${name} TEMPLATE ${template}`));
  const url = withDatabase(server, name);
  const database = openDatabase(url, options);
  const drop = async (): Promise<void> => {
    await database.close();
    await asAdmin(server, (admin) => admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
  };
  return { ...database, url, drop, [Symbol.asyncDispose]: drop };
}

/**
 * URL of the server for tests, started if need be. The database it names is not for use; ask
 * `createTestDatabase`.
 */
export async function testServer(): Promise<string> {
  if (process.env.DATABASE_URL) return process.env.DATABASE_URL;
  embedded ??= startPostgres(testFolder, {
    database: "postgres",
    // Test data need not survive a power cut.
    settings: { fsync: "off", synchronous_commit: "off", full_page_writes: "off", max_connections: "300" },
  });
  return (await embedded).url;
}

/** Ends the embedded test server, if one runs, and deletes its files; the test command calls it last. */
export async function stopTestPostgres(): Promise<void> {
  embedded = undefined;
  templates.clear();
  await removePostgres(testFolder);
}

const testFolder = fileURLToPath(new URL("../../../.muster/test-postgres", import.meta.url));
let embedded: ReturnType<typeof startPostgres> | undefined;
const templates = new Map<string, Promise<string>>();

function ensureTemplate(server: string): Promise<string> {
  const known = templates.get(server);
  if (known !== undefined) return known;
  const building = buildTemplate(server);
  templates.set(server, building);
  return building;
}

async function buildTemplate(server: string): Promise<string> {
  const migrations = await readMigrations(migrationsFolder);
  const hash = createHash("sha256").update(migrations.map((one) => `${one.name} ${one.checksum}`).join("\n"));
  const template = `muster_template_${hash.digest("hex").slice(0, 16)}`;
  await asAdmin(server, async (admin) => {
    // Any constant: one process builds, the others wait.
    await admin.query("SELECT pg_advisory_lock(6140318)");
    const found = await admin.query("SELECT 1 FROM pg_database WHERE datname = $1", [template]);
    if (found.rowCount !== 0) return;
    // Renamed when it is whole, so a killed process leaves no half template.
    const draft = `${template}_draft`;
    await admin.query(`DROP DATABASE IF EXISTS ${draft} WITH (FORCE)`);
    await admin.query(`CREATE DATABASE ${draft}`);
    await migrate(withDatabase(server, draft));
    await admin.query(`ALTER DATABASE ${draft} RENAME TO ${template}`);
    await admin.query(`ALTER DATABASE ${template} ALLOW_CONNECTIONS false`);
  });
  return template;
}

async function asAdmin<T>(server: string, work: (admin: pg.Client) => Promise<T>): Promise<T> {
  const admin = new pg.Client({ connectionString: withDatabase(server, "postgres") });
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.end();
  }
}
