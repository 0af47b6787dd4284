import { randomUUID } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { isMissing, openDrafts, orFull } from "./drafts.ts";
import { type BlobStore, isBlobName, noBlob } from "./store.ts";

/**
 * Blobs as files: `<folder>/ab/abcd…`. A file under its final name is whole and its bytes have the hash it is named after: it is written
 * under another name in `<folder>/tmp`, flushed to the disk and renamed, so a crash or a full disk at any moment leaves no half blob.
 */
export async function createFileStore(folder: string): Promise<BlobStore> {
  const tmp = join(folder, "tmp");
  const drafts = await openDrafts(tmp);
  const pathOf = (sha256: string): string => {
    // The only guard between a URL and a path.
    if (!isBlobName(sha256)) throw noBlob(sha256);
    return join(folder, sha256.slice(0, 2), sha256);
  };

  const write: typeof drafts.receive = async (source, limit) => {
    const draft = await drafts.receive(source, limit);
    const shelf = join(folder, draft.sha256.slice(0, 2));
    try {
      await mkdir(shelf, { recursive: true });
      await rename(draft.path, pathOf(draft.sha256));
      await syncFolder(shelf);
      return draft;
    } catch (error) {
      await rm(draft.path, { force: true }).catch(() => {});
      throw orFull(error);
    }
  };

  return {
    async put(sha256, source, { maxBytes, signal }) {
      pathOf(sha256);
      const { size } = await write(source, { sha256, maxBytes, ...(signal && { signal }) });
      return { size };
    },
    async putBytes(bytes) {
      return (await write([bytes], { maxBytes: Number.MAX_SAFE_INTEGER })).sha256;
    },
    async read(sha256) {
      return await readFile(pathOf(sha256)).catch((error: unknown) => {
        throw isMissing(error) ? noBlob(sha256) : error;
      });
    },
    async open(sha256, range) {
      // One handle for both, so that a deletion in between cannot answer a size without bytes.
      const file = await open(pathOf(sha256), "r").catch((error: unknown) => {
        throw isMissing(error) ? noBlob(sha256) : error;
      });
      const { size } = await file.stat();
      return { size, stream: file.createReadStream({ ...range, highWaterMark: 256 * 1024 }) };
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
    sweep: (olderThanMs) => drafts.sweep(olderThanMs),
    async *list() {
      for (const shelf of await readdir(folder)) {
        if (!/^[0-9a-f]{2}$/.test(shelf)) continue;
        for (const name of await readdir(join(folder, shelf))) {
          const found = await stat(join(folder, shelf, name)).catch(() => undefined);
          if (found !== undefined) yield { sha256: name, storedAt: found.mtime };
        }
      }
    },
    probe: () => drafts.probe(),
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
