// Processes that are started again when they end. Each writes to a log file of its own, which it holds itself: the supervisor's death
// breaks no pipe.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { identityOf, isRunning, type ProcessName } from "../process-identity.ts";
import { readText, type StateFolder, writePrivate } from "../state-folder.ts";

export type ChildSpec = {
  /** Unique; also the log's name. */
  name: string;
  /** Arguments of Node: the script and its own. */
  args: readonly string[];
  cwd: string;
  /** Read anew at every start: the database's URL may have changed. */
  env(): Record<string, string | undefined>;
  /** Whether it inherits credentials of the environment, such as the store's; only the coordinator needs them. */
  credentials?: boolean;
  /** Milliseconds between SIGTERM and SIGKILL. */
  grace: number;
  /** Whether it may end by itself without being started again, with status 0. */
  mayFinish?: boolean;
};

export type Child = {
  readonly name: string;
  readonly logFile: string;
  /** The process that runs now. */
  readonly pid: number | undefined;
  /** How often it has ended by itself. */
  readonly ends: number;
  /** Ends it and starts it again. */
  restart(): Promise<void>;
  /** Ends it for good. */
  stop(): Promise<void>;
};

export type Supervisor = {
  /** Makes what it needs in the state folder; again after that was cleared. */
  prepare(): void;
  start(spec: ChildSpec): Child;
  /** Kills whatever still runs, at once. */
  kill(): void;
};

const ROTATE_AT = 10 * 2 ** 20;
const LONGEST_WAIT = 30_000;
/** Milliseconds after which a process counts as healthy, and its next end as its first. */
const HEALTHY_AFTER = 60_000;

export function createSupervisor(folder: StateFolder, note: (text: string) => void): Supervisor {
  const children = new Set<Supervised>();
  const prepare = () => void mkdirSync(folder.at("logs"), { recursive: true });
  prepare();
  const record = () => {
    const running = [...children].flatMap((child) => child.running());
    writePrivate(folder.at("children.json"), `${JSON.stringify(running)}\n`);
  };
  return {
    prepare,
    start(spec) {
      const child = new Supervised(spec, join(folder.at("logs"), `${spec.name}.log`), note, record);
      children.add(child);
      child.launch();
      return child;
    },
    kill() {
      for (const child of children) child.kill();
    },
  };
}

/**
 * Ends what an earlier supervisor left running: after kill -9 its children may take seconds to follow it. Only processes that are
 * provably the recorded ones.
 * @returns the names of those that were ended.
 */
export async function endLeftovers(folder: StateFolder): Promise<string[]> {
  const path = folder.at("children.json");
  const left = parseChildren(readText(path)).filter(
    (child) => child.identity !== undefined && isRunning(child),
  );
  for (const child of left) signal(child.pid, "SIGTERM");
  for (let waited = 0; left.some(isRunning) && waited < 5_000; waited += 100) await sleep(100);
  for (const child of left) if (isRunning(child)) signal(child.pid, "SIGKILL");
  for (let waited = 0; left.some(isRunning) && waited < 2_000; waited += 20) await sleep(20);
  rmSync(path, { force: true });
  return left.map((child) => child.name);
}

type Recorded = ProcessName & { name: string };

class Supervised implements Child {
  readonly name: string;
  readonly logFile: string;
  ends = 0;
  #spec: ChildSpec;
  #note: (text: string) => void;
  #record: () => void;
  #process: ChildProcess | undefined;
  #identity: string | undefined;
  #ended: Promise<void> = Promise.resolve();
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #wanted = true;
  #restarting = false;

  constructor(spec: ChildSpec, logFile: string, note: (text: string) => void, record: () => void) {
    this.name = spec.name;
    this.logFile = logFile;
    this.#spec = spec;
    this.#note = note;
    this.#record = record;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  launch(): void {
    const { args, cwd, env, credentials = false } = this.#spec;
    rotate(this.logFile);
    const log = openSync(this.logFile, "a");
    const child = spawn(process.execPath, ["--import", leash, ...args], {
      cwd,
      env: { ...(credentials ? process.env : withoutCredentials(process.env)), ...env() },
      // A group of its own: Ctrl-C reaches the supervisor alone, which ends its children in order.
      detached: process.platform !== "win32",
      stdio: ["ignore", log, log, "ipc"],
      windowsHide: true,
    });
    closeSync(log);
    this.#process = child;
    this.#identity = child.pid === undefined ? undefined : identityOf(child.pid);
    const started = performance.now();
    this.#ended = new Promise((resolve) => {
      const end = (how: string, status: number | null) => {
        if (this.#process !== child) return;
        this.#process = undefined;
        this.#record();
        resolve();
        this.#afterEnd(how, status, performance.now() - started);
      };
      child.once("error", (error) => end(error.message, null));
      child.once("exit", (status, killedBy) => end(killedBy ?? `status ${status}`, status));
    });
    this.#record();
  }

  running(): Recorded[] {
    const pid = this.pid;
    return pid === undefined ? [] : [{ name: this.name, pid, identity: this.#identity }];
  }

  async restart(): Promise<void> {
    if (!this.#wanted) return;
    clearTimeout(this.#timer);
    this.#restarting = true;
    await this.#terminate();
    this.#restarting = false;
    if (this.#wanted) this.launch();
  }

  async stop(): Promise<void> {
    this.#wanted = false;
    clearTimeout(this.#timer);
    await this.#terminate();
  }

  kill(): void {
    this.#wanted = false;
    this.#process?.kill("SIGKILL");
  }

  async #terminate(): Promise<void> {
    const child = this.#process;
    if (child === undefined) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), this.#spec.grace);
    await this.#ended;
    clearTimeout(timer);
  }

  #afterEnd(how: string, status: number | null, lived: number): void {
    if (!this.#wanted || this.#restarting) return;
    if (status === 0 && this.#spec.mayFinish === true) return;
    this.ends++;
    this.#failures = lived >= HEALTHY_AFTER ? 1 : this.#failures + 1;
    const wait = Math.min(LONGEST_WAIT, 1_000 * 2 ** (this.#failures - 1));
    this.#note(
      `${this.name} ended (${how}); starting it again in ${wait / 1_000} s. Its log: ${this.logFile}`,
    );
    this.#timer = setTimeout(() => this.launch(), wait);
  }
}

const leash = new URL("./leash.ts", import.meta.url).href;

function rotate(file: string): void {
  const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  if (size > ROTATE_AT) renameSync(file, `${file}.1`);
}

function parseChildren(text: string | undefined): Recorded[] {
  try {
    const value: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(value) ? value.filter(isRecorded) : [];
  } catch {
    return [];
  }
}

function isRecorded(value: unknown): value is Recorded {
  if (typeof value !== "object" || value === null) return false;
  const { name, pid, identity } = value as Partial<Record<keyof Recorded, unknown>>;
  return (
    typeof name === "string" &&
    Number.isSafeInteger(pid) &&
    (identity === undefined || typeof identity === "string")
  );
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It ended in between.
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

const credentialNames =
  /^(DATABASE_URL|REDIS_URL|MUSTER_SECRET|MUSTER_OPERATOR_TOKEN|(S3|AWS)_.*(KEY|TOKEN).*)$/;

/** A node computes for runs that others wrote: what it does not know it cannot give away. */
function withoutCredentials(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !credentialNames.test(name)));
}
