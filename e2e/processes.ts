// What runs below a process and how much memory it really takes, read from Linux' /proc. Elsewhere memory is unknown.
import { readdir, readFile } from "node:fs/promises";

/** A process and everything below it, parents first. A process that ended meanwhile is left out. */
export async function family(...roots: number[]): Promise<number[]> {
  const children = new Map<number, number[]>();
  const alive = new Set<number>();
  for (const name of await readdir("/proc").catch(() => [])) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await statOf(Number(name));
    if (stat === undefined || stat.state === "Z") continue;
    alive.add(Number(name));
    children.set(stat.parent, [...(children.get(stat.parent) ?? []), Number(name)]);
  }
  const found = new Set(roots.filter((pid) => alive.has(pid)));
  // A Set visits what is added to it while it is walked.
  for (const pid of found) for (const child of children.get(pid) ?? []) found.add(child);
  return [...found];
}

/**
 * Proportional set size of some processes together, in MB (10⁶ bytes): pages that several share are counted once,
 * so Postgres' shared buffers and the Node binary do not count once per process. Undefined where /proc has none.
 */
export async function memoryOf(pids: readonly number[]): Promise<number | undefined> {
  const sizes = await Promise.all(pids.map(proportionalSize));
  const known = sizes.filter((size) => size !== undefined);
  return known.length === 0 ? undefined : known.reduce((sum, size) => sum + size, 0) / 1e6;
}

/** Whether a process runs (a zombie does not). */
export async function isAlive(pid: number): Promise<boolean> {
  const stat = await statOf(pid);
  if (stat !== undefined) return stat.state !== "Z";
  if (process.platform === "linux") return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** The parent of a process. */
export async function parentOf(pid: number): Promise<number | undefined> {
  return (await statOf(pid))?.parent;
}

/** Kills one process as an empty battery would; that it is gone already is no error. */
export function killHard(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

async function statOf(pid: number): Promise<{ state: string; parent: number } | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  // The program's name stands in parentheses and may hold anything, parentheses too.
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ");
  return fields === undefined ? undefined : { state: fields[0] ?? "", parent: Number(fields[1]) };
}

async function proportionalSize(pid: number): Promise<number | undefined> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8").catch(() => undefined);
  const kilobytes = text?.match(/^Pss:\s+(\d+) kB/m)?.[1];
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
}
