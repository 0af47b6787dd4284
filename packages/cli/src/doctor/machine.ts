// What the machine itself offers.
import { accessSync, constants, statfsSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { cpus, freemem, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { DatabaseError, removePostgres, startPostgres } from "@muster/db";
import pg from "pg";
import { Failure, systemCode } from "../failure.ts";
import { findStateFolder, holderOf } from "../state-folder.ts";
import type { Finding } from "./finding.ts";

/** Bytes that three workers, trainer, validator, coordinator, dashboard and database take together. */
const MEMORY_WANTED = 3e9;
const DISK_NEEDED = 5e8;
const DISK_WANTED = 5e9;

export function checkNode(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const what = `Node ${process.versions.node}`;
  if (major >= 24) return { id: "node", level: "ok", what };
  const fits = major > 22 || (major === 22 && minor >= 18);
  return {
    id: "node",
    level: fits ? "warn" : "fail",
    what,
    why: fits
      ? "Muster is tested on Node 24, which npm brings along."
      : "Muster runs TypeScript as it is, which needs Node 22.18 or newer.",
    fix: "npm start",
  };
}

export function checkMemory(): Finding {
  // Linux' figure counts caches as available; elsewhere only free memory is known.
  const available = process.availableMemory?.() ?? freemem();
  const what = `${gigabytes(available)} of memory available, ${cpus().length} cores`;
  if (available >= MEMORY_WANTED) return { id: "memory", level: "ok", what };
  return {
    id: "memory",
    level: "warn",
    what,
    why: `The whole demo takes up to ${gigabytes(MEMORY_WANTED)}; with less the system may end processes, which are then started again.`,
    fix: "npm start -- --workers 1",
  };
}

export function checkDisk(stateDir: string): Finding {
  const { bavail, bsize } = statfsSync(existingParent(stateDir));
  const free = bavail * bsize;
  const what = `${gigabytes(free)} free where ${stateDir} lies`;
  if (free >= DISK_WANTED) return { id: "disk", level: "ok", what };
  return {
    id: "disk",
    level: free >= DISK_NEEDED ? "warn" : "fail",
    what,
    why:
      free >= DISK_NEEDED
        ? "A long run's checkpoints and packs take gigabytes."
        : `Muster does not start with less than ${gigabytes(DISK_NEEDED)}.`,
    fix: "npm start -- --state-dir <folder on another disk>",
  };
}

export function checkStateFolder(stateDir: string): Finding {
  const id = "state";
  const elsewhere = "npm start -- --state-dir <folder>";
  try {
    const folder = findStateFolder(stateDir);
    const place = folder?.path ?? existingParent(stateDir);
    accessSync(place, constants.R_OK | constants.W_OK | constants.X_OK);
    if (folder === undefined)
      return { id, level: "ok", what: `${stateDir} holds no installation yet and can be written` };
    const holder = holderOf(folder);
    const now = holder === undefined ? "not running" : `running as process ${holder.pid}`;
    return { id, level: "ok", what: `${folder.path} holds an installation, ${now}` };
  } catch (error) {
    if (error instanceof Failure) return { id, level: "fail", what: error.message, fix: elsewhere };
    return {
      id,
      level: "fail",
      what: `${stateDir} cannot be read and written (${systemCode(error) ?? String(error)})`,
      why: "The database, keys and checkpoints lie there.",
      fix: elsewhere,
    };
  }
}

/** Runs the bundled Postgres for a moment, or asks the one that DATABASE_URL names. */
export async function checkDatabase(): Promise<Finding> {
  const id = "database";
  const external = process.env.DATABASE_URL;
  if (external) {
    try {
      const version = await serverVersion(external);
      if (version >= 150_000)
        return {
          id,
          level: "ok",
          what: `DATABASE_URL answers with Postgres ${Math.floor(version / 10_000)}`,
        };
      return {
        id,
        level: "fail",
        what: `DATABASE_URL answers with Postgres ${Math.floor(version / 10_000)}`,
        why: "Muster needs Postgres 15 or newer.",
        fix: "unset DATABASE_URL",
      };
    } catch (error) {
      return {
        id,
        level: "fail",
        what: `DATABASE_URL does not answer: ${messageOf(error)}`,
        why: "It is set, so the bundled database is not used.",
        fix: "unset DATABASE_URL",
      };
    }
  }
  const folder = await mkdtemp(join(tmpdir(), "muster-doctor-"));
  // As root the server runs as another user, which must get in.
  await chmod(folder, 0o755);
  try {
    const { url } = await startPostgres(join(folder, "postgres"));
    const version = await serverVersion(url);
    return {
      id,
      level: "ok",
      what: `the bundled Postgres ${Math.floor(version / 10_000)} starts and answers`,
    };
  } catch (error) {
    return {
      id,
      level: "fail",
      what: `the bundled Postgres does not run: ${messageOf(error)}`,
      why: "Everything that Muster knows is in it, unless DATABASE_URL names another.",
      fix:
        error instanceof DatabaseError && error.code === "BINARIES_MISSING"
          ? "npm ci"
          : "export DATABASE_URL=postgresql://user:password@host:5432/muster",
    };
  } finally {
    await removePostgres(join(folder, "postgres"));
    await rm(folder, { recursive: true, force: true });
  }
}

async function serverVersion(url: string): Promise<number> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  client.on("error", () => {});
  await client.connect();
  try {
    const { rows } = await client.query<{ server_version_num: string }>("SHOW server_version_num");
    return Number(rows[0]?.server_version_num);
  } finally {
    await client.end();
  }
}

function existingParent(path: string): string {
  for (let at = path; ; at = dirname(at)) {
    try {
      accessSync(at);
      return at;
    } catch {
      if (at === dirname(at)) return at;
    }
  }
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message || (systemCode(error) ?? error.name) : String(error);
}
