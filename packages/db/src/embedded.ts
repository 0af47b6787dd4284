// A real Postgres server from npm's binaries, driven by pg_ctl, for a machine without a database of its own.
// Of two servers started at once Postgres' own postmaster.pid lets one live; whoever loses finds the winner.
import { readFileSync } from "node:fs";
import { open, rename, rm, stat, statfs, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { ensureDatabase, withDatabase } from "./client.ts";
import { codeOf, DatabaseError, messageOf } from "./errors.ts";
import { run } from "./postgres-binaries.ts";
import {
  exists,
  holdsServer,
  homeOf,
  initialise,
  prepare,
  readPassword,
  readText,
  type Server,
} from "./postgres-folder.ts";

/** A running server of ours. It outlives this process; `startPostgres` finds it again. */
export type EmbeddedPostgres = {
  /** URL of the database asked for, password included. */
  readonly url: string;
  /** Ends the server (sessions are cut, data is flushed). Nothing happens if it is not running. */
  stop(): Promise<void>;
  /** Ends it at once, as a power cut would, and returns before it is gone: for a process that has no time left. The next start recovers. */
  kill(): void;
};

export type StartPostgresOptions = {
  /** Database to create and name in the URL. Default `muster`. */
  database?: string;
  /** Server settings on top of ours, such as `{ max_connections: "200" }`. Only a start reads them. */
  settings?: Record<string, string>;
};

/**
 * Starts the server whose files lie in `folder`, creating them the first time, or finds it running. Listens
 * on 127.0.0.1 only, on a port that stays the same from start to start while it is free; accepts only scram
 * with the random password in `folder/password`.
 *
 * As root the server runs as the owner of its data, at first `postgres`, else `nobody`; Postgres refuses to
 * run as root. If that user cannot enter `folder` (a checkout in a 0700 home), the files are kept in
 * `/var/lib/muster/` and `folder/location` names the place.
 *
 * @throws DatabaseError `BINARIES_MISSING`, `NOT_A_DATA_DIRECTORY`, `OTHER_MAJOR_VERSION`,
 * `DATA_UNREACHABLE`, `PASSWORD_REFUSED`, `DISK_FULL` or `START_FAILED`; each message says what to do.
 */
export async function startPostgres(
  folder: string,
  options: StartPostgresOptions = {},
): Promise<EmbeddedPostgres> {
  let home = resolve(folder);
  try {
    const server = await prepare(home);
    home = server.home;
    await initialise(server);
    const password = await readPassword(server);
    const port = await ensureRunning(server, password, options.settings ?? {});
    const url = withDatabase(serverUrl(port, password), options.database ?? "muster");
    await ensureDatabase(url);
    return { url, stop: () => stop(server), kill: () => kill(server) };
  } catch (error) {
    throw await explain(error, home);
  }
}

/** Ends the server whose files lie in `folder`, if there is one. */
export async function stopPostgres(folder: string): Promise<void> {
  const dir = resolve(folder);
  if (await holdsServer(dir)) await stop(await prepare(dir));
}

/**
 * Ends the server of `folder`, if there is one, and deletes its files, also those that `startPostgres` had to put elsewhere. Whoever only
 * deletes the folder may leave its data in `/var/lib/muster/`.
 *
 * @throws DatabaseError `STOP_FAILED`, or `NOT_A_DATA_DIRECTORY` when what the folder names is not ours to delete.
 */
export async function removePostgres(folder: string): Promise<void> {
  const dir = resolve(folder);
  if (!(await holdsServer(dir))) return;
  const home = await homeOf(dir);
  if (await exists(join(home, "data", "postmaster.pid"))) await stop(await prepare(dir));
  await rm(home, { recursive: true, force: true });
  // last: what says where the data is must outlive it
  await rm(dir, { recursive: true, force: true });
}

async function ensureRunning(
  server: Server,
  password: string,
  settings: Record<string, string>,
): Promise<number> {
  let moved = false;
  for (let attempt = 0; ; attempt++) {
    // `pg_ctl status` also counts a killed postmaster that nobody has reaped yet, so ask the server itself.
    const running = await portInUse(server, password);
    if (running !== undefined) return running;
    await removeForeignPid(server);
    try {
      await start(server, await pickPort(server, { moved }), settings);
    } catch (error) {
      if (attempt >= 20 || !passesByItself(error)) throw error;
      moved = /could not bind|could not create any TCP/.test(messageOf(error));
      await sleep(250);
    }
  }
}

/**
 * A rival start, a port just taken, backends of a killed postmaster that still hold its memory, a long
 * recovery.
 */
function passesByItself(error: unknown): boolean {
  return /lock file .* exists|still in use|in use by|could not bind|could not create any TCP|starting up|shutting down|says: nothing/i.test(
    messageOf(error),
  );
}

/**
 * After a crash the pid in postmaster.pid may be another program's, always so in a container where pids begin
 * anew; Postgres would then refuse to start for ever. Only Linux tells cheaply whose pid it is.
 */
async function removeForeignPid(server: Server): Promise<void> {
  const program = await readText(`/proc/${await recordedPid(server)}/comm`);
  if (program === undefined || program.trim() === "postgres") return;
  await rm(join(server.data, "postmaster.pid"), { force: true });
}

async function processLives(server: Server): Promise<boolean> {
  try {
    process.kill(await recordedPid(server), 0);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}

/** The pid of the last start; NaN if there is none, which no process has. */
async function recordedPid(server: Server): Promise<number> {
  return Number((await readText(join(server.data, "postmaster.pid")))?.split("\n")[0]);
}

async function start(server: Server, port: number, settings: Record<string, string>): Promise<void> {
  const { data, home, logFile, user, binaries } = server;
  const all: Record<string, string> = {
    port: String(port),
    listen_addresses: "127.0.0.1",
    shared_buffers: "128MB",
    max_connections: "100",
    log_checkpoints: "off",
    ...(process.platform === "win32" ? {} : { unix_socket_directories: "" }),
    ...settings,
  };
  const flags = Object.entries(all).map(([name, value]) => `-c ${name}=${value === "" ? "''" : value}`);
  const { size } = await stat(logFile).catch(() => ({ size: 0 }));
  const keep = size < 8 << 20;
  if (!keep) await rename(logFile, `${logFile}.1`);
  try {
    const args = ["-D", data, "-l", logFile, "-w", "-t", "60", "-o", flags.join(" "), "start"];
    await run(binaries.pgCtl, args, { cwd: home, user, silent: true });
  } catch (error) {
    const said = await tail(logFile, keep ? size : 0);
    throw new DatabaseError("START_FAILED", `The database in ${home} did not start. Its log says: ${said}`, {
      cause: error,
    });
  }
  await writeFile(join(home, "port"), `${port}\n`);
}

/** The port of the last start, so that URLs stay true; another one when that is taken. */
async function pickPort(server: Server, { moved }: { moved: boolean }): Promise<number> {
  const last = Number(await readText(join(server.home, "port")));
  if (!moved && last > 0 && (await freePort(last)) !== undefined) return last;
  const any = await freePort(0);
  if (any === undefined) throw new DatabaseError("START_FAILED", "No port is free on 127.0.0.1.");
  return any;
}

function freePort(port: number): Promise<number | undefined> {
  return new Promise((done) => {
    const probe = createServer();
    probe.once("error", () => done(undefined));
    probe.listen(port, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => done(typeof address === "object" ? address?.port : undefined));
    });
  });
}

