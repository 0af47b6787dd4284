// The database of a local installation: somebody else's when DATABASE_URL names it, else the embedded one, which is started again
// whenever it dies.

import { setTimeout as sleep } from "node:timers/promises";
import { ensureDatabase, migrate, startPostgres } from "@muster/db";
import pg from "pg";
import type { StateFolder } from "../state-folder.ts";

export type LocalDatabase = {
  /** Where it is now; an embedded server whose port was taken in between moves. */
  readonly url: string;
  stop(): Promise<void>;
  /** Ends an embedded server at once. */
  kill(): void;
};

/**
 * Starts the database and brings it to the newest migration.
 * @param moved called after the server came back at another URL.
 */
export async function startDatabase(
  folder: StateFolder,
  options: { external: string | undefined; note: (text: string) => void; moved: () => void },
): Promise<LocalDatabase> {
  const { external, note, moved } = options;
  if (external !== undefined) {
    await ensureDatabase(external);
    await migrate(external);
    return { url: external, stop: async () => {}, kill: () => {} };
  }
  const postgres = await startPostgres(folder.at("postgres"));
  try {
    await migrate(postgres.url);
  } catch (error) {
    await postgres.stop();
    throw error;
  }
  let url = postgres.url;
  const stopping = new AbortController();

  async function revive(): Promise<void> {
    for (let wait = 250; !stopping.signal.aborted; wait = Math.min(wait * 2, 30_000)) {
      try {
        const again = await startPostgres(folder.at("postgres"));
        if (again.url === url) return;
        url = again.url;
        return moved();
      } catch (error) {
        note(`The database did not come back: ${error instanceof Error ? error.message : String(error)}`);
        await sleep(wait, undefined, { signal: stopping.signal }).catch(() => {});
      }
    }
  }

  async function watch(): Promise<void> {
    while (!stopping.signal.aborted) {
      await connectionLost(url, stopping.signal);
      if (stopping.signal.aborted) return;
      if (await answers(url)) continue;
      note("The database ended; starting it again.");
      await revive();
      if (!stopping.signal.aborted) note("The database is back.");
    }
  }
  const watching = watch();

  return {
    get url() {
      return url;
    },
    async stop() {
      stopping.abort();
      await watching;
      await postgres.stop();
    },
    kill() {
      stopping.abort();
      postgres.kill();
    },
  };
}

/** Resolves when a connection held for nothing else breaks: that tells of a death at once, without asking again and again. */
async function connectionLost(url: string, signal: AbortSignal): Promise<void> {
  const client = new pg.Client({ connectionString: url, application_name: "muster up", keepAlive: true });
  const lost = new Promise<void>((resolve) => {
    // Every one: a dying server sends an error and then closes, and an error nobody hears ends the process.
    client.on("error", () => resolve());
    client.on("end", () => resolve());
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  try {
    await client.connect();
    await lost;
  } catch {
    // Not reachable: as good as lost.
  } finally {
    await client.end().catch(() => {});
  }
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on("error", () => {});
  try {
    await client.connect();
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
