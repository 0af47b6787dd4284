import type { TaskKind } from "@muster/db";
import type { Ctx, Tx } from "../context.ts";

// A node that claims and never submits keeps a task from the others for as long as it holds it. It is no proof of ill will, machines
// are switched off, so twice in a row is free; from the third time on a node gets no task for as long as it held the last one, twice as
// long each time. Its next submission makes it good. A trainer is the only one of its run and is spared.

const free = 2;
const leastRestSeconds = 15;
const mostRestSeconds = 24 * 3_600;

/** A lease that ended without a submission. */
export type Drop = { readonly kind: TaskKind; readonly nodeId: string; readonly claimedAt: Date };

/** Counts dropped tasks against their nodes, after the transaction that ended the leases. Several that were claimed before the last drop count as that one. */
export async function noteDrops({ db }: Ctx, drops: readonly Drop[]): Promise<void> {
  for (const { kind, nodeId, claimedAt } of drops) {
    if (kind === "BASE" || kind === "TRAIN") continue;
    await db.pool.query({
      name: "note-drop",
      text: `
        UPDATE "Node" SET dropped = dropped + 1, "droppedAt" = now(),
          "restsUntil" = CASE WHEN dropped < $3 THEN NULL ELSE now() + make_interval(secs => least($5::float8,
            greatest($4::float8, extract(epoch FROM now() - $2::timestamptz)) * 2 ^ least(dropped - $3, 16))) END
        WHERE id = $1 AND ("droppedAt" IS NULL OR $2 > "droppedAt")`,
      values: [nodeId, claimedAt, free, leastRestSeconds, mostRestSeconds],
    });
  }
}

/** A submission makes good what a node has dropped. */
export async function forgetDrops(tx: Tx, nodeIds: readonly string[]): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Node" SET dropped = 0, "restsUntil" = NULL WHERE id = ANY(${[...nodeIds]}::uuid[]) AND dropped > 0`;
}
