import type { Batch, Run } from "@muster/db";
import { type RunSpec, toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, type NewEvent, runStream } from "../events/append.ts";
import type { StartedRun } from "./lifecycle.ts";

export type Filled = {
  readonly batch: Batch;
  /** The batch has what it needs to be sealed. */
  readonly full: boolean;
  readonly changed: boolean;
};

type Waiting = { id: string; policyVersion: number; meanReward: number; nodeId: string; signal: boolean };

/**
 * Takes accepted groups into the FILLING batch in the order they were decided, until it is full. A batch is sealed only when the one
 * before is trained, so version `step − 1` will be the newest then, and a group's lag is known here. Groups without signal (all
 * rewards equal) are SET_ASIDE but count as settled; groups that lag too far are STALE.
 */
export async function fillBatch(tx: Tx, run: StartedRun, spec: RunSpec, batch: Batch): Promise<Filled> {
  const { signalGroups, settledGroups, asyncLevel } = spec.batch;
  let signal = batch.signalGroups;
  let settled = batch.settledGroups;
  const isFull = () => signal >= signalGroups || settled >= settledGroups;
  if (isFull()) return { batch, full: true, changed: false };

  const oldest = batch.step - 1 - asyncLevel - latestVersions;
  const waiting = await acceptedGroups(tx, run.id, oldest, settledGroups - settled);
  const placed: (Waiting & { position: number; lag: number })[] = [];
  const stale: (Waiting & { lag: number })[] = [];
  for (const group of waiting) {
    if (isFull()) break;
    const lag = Math.max(0, batch.step - 1 - group.policyVersion);
    if (lag > asyncLevel) {
      stale.push({ ...group, lag });
      continue;
    }
    placed.push({ ...group, lag, position: settled });
    settled++;
    if (group.signal) signal++;
  }
  if (placed.length === 0 && stale.length === 0) return { batch, full: false, changed: false };

  await tx.batchGroup.createMany({
    data: placed.map((group) => ({
      batchId: batch.id,
      position: group.position,
      groupId: group.id,
      organizationId: run.organizationId,
      signal: group.signal,
      policyLag: group.lag,
    })),
  });
  const aside = placed.filter((group) => !group.signal);
  await tx.group.updateMany({
    where: { id: { in: aside.map((group) => group.id) } },
    data: { state: "SET_ASIDE" },
  });
  for (const lag of new Set(stale.map((group) => group.lag))) {
    await tx.group.updateMany({
      where: { id: { in: stale.filter((group) => group.lag === lag).map((group) => group.id) } },
      data: { state: "STALE", reason: staleReason(batch, lag, asyncLevel) },
    });
  }
  const filled = await tx.batch.update({
    where: { id: batch.id },
    data: { signalGroups: signal, settledGroups: settled },
  });
  await appendEvents(tx, [
    ...aside.map((group) =>
      decided(run, group, "SET_ASIDE", "All its rewards are equal: there is nothing to learn from it."),
    ),
    ...stale.map((group) => decided(run, group, "STALE", staleReason(batch, group.lag, asyncLevel))),
  ]);
  // Every stale group made room for another to be looked at.
  if (stale.length > 0 && !isFull()) return { ...(await fillBatch(tx, run, spec, filled)), changed: true };
  return { batch: filled, full: isFull(), changed: true };
}

/**
 * Versions beyond the allowed lag at which a late group is still looked for, to be told that it is STALE. One that was decided later
 * stays ACCEPTED in no batch, and is paid like any other. Without the bound every pass would read all groups the run ever accepted.
 */
const latestVersions = 8;

/** Accepted groups of version `oldest` or newer that wait for a place, the first decided first. */
async function acceptedGroups(tx: Tx, runId: string, oldest: number, limit: number): Promise<Waiting[]> {
  return tx.$queryRaw<Waiting[]>`
    WITH waiting AS MATERIALIZED (
      SELECT g.id, g."policyVersion", g."meanReward", g."nodeId", g."decidedAt" FROM "Group" g
      WHERE g."runId" = ${runId}::uuid AND g.state = 'ACCEPTED' AND g."policyVersion" >= ${oldest} AND g."advantagesReady"
        -- Not NOT EXISTS: that is planned as one join with every place the coordinator ever gave.
        AND (SELECT b."groupId" FROM "BatchGroup" b WHERE b."groupId" = g.id) IS NULL
        -- What rests on a trust that was lost, or on a measurement that is void, is measured first.
        AND (g.acceptance IS DISTINCT FROM 'TRUSTED' OR (NOT g.retroactive
          AND (SELECT t.state FROM "NodeTrust" t WHERE t."runId" = g."runId" AND t."nodeId" = g."nodeId") = 'TRUSTED'))
      ORDER BY g."decidedAt", g.id LIMIT ${limit}
    )
    SELECT w.id, w."policyVersion", w."meanReward", w."nodeId",
      (SELECT max(r.reward) > min(r.reward) FROM "Rollout" r WHERE r."groupId" = w.id) AS signal
    FROM waiting w ORDER BY w."decidedAt", w.id`;
}

function staleReason(batch: Batch, lag: number, asyncLevel: number): string {
  return `Its policy would be ${lag} versions behind when batch ${batch.step} is sealed; at most ${asyncLevel} are allowed.`;
}

/**
 * Takes back the FILLING batch of a run that ends: nobody will train it. Its groups are ACCEPTED in no batch, and stay paid. Under
 * `lockRun`.
 */
export async function emptyBatch(tx: Tx, run: Run): Promise<void> {
  const batch = await tx.batch.findFirst({ where: { runId: run.id, state: "FILLING" } });
  if (batch === null) return;
  const aside = await tx.group.findMany({
    where: { state: "SET_ASIDE", batchGroup: { batchId: batch.id } },
    select: { id: true, policyVersion: true, meanReward: true, nodeId: true },
  });
  // Its places go with it.
  await tx.batch.delete({ where: { id: batch.id } });
  if (aside.length === 0) return;
  await tx.group.updateMany({
    where: { id: { in: aside.map((group) => group.id) } },
    data: { state: "ACCEPTED" },
  });
  const reason = `The run ended before batch ${batch.step} was sealed.`;
  await appendEvents(
    tx,
    aside.map((group) => decided(run, group, "ACCEPTED", reason)),
  );
}

function decided(
  run: Run,
  group: Omit<Waiting, "signal">,
  state: "SET_ASIDE" | "STALE" | "ACCEPTED",
  reason: string,
): NewEvent {
  return {
    stream: runStream(run.id),
    organizationId: run.organizationId,
    type: "group.decided",
    subject: toTypeId("group", group.id),
    data: {
      state,
      reason,
      node: toTypeId("node", group.nodeId),
      version: group.policyVersion,
      meanReward: group.meanReward,
    },
  };
}
