// The folder that holds everything of one local installation: database, blobs, keys, logs. Invariant: nothing in it that is
// not ours is ever changed or removed, and one supervisor at a time works in it.
import { randomBytes, randomUUID } from "node:crypto";
import {
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { Failure, systemCode } from "./failure.ts";
import { identityOf, isRunning } from "./process-identity.ts";

export type StateFolder = {
  readonly path: string;
  /** Path of an entry of ours. */
  at(entry: OwnEntry): string;
};

/** What `muster` itself puts there, and `--fresh` removes. */
const ownEntries = [
  "muster.json",
  "lock",
  "children.json",
  "connection.json",
  "secret",
  "operator-token",
  "postgres",
  "blobs",
  "nodes",
  "logs",
] as const;
export type OwnEntry = (typeof ownEntries)[number];

/** What other commands put there, also before the first start: `--fresh` leaves it. */
const neighbours: ReadonlySet<string> = new Set([
  "bootstrap.lock",
  // the key of a node that works for somebody else's coordinator
  "node",
  "test-results",
  "test-postgres",
  ".DS_Store",
]);

const marker = { product: "muster", layout: 1 } as const;

/**
 * Opens the folder, making it when it is not there.
 * @throws Failure `STATE_FOREIGN` when it holds something that is not ours, `STATE_NEWER` when a newer Muster wrote it,
 * `STATE_UNUSABLE` when it cannot be read or written; the folder is then as it was.
 */
export function openStateFolder(folder: string): StateFolder {
  const path = resolve(folder);
  try {
    mkdirSync(path, { recursive: true });
    if (!hasMarker(path)) {
      // A draft of the marker is another start of ours, at this very moment.
      const strangers = readdirSync(path).filter(
        (name) => !neighbours.has(name) && !name.startsWith("muster.json"),
      );
      if (strangers.length > 0) throw foreign(path, strangers);
      writeOnce(join(path, "muster.json"), `${JSON.stringify(marker)}\n`, 0o644);
    }
  } catch (error) {
    throw unusable(path, error);
  }
  return { path, at: (entry) => join(path, entry) };
}

/** The folder of an installation that is there already; undefined when there is none. Changes nothing. */
export function findStateFolder(folder: string): StateFolder | undefined {
  const path = resolve(folder);
  try {
    return hasMarker(path) ? { path, at: (entry) => join(path, entry) } : undefined;
  } catch (error) {
    throw unusable(path, error);
  }
}

/** Who works in a folder. */
export type Holder = {
  pid: number;
  identity: string | undefined;
  url: string;
  dashboardUrl: string | undefined;
};

/**
 * Takes the folder for this process. A lock whose process is gone is taken over.
 * @returns a function that releases it.
 * @throws Failure `STATE_LOCKED`, which says where the other one serves.
 */
export function lockStateFolder(
  folder: StateFolder,
  serving: Pick<Holder, "url" | "dashboardUrl">,
): () => void {
  const path = folder.at("lock");
  const mine: Holder = { pid: process.pid, identity: identityOf(process.pid), ...serving };
  const text = `${JSON.stringify(mine)}\n`;
  for (let attempt = 0; !tryWriteOnce(path, text, 0o644); attempt++) {
    const found = readText(path);
    const holder = found === undefined ? undefined : parseHolder(found);
    if ((holder !== undefined && isRunning(holder)) || attempt >= 20) throw locked(folder, holder);
    if (found !== undefined) removeStale(path, found);
  }
  return () => {
    if (readText(path) === text) rmSync(path, { force: true });
  };
}

/** Who works in the folder now, if anyone does. */
export function holderOf(folder: StateFolder): Holder | undefined {
  const text = readText(folder.at("lock"));
  const holder = text === undefined ? undefined : parseHolder(text);
  return holder !== undefined && isRunning(holder) ? holder : undefined;
}

/** Removes what is ours but the lock, which the caller holds, and the marker. The database must have been removed before. */
export function clearStateFolder(folder: StateFolder): void {
  for (const entry of ownEntries) {
    if (entry === "lock" || entry === "muster.json") continue;
    rmSync(folder.at(entry), { recursive: true, force: true });
  }
}

/** A random secret that only this user reads, made on the first call: 32 bytes in hexadecimal. */
export function secretOf(folder: StateFolder, entry: "secret" | "operator-token"): string {
  const path = folder.at(entry);
  tryWriteOnce(path, `${randomBytes(32).toString("hex")}\n`, 0o600);
  const secret = readText(path)?.trim() ?? "";
  if (secret.length >= 32) return secret;
  throw new Failure({
    exit: "failed",
    code: "SECRET_BROKEN",
    what: `${path} holds no secret any more.`,
    why: "It is made once and signs people's sessions; it must be at least 32 characters.",
    fix: [`Restore ${path} from a backup, or remove it: everyone then has to sign in again.`],
  });
}

/** How to reach the coordinator that runs in this folder, for the other commands. */
export type Connection = {
  url: string;
  /** Every coordinator process, the first included. */
  urls: readonly string[];
  dashboardUrl: string | undefined;
  organization: string;
  apiKey: string;
};

export function writeConnection(folder: StateFolder, connection: Connection): void {
  writePrivate(folder.at("connection.json"), `${JSON.stringify(connection, null, 2)}\n`);
}

export function readConnection(folder: StateFolder): Connection | undefined {
  const value = parseJson(readText(folder.at("connection.json")) ?? "");
  if (typeof value !== "object" || value === null) return undefined;
  const { url, urls, dashboardUrl, organization, apiKey } = value as Partial<
    Record<keyof Connection, unknown>
  >;
  if (typeof url !== "string" || typeof organization !== "string" || typeof apiKey !== "string")
    return undefined;
  return {
    url,
    urls: Array.isArray(urls) ? urls.filter((other) => typeof other === "string") : [url],
    organization,
    apiKey,
    dashboardUrl: typeof dashboardUrl === "string" ? dashboardUrl : undefined,
  };
}

/** @throws Failure `DISK_FULL` when fewer than `bytes` are free where `path` lies. */
export function requireFreeDisk(path: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(path);
  const free = bavail * bsize;
  if (free >= bytes) return;
  const mb = (n: number) => `${Math.floor(n / 1e6)} MB`;
  throw new Failure({
    exit: "failed",
    code: "DISK_FULL",
    what: `Only ${mb(free)} are free on the disk of ${path}; Muster needs ${mb(bytes)}. Make room, or keep the state on another disk with --state-dir <folder>.`,
  });
}

/** Replaces a file that only this user reads, whole or not at all. */
export function writePrivate(path: string, text: string): void {
  const draft = `${path}.${randomUUID()}`;
  writeFileSync(draft, text, { mode: 0o600, flush: true });
  renameSync(draft, path);
}

export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ENOTDIR") return undefined;
    throw error;
  }
}

