import { type Manifest, parseManifest } from "@muster/protocol";
import { LRUCache } from "lru-cache";
import type { Services } from "../context.ts";

// A manifest never changes, and a version is asked for by everyone at once: it is read once a process.
const parsed = new LRUCache<string, { blobs: Services["blobs"]; manifest: Manifest; shards: Shards }>({
  max: 16,
});

/** Sizes in bytes by hash, of every shard of the checkpoint's files and of its delta. */
type Shards = ReadonlyMap<string, number>;

/** A checkpoint's manifest and shards, from the store. @throws CodedError `BLOB_NOT_FOUND` when retention took it */
export async function manifestOf(
  { blobs }: Pick<Services, "blobs">,
  manifestHash: string,
): Promise<{ manifest: Manifest; shards: Shards }> {
  const known = parsed.get(manifestHash);
  if (known?.blobs === blobs) return known;
  const manifest = parseManifest(await blobs.read(manifestHash));
  const files = [...manifest.files, ...(manifest.delta === null ? [] : [manifest.delta.file])];
  const shards = new Map(
    files.flatMap((file) => file.shards.map(({ sha256, size }): [string, number] => [sha256, size])),
  );
  const found = { blobs, manifest, shards };
  parsed.set(manifestHash, found);
  return found;
}
