import { rm, statfs } from "node:fs/promises";
import { byUse, type Cache } from "./cache.ts";
import { ShardcastError } from "./error.ts";

/**
 * Makes sure that the file system has room for so many more bytes, if need be by removing the least recently used checkpoints.
 * @param input.keep manifest hashes of checkpoints that stay.
 * @throws ShardcastError `DISK_FULL`
 */
export async function requireRoom(
  cache: Cache,
  input: { bytes: number; checkpoint: string; keep: ReadonlySet<string> },
): Promise<void> {
  if ((await freeBytes(cache)) >= input.bytes) return;
  for (const { dir, hash } of (await byUse(cache)).toReversed()) {
    if (input.keep.has(hash)) continue;
    await rm(dir, { recursive: true, force: true });
    if ((await freeBytes(cache)) >= input.bytes) return;
  }
  throw new ShardcastError(
    "DISK_FULL",
    `Checkpoint ${input.checkpoint} needs ${input.bytes} more bytes on disk; the file system of ${cache.checkpoints} has ${await freeBytes(cache)}. Free some room; what was verified is kept.`,
  );
}

/** Whether something failed because the disk, or what this user may have of it, is used up. */
export function isDiskFull(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && (cause.code === "ENOSPC" || cause.code === "EDQUOT");
}

async function freeBytes(cache: Cache): Promise<number> {
  const { bavail, bsize } = await statfs(cache.checkpoints);
  return bavail * bsize;
}