function hasMarker(path: string): boolean {
  const text = readText(join(path, "muster.json"));
  if (text === undefined) return false;
  const found = parseJson(text) as { product?: unknown; layout?: unknown } | undefined;
  if (found?.product !== marker.product) throw foreign(path, ["muster.json"]);
  if (found.layout === marker.layout) return true;
  throw new Failure({
    exit: "failed",
    code: "STATE_NEWER",
    what: `${path} was written by another version of Muster (layout ${String(found.layout)}; this one knows ${marker.layout}). Nothing was changed.`,
    fix: ["Use the version that wrote it, or another folder with --state-dir <folder>."],
  });
}

function foreign(path: string, names: readonly string[]): Failure {
  const some = names.slice(0, 3).join(", ") + (names.length > 3 ? ", …" : "");
  return new Failure({
    exit: "failed",
    code: "STATE_FOREIGN",
    what: `${path} holds other files (${some}) and is not Muster's; nothing in it was changed. Name an empty or new folder with --state-dir <folder>.`,
  });
}

function unusable(path: string, error: unknown): unknown {
  const code = systemCode(error);
  if (error instanceof Failure || code === undefined) return error;
  const reasons: Record<string, string> = {
    EACCES: "this user may not read and write it",
    EPERM: "this user may not read and write it",
    EROFS: "its disk is read-only",
    ENOSPC: "its disk is full",
    EEXIST: "it is a file, not a folder",
    ENOTDIR: "a part of its path is a file, not a folder",
  };
  return new Failure({
    exit: "failed",
    code: "STATE_UNUSABLE",
    what: `${path} cannot be used for Muster's state: ${reasons[code] ?? code}. Mend that, or name another folder with --state-dir <folder>.`,
    cause: error,
  });
}

function locked(folder: StateFolder, holder: Holder | undefined): Failure {
  const where =
    holder === undefined ? "" : ` It serves ${holder.dashboardUrl ?? holder.url} (process ${holder.pid}).`;
  return new Failure({
    exit: "failed",
    code: "STATE_LOCKED",
    what: `Muster is running already in ${folder.path}.${where} Open that, or start another with --state-dir <folder> --port <port>.`,
  });
}

/**
 * Two starts may find the same stale lock. Renaming takes exactly one file away, so whoever has taken something else than the
 * stale text gives it back.
 */
function removeStale(path: string, stale: string): void {
  const aside = `${path}.${randomUUID()}`;
  try {
    renameSync(path, aside);
    if (readText(aside) !== stale) linkSync(aside, path);
  } catch (error) {
    if (!["ENOENT", "EEXIST"].includes(systemCode(error) ?? "")) throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}

function parseHolder(text: string): Holder | undefined {
  const value = parseJson(text) as Partial<Holder> | undefined;
  return typeof value?.pid === "number" && typeof value.url === "string" ? (value as Holder) : undefined;
}

function writeOnce(path: string, text: string, mode: number): void {
  tryWriteOnce(path, text, mode);
}

/** Makes the file unless it is there; never visible half written. False when it was there. */
function tryWriteOnce(path: string, text: string, mode: number): boolean {
  const draft = `${path}.${randomUUID()}`;
  try {
    writeFileSync(draft, text, { mode, flush: true });
    linkSync(draft, path);
    return true;
  } catch (error) {
    if (systemCode(error) === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
