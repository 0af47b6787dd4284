import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { constants, setPriority } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const repository = join(import.meta.dirname, "..", "..", "..", "..");

/** Workers of good faith, as processes started by the command a user has. */
export type HonestWorkers = AsyncDisposable & {
  /** Brings their number to `count`. */
  set(count: number): Promise<void>;
};

export function startHonestWorkers(options: { url: string; folder: string }): HonestWorkers {
  const running: ChildProcess[] = [];
  mkdirSync(options.folder, { recursive: true });

  function start(n: number): ChildProcess {
    const name = `honest-${n}`;
    const log = openSync(join(options.folder, `${name}.log`), "a");
    const args = ["worker", "--url", options.url, "--state", join(options.folder, name), "--name", name];
    const child = spawn(
      process.execPath,
      [join(repository, "packages", "cli", "src", "main.ts"), ...args, "--drain-seconds", "2"],
      { stdio: ["ignore", log, log], env: { ...process.env, MUSTER_API_KEY: undefined } },
    );
    closeSync(log);
    // They always find work; what they leave over is not enough to attack with on two cores.
    if (child.pid !== undefined) setPriority(child.pid, constants.priority.PRIORITY_LOW);
    return child;
  }

  async function set(count: number): Promise<void> {
    while (running.length < count) running.push(start(running.length + 1));
    await Promise.all(running.splice(count).map(end));
  }
  return { set, [Symbol.asyncDispose]: () => set(0) };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill("SIGTERM");
  await Promise.race([ended, sleep(8_000, undefined, { ref: false })]);
  if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
}
