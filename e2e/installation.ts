// A whole Muster of its own: `muster up` as a process, with its own state folder, ports and database.
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { openDatabase, removePostgres, startPostgres } from "@muster/db";
import type { RunSpec } from "@muster/protocol";
import { createClient, type MusterClient, type Run } from "@muster/sdk";
import { family, isAlive, killHard, parentOf } from "./processes.ts";

export const repository = join(import.meta.dirname, "..");

export type InstallationOptions = {
  /** Part of the folder's name. */
  name: string;
  /** 2 when left out. */
  workers?: number;
  cheaters?: number;
  /** Coordinator processes on the one database; 1 when left out. */
  apiProcesses?: number;
  /** Whether the dashboard runs too. */
  dashboard?: boolean;
  /** Put on top of this process' environment. */
  env?: Record<string, string>;
  /** Leave the folder when stopped. */
  keep?: boolean;
};

/** A process that `muster up` looks after. */
export type Child = { name: string; pid: number };

export type Installation = {
  stateDir: string;
  /** What `muster up` prints. */
  logFile: string;
  /** Pid of `muster up`. */
  pid: number;
  /** The first coordinator, the one the dashboard speaks to. */
  url: string;
  /** All of them. */
  urls: readonly string[];
  dashboardUrl: string | undefined;
  /** The one-time link that `muster up` printed; none without a dashboard. */
  signInUrl: string | undefined;
  apiKey: string;
  /** TypeID of the organization. */
  organization: string;
  databaseUrl: string;
  /** Speaks to the first coordinator with the API key. */
  client: MusterClient;
  /** The processes as they are now, without Postgres. */
  children(): Promise<Child[]>;
  /** Every process: supervisor, coordinators, dashboard, nodes and Postgres' own. */
  pids(): Promise<number[]>;
  /** Pid of the Postgres server. Asks the server, so it must be up. */
  postgres(): Promise<number>;
  /** Ends everything and deletes the folder, unless told to keep it. Throws when something survives a polite stop. */
  stop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
};

