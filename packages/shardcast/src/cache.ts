import { createHash, randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { Manifest } from "@muster/protocol";
import { ShardcastError } from "./error.ts";
import { openManifest, type VerifySignature } from "./verify.ts";

// Layout: `partial/<manifest hash>/<sha256>` holds the verified shards of a download under way, `checkpoints/<manifest hash>/` whole
// checkpoints, `tmp/` what is being written. Everything enters its place by a rename, so a process that dies leaves either nothing or something complete.

export type Cache = { partial: string; checkpoints: string; tmp: string };

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
  return cache;
}

/** The checkpoint if it is here and undamaged; one that is damaged is thrown away. Being asked for makes it the most recently used. */
export async function cachedCheckpoint(
  cache: Cache,
  hash: string,
  trust: { trainer?: string; verify?: VerifySignature },
): Promise<{ dir: string; manifest: Manifest } | undefined> {
  const dir = join(cache.checkpoints, hash);
  const bytes = await readFile(join(dir, "manifest.json")).catch(() => undefined);
  if (bytes === undefined) return undefined;
  try {
    const manifest = await openManifest({ bytes, hash, trainer: trust.trainer, verify: trust.verify });
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

/** Whether the shard of this checkpoint is here already. It is hashed again: the disk is not trusted either. */
export async function verifiedShard(cache: Cache, hash: string, shard: { sha256: string }): Promise<boolean> {
  const path = join(cache.partial, hash, shard.sha256);
  const found = await hashOfFile(path).catch(() => undefined);
  if (found === shard.sha256) return true;
  if (found !== undefined) await rm(path, { force: true });
  return false;
}

/** Keeps the bytes if they are the shard's; false when they are not. */
export async function keepShard(
  cache: Cache,
  hash: string,
  shard: { sha256: string; size: number },
  bytes: Uint8Array,
): Promise<boolean> {
  if (bytes.length !== shard.size) return false;
  if (createHash("sha256").update(bytes).digest("hex") !== shard.sha256) return false;
  const partial = join(cache.tmp, randomUUID());
  await writeFile(partial, bytes, { flush: true });
  await mkdir(join(cache.partial, hash), { recursive: true });
  await rename(partial, join(cache.partial, hash, shard.sha256));
  return true;
}

/** Joins the shards, checks every file's hash and moves the checkpoint into its place; its shards are not needed any more. */
export async function assemble(
  cache: Cache,
  hash: string,
  manifest: Manifest,
  bytes: Uint8Array,
): Promise<string> {
  const dir = join(cache.checkpoints, hash);
  const partial = join(cache.tmp, randomUUID());
  await mkdir(partial);
  try {
    for (const file of manifest.files) {
      const whole = createHash("sha256");
      const sink = createWriteStream(join(partial, file.name), { flags: "wx", flush: true });
      await pipeline(async function* () {
        for (const shard of file.shards) {
          for await (const chunk of createReadStream(join(cache.partial, hash, shard.sha256))) {
            whole.update(chunk as Buffer);
            yield chunk as Buffer;
          }
        }
      }, sink);
      if (whole.digest("hex") !== file.sha256) throw mismatch(file.name, hash);
    }
    await writeFile(join(partial, "manifest.json"), bytes, { flush: true });
    await rename(partial, dir).catch(async (cause: unknown) => {
      // another process was faster, with the same bytes
      if (!(await isFolder(dir))) throw cause;
    });
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  await rm(join(cache.partial, hash), { recursive: true, force: true });
  return dir;
}

/** Removes the least recently used checkpoints until the others fit the budget, and what nobody finished within a day. */
export async function evict(cache: Cache, budgetBytes: number, keep: string): Promise<void> {
  const entries = await Promise.all(
    (await readdir(cache.checkpoints)).map(async (name) => {
      const dir = join(cache.checkpoints, name);
      const used = await stat(dir).catch(() => undefined);
      return used ? { dir, name, used: used.mtimeMs, bytes: await bytesIn(dir) } : undefined;
    }),
  );
  const found = entries.filter((entry) => entry !== undefined).toSorted((a, b) => b.used - a.used);
  let left = budgetBytes - (found.find(({ name }) => name === keep)?.bytes ?? 0);
  for (const { dir, name, bytes } of found) {
    if (name === keep) continue;
    left -= bytes;
    if (left < 0) await rm(dir, { recursive: true, force: true });
  }
  const dayAgo = Date.now() - 86_400_000;
  for (const folder of [cache.partial, cache.tmp]) {
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
      if (mtimeMs < dayAgo) await rm(path, { recursive: true, force: true });
    }
  }
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
