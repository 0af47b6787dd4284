import type { TaskKind } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents } from "../events/append.ts";
import type { Loop } from "../loops.ts";
import { onVerifyFailed } from "../verification/inconclusive.ts";
import { type Drop, noteDrops } from "./drops.ts";
import { reopenTask, taskEvent } from "./lease.ts";

/** Ends leases whose deadline has passed. It waits after a start: nodes that outlived the coordinator get time to renew. */
export const expiryLoop: Loop = {
  name: "lease-expiry",
  everyMs: 1_000,
  leader: true,
  async run(ctx) {
    if (Date.now() - ctx.startedAt.getTime() < ctx.config.sweepDelaySeconds * 1000) return;
    while ((await expireLeases(ctx)) === sweep);
    await giveUpUnmeasured(ctx);
  },
};

// 64 a sweep: the rows stay locked until the commit, and a late submit of any of them waits that long.
const sweep = 64;

/**
 * Expires up to 64 leases by their rows' own deadline: the attempt becomes EXPIRED, the task OPEN, or FAILED when its attempts are
 * used up. Rows that a submission or renewal holds right now are skipped.
 * @returns how many expired.
 */
export async function expireLeases(ctx: Ctx): Promise<number> {
  const drops: Drop[] = [];
  const sweeping = async (tx: Tx) => {
    const due = await tx.$queryRaw<{ id: string }[]>`
      SELECT id FROM "Task" WHERE state = 'LEASED' AND "leaseUntil" < now()
      ORDER BY "leaseUntil" LIMIT ${sweep} FOR UPDATE SKIP LOCKED`;
    if (due.length === 0) return [];
    const ids = due.map((row) => row.id);
    const tasks = await tx.task.findMany({ where: { id: { in: ids } } });
    const attempts = await tx.attempt.updateManyAndReturn({
      where: { taskId: { in: ids }, state: "LIVE" },
      data: { state: "EXPIRED", endedAt: new Date(), reason: "The lease was not renewed." },
      select: { taskId: true, nodeId: true, claimedAt: true },
    });
    for (const { taskId, ...attempt } of attempts) {
      const task = tasks.find(({ id }) => id === taskId);
      if (task !== undefined) drops.push({ kind: task.kind, ...attempt });
    }
    await appendEvents(
      tx,
      tasks.map((task) =>
        taskEvent(
          "task.expired",
          task,
          task.leaseNodeId === null ? {} : { node: toTypeId("node", task.leaseNodeId) },
        ),
      ),
    );
    for (const task of tasks) await reopenTask(tx, task, "the lease expired", { failed: true });
    return tasks;
  };
  // Some statements for each of them: a loaded database takes longer than the library's five seconds.
  const expired = await ctx.prisma.$transaction(sweeping, { timeout: 30_000 });
  await noteDrops(ctx, drops);
  nudge(ctx, expired);
  return expired.length;
}

/** Groups whose VERIFY task failed, however it did, are given up. Read from the rows, so that no crash can hide one. */
async function giveUpUnmeasured(ctx: Ctx): Promise<void> {
  const failed = await ctx.prisma.$queryRaw<{ id: string; runId: string; kind: TaskKind }[]>`
    SELECT t.id, t."runId", t.kind FROM "Run" r
    JOIN "Group" g ON g."runId" = r.id AND (g.state = 'VERIFYING' OR (g.retroactive AND g.acceptance = 'TRUSTED'))
    JOIN "Task" t ON t.id = g."verifyTaskId" AND t.state IN ('FAILED', 'CANCELLED')
    WHERE r.state IN ('RUNNING', 'PAUSED') LIMIT ${sweep}`;
  for (const { id } of failed) {
    await ctx.prisma.$transaction(async (tx) => {
      await onVerifyFailed(tx, await tx.task.findUniqueOrThrow({ where: { id } }));
    });
  }
  nudge(ctx, failed);
}

function nudge(ctx: Ctx, tasks: readonly { runId: string; kind: TaskKind }[]): void {
  if (tasks.length === 0) return;
  ctx.bus.publish("events");
  for (const kind of new Set(tasks.map((task) => task.kind))) ctx.bus.publish(`offers:${kind}`);
  for (const runId of new Set(tasks.map((task) => task.runId))) ctx.bus.publish(`run:${runId}`);
}
