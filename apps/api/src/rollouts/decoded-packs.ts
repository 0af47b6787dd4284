import { decodeRolloutPack, type RolloutPack } from "@muster/protocol";
import { LRUCache } from "lru-cache";
import type { Ctx } from "../context.ts";

// A pack is read when it is taken in, when each of its audited groups is judged, and when its groups are sealed into a batch, mostly within
// seconds. Reading it again for every audit was a seventh of what verification costs at the floor rate. Named by its hash, it never changes.

/** Bytes of packs, as they are stored, that are kept decoded. */
const maxSize = 64 * 2 ** 20;
const decoded = new LRUCache<string, RolloutPack>({ maxSize });

/** Keeps what intake has decoded, and found in form, for whoever needs it next. */
export function rememberPack(sha256: string, pack: RolloutPack, bytes: number): void {
  decoded.set(sha256, pack, { size: Math.max(1, bytes) });
}

/** A stored rollout pack. Its arrays are shared: nobody writes to them. */
export async function readRolloutPack(ctx: Pick<Ctx, "blobs">, sha256: string): Promise<RolloutPack> {
  const known = decoded.get(sha256);
  if (known !== undefined) return known;
  const bytes = await ctx.blobs.read(sha256);
  const pack = decodeRolloutPack(bytes);
  rememberPack(sha256, pack, bytes.length);
  return pack;
}
