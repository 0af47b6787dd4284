// The command as people run it: a process of its own.
import { spawn } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { removePostgres } from "@muster/db";

const script = fileURLToPath(new URL("../src/main.ts", import.meta.url));

export type Ended = { status: number | null; stdout: string; stderr: string };

/** Runs `muster` to its end, with nothing of this machine's own configuration. */
export function muster(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Ended> {
  const kept = Object.entries(process.env).filter(([name]) => !/^(MUSTER_|DATABASE_URL)/.test(name));
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...args], {
      cwd: options.cwd ?? tmpdir(),
      env: { ...Object.fromEntries(kept), ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", reject);
    child.once("close", (status) => resolve({ status, stdout, stderr }));
  });
}

export type TestFolder = AsyncDisposable & { path: string };

/** A folder of the test's own; a state folder in it is called `state`. */
export async function testFolder(): Promise<TestFolder> {
  const path = await mkdtemp(join(tmpdir(), "muster-cli-"));
  // As root the database runs as another user, which must get in.
  await chmod(path, 0o755);
  return {
    path,
    async [Symbol.asyncDispose]() {
      // where that user may not enter the temporary folder itself, the data is elsewhere
      await removePostgres(join(path, "state", "postgres"));
      await rm(path, { recursive: true, force: true });
    },
  };
}

/** Waits until the condition holds. */
export async function until<T>(
  what: string,
  ask: () => T | undefined | null | false,
  seconds = 15,
): Promise<T> {
  const deadline = performance.now() + seconds * 1000;
  for (;;) {
    const answer = ask();
    if (answer !== undefined && answer !== null && answer !== false) return answer;
    if (performance.now() > deadline) throw new Error(`Within ${seconds} s there was no ${what}.`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
