import type { Ctx } from "../context.ts";
import type { SignedSubmission } from "../tasks/submission.ts";
import { suspect } from "./probes.ts";
import { joinRun, lockStandings } from "./trust.ts";

/** Malformed measurements in a row, of groups that others could measure, at which a validator measures no more. */
const inARow = 3;

/** How the reason of every attempt begins whose measurement was malformed; judging.ts writes it. */
const fault = { startsWith: "The measurement " };

/** Counts a malformed measurement for the validator that made it. */
export async function countMalformed(ctx: Ctx, { task, nodeId }: SignedSubmission): Promise<void> {
  const { runId, organizationId } = task;
  await ctx.prisma.$transaction(async (tx) => {
    await joinRun(tx, { runId, nodeId, organizationId });
    await tx.nodeTrust.update({
      where: { runId_nodeId: { runId, nodeId } },
      data: { disagreements: { increment: 1 } },
    });
  });
}

/**
 * Looks at the validators that failed at tasks which somebody else has now done: one whose last three measurements were all malformed, and
 * all of groups that others could measure, cannot or will not measure.
 * @returns whether any was found.
 */
export async function suspectMalformed(ctx: Ctx, taskIds: readonly string[]): Promise<boolean> {
  const failed = await ctx.prisma.attempt.findMany({
    where: { taskId: { in: [...taskIds] }, state: "SUBMITTED", reason: fault },
    select: { nodeId: true, runId: true, organizationId: true },
    distinct: ["runId", "nodeId"],
  });
  let found = false;
  for (const { nodeId, runId, organizationId } of failed) {
    const last = await ctx.prisma.attempt.findMany({
      where: { nodeId, runId, state: "SUBMITTED", task: { kind: "VERIFY" } },
      orderBy: { endedAt: "desc" },
      take: inARow,
      select: {
        taskId: true,
        reason: true,
        task: {
          select: {
            state: true,
            attempts: { where: { state: "SUBMITTED", reason: null, nodeId: { not: nodeId } } },
          },
        },
      },
    });
    // A canary was measured before it was one.
    const canaries = await ctx.prisma.probe.findMany({
      where: { taskId: { in: last.map(({ taskId }) => taskId) }, purpose: { not: "REEXECUTION" } },
      select: { taskId: true },
    });
    const all = last.every(({ reason, task, taskId }) => {
      const measurable =
        (task.state === "DONE" && task.attempts.length > 0) || canaries.some((one) => one.taskId === taskId);
      return measurable && reason?.startsWith(fault.startsWith) === true;
    });
    if (last.length < inARow || !all) continue;
    found = true;
    await ctx.prisma.$transaction(async (tx) => {
      await lockStandings(tx, runId, [nodeId]);
      await suspect(tx, {
        runId,
        organizationId,
        nodeId,
        purpose: "MALFORMED",
        reason: `${inARow} of its measurements in a row were malformed; others measured the same groups.`,
      });
    });
  }
  return found;
}
