import { toTypeId } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import type { Loop } from "../loops.ts";
import { cancelTasks, failTask } from "../tasks/lease.ts";
import { onVerifyFailed } from "./inconclusive.ts";

// A VERIFY task that nobody takes holds up a group, its node's credits and in the end the run. Every one has a way out: first those who
// were kept from it may take it after all, then it is given up and the group replaced.

/** Seconds after which a validator that measured a group before may measure it again: with a single one there is nobody else. */
const relaxAfterSeconds = 60;

/** Seconds that a task waits while nobody in the run may take it at all. */
const nobodyAfterSeconds = 600;

/** Seconds that it waits for those who may. */
const unclaimedAfterSeconds = 86_400;

/** Tasks given up in one pass. */
const perPass = 64;

export const unmeasuredLoop: Loop = {
  name: "unmeasured",
  everyMs: 15_000,
  leader: true,
  run: settleUnmeasured,
};

/** Finds ways out for VERIFY tasks that wait. @returns how many were given up. */
export async function settleUnmeasured(ctx: Ctx): Promise<number> {
  await relax(ctx);
  await warn(ctx);
  const given = await giveUpUnclaimed(ctx);
  await closeProbes(ctx);
  ctx.bus.publish("offers:VERIFY");
  if (given > 0) ctx.bus.publish("events");
  return given;
}

/** Whoever measured before may again, once nobody else has come for a minute; never the node that made the group, and no canary. */
async function relax(ctx: Ctx): Promise<void> {
  await ctx.prisma.$executeRaw`
    UPDATE "Task" t SET "excludedNodes" = ARRAY[w.producer]
    FROM (
      SELECT o.id, COALESCE((SELECT g."nodeId" FROM "Probe" p JOIN "Group" g ON g.id = p."groupId" WHERE p."taskId" = o.id AND p.purpose = 'REEXECUTION'),
        (SELECT g."nodeId" FROM "Group" g WHERE g."verifyTaskId" = o.id LIMIT 1)) AS producer
      FROM "Task" o
      WHERE o.kind = 'VERIFY' AND o.state = 'OPEN' AND cardinality(o."excludedNodes") > 1
        AND o."updatedAt" < now() - make_interval(secs => ${relaxAfterSeconds}::float8)
      ORDER BY o.id FOR UPDATE SKIP LOCKED
    ) w
    WHERE t.id = w.id AND w.producer IS NOT NULL`;
}

type Unclaimed = { id: string; runId: string };

/** Open tasks that nobody may take who holds a grant and is not excluded, or for which nobody has come in a day. */
async function giveUpUnclaimed(ctx: Ctx): Promise<number> {
  const unclaimed = await ctx.prisma.$queryRaw<(Unclaimed & { nobody: boolean })[]>`
    SELECT w.id, w."runId", w.nobody FROM (
      SELECT t.id, t."runId", t."updatedAt", NOT EXISTS (
        SELECT 1 FROM "RoleGrant" g LEFT JOIN "NodeTrust" n ON n."runId" = g."runId" AND n."nodeId" = g."nodeId"
        WHERE g."runId" = t."runId" AND g.role = 'VALIDATOR' AND g."revokedAt" IS NULL
          AND NOT (g."nodeId" = ANY (t."excludedNodes")) AND (n.state IS NULL OR n.state NOT IN ('QUARANTINED', 'EJECTED'))
          AND CASE p.purpose
            WHEN 'REEXECUTION' THEN g.own OR NOT EXISTS (SELECT 1 FROM "RoleGrant" o
              WHERE o."runId" = t."runId" AND o.role = 'VALIDATOR' AND o.own AND o."revokedAt" IS NULL)
            WHEN 'CANARY_GOOD' THEN g."nodeId" = p."nodeId"
            WHEN 'CANARY_BAD' THEN g."nodeId" = p."nodeId"
            ELSE true END
      ) AS nobody
      FROM "Task" t JOIN "Run" r ON r.id = t."runId" AND r.state = 'RUNNING' LEFT JOIN "Probe" p ON p."taskId" = t.id
      WHERE t.kind = 'VERIFY' AND t.state = 'OPEN' AND t."updatedAt" < now() - make_interval(secs => ${nobodyAfterSeconds}::float8)
    ) w
    WHERE w.nobody OR w."updatedAt" < now() - make_interval(secs => ${unclaimedAfterSeconds}::float8)
    ORDER BY w.id LIMIT ${perPass}`;
  for (const { id, nobody } of unclaimed) {
    const reason = nobody ? "no validator of the run may measure it" : "no validator came for it in a day";
    await ctx.prisma.$transaction(async (tx) => {
      const task = await tx.task.findUniqueOrThrow({ where: { id } });
      if (task.state !== "OPEN") return;
      await failTask(tx, task, reason);
    });
    // In its own transaction: standings are locked before tasks.
    await ctx.prisma.$transaction(async (tx) => {
      await onVerifyFailed(tx, await tx.task.findUniqueOrThrow({ where: { id } }));
    });
  }
  for (const runId of new Set(unclaimed.map((task) => task.runId))) ctx.bus.publish(`run:${runId}`);
  return unclaimed.length;
}

