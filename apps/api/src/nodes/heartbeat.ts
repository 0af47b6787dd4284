import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { isStorable } from "../storable.ts";

export type HeartbeatInput = {
  /** What the node is doing, for display. At most 8,192 characters as JSON. */
  readonly progress?: unknown | undefined;
  /** Whether the node wants no more work: it finishes what it holds. */
  readonly draining?: boolean | null | undefined;
};

export type HeldLease = { readonly taskId: string; readonly attempt: number; readonly leaseUntil: Date };

/**
 * Notes that a node is there and tells it which of its attempts are still live; it stops work on any other.
 * Nothing is decided from a heartbeat: only the row's deadline ends a lease.
 * @throws CodedError `UNAUTHENTICATED`, `INPUT_INVALID`
 */
export async function heartbeat(
  ctx: Ctx,
  { progress, draining }: HeartbeatInput,
): Promise<{ serverTime: Date; leases: HeldLease[] }> {
  if (ctx.actor.kind !== "node")
    throw new CodedError(
      "UNAUTHENTICATED",
      "Only a node with a session sends heartbeats. Register the node first.",
    );
  const { nodeId } = ctx.actor;
  if (progress !== undefined && JSON.stringify(progress).length > 8_192) {
    throw new CodedError("INPUT_INVALID", "`progress` is for display: at most 8,192 characters as JSON.");
  }
  // Written together with the heartbeats of all other nodes.
  if (!isStorable(progress)) {
    throw new CodedError(
      "INPUT_INVALID",
      "`progress` holds a NUL or half a character, which cannot be stored.",
    );
  }
  ctx.presence.beat(nodeId, {
    ...(progress == null ? {} : { progress }),
    ...(draining == null ? {} : { draining }),
  });
  const { rows } = await ctx.db.pool.query<HeldLease>({
    name: "held-leases",
    text: `SELECT "taskId", "number" AS attempt, "leaseUntil" FROM "Attempt" WHERE "nodeId" = $1 AND "state" = 'LIVE' ORDER BY "claimedAt"`,
    values: [nodeId],
  });
  return { serverTime: new Date(), leases: rows };
}
