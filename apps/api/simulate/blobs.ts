import { createHash, randomUUID } from "node:crypto";
import { mkdir, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { BlobStore } from "../src/blobs/store.ts";
import { CodedError } from "../src/errors.ts";

/**
 * The store with writes that do not wait for the disk: a simulation need not survive a power cut, and its tens of thousands of small
 * packs would wait for nothing else. Only for blobs in files.
 */
export function withoutSync(store: BlobStore, stateDir: string): BlobStore {
  const folder = join(stateDir, "blobs");
  const shelves = new Set<string>();
  const write = async (sha256: string, bytes: Uint8Array): Promise<void> => {
    const shelf = join(folder, sha256.slice(0, 2));
    const path = join(shelf, sha256);
    if (!shelves.has(shelf)) await mkdir(shelf, { recursive: true });
    shelves.add(shelf);
    if ((await stat(path).catch(() => undefined)) !== undefined) return;
    const draft = join(folder, "tmp", randomUUID());
    await writeFile(draft, bytes);
    await rename(draft, path);
  };
  const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  return {
    ...store,
    async put(sha256, source) {
      const parts: Uint8Array[] = [];
      for await (const part of source) parts.push(part);
      const bytes = Buffer.concat(parts);
      if (hashOf(bytes) !== sha256)
        throw new CodedError("BLOB_HASH_MISMATCH", "The bytes are not those of this hash.");
      await write(sha256, bytes);
      return { size: bytes.length };
    },
    async putBytes(bytes) {
      const sha256 = hashOf(bytes);
      await write(sha256, bytes);
      return sha256;
    },
  };
}
