import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";

/**
 * Holds a checkpoint to what its run was given: sent under one of the run's own attempts, part of an earlier version of it, or of the
 * version of its organization that it starts from. A hash alone proves nothing: who publishes another organization's shard by its
 * hash would read it from then on, as every node of the run may.
 * @throws CodedError `BLOB_NOT_FOUND`, the same for what belongs to others and for what does not exist
 */
export async function assertGiven(
  ctx: Ctx,
  runId: string,
  kind: "MANIFEST" | "SHARD" | "STATE",
  hashes: readonly string[],
): Promise<void> {
  const references = await ctx.prisma.packReference.findMany({
    where: { runId, kind, sha256: { in: [...hashes] } },
    select: { sha256: true },
    distinct: ["sha256"],
  });
  const given = new Set(references.map(({ sha256 }) => sha256));
  const missing = hashes.find((sha256) => !given.has(sha256));
  if (missing !== undefined)
    throw new CodedError(
      "BLOB_NOT_FOUND",
      `${names[kind]} ${missing} was not uploaded for this run. PUT it under this lease, then submit again.`,
    );
}

const names = { MANIFEST: "Manifest", SHARD: "Shard", STATE: "State" } as const;