/** Runs of which this process has said that validators are missing, and when. Another process may say it once more. */
const warned = new Map<string, number>();

/** Tells the organizer of a run whose measurements wait while no validator is there. */
async function warn(ctx: Ctx): Promise<void> {
  const missing = await ctx.prisma.$queryRaw<
    { runId: string; organizationId: string; waiting: number; oldestSeconds: number }[]
  >`
    SELECT t."runId", t."organizationId", count(*)::int AS waiting, extract(epoch FROM now() - min(t."updatedAt"))::int AS "oldestSeconds"
    FROM "Task" t JOIN "Run" r ON r.id = t."runId" AND r.state = 'RUNNING'
    WHERE t.kind = 'VERIFY' AND t.state = 'OPEN' AND t."updatedAt" < now() - make_interval(secs => ${relaxAfterSeconds}::float8)
      AND NOT EXISTS (
        SELECT 1 FROM "RoleGrant" g JOIN "Node" n ON n.id = g."nodeId" LEFT JOIN "NodeTrust" s ON s."runId" = g."runId" AND s."nodeId" = g."nodeId"
        WHERE g."runId" = t."runId" AND g.role = 'VALIDATOR' AND g."revokedAt" IS NULL AND NOT (g."nodeId" = ANY (t."excludedNodes"))
          AND (s.state IS NULL OR s.state NOT IN ('QUARANTINED', 'EJECTED')) AND n."lastSeenAt" > now() - interval '2 minutes')
    GROUP BY t."runId", t."organizationId"`;
  const now = Date.now();
  const news = missing.filter(({ runId }) => now - (warned.get(runId) ?? 0) > nobodyAfterSeconds * 1000);
  for (const { runId } of news) warned.set(runId, now);
  await appendEvents(
    ctx.prisma,
    news.map(({ runId, organizationId, waiting, oldestSeconds }) => ({
      stream: runStream(runId),
      organizationId,
      type: "validator.missing" as const,
      subject: toTypeId("run", runId),
      data: { waiting, oldestSeconds },
    })),
  );
}

/**
 * A canary is taken back when its validator has gone or dropped it, or the run waits for nothing else; a probe whose task came to nothing
 * says nothing about anyone.
 */
async function closeProbes(ctx: Ctx): Promise<void> {
  const stale = await ctx.prisma.$queryRaw<{ taskId: string }[]>`
    SELECT p."taskId" FROM "Probe" p JOIN "Task" t ON t.id = p."taskId" JOIN "Run" r ON r.id = p."runId"
    WHERE p.outcome IS NULL AND p.purpose <> 'REEXECUTION' AND t.state = 'OPEN' AND (t.attempt > 0
      OR r."stateReason" IS NOT NULL OR p."createdAt" < now() - make_interval(secs => ${nobodyAfterSeconds}::float8))
    LIMIT ${perPass}`;
  if (stale.length > 0)
    await ctx.prisma.$transaction((tx) =>
      cancelTasks(
        tx,
        { id: { in: stale.map(({ taskId }) => taskId) }, state: "OPEN" },
        "Nobody came for it.",
      ),
    );
  await ctx.prisma.$executeRaw`
    UPDATE "Probe" p SET outcome = 'INCONCLUSIVE', "decidedAt" = now(), note = COALESCE(t.failure, 'The task came to nothing.')
    FROM "Task" t WHERE t.id = p."taskId" AND p.outcome IS NULL AND t.state IN ('FAILED', 'CANCELLED')`;
}
