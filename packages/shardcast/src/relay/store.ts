import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { uptime } from "node:os";
import { join } from "node:path";
import { type BlobReader, type ByteRange, readRange } from "../serve.ts";
import { Incoming } from "./incoming.ts";

/**
 * A relay's blobs: `<dir>/blobs/ab/<sha256>`, a tree that any static server can serve as well. A file gets its name only after its hash
 * was checked, so a process that is killed leaves nothing wrong there. A machine that loses its power may: what was there is then hashed
 * again at the next start.
 */
export type Store = {
  /** Bytes of a blob that is here. */
  size(sha256: string): number | undefined;
  /** Reads a range; the blob stays until the reader is closed. @throws when it is not here. */
  open(sha256: string, range: ByteRange): Promise<BlobReader>;
  /** The whole blob, for what is small. */
  read(sha256: string): Promise<Buffer>;
  /** Begins to receive; call `keep` with it when it has finished. */
  begin(shard: { sha256: string; size: number }): Promise<Incoming>;
  keep(finished: Incoming): void;
  /** Stores bytes whose hash the caller has checked. */
  put(sha256: string, bytes: Uint8Array): Promise<void>;
  /** Removes a blob, when nobody reads it any more. */
  drop(sha256: string): void;
  all(): Iterable<string>;
  /** Bytes of all blobs. */
  bytes(): number;
  close(): Promise<void>;
};

type Entry = { size: number; readers: number; doomed: boolean };

export async function openStore(dir: string): Promise<Store> {
  const blobs = join(dir, "blobs");
  const tmp = join(dir, "tmp");
  await rm(tmp, { recursive: true, force: true });
  await mkdir(tmp, { recursive: true });
  await mkdir(blobs, { recursive: true });
  const entries = await index(blobs, { doubt: await lostPower(dir) });
  let total = [...entries.values()].reduce((sum, { size }) => sum + size, 0);
  const removals = new Map<string, Promise<void>>();
  const pathOf = (sha256: string) => join(blobs, sha256.slice(0, 2), sha256);

  function add(sha256: string, size: number): void {
    const before = entries.get(sha256);
    if (before) {
      before.doomed = false;
      return;
    }
    entries.set(sha256, { size, readers: 0, doomed: false });
    total += size;
  }

  function remove(sha256: string, entry: Entry): void {
    entries.delete(sha256);
    total -= entry.size;
    const removal = rm(pathOf(sha256), { force: true })
      .catch(() => {})
      .finally(() => removals.delete(sha256));
    removals.set(sha256, removal);
  }

  const present = (sha256: string): Entry | undefined => {
    const entry = entries.get(sha256);
    return entry?.doomed === false ? entry : undefined;
  };

  return {
    size: (sha256) => present(sha256)?.size,
    async open(sha256, range) {
      const entry = present(sha256);
      if (!entry) throw new Error(`Blob ${sha256} is not here.`);
      entry.readers++;
      const release = () => {
        entry.readers--;
        if (entry.doomed && entry.readers === 0) remove(sha256, entry);
      };
      try {
        const reader = await readRange(pathOf(sha256), range);
        let closing: Promise<void> | undefined;
        return {
          read: reader.read,
          async close() {
            closing ??= reader.close().finally(release);
            await closing;
          },
        };
      } catch (cause) {
        // somebody else removed it: it has to be fetched again
        entry.doomed = true;
        release();
        throw cause;
      }
    },
    read: async (sha256) => await readFile(pathOf(sha256)),
    async begin(shard) {
      // a removal that is late must not take what comes after it
      await removals.get(shard.sha256);
      return await Incoming.begin(shard, { draft: join(tmp, randomUUID()), path: pathOf(shard.sha256) });
    },
    keep: ({ sha256, size }) => add(sha256, size),
    async put(sha256, bytes) {
      await removals.get(sha256);
      const draft = join(tmp, randomUUID());
      await writeFile(draft, bytes, { flag: "wx" });
      await mkdir(join(blobs, sha256.slice(0, 2)), { recursive: true });
      await rename(draft, pathOf(sha256));
      add(sha256, bytes.length);
    },
    drop(sha256) {
      const entry = entries.get(sha256);
      if (!entry || entry.doomed) return;
      if (entry.readers === 0) remove(sha256, entry);
      else entry.doomed = true;
    },
    *all() {
      for (const [sha256, { doomed }] of entries) if (!doomed) yield sha256;
    },
    bytes: () => total,
    async close() {
      await Promise.all(removals.values());
      await rm(join(dir, "boot"), { force: true });
    },
  };
}

async function index(blobs: string, { doubt }: { doubt: boolean }): Promise<Map<string, Entry>> {
  const entries = new Map<string, Entry>();
  for (const shelf of await readdir(blobs)) {
    if (!/^[0-9a-f]{2}$/.test(shelf)) continue;
    for (const name of await readdir(join(blobs, shelf))) {
      const path = join(blobs, shelf, name);
      if (!/^[0-9a-f]{64}$/.test(name) || !name.startsWith(shelf)) continue;
      const { size } = await stat(path);
      if (doubt && (await hashOf(path)) !== name) await rm(path);
      else entries.set(name, { size, readers: 0, doomed: false });
    }
  }
  return entries;
}

/**
 * Whether the machine has started anew since a relay ran here that did not end in order. Files are not flushed one by one, so some of the
 * last ones may then have lost bytes. From now on this one has not ended in order.
 */
async function lostPower(dir: string): Promise<boolean> {
  const file = join(dir, "boot");
  const boot = Math.round(Date.now() / 1000 - uptime());
  const before = await readFile(file, "utf8").catch(() => undefined);
  await writeFile(file, String(boot));
  // both clocks are a little uncertain; hashing once too often is harmless
  return before !== undefined && Math.abs(Number(before) - boot) > 60;
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
