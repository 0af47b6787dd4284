import type { PackKind } from "@muster/db";
import { allows } from "../auth/permissions.ts";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";

type Reference = { organizationId: string; runId: string; taskId: string | null; kind: PackKind };

/**
 * Whether the actor may read the blob, decided by who refers to it: a manifest or shard is for every node of the run; what a task names is
 * for the node that holds its lease now; everything is for those in the organization who may read rollouts.
 * @throws CodedError `UNAUTHENTICATED`, or `BLOB_NOT_FOUND` for what does not exist and for what is not for this actor alike
 */
export async function assertMayRead(ctx: Ctx, sha256: string): Promise<void> {
  const { actor } = ctx;
  if (actor.kind === "anonymous")
    throw new CodedError("UNAUTHENTICATED", "Blobs are read with a node's token, an API key or a session.");
  // Distinct, because every version of every run with the same model refers to the same config.json.
  const references = await ctx.prisma.$queryRaw<Reference[]>`
    SELECT DISTINCT "organizationId", "runId", "taskId", kind FROM "PackReference" WHERE sha256 = ${sha256}`;
  if (
    actor.kind === "node"
      ? await mayNodeRead(ctx, actor.nodeId, sha256, references)
      : mayMemberRead(ctx, references)
  )
    return;
  throw new CodedError(
    "BLOB_NOT_FOUND",
    `There is no blob ${sha256} for you. It was never stored, retention deleted it, or another node holds the task that names it.`,
  );
}

function mayMemberRead({ actor }: Ctx, references: readonly Reference[]): boolean {
  return references.some(({ kind, organizationId }) =>
    allows(actor, kind === "MANIFEST" || kind === "SHARD" ? "run:read" : "rollout:read", organizationId),
  );
}

async function mayNodeRead(
  ctx: Ctx,
  nodeId: string,
  sha256: string,
  references: readonly Reference[],
): Promise<boolean> {
  // With a task it is only an upload under way, which no version has taken yet.
  const runs = references
    .filter(({ kind, taskId }) => (kind === "MANIFEST" || kind === "SHARD") && taskId === null)
    .map(({ runId }) => runId);
  if (runs.length > 0) {
    const open = await ctx.prisma.run.findFirst({
      where: { id: { in: runs }, OR: [{ open: true }, { grants: { some: { nodeId, revokedAt: null } } }] },
      select: { id: true },
    });
    if (open !== null) return true;
  }
  const tasks = references
    .filter(({ kind }) => kind === "BLIND" || kind === "BATCH" || kind === "STATE" || kind === "BASE")
    .flatMap(({ taskId }) => (taskId === null ? [] : [taskId]));
  // A checkpoint's state is referred to by the task that made it, and named by the one that trains on it.
  const { rowCount } = await ctx.db.pool.query({
    name: "lease-names-blob",
    text: `SELECT 1 FROM "Attempt" a JOIN "Task" t ON t."id" = a."taskId" AND t."attempt" = a."number"
           WHERE a."nodeId" = $1 AND a."state" = 'LIVE' AND t."state" = 'LEASED' AND (
             t."id" = ANY($3::uuid[]) OR $2 IN (t."payload"->>'blind', t."payload"->>'batch', t."payload"->>'state', t."payload"->>'manifest',
               t."payload"->>'parent', t."payload"->'base'->>'sha256'))
           LIMIT 1`,
    values: [nodeId, sha256, tasks],
  });
  return (rowCount ?? 0) > 0;
}
