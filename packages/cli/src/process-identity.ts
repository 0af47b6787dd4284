// A pid alone does not name a process: after a restart of the machine or a container it is soon another's. A pid with the
// moment its process began does.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

export type ProcessName = { pid: number; identity: string | undefined };

/**
 * What tells a process from a later one with the same pid: the boot and the tick at which it began. Undefined when there is no such
 * process (a zombie counts as none), or when this system does not tell.
 */
export function identityOf(pid: number): string | undefined {
  switch (process.platform) {
    case "linux":
      return linuxIdentity(pid);
    case "win32":
      return undefined;
    default:
      return startTime(pid);
  }
}

/** Whether this very process runs. Without a recorded identity: whether any process with its pid does. */
export function isRunning({ pid, identity }: ProcessName): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  if (identity !== undefined) return identityOf(pid) === identity;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function linuxIdentity(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the program's name in parentheses and may hold anything; after it come state and numbers.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot}:${fields[19]}`;
  } catch {
    return undefined;
  }
}

function startTime(pid: number): string | undefined {
  try {
    const started = execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return started.trim() || undefined;
  } catch {
    return undefined;
  }
}
