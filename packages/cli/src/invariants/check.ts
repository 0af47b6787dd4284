import { join } from "node:path";
import pg from "pg";
import { blobInvariants, missingBlobs, strayBlobs } from "./blobs.ts";
import { broadcastInvariants } from "./broadcast.ts";
import { clock, type Invariant } from "./invariant.ts";
import { ledgerInvariants } from "./ledger.ts";
import { recordInvariants } from "./records.ts";
import { trainingInvariants } from "./training.ts";
import { trustInvariants } from "./trust.ts";
import { workInvariants } from "./work.ts";

/** Everything that is asked of the database, in the order it is asked. */
export const invariants: readonly Invariant[] = [
  ...workInvariants,
  ...trainingInvariants,
  ...trustInvariants,
  ...ledgerInvariants,
  ...broadcastInvariants,
  ...recordInvariants,
];

export type InvariantResult = {
  id: string;
  sentence: string;
  violations: number;
  /** The first violations, in words. */
  examples: string[];
};

export type InvariantReport = {
  /** How many invariants were checked. */
  checked: number;
  /** How many things violate one. */
  violations: number;
  details: InvariantResult[];
};

export type CheckOptions = {
  databaseUrl: string;
  /** State folder of the coordinator; without it the blobs on the disk are not looked at. */
  stateDir?: string;
  /** Seconds that sweepers have for what is due; 90, as leases are 60 s long and sweepers wait 30 s after a start. */
  graceSeconds?: number;
};

const EXAMPLES = 20;

/**
 * Checks every invariant in one snapshot of the database, so that a coordinator at work does not disturb.
 * @throws the server's error when the database cannot be reached or is not Muster's.
 */
export async function checkInvariants(options: CheckOptions): Promise<InvariantReport> {
  const pool = new pg.Pool({
    connectionString: options.databaseUrl,
    max: 1,
    connectionTimeoutMillis: 10_000,
    application_name: "muster invariants",
  });
  pool.on("error", () => {});
  try {
    const details = await inSnapshot(pool, (client) => checkDatabase(client, options));
    if (options.stateDir !== undefined) {
      const folder = join(options.stateDir, "blobs");
      details.push(resultOf(blobInvariants.stored, await missingBlobs(pool, folder)));
      details.push(resultOf(blobInvariants.strays, await strayBlobs(pool, folder)));
    }
    const violations = details.reduce((sum, detail) => sum + detail.violations, 0);
    return { checked: details.length, violations, details };
  } finally {
    await pool.end();
  }
}

/** Checks what can be asked of the database alone, on a connection of the caller's and in its transaction. */
export async function checkDatabase(
  client: pg.ClientBase,
  { graceSeconds = 90 }: Pick<CheckOptions, "graceSeconds"> = {},
): Promise<InvariantResult[]> {
  const details: InvariantResult[] = [];
  for (const invariant of invariants) {
    const found =
      "find" in invariant
        ? await invariant.find(client)
        : await violationsOf(client, invariant.sql, graceSeconds);
    details.push(resultOf(invariant, found));
  }
  return details;
}

async function violationsOf(client: pg.ClientBase, sql: string, graceSeconds: number): Promise<string[]> {
  const timed = sql.includes("clock");
  const { rows } = await client.query<{ what: string }>(
    timed ? `WITH ${clock} ${sql}` : sql,
    timed ? [graceSeconds] : [],
  );
  return rows.map(({ what }) => what);
}

async function inSnapshot<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  // The pool hears errors of idle connections only; a query under way rejects by itself.
  client.on("error", () => {});
  try {
    await client.query("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } finally {
    client.release();
  }
}

function resultOf(
  { id, sentence }: Pick<Invariant, "id" | "sentence">,
  found: readonly string[],
): InvariantResult {
  return { id, sentence, violations: found.length, examples: found.slice(0, EXAMPLES) };
}
