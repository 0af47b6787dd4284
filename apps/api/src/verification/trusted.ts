import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import type { Loop } from "../loops.ts";
import { nudgeRun } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { spending } from "../runs/spending.ts";
import { acceptGroups } from "./acceptance.ts";
import { lockStandings } from "./trust.ts";

// A group that the draw leaves unmeasured is accepted in order: once every audited group that its node submitted before it, or with it, has
// its verdict, and only if the node is trusted still. Accepted at once, everything a node has in flight would be in a batch before the first
// verdict about it: with two packs of sixteen groups the share of poison that gets trained on is four times what the audit policy
// promises (bench/audit.ts). Which groups wait follows from the rows; those of a node that fell are audited instead (retroactive.ts).

/** Groups accepted in one transaction. */
const perPass = 256;

/** Accepts what a crash left waiting; otherwise a submission or a verdict does so itself. */
export const trustedLoop: Loop = {
  name: "trusted-groups",
  everyMs: 5_000,
  leader: true,
  async run(ctx, turn) {
    const runs = await ctx.prisma.group.groupBy({
      by: ["runId"],
      where: { state: "SUBMITTED", run: { state: { in: ["RUNNING", "PAUSED"] } } },
    });
    for (const { runId } of runs) {
      if (turn.signal.aborted) return;
      try {
        await acceptTrusted(ctx, runId);
      } catch (error) {
        // One run's trouble is not the others': it is tried again at the next turn.
        ctx.log.error({ err: error, run: runId }, "accepting a run's trusted groups failed");
      }
    }
  },
};

/**
 * Accepts a run's unmeasured groups whose turn has come. Safe at any moment, any number of times.
 * @returns how many were accepted; none when the run's credits do not cover them: it is paused then, and they wait.
 */
export async function acceptTrusted(ctx: Ctx, runId: string): Promise<number> {
  try {
    return await acceptDue(ctx, runId);
  } catch (error) {
    if (error instanceof CodedError && error.code === "NOT_READY") return 0;
    throw error;
  }
}

async function acceptDue(ctx: Ctx, runId: string): Promise<number> {
  const nodes = new Set((await groupsDue(ctx.prisma, runId)).map((group) => group.nodeId));
  if (nodes.size === 0) return 0;
  const accepted = await spending(ctx, runId, () =>
    ctx.prisma.$transaction(async (tx) => {
      // A node that falls meanwhile waits for this lock, or has fallen already and is not found below.
      await lockStandings(tx, runId, [...nodes]);
      const due = (await groupsDue(tx, runId)).filter((group) => nodes.has(group.nodeId));
      const groups = await tx.group.findMany({
        where: { id: { in: due.map((group) => group.id) } },
        include: {
          task: { select: { revision: true } },
          rollouts: { orderBy: { index: "asc" }, select: { id: true, reward: true } },
        },
        orderBy: { id: "asc" },
      });
      const acceptable = [];
      for (const { task, rollouts, ...group } of groups)
        acceptable.push({ group, rollouts, spec: await specOf(tx, runId, task.revision) });
      await acceptGroups(tx, acceptable, "TRUSTED");
      return acceptable.length;
    }),
  );
  if (accepted > 0) nudgeRun(ctx, runId);
  return accepted;
}

function groupsDue(tx: Pick<Ctx["prisma"], "$queryRaw">, runId: string) {
  return tx.$queryRaw<{ id: string; nodeId: string }[]>`
    SELECT g.id, g."nodeId" FROM "Group" g
    JOIN "NodeTrust" t ON t."runId" = g."runId" AND t."nodeId" = g."nodeId" AND t.state = 'TRUSTED'
    WHERE g."runId" = ${runId}::uuid AND g.state = 'SUBMITTED' AND g."verifyTaskId" IS NULL
      AND NOT EXISTS (SELECT 1 FROM "Group" o
        WHERE o."runId" = g."runId" AND o.state = 'VERIFYING' AND o."nodeId" = g."nodeId" AND o."submittedAt" <= g."submittedAt")
    ORDER BY g.id LIMIT ${perPass}`;
}
