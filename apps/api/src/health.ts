import { readdir } from "node:fs/promises";
import { migrationsFolder } from "@muster/db";
import type { Services } from "./context.ts";

export type Readiness = {
  readonly ready: boolean;
  readonly checks: Record<"database" | "migrations" | "blobs", string>;
};

// Asking costs a file and three queries, and anybody may ask.
const rememberedMs = { ready: 2_000, not: 250 };

/** `readiness`, asked of the system a few times a second at most, however often it is called. */
export function createReadiness(services: Services): () => Promise<Readiness> {
  let answer: Promise<Readiness> | undefined;
  let until = 0;
  return () => {
    if (answer === undefined || Date.now() >= until) {
      until = Number.POSITIVE_INFINITY;
      answer = readiness(services).then(
        (found) => {
          until = Date.now() + (found.ready ? rememberedMs.ready : rememberedMs.not);
          return found;
        },
        (error: unknown) => {
          until = 0;
          throw error;
        },
      );
    }
    return answer;
  };
}

/** Whether this process can serve: the database answers, has every migration, and blobs can be written. */
export async function readiness(services: Services): Promise<Readiness> {
  const database = await outcome(() => services.db.pool.query("SELECT 1"));
  const migrations =
    database === "ok" ? await outcome(() => assertMigrated(services)) : "unknown: no database";
  const blobs = await outcome(() => services.blobs.probe());
  const checks = { database, migrations, blobs };
  return { ready: Object.values(checks).every((state) => state === "ok"), checks };
}

async function assertMigrated({ db }: Services): Promise<void> {
  const entries = await readdir(migrationsFolder, { withFileTypes: true });
  const { rows } = await db.pool.query<{ name: string }>(
    'SELECT migration_name AS name FROM "_prisma_migrations" WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL',
  );
  const applied = new Set(rows.map(({ name }) => name));
  const missing = entries.filter((entry) => entry.isDirectory() && !applied.has(entry.name));
  if (missing.length > 0)
    throw new Error(
      `not applied: ${missing.map(({ name }) => name).join(", ")}. Start once with MUSTER_MIGRATE=1.`,
    );
}

async function outcome(check: () => Promise<unknown>): Promise<string> {
  try {
    await check();
    return "ok";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
