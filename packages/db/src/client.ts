import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";
import { PrismaClient } from "../generated/prisma/client.ts";
import { DatabaseError, messageOf } from "./errors.ts";

/**
 * An open database: Prisma for the read model and ordinary writes, `pool` for the hot paths. Both use the
 * same connections.
 */
export type Database = {
  readonly prisma: PrismaClient;
  readonly pool: pg.Pool;
  /** Ends both. Calling it again waits for the same end. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
};

export type OpenDatabaseOptions = {
  /** Most connections the pool holds. Default 10. */
  max?: number;
  /** Milliseconds after which the server ends a statement. Default 30,000. */
  statementTimeout?: number;
  /** Shown in `pg_stat_activity`. Default `muster`. */
  applicationName?: string;
  /**
   * Hears of connections that broke while idle; the pool replaces them by itself. Default: standard error.
   */
  log?: (message: string) => void;
};

/**
 * Opens a database by its URL. Connections are made when first needed, so this never fails because the server
 * is away.
 *
 * Every session runs in UTC: Prisma writes and reads `timestamptz` without an offset and means UTC by it.
 *
 * @throws DatabaseError `BAD_URL` when the URL cannot be parsed or names no database.
 */
export function openDatabase(url: string, options: OpenDatabaseOptions = {}): Database {
  const log = options.log ?? ((message: string) => console.error(message));
  const pool = new pg.Pool({
    connectionString: inUtc(url),
    max: options.max ?? 10,
    statement_timeout: options.statementTimeout ?? 30_000,
    idle_in_transaction_session_timeout: 60_000,
    connectionTimeoutMillis: 10_000,
    application_name: options.applicationName ?? "muster",
  });
  // Without a listener a restart of the server would end the process.
  pool.on("error", (error) => log(`An idle database connection broke: ${messageOf(error)}`));
  // The pool hears idle ones only. One that breaks in use fails its query too, which is where that is handled.
  pool.on("connect", (client) => client.on("error", () => {}));
  const prisma = new PrismaClient({
    adapter: new PrismaPg(pool),
    // Prisma's 2 s and 5 s end transactions that only wait their turn in a burst on a small machine (P2028). These are the pool's own patience and the statements'.
    transactionOptions: { maxWait: 10_000, timeout: 30_000 },
  });
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closed ??= prisma.$disconnect().then(() => pool.end());
    return closed;
  };
  return { prisma, pool, close, [Symbol.asyncDispose]: close };
}

/** Name of the database that a URL names. */
export function databaseName(url: string): string {
  const name = decodeURIComponent(parseUrl(url).pathname.slice(1));
  if (name === "")
    throw new DatabaseError("BAD_URL", `The database URL names no database: ${withoutPassword(url)}`);
  return name;
}

/** The same server, another database. */
export function withDatabase(url: string, name: string): string {
  const parsed = parseUrl(url);
  parsed.pathname = `/${encodeURIComponent(name)}`;
  return parsed.href;
}

/**
 * Creates the database that `url` names unless it is there. Two callers at once agree.
 *
 * @throws the server's own error when it cannot be reached or refuses.
 */
export async function ensureDatabase(url: string): Promise<void> {
  const name = databaseName(url);
  const client = new pg.Client({ connectionString: withDatabase(url, "postgres") });
  await client.connect();
  try {
    const found = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [name]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
  } catch (error) {
    // 42P04 or 23505: somebody else created it in between.
    if (!(error instanceof pg.DatabaseError) || !["42P04", "23505"].includes(error.code ?? "")) throw error;
  } finally {
    await client.end();
  }
}

function inUtc(url: string): string {
  databaseName(url);
  const parsed = parseUrl(url);
  const options = parsed.searchParams.get("options");
  parsed.searchParams.set("options", options === null ? "-c TimeZone=UTC" : `${options} -c TimeZone=UTC`);
  return parsed.href;
}

function parseUrl(url: string): URL {
  const parsed = URL.parse(url);
  if (parsed === null || !/^postgres(ql)?:$/.test(parsed.protocol)) {
    throw new DatabaseError(
      "BAD_URL",
      "The database URL must look like postgresql://user:password@host:5432/name",
    );
  }
  return parsed;
}

function withoutPassword(url: string): string {
  const parsed = parseUrl(url);
  parsed.password = "";
  return parsed.href;
}