/** The port on which this very server answers; a stranger on a stale port is not it. */
async function portInUse(server: Server, password: string): Promise<number | undefined> {
  // Recovery after a crash may take minutes when there is much to replay.
  const giveUp = Date.now() + 600_000;
  while (Date.now() < giveUp) {
    const port = Number((await readText(join(server.data, "postmaster.pid")))?.split("\n")[3]);
    if (!(port > 0)) return undefined;
    const client = new pg.Client({
      connectionString: serverUrl(port, password),
      connectionTimeoutMillis: 5_000,
    });
    try {
      await client.connect();
      const { rows } = await client.query<{ data: string }>(
        "SELECT current_setting('data_directory') AS data",
      );
      return rows[0] !== undefined && (await sameFile(rows[0].data, server.data)) ? port : undefined;
    } catch (error) {
      switch (codeOf(error)) {
        case "53300": // every connection is taken, hence it runs
          return port;
        case "28P01":
          if (!(await processLives(server))) return undefined; // a stranger took the port of our dead server
          throw new DatabaseError(
            "PASSWORD_REFUSED",
            `The database on port ${port} refuses the password in ${join(server.home, "password")}. Restore that file, or stop the other server on this port.`,
            { cause: error },
          );
        case "57P03": // starting up or shutting down
          await sleep(100);
          continue;
        default:
          return undefined;
      }
    } finally {
      await client.end().catch(() => {});
    }
  }
  return undefined;
}

async function stop(server: Server): Promise<void> {
  const { data, home, user, binaries } = server;
  if (!(await exists(join(data, "postmaster.pid")))) return;
  try {
    await run(binaries.pgCtl, ["-D", data, "-m", "fast", "-w", "-t", "60", "stop"], { cwd: home, user });
  } catch (error) {
    // Ended meanwhile, or killed earlier and its pid file left behind.
    if (/No such process|PID file .* does not exist|is not running/i.test(messageOf(error))) return;
    throw new DatabaseError("STOP_FAILED", `The database in ${home} did not stop: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function kill({ data }: Server): void {
  try {
    process.kill(Number(readFileSync(join(data, "postmaster.pid"), "utf8").split("\n")[0]), "SIGQUIT");
  } catch {
    // It has ended, or this system has no such signal.
  }
}

/** One clear error for whatever went wrong below. */
async function explain(error: unknown, home: string): Promise<unknown> {
  if (error instanceof DatabaseError && error.code !== "START_FAILED") return error;
  const message = messageOf(error);
  const full = codeOf(error) === "ENOSPC" || /No space left|quota exceeded/i.test(message);
  if (full || (await diskIsFull(home))) {
    const text = `The disk that holds ${home} is full. Free some space and start again.`;
    return new DatabaseError("DISK_FULL", text, { cause: error });
  }
  if (error instanceof DatabaseError) return error;
  if (codeOf(error) === "EACCES") {
    const text = `The database's files in ${home} belong to another user. Start as the user who created them, or keep the state in another folder.`;
    return new DatabaseError("DATA_UNREACHABLE", text, { cause: error });
  }
  const text = `The database in ${home} did not start: ${message}`;
  return new DatabaseError("START_FAILED", text, { cause: error });
}

async function diskIsFull(home: string): Promise<boolean> {
  const disk = await statfs(home).catch(() => undefined);
  return disk !== undefined && disk.blocks > 0 && disk.bavail * disk.bsize < 4 << 20;
}

function serverUrl(port: number, password: string): string {
  return `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
}

async function sameFile(a: string, b: string): Promise<boolean> {
  const [left, right] = await Promise.all([stat(a), stat(b)]);
  return left.dev === right.dev && left.ino === right.ino;
}

async function tail(path: string, from: number): Promise<string> {
  const file = await open(path).catch(() => undefined);
  if (file === undefined) return "nothing";
  try {
    const { size } = await file.stat();
    const start = Math.max(from, size - 2_000);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(2_000), 0, 2_000, start);
    return buffer.toString("utf8", 0, bytesRead).trim() || "nothing";
  } finally {
    await file.close();
  }
}
