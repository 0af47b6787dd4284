import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { ensureDatabase, migrate, startPostgres } from "@muster/db";
import { type Config, readConfig } from "../src/config.ts";

/** Where a simulation is written: the database and the folder of an installation, as `muster up` has them. */
export type Installation = AsyncDisposable & { readonly config: Config };

/**
 * Opens an installation, making what is not there: the state folder with its marker and its secret, so that `npm start` goes on with it,
 * and the embedded database, unless another one is named.
 */
export async function openInstallation(input: {
  databaseUrl: string | undefined;
  stateDir: string;
}): Promise<Installation> {
  const stateDir = resolve(input.stateDir);
  mkdirSync(stateDir, { recursive: true });
  writeOnce(join(stateDir, "muster.json"), `${JSON.stringify({ product: "muster", layout: 1 })}\n`);
  writeOnce(join(stateDir, "secret"), `${randomBytes(32).toString("hex")}\n`);
  const given = input.databaseUrl ?? (process.env.DATABASE_URL || undefined);
  const database = given === undefined ? await embedded(stateDir) : { url: given, stop: async () => {} };
  try {
    await ensureDatabase(database.url);
    await migrate(database.url);
    const config = readConfig({
      ...process.env,
      DATABASE_URL: database.url,
      MUSTER_SECRET: process.env.MUSTER_SECRET ?? readFileSync(join(stateDir, "secret"), "utf8").trim(),
      MUSTER_STATE_DIR: stateDir,
      // Nobody calls it: the nodes are in this process.
      MUSTER_PORT: "0",
      MUSTER_LOG_LEVEL: process.env.MUSTER_LOG_LEVEL ?? "warn",
      MUSTER_SWEEP_DELAY_SECONDS: "0",
    });
    return { config, [Symbol.asyncDispose]: database.stop };
  } catch (error) {
    await database.stop();
    throw error;
  }
}

/** A server that ran before goes on running. */
async function embedded(stateDir: string): Promise<{ url: string; stop(): Promise<void> }> {
  const folder = join(stateDir, "postgres");
  const location = join(folder, "location");
  const home = existsSync(location) ? readFileSync(location, "utf8").trim() : folder;
  const running = existsSync(join(home, "data", "postmaster.pid"));
  const postgres = await startPostgres(folder);
  return { url: postgres.url, stop: async () => (running ? undefined : await postgres.stop()) };
}

function writeOnce(path: string, text: string): void {
  try {
    writeFileSync(path, text, { flag: "wx", mode: 0o600 });
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
  }
}
