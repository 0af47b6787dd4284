import type { Prisma } from "@muster/db";
import { allows, organizationsWhere } from "../auth/permissions.ts";
import type { Ctx } from "../context.ts";

/** Whether the actor may know of a run: a member of its organization; a node, when the run is open or it holds a grant in it. */
export async function maySeeRun(
  ctx: Ctx,
  run: { id: string; organizationId: string; open: boolean },
): Promise<boolean> {
  if (allows(ctx.actor, "run:read", run.organizationId)) return true;
  if (ctx.actor.kind !== "node") return false;
  if (run.open) return true;
  const grants = await ctx.prisma.roleGrant.count({
    where: { runId: run.id, nodeId: ctx.actor.nodeId, revokedAt: null },
  });
  return grants > 0;
}

/** The same as a condition on runs. */
export function visibleRuns(ctx: Ctx): Prisma.RunWhereInput {
  if (ctx.actor.kind === "system") return {};
  if (ctx.actor.kind === "node")
    return { OR: [{ open: true }, { grants: { some: { nodeId: ctx.actor.nodeId, revokedAt: null } } }] };
  return { organizationId: { in: organizationsWhere(ctx.actor, "run:read") } };
}
