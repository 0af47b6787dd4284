import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../failure.ts";
import type { StateFolder } from "../state-folder.ts";
import { repository } from "./repository.ts";
import type { Child, Supervisor } from "./supervisor.ts";

/** Milliseconds after which a build is worth a word: one whose result is cached takes less. */
const SILENT = 3_000;

/**
 * Builds the dashboard unless its sources are as they were. Before the run begins, because a build takes all cores for a while.
 * @throws Failure `DASHBOARD_BUILD_FAILED`
 */
export async function buildDashboard(
  folder: StateFolder,
  options: { note: (text: string) => void; signal: AbortSignal },
): Promise<void> {
  const { note, signal } = options;
  mkdirSync(folder.at("logs"), { recursive: true });
  const logFile = join(folder.at("logs"), "dashboard-build.log");
  const log = openSync(logFile, "w");
  const turbo = join(
    repository,
    "node_modules",
    ".bin",
    process.platform === "win32" ? "turbo.cmd" : "turbo",
  );
  const told = setTimeout(() => note("Building the dashboard; this takes about a minute, once …"), SILENT);
  try {
    const child = spawn(turbo, ["run", "build", "--filter=@muster/dashboard", "--ui=stream"], {
      cwd: repository,
      env: { ...process.env, TURBO_TELEMETRY_DISABLED: "1", NEXT_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1" },
      stdio: ["ignore", log, log],
      shell: process.platform === "win32",
      windowsHide: true,
    });
    closeSync(log);
    const status = await statusOf(child, signal);
    signal.throwIfAborted();
    if (status === 0) return;
    throw new Failure({
      exit: "failed",
      code: "DASHBOARD_BUILD_FAILED",
      what: "The dashboard could not be built.",
      why: `its log ends with:\n${readFileSync(logFile, "utf8").trimEnd().split("\n").slice(-8).join("\n")}`,
      fix: [`cat ${logFile}`, "npm start -- --no-dashboard"],
    });
  } finally {
    clearTimeout(told);
  }
}

export function startDashboard(
  supervisor: Supervisor,
  options: { host: string; port: number; apiUrl: string },
): Child {
  return supervisor.start({
    name: "dashboard",
    args: ["scripts/next.ts", "start", "--hostname", options.host, "--port", String(options.port)],
    cwd: join(repository, "apps", "dashboard"),
    grace: 5_000,
    env: () => ({ NODE_ENV: "production", MUSTER_API_URL: options.apiUrl }),
  });
}

/** Resolves when the dashboard answers. @throws Failure `DASHBOARD_FAILED` */
export async function untilServing(url: string, child: Child, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (performance.now() < deadline && child.ends < 3) {
    signal.throwIfAborted();
    try {
      const response = await fetch(url, {
        redirect: "manual",
        signal: AbortSignal.any([signal, AbortSignal.timeout(10_000)]),
      });
      await response.body?.cancel();
      if (response.status < 500) return;
    } catch {
      signal.throwIfAborted();
    }
    await sleep(150, undefined, { signal });
  }
  throw new Failure({
    exit: "failed",
    code: "DASHBOARD_FAILED",
    what: "The dashboard did not start.",
    fix: [`cat ${child.logFile}`, "npm start -- --no-dashboard"],
  });
}

function statusOf(child: ChildProcess, signal: AbortSignal): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const end = () => child.kill("SIGTERM");
    signal.addEventListener("abort", end, { once: true });
    child.once("error", reject);
    child.once("exit", (status) => {
      signal.removeEventListener("abort", end);
      resolve(status);
    });
  });
}
