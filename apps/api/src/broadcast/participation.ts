import type { CheckpointState } from "@muster/db";
import { assertMayRead } from "../blobs/access.ts";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";

export type NamedCheckpoint = {
  readonly id: string;
  readonly organizationId: string;
  readonly runId: string;
  readonly version: number;
  readonly manifestHash: string;
  readonly size: bigint;
  readonly state: CheckpointState;
  readonly availableAt: Date | null;
};

/**
 * The checkpoint that a manifest names, for a node that may read it.
 * @throws CodedError `INPUT_INVALID`; `BLOB_NOT_FOUND`, the same for what is not for this node and for what does not exist
 */
export async function checkpointNamed(ctx: Ctx, manifestHash: string): Promise<NamedCheckpoint> {
  if (!/^[0-9a-f]{64}$/.test(manifestHash))
    throw new CodedError("INPUT_INVALID", "`manifest` must be a SHA-256 in lower-case hexadecimal.");
  await assertMayRead(ctx, manifestHash);
  const found = await ctx.prisma.checkpoint.findFirst({
    where: { manifestHash, state: "AVAILABLE" },
    select: {
      id: true,
      organizationId: true,
      runId: true,
      version: true,
      manifestHash: true,
      size: true,
      state: true,
      availableAt: true,
    },
  });
  if (found === null)
    throw new CodedError("BLOB_NOT_FOUND", `No version that can be had has the manifest ${manifestHash}.`);
  return found;
}

/**
 * Whether the node works in the run: it has held a task there, or has a standing. Keys cost nothing, so what everyone may say without
 * having done anything is not written down.
 */
export async function takesPart(ctx: Ctx, runId: string, nodeId: string): Promise<boolean> {
  const { rowCount } = await ctx.db.pool.query({
    name: "takes-part",
    text: `SELECT 1 WHERE EXISTS (SELECT 1 FROM "NodeTrust" WHERE "runId" = $1 AND "nodeId" = $2)
      OR EXISTS (SELECT 1 FROM "Attempt" WHERE "nodeId" = $2 AND "runId" = $1)`,
    values: [runId, nodeId],
  });
  return (rowCount ?? 0) > 0;
}
