import { toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import type { Loop } from "../loops.ts";
import { lockRun, nudgeRun } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { openTasks } from "../tasks/lease.ts";
import { withdrawGroups } from "./retroactive.ts";
import { lockStandings, replayStanding } from "./trust.ts";

// What a validator accepted that turned out not to measure was never measured. Such groups are first marked, in the transaction that
// finds the validator out, so that none of them is paid meanwhile; then somebody else measures them. Which are due follows from the rows.

/** Groups measured anew in one transaction. */
const perPass = 128;

/**
 * Marks what a validator accepted and what is not final: it counts as trusted, and as audited afterwards, until somebody else has measured it. A
 * group whose checkpoint is gone cannot be measured by anyone and stays as it is.
 * @param only one group, where not the validator but one measurement is in doubt.
 */
export async function voidAudits(
  tx: Tx,
  input: { runId: string; validatorNodeId: string; only?: string },
): Promise<void> {
  const { runId, validatorNodeId, only = null } = input;
  await tx.$executeRaw`
    UPDATE "Group" g SET acceptance = 'TRUSTED', retroactive = true
    FROM "Verification" v
    WHERE v."runId" = ${runId}::uuid AND v."validatorNodeId" = ${validatorNodeId}::uuid AND v.verdict = 'ACCEPTED'
      AND g.id = v."groupId" AND g."verifyTaskId" = v."taskId" AND g.acceptance = 'AUDITED' AND g."finalAt" IS NULL
      AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE') AND (${only}::uuid IS NULL OR (g.id = ${only}::uuid AND NOT g.retroactive))
      AND EXISTS (SELECT 1 FROM "Checkpoint" c WHERE c."runId" = g."runId" AND c.version = g."policyVersion" AND c.state = 'AVAILABLE')`;
}

/** Finds groups that a crash left marked. */
export const remeasureLoop: Loop = {
  name: "remeasure",
  everyMs: 60_000,
  leader: true,
  run: remeasureVoid,
};

/** Has marked groups measured by somebody else. Safe at any moment, any number of times. @returns how many */
export async function remeasureVoid(ctx: Ctx): Promise<number> {
  const runs = await ctx.prisma.run.findMany({
    where: { state: { in: ["RUNNING", "PAUSED"] }, trust: { some: { disagreements: { gt: 0 } } } },
    select: { id: true },
  });
  let total = 0;
  for (const { id } of runs) {
    try {
      let opened: number;
      do {
        opened = await remeasureRun(ctx, id);
        total += opened;
      } while (opened === perPass);
    } catch (error) {
      // One run's trouble is not the others', nor that of whoever submitted: it is tried again at the next turn.
      ctx.log.error({ err: error, run: id }, "measuring a run's void audits again failed");
    }
  }
  return total;
}

async function remeasureRun(ctx: Ctx, runId: string): Promise<number> {
  const opened = await ctx.prisma.$transaction(
    async (tx) => {
      const found = await dueGroups(tx, runId);
      if (found.length === 0) return 0;
      const run = await lockRun(tx, runId);
      if (run === null || run.endedAt !== null) return 0;
      await lockStandings(
        tx,
        runId,
        found.map(({ nodeId }) => nodeId),
      );
      const ids = new Set(found.map(({ id }) => id));
      const due = (await dueGroups(tx, runId)).filter(({ id }) => ids.has(id));
      await open(tx, runId, due);
      const spec = await specOf(tx, runId, run.revision);
      for (const nodeId of [...new Set(due.map((group) => group.nodeId))].sort())
        await replayStanding(tx, { runId, nodeId, organizationId: run.organizationId, spec });
      return due.length;
    },
    { timeout: 30_000 },
  );
  if (opened > 0) {
    nudgeRun(ctx, runId);
    ctx.bus.publish("offers:VERIFY");
  }
  return opened;
}

type Due = {
  id: string;
  organizationId: string;
  nodeId: string;
  policyVersion: number;
  state: string;
  blindHash: string;
  validatorNodeId: string;
  revision: number;
  manifestHash: string;
};

/** Marked groups whose measurement is done: only a void one leaves them so. */
function dueGroups(tx: Tx, runId: string): Promise<Due[]> {
  return tx.$queryRaw<Due[]>`
    SELECT g.id, g."organizationId", g."nodeId", g."policyVersion", g.state::text AS state, g."blindHash", v."validatorNodeId", t.revision, t."manifestHash"
    FROM "Group" g JOIN "Task" t ON t.id = g."verifyTaskId" AND t.state = 'DONE'
      JOIN "Verification" v ON v."taskId" = t.id AND v."groupId" = g.id
    WHERE g."runId" = ${runId}::uuid AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE') AND g.acceptance = 'TRUSTED' AND g.retroactive
      AND g."finalAt" IS NULL AND g."blindHash" IS NOT NULL AND t."manifestHash" IS NOT NULL
    ORDER BY g.id DESC LIMIT ${perPass}`;
}

async function open(tx: Tx, runId: string, due: readonly Due[]): Promise<void> {
  const groupIds = due.map(({ id }) => id);
  const withdrawn = new Set(await withdrawGroups(tx, runId, groupIds));
  await tx.nodeOutcome.updateMany({
    where: { groupId: { in: groupIds }, kind: "ACCEPTED", annulled: false },
    data: { annulled: true },
  });
  const taskIds = await openTasks(
    tx,
    due.map((group) => ({
      organizationId: group.organizationId,
      runId,
      kind: "VERIFY" as const,
      revision: group.revision,
      policyVersion: group.policyVersion,
      manifestHash: group.manifestHash,
      payload: { kind: "VERIFY" as const, manifest: group.manifestHash, blind: group.blindHash },
      excludedNodes: [group.nodeId, group.validatorNodeId],
    })),
  );
  await tx.packReference.createMany({
    data: due.flatMap(({ organizationId, blindHash }, i) => {
      const taskId = taskIds[i];
      return taskId === undefined
        ? []
        : [{ organizationId, runId, sha256: blindHash, taskId, subject: taskId, kind: "BLIND" as const }];
    }),
  });
  await tx.$executeRaw`
    UPDATE "Group" g SET "verifyTaskId" = v.task, inconclusive = 0
    FROM unnest(${groupIds}::uuid[], ${taskIds}::uuid[]) AS v(id, task) WHERE g.id = v.id`;
  await appendEvents(
    tx,
    due.map((group) => ({
      stream: runStream(runId),
      organizationId: group.organizationId,
      type: "group.reaudited" as const,
      subject: toTypeId("group", group.id),
      data: {
        node: toTypeId("node", group.nodeId),
        version: group.policyVersion,
        state: withdrawn.has(group.id) ? "VERIFYING" : group.state,
      },
    })),
  );
}
