import type { Group } from "@muster/db";
import { environment, groupOf, toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import type { Loop } from "../loops.ts";
import { readRolloutPack } from "../rollouts/decoded-packs.ts";
import { lockRun, nudgeRun, runTransitions } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { openTasks } from "../tasks/lease.ts";
import { writeBlindPack } from "./blind.ts";
import { lockStandings } from "./trust.ts";
import { giveUpUndecided, restsOnLostTrust } from "./undecided.ts";

// A node that is trusted has most of its groups accepted unmeasured. When it fails once, that trust was a mistake, and every one of those
// groups that is not final is measured after all. Nobody calls for it: which groups are due follows from the rows, so no crash between the
// failure and the audit can let one slip through.

/** Groups audited afterwards in one transaction. */
const perPass = 64;
const fullPassMs = 5_000;
let fullPass = 0;

/** Has the groups measured that rest on a trust which was lost. */
export const retroactiveLoop: Loop = {
  name: "retroactive-audits",
  everyMs: fullPassMs,
  atLeastMs: 50,
  topics: ["run:*"],
  leader: true,
  async run(ctx, turn) {
    const nudged = [...turn.topics].flatMap((topic) => /^run:([0-9a-f-]{36})$/.exec(topic)?.[1] ?? []);
    const full = nudged.length === 0 || Date.now() - fullPass >= fullPassMs;
    if (full) fullPass = Date.now();
    for (const runId of await runsDue(ctx, full ? null : nudged)) {
      if (turn.signal.aborted) return;
      try {
        while ((await auditLostTrust(ctx, runId)) > 0 && !turn.signal.aborted);
      } catch (error) {
        // One run's trouble is not the others': it is tried again at the next turn.
        ctx.log.error({ err: error, run: runId }, "auditing a run's trusted groups failed");
      }
    }
  },
};

/** Runs with such groups, among those given or all that are under way or ended lately. */
async function runsDue(ctx: Ctx, among: readonly string[] | null): Promise<string[]> {
  const rows = await ctx.prisma.$queryRaw<{ runId: string }[]>`
    SELECT DISTINCT t."runId" FROM "Run" r JOIN "NodeTrust" t ON t."runId" = r.id AND t.state <> 'TRUSTED'
    WHERE (CASE WHEN ${among === null} THEN r.state IN ('RUNNING', 'PAUSED') OR r."endedAt" > now() - interval '1 day'
             ELSE r.id = ANY(${[...(among ?? [])]}::uuid[]) END)
      AND EXISTS (SELECT 1 FROM "Group" g WHERE g."runId" = t."runId" AND g."nodeId" = t."nodeId" AND g."finalAt" IS NULL AND NOT g.retroactive
        AND ((g.acceptance = 'TRUSTED' AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE'))
          OR (g.state = 'SUBMITTED' AND g."verifyTaskId" IS NULL)))`;
  return rows.map((row) => row.runId);
}

/**
 * Opens audits for up to 64 of a run's groups that rest on a lost trust. Safe at any moment, any number of times.
 * @returns how many were opened.
 */
export async function auditLostTrust(ctx: Ctx, runId: string): Promise<number> {
  const due = await ctx.prisma.group.findMany({
    where: restsOnLostTrust(runId),
    // The newest first: they are the likeliest to be kept out of a batch in time.
    orderBy: { id: "desc" },
    take: perPass,
    include: { task: { select: { revision: true, manifestHash: true } } },
  });
  if (due.length === 0) return 0;
  // Written outside of the transaction; what it decided is looked at again inside.
  const blind = await writeBlindPacks(ctx, due);
  const audited = await ctx.prisma.$transaction(async (tx) => {
    const run = await lockRun(tx, runId);
    if (run === null) return 0;
    if (runTransitions[run.state].length === 0) return giveUpUndecided(tx, runId);
    await lockStandings(
      tx,
      runId,
      due.map((group) => group.nodeId),
    );
    const still = await tx.group.findMany({
      where: { id: { in: due.map((group) => group.id) }, ...restsOnLostTrust(runId) },
      select: { id: true },
    });
    const ids = new Set(still.map((group) => group.id));
    return openAudits(
      tx,
      runId,
      blind.filter(({ group }) => ids.has(group.id)),
    );
  });
  if (audited > 0) {
    nudgeRun(ctx, runId);
    ctx.bus.publish("offers:VERIFY");
  }
  return audited;
}

type Due = Group & { readonly task: { readonly revision: number; readonly manifestHash: string | null } };
type Blind = {
  readonly group: Due;
  readonly manifest: string;
  readonly sha256: string;
  readonly size: number;
};

async function writeBlindPacks(ctx: Ctx, due: readonly Due[]): Promise<Blind[]> {
  const written: Blind[] = [];
  for (const group of due) {
    const pack = await readRolloutPack(ctx, group.packHash);
    const spec = await specOf(ctx.prisma, group.runId, group.task.revision);
    const { manifest } = pack.header;
    const blind = await writeBlindPack(ctx, {
      spec,
      taskId: group.taskId,
      manifest,
      eos: environment(spec.environment).tokenizer.eos,
      rollouts: groupOf(pack, group.index, spec.generation.groupSize),
    });
    written.push({ group, manifest, ...blind });
  }
  return written;
}

async function openAudits(tx: Tx, runId: string, blind: readonly Blind[]): Promise<number> {
  if (blind.length === 0) return 0;
  const withdrawn = new Set(
    await withdrawGroups(
      tx,
      runId,
      blind.map(({ group }) => group.id),
    ),
  );
  const taskIds = await openTasks(
    tx,
    blind.map(({ group, manifest, sha256 }) => ({
      organizationId: group.organizationId,
      runId,
      kind: "VERIFY" as const,
      revision: group.task.revision,
      policyVersion: group.policyVersion,
      manifestHash: manifest,
      payload: { kind: "VERIFY" as const, manifest, blind: sha256 },
      excludedNodes: [group.nodeId],
    })),
  );
  await tx.pack.createMany({
    data: blind.map(({ sha256, size }) => ({ sha256, size: BigInt(size), kind: "BLIND" as const })),
    skipDuplicates: true,
  });
  await tx.packReference.createMany({
    data: blind.flatMap(({ group, sha256 }, i) => {
      const taskId = taskIds[i];
      return taskId === undefined
        ? []
        : [
            {
              organizationId: group.organizationId,
              runId,
              sha256,
              taskId,
              subject: taskId,
              kind: "BLIND" as const,
            },
          ];
    }),
    skipDuplicates: true,
  });
  await tx.$executeRaw`
    UPDATE "Group" g SET retroactive = true, "verifyTaskId" = v.task, "blindHash" = v.blind, inconclusive = 0
    FROM unnest(${blind.map(({ group }) => group.id)}::uuid[], ${taskIds}::uuid[], ${blind.map(({ sha256 }) => sha256)}::text[])
      AS v(id, task, blind) WHERE g.id = v.id`;
  await appendEvents(
    tx,
    blind.map(({ group }) => ({
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
  return blind.length;
}

/**
 * Takes groups back to be measured before they are trained on: out of the FILLING batch, whose places close up, out of the room before it,
 * and from among those that wait to be accepted unmeasured. Those in a sealed batch, and those past all batches, stay. What is held for them stays held. Under `lockRun`.
 * @returns the ids of those that are VERIFYING now.
 */
export async function withdrawGroups(tx: Tx, runId: string, groupIds: readonly string[]): Promise<string[]> {
  const withdrawn = await tx.group.updateManyAndReturn({
    where: {
      runId,
      id: { in: [...groupIds] },
      OR: [
        { state: "SUBMITTED", verifyTaskId: null },
        { state: "ACCEPTED", batchGroup: null },
        { state: { in: ["ACCEPTED", "SET_ASIDE"] }, batchGroup: { batch: { state: "FILLING" } } },
      ],
    },
    data: { state: "VERIFYING", acceptance: null, advantagesReady: false, decidedAt: null },
    select: { id: true },
  });
  const ids = withdrawn.map((group) => group.id);
  const [batch] = await tx.$queryRaw<{ batchId: string }[]>`
    WITH gone AS (DELETE FROM "BatchGroup" WHERE "groupId" = ANY(${ids}::uuid[]) RETURNING "batchId")
    SELECT DISTINCT "batchId" FROM gone`;
  if (batch !== undefined) await closeUp(tx, batch.batchId);
  return ids;
}

/** Numbers a batch's places densely again: the next group takes the place after the last. */
async function closeUp(tx: Tx, batchId: string): Promise<void> {
  // By way of numbers below zero: a place is taken the moment a row is written, not at the end of the statement.
  await tx.$executeRaw`
    UPDATE "BatchGroup" b SET position = -1 - p.place
    FROM (SELECT "groupId", (row_number() OVER (ORDER BY position) - 1)::int AS place FROM "BatchGroup" WHERE "batchId" = ${batchId}::uuid) p
    WHERE b."batchId" = ${batchId}::uuid AND b."groupId" = p."groupId"`;
  await tx.$executeRaw`
    UPDATE "BatchGroup" SET position = -1 - position WHERE "batchId" = ${batchId}::uuid AND position < 0`;
  await tx.$executeRaw`
    UPDATE "Batch" SET
      "signalGroups" = (SELECT count(*) FROM "BatchGroup" WHERE "batchId" = ${batchId}::uuid AND signal),
      "settledGroups" = (SELECT count(*) FROM "BatchGroup" WHERE "batchId" = ${batchId}::uuid)
    WHERE id = ${batchId}::uuid`;
}
