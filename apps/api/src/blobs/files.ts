import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../errors.ts";
import type { BlobStore } from "./store.ts";

/**
 * Blobs as files: `<folder>/ab/abcd…`. A file under its final name is whole and its bytes have the hash it is named after: it is written
 * under another name in `<folder>/tmp`, flushed to the disk and renamed, so a crash or a full disk at any moment leaves no half blob.
 */
export async function createFileStore(folder: string): Promise<BlobStore> {
  const tmp = join(folder, "tmp");
  await mkdir(tmp, { recursive: true });
  const pathOf = (sha256: string): string => {
    // The only guard between a URL and a path.
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw missing(sha256);
    return join(folder, sha256.slice(0, 2), sha256);
  };

  const write = async (
    sha256: string | undefined,
    source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    maxBytes: number,
    signal?: AbortSignal,
  ): Promise<{ sha256: string; size: number }> => {
    const draft = join(tmp, randomUUID());
    const hash = createHash("sha256");
    let size = 0;
    let file: FileHandle | undefined;
    try {
      file = await open(draft, "wx", 0o600);
      for await (const chunk of source) {
        signal?.throwIfAborted();
        size += chunk.byteLength;
        if (size > maxBytes) throw tooLarge(maxBytes);
        hash.update(chunk);
        await writeAll(file, chunk);
      }
      signal?.throwIfAborted();
      const found = hash.digest("hex");
      if (sha256 !== undefined && sha256 !== found) {
        throw new CodedError(
          "BLOB_HASH_MISMATCH",
          `The ${size} bytes received have the SHA-256 ${found}, not ${sha256}. Send the bytes again.`,
        );
      }
      await file.sync();
      await file.close();
      file = undefined;
      const path = pathOf(found);
      await mkdir(join(folder, found.slice(0, 2)), { recursive: true });
      await rename(draft, path);
      await syncFolder(join(folder, found.slice(0, 2)));
      return { sha256: found, size };
    } catch (error) {
      await file?.close().catch(() => {});
      await rm(draft, { force: true }).catch(() => {});
      throw full(error);
    }
  };

  return {
    async put(sha256, source, { maxBytes, signal }) {
      pathOf(sha256);
      const { size } = await write(sha256, source, maxBytes, signal);
      return { size };
    },
    async putBytes(bytes) {
      return (await write(undefined, [bytes], Number.MAX_SAFE_INTEGER)).sha256;
    },
    async read(sha256) {
      return await readFile(pathOf(sha256)).catch((error: unknown) => {
        throw isMissing(error) ? missing(sha256) : error;
      });
    },
    async open(sha256, range) {
      // One handle for both, so that a deletion in between cannot answer a size without bytes.
      const file = await open(pathOf(sha256), "r").catch((error: unknown) => {
        throw isMissing(error) ? missing(sha256) : error;
      });
      const { size } = await file.stat();
      return { size, stream: file.createReadStream(range ?? {}) };
    },
    size: (sha256) => sizeOf(pathOf(sha256)),
    has: async (sha256) => (await sizeOf(pathOf(sha256))) !== undefined,
    async deleteOlder(sha256, before) {
      const path = pathOf(sha256);
      const aside = join(tmp, randomUUID());
      // Moved first, judged then: whoever stores the blob again in between makes a new file that is not touched.
      try {
        await rename(path, aside);
      } catch (error) {
        if (isMissing(error)) return true;
        throw error;
      }
      const { mtime } = await stat(aside);
      if (mtime < before) {
        await rm(aside);
        return true;
      }
      await rename(aside, path);
      return false;
    },
    async sweep(olderThanMs) {
      let removed = 0;
      for (const name of await readdir(tmp)) {
        const path = join(tmp, name);
        const found = await stat(path).catch(() => undefined);
        if (found === undefined || Date.now() - found.mtimeMs < olderThanMs) continue;
        await unlink(path).catch(() => {});
        removed++;
      }
      return removed;
    },
    async *list() {
      for (const shelf of await readdir(folder)) {
        if (!/^[0-9a-f]{2}$/.test(shelf)) continue;
        for (const name of await readdir(join(folder, shelf))) {
          const found = await stat(join(folder, shelf, name)).catch(() => undefined);
          if (found !== undefined) yield { sha256: name, storedAt: found.mtime };
        }
      }
    },
    async probe() {
      const draft = join(tmp, randomUUID());
      try {
        const file = await open(draft, "wx", 0o600);
        try {
          await writeAll(file, new Uint8Array(4096));
        } finally {
          await file.close();
        }
      } catch (error) {
        throw full(error);
      } finally {
        await rm(draft, { force: true }).catch(() => {});
      }
    },
  };
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength; ) {
    const { bytesWritten } = await file.write(bytes, at);
    at += bytesWritten;
  }
}

/** The rename itself must survive a power cut too. Windows cannot open a folder. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function missing(sha256: string): CodedError {
  return new CodedError(
    "BLOB_NOT_FOUND",
    `There is no blob ${sha256.slice(0, 64)}. It was never stored, or retention deleted it.`,
  );
}

function tooLarge(maxBytes: number): CodedError {
  return new CodedError(
    "BLOB_TOO_LARGE",
    `The blob is larger than the ${maxBytes} bytes allowed here. Nothing was stored.`,
  );
}

const isMissing = (error: unknown): boolean => systemCode(error) === "ENOENT";

function full(error: unknown): unknown {
  const code = systemCode(error);
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new CodedError(
    "STORAGE_FULL",
    "The coordinator's disk is full; nothing was stored. Try again when its operator has made room.",
    {
      cause: error,
    },
  );
}

function systemCode(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}
