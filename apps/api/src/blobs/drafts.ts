import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rm, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../errors.ts";

/** Bytes that are all here, whose hash was checked, and that nobody can see yet. Whoever asked for it moves or removes it. */
export type Draft = { path: string; sha256: string; size: number };

export type Drafts = {
  /**
   * Writes a stream to a file while hashing it, and flushes it to the disk. What fails leaves nothing.
   * @param sha256 the hash it must have; any when left out
   * @throws CodedError `BLOB_HASH_MISMATCH`, `BLOB_TOO_LARGE`, `STORAGE_FULL`
   */
  receive(
    source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    limit: { sha256?: string; maxBytes: number; signal?: AbortSignal },
  ): Promise<Draft>;
  /** Proves that a file could be written now. @throws CodedError `STORAGE_FULL`, or the system's error */
  probe(): Promise<void>;
  /** Removes what a process that was killed left behind, when older than this. Returns how many. */
  sweep(olderThanMs: number): Promise<number>;
};

/** A folder of files under way; it is made when there is none. */
export async function openDrafts(folder: string): Promise<Drafts> {
  await mkdir(folder, { recursive: true });
  return {
    async receive(source, { sha256, maxBytes, signal }) {
      const path = join(folder, randomUUID());
      const hash = createHash("sha256");
      let size = 0;
      let file: FileHandle | undefined;
      try {
        file = await open(path, "wx", 0o600);
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
        return { path, sha256: found, size };
      } catch (error) {
        await file?.close().catch(() => {});
        await rm(path, { force: true }).catch(() => {});
        throw orFull(error);
      }
    },
    async probe() {
      const path = join(folder, randomUUID());
      try {
        const file = await open(path, "wx", 0o600);
        try {
          await writeAll(file, new Uint8Array(4096));
        } finally {
          await file.close();
        }
      } catch (error) {
        throw orFull(error);
      } finally {
        await rm(path, { force: true }).catch(() => {});
      }
    },
    async sweep(olderThanMs) {
      let removed = 0;
      for (const name of await readdir(folder)) {
        const path = join(folder, name);
        const found = await stat(path).catch(() => undefined);
        if (found === undefined || Date.now() - found.mtimeMs < olderThanMs) continue;
        await unlink(path).catch(() => {});
        removed++;
      }
      return removed;
    },
  };
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength; ) {
    const { bytesWritten } = await file.write(bytes, at);
    at += bytesWritten;
  }
}

function tooLarge(maxBytes: number): CodedError {
  return new CodedError(
    "BLOB_TOO_LARGE",
    `The blob is larger than the ${maxBytes} bytes allowed here. Nothing was stored.`,
  );
}

/** What the system says when there is no room, as a coded error; anything else as it is. */
export function orFull(error: unknown): unknown {
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

export const isMissing = (error: unknown): boolean => systemCode(error) === "ENOENT";

/** The `code` that Node and libraries put on their errors. */
export function systemCode(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}
