import { createHash, randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { type Manifest, parseManifest } from "@muster/protocol";
import { ShardcastError } from "./error.ts";
import { openManifest, type VerifySignature } from "./verify.ts";

// Layout: `partial/<manifest hash>/<sha256>` holds the verified shards of a download under way, `checkpoints/<manifest hash>/` whole
// checkpoints, `tmp/` what is being written. Everything enters its place by a rename, so a process that dies leaves either nothing or
// something complete.

export type Cache = { partial: string; checkpoints: string; tmp: string };
export type Checkpoint = { dir: string; manifest: Manifest };
type Piece = { sha256: string; size: number };

// Nothing is under way for as long: what is in `tmp` since then belongs to a process that died.
const TMP_LIVES_MS = 600_000;
const PARTIAL_LIVES_MS = 86_400_000;

// Files this process has hashed, by path, with what a change would show in: every task opens its checkpoint again, and hashing some
// gigabytes takes longer than many a task. Another process that changes a file behind our back changes its time or its size.
const hashed = new Map<string, { sha256: string; size: number; mtimeMs: number; ino: number }>();
const mostHashed = 4096;

export async function openCache(dir: string): Promise<Cache> {
  const cache = {
    partial: join(dir, "partial"),
    checkpoints: join(dir, "checkpoints"),
    tmp: join(dir, "tmp"),
  };
  for (const folder of Object.values(cache)) await mkdir(folder, { recursive: true });
  await sweep(cache.tmp, TMP_LIVES_MS);
  return cache;
}

/** A path in `tmp` that nobody else uses. */
export function newTmp(cache: Cache): string {
  return join(cache.tmp, randomUUID());
}

/** The checkpoint if it is here and undamaged; one that is damaged is thrown away. Being asked for makes it the most recently used. */
export async function cachedCheckpoint(
  cache: Cache,
  hash: string,
  trust: { trainer?: string | undefined; verify?: VerifySignature | undefined },
): Promise<Checkpoint | undefined> {
  const dir = join(cache.checkpoints, hash);
  const bytes = await readFile(join(dir, "manifest.json")).catch(() => undefined);
  if (bytes === undefined) return undefined;
  try {
    const manifest = await openManifest({ bytes, hash, ...trust });
    for (const file of manifest.files) {
      if ((await hashOnce(join(dir, file.name))) !== file.sha256) throw mismatch(file.name, hash);
    }
    const now = new Date();
    await utimes(dir, now, now);
    return { dir, manifest };
  } catch (cause) {
    if (cause instanceof ShardcastError && cause.code === "WRONG_TRAINER") throw cause;
    await rm(dir, { recursive: true, force: true });
    return undefined;
  }
}

/** All checkpoints that seem to be here, by manifest hash. Their files were not hashed. */
export async function checkpointsIn(cache: Cache): Promise<Map<string, Checkpoint>> {
  const found = new Map<string, Checkpoint>();
  for (const hash of await readdir(cache.checkpoints)) {
    const dir = join(cache.checkpoints, hash);
    try {
      found.set(hash, { dir, manifest: parseManifest(await readFile(join(dir, "manifest.json"))) });
    } catch {
      // being written, being removed, or damaged: opening it will tell
    }
  }
  return found;
}

/** Names of the blobs kept for a download. */
export async function partialsOf(cache: Cache, hash: string): Promise<string[]> {
  return await readdir(join(cache.partial, hash)).catch(() => []);
}

/** Manifest hashes of the downloads that were begun. */
export async function partialDownloads(cache: Cache): Promise<string[]> {
  return await readdir(cache.partial);
}

export function partialPath(cache: Cache, hash: string, sha256: string): string {
  return join(cache.partial, hash, sha256);
}

/** Whether the shard of this download is here already. It is hashed again: the disk is not trusted either. */
export async function isKept(cache: Cache, hash: string, sha256: string): Promise<boolean> {
  const path = partialPath(cache, hash, sha256);
  const found = await hashOfFile(path).catch(() => undefined);
  if (found === sha256) return true;
  if (found !== undefined) await rm(path, { force: true });
  return false;
}

/** Keeps bytes whose hash was checked. They need not outlive a loss of power: they are hashed again before they are used. */
export async function keepShard(
  cache: Cache,
  hash: string,
  sha256: string,
  bytes: Uint8Array,
): Promise<void> {
  const tmp = newTmp(cache);
  try {
    await writeFile(tmp, bytes);
    await mkdir(join(cache.partial, hash), { recursive: true });
    await rename(tmp, partialPath(cache, hash, sha256));
  } catch (cause) {
    await rm(tmp, { force: true });
    throw cause;
  }
}

/** Keeps a shard that is a part of a file on this machine; false when it is not there any more, or not the shard. */
export async function keepCopy(
  cache: Cache,
  hash: string,
  shard: Piece,
  from: { path: string; offset: number },
): Promise<boolean> {
  const bytes = Buffer.allocUnsafeSlow(shard.size);
  try {
    await using file = await open(from.path, "r");
    const { bytesRead } = await file.read(bytes, 0, shard.size, from.offset);
    if (bytesRead !== shard.size || sha256Of(bytes) !== shard.sha256) return false;
  } catch {
    return false;
  }
  await keepShard(cache, hash, shard.sha256, bytes);
  return true;
}

/** The bytes of shards that are kept, in order. */
export async function* readKept(
  cache: Cache,
  hash: string,
  shards: readonly Piece[],
): AsyncGenerator<Uint8Array, void, undefined> {
  for (const { sha256 } of shards) {
    for await (const chunk of createReadStream(partialPath(cache, hash, sha256))) yield chunk as Buffer;
  }
}

/**
 * Joins the shards, checks every file's hash and moves the checkpoint into its place; its shards are not needed any more.
 * @param input.ready files that are in `tmp` already and were hashed, by name.
 */
export async function assemble(
  cache: Cache,
  input: {
    hash: string;
    manifest: Manifest;
    manifestBytes: Uint8Array;
    ready: ReadonlyMap<string, string>;
    signal: AbortSignal;
  },
): Promise<string> {
  const { hash, manifest, signal } = input;
  const dir = join(cache.checkpoints, hash);
  const folder = newTmp(cache);
  await mkdir(folder);
  try {
    for (const file of manifest.files) {
      const path = join(folder, file.name);
      const ready = input.ready.get(file.name);
      if (ready !== undefined) {
        await rename(ready, path);
        continue;
      }
      const whole = createHash("sha256");
      const joined = async function* () {
        for await (const chunk of readKept(cache, hash, file.shards)) {
          whole.update(chunk);
          yield chunk;
        }
      };
      await pipeline(joined, createWriteStream(path, { flags: "wx", flush: true }), { signal });
      if (whole.digest("hex") !== file.sha256) throw mismatch(file.name, hash);
    }
    await writeFile(join(folder, "manifest.json"), input.manifestBytes, { flush: true });
    await rename(folder, dir).catch(async (cause: unknown) => {
      // another process was faster, with the same bytes
      if (!(await isFolder(dir))) throw cause;
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  await forget(cache, hash);
  return dir;
}

/** Removes what was kept of a download. */
export async function forget(cache: Cache, hash: string): Promise<void> {
  await rm(join(cache.partial, hash), { recursive: true, force: true });
}

/** Removes the least recently used checkpoints until the others fit the budget, and what nobody finished within a day. */
export async function evict(cache: Cache, budgetBytes: number, keep: string): Promise<void> {
  const found = await byUse(cache);
  let left = budgetBytes - (found.find(({ hash }) => hash === keep)?.bytes ?? 0);
  for (const { dir, hash, bytes } of found) {
    if (hash === keep) continue;
    left -= bytes;
    if (left < 0) await rm(dir, { recursive: true, force: true });
  }
  await sweep(cache.partial, PARTIAL_LIVES_MS);
}

/** Checkpoints that are here, the most recently used first. */
export async function byUse(cache: Cache): Promise<{ dir: string; hash: string; bytes: number }[]> {
  const entries = await Promise.all(
    (await readdir(cache.checkpoints)).map(async (hash) => {
      const dir = join(cache.checkpoints, hash);
      const used = await stat(dir).catch(() => undefined);
      return used ? { dir, hash, used: used.mtimeMs, bytes: await bytesIn(dir) } : undefined;
    }),
  );
  return entries.filter((entry) => entry !== undefined).toSorted((a, b) => b.used - a.used);
}

/** Removes what has not been changed for so long. */
async function sweep(folder: string, ms: number): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    if ((await changedAt(path)) < Date.now() - ms) await rm(path, { recursive: true, force: true });
  }
}

/** When the file, or anything in the folder, was changed last; what is gone was changed just now. */
async function changedAt(path: string): Promise<number> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) return Number.POSITIVE_INFINITY;
  if (!found.isDirectory()) return found.mtimeMs;
  const inside = await Promise.all(
    (await readdir(path).catch(() => [])).map((name) => changedAt(join(path, name))),
  );
  return Math.max(found.mtimeMs, ...inside);
}

async function hashOnce(path: string): Promise<string> {
  const { size, mtimeMs, ino } = await stat(path);
  const known = hashed.get(path);
  if (known?.size === size && known.mtimeMs === mtimeMs && known.ino === ino) return known.sha256;
  const sha256 = await hashOfFile(path);
  if (hashed.size >= mostHashed) hashed.clear();
  hashed.set(path, { sha256, size, mtimeMs, ino });
  return sha256;
}

async function hashOfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function bytesIn(dir: string): Promise<number> {
  const names = await readdir(dir).catch(() => []);
  const sizes = await Promise.all(
    names.map(async (name) => (await stat(join(dir, name)).catch(() => undefined))?.size ?? 0),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() === true;
}

function mismatch(name: string, hash: string): ShardcastError {
  return new ShardcastError(
    "FILE_MISMATCH",
    `${name} of checkpoint ${hash} is not the file its manifest names.`,
  );
}