/** Starts `muster up` without a run and waits until all of it runs. */
export async function startInstallation(options: InstallationOptions): Promise<Installation> {
  const folder = await mkdtemp(join(tmpdir(), `muster-${options.name}-`));
  const stateDir = join(folder, "state");
  const logFile = join(folder, "up.log");
  const args = ["up", "--no-run", "--state-dir", stateDir, "--port", String(await freePorts(8))];
  args.push("--workers", String(options.workers ?? 2), "--api-processes", String(options.apiProcesses ?? 1));
  if (options.cheaters !== undefined) args.push("--cheaters", String(options.cheaters));
  if (options.dashboard !== true) args.push("--no-dashboard");
  const log = openSync(logFile, "a");
  const supervisor = spawn(process.execPath, [join(repository, "packages/cli/src/main.ts"), ...args], {
    cwd: repository,
    stdio: ["ignore", log, log],
    // A database of its own, whatever this shell is set up for.
    env: { ...process.env, DATABASE_URL: undefined, ...options.env },
    // A Ctrl-C at this terminal reaches us alone, and we stop the whole.
    detached: true,
  });
  closeSync(log);
  try {
    const { connection, signInUrl } = await ready(supervisor, { stateDir, logFile });
    const database = await startPostgres(join(stateDir, "postgres"));
    const client = createClient({ url: connection.url, apiKey: connection.apiKey });
    let postmaster = await postmasterOf(database.url);
    const pids = () => family(supervisor.pid ?? 0, postmaster);
    let stopped: Promise<void> | undefined;
    const stop = () => {
      stopped ??= end(supervisor, { client, pids, folder, keep: options.keep ?? false });
      return stopped;
    };
    return {
      ...connection,
      stateDir,
      logFile,
      signInUrl,
      pid: supervisor.pid ?? 0,
      databaseUrl: database.url,
      client,
      children: async () => JSON.parse(await readFile(join(stateDir, "children.json"), "utf8")),
      pids,
      postgres: async () => {
        postmaster = await postmasterOf(database.url);
        return postmaster;
      },
      stop,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await endSupervisor(supervisor);
    if (options.keep !== true) await removePostgres(join(stateDir, "postgres"));
    if (options.keep !== true) await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

/** Creates and starts a run. @throws Error when its spec is refused. */
export async function createRun(
  { client, organization }: Pick<Installation, "client" | "organization">,
  spec: RunSpec,
): Promise<Run> {
  const outcome = await client.runs.create({
    organization,
    spec,
    credits: "1000000000000",
    start: true,
    idempotencyKey: randomUUID(),
  });
  if (outcome.__typename === "RunCreated") return outcome.run;
  throw new Error(`The spec is refused: ${JSON.stringify(outcome)}`);
}

/** Calls until the answer is something, for at most `seconds`; what fails meanwhile is only told at the end. */
export async function until<T>(what: string, seconds: number, ask: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + seconds * 1000;
  let last: unknown;
  while (performance.now() < deadline) {
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
      last = undefined;
    } catch (error) {
      last = error;
    }
    await sleep(200);
  }
  throw new Error(`Within ${seconds} s there was no ${what}.`, { cause: last });
}

type Connection = Pick<Installation, "url" | "urls" | "dashboardUrl" | "organization" | "apiKey">;

async function ready(
  supervisor: ChildProcess,
  { stateDir, logFile }: { stateDir: string; logFile: string },
): Promise<{ connection: Connection; signInUrl: string | undefined }> {
  const deadline = performance.now() + 120_000;
  while (performance.now() < deadline) {
    const file = await readFile(join(stateDir, "connection.json"), "utf8").catch(() => undefined);
    const said = await readFile(logFile, "utf8");
    const signInUrl = said.match(/https?:\/\/\S+\?\S*token=\S+/)?.[0];
    const connection: Connection | undefined = file === undefined ? undefined : JSON.parse(file);
    if (connection !== undefined && (signInUrl !== undefined || connection.dashboardUrl === undefined))
      return { connection, signInUrl };
    if (supervisor.exitCode !== null || supervisor.signalCode !== null) break;
    await sleep(100);
  }
  const said = await readFile(logFile, "utf8");
  throw new Error(`\`muster up\` did not get ready. The end of what it said:\n${said.slice(-4_000)}`);
}

/** The server's main process is the parent of the one that answers. */
async function postmasterOf(databaseUrl: string): Promise<number> {
  await using database = openDatabase(databaseUrl, { max: 1, log: () => {} });
  const answer = await database.pool.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  return (await parentOf(answer.rows[0]?.pid ?? 0)) ?? 0;
}

async function end(
  supervisor: ChildProcess,
  installation: Pick<Installation, "client" | "pids"> & { folder: string; keep: boolean },
): Promise<void> {
  await installation.client.close();
  const before = await installation.pids();
  await endSupervisor(supervisor);
  const left: number[] = [];
  for (const pid of before) if (await isAlive(pid)) left.push(pid);
  const names = await Promise.all(left.map(nameOf));
  for (const pid of left) killHard(pid);
  if (!installation.keep) {
    await removePostgres(join(installation.folder, "state", "postgres"));
    await rm(installation.folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }
  if (left.length > 0) throw new Error(`\`muster up\` ended and left running: ${names.join(", ")}.`);
}

async function endSupervisor(supervisor: ChildProcess): Promise<void> {
  const ended = new Promise<void>((resolve) => {
    if (supervisor.exitCode !== null || supervisor.signalCode !== null) resolve();
    else supervisor.once("exit", () => resolve());
  });
  supervisor.kill("SIGTERM");
  await Promise.race([ended, sleep(30_000, undefined, { ref: false })]);
  if (supervisor.exitCode !== null || supervisor.signalCode !== null) return;
  for (const pid of await family(supervisor.pid ?? 0)) killHard(pid);
}

async function nameOf(pid: number): Promise<string> {
  const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return `${pid} (${command.replaceAll("\0", " ").trim().slice(0, 120)})`;
}

/** The first of `count` consecutive ports that are free now. */
async function freePorts(count: number): Promise<number> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = 20_000 + Math.floor(Math.random() * 20_000);
    const free = await Promise.all(Array.from({ length: count }, (_, i) => isFree(first + i)));
    if (free.every(Boolean)) return first;
  }
  throw new Error(`No ${count} consecutive ports are free.`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
      .once("error", () => resolve(false))
      .listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
