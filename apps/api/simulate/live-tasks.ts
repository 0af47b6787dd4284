import type { Batch } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import type { Tx } from "../src/context.ts";
import { appendEvents, type NewEvent } from "../src/events/append.ts";
import { holdForGroups } from "../src/ledger/stakes.ts";
import { lockRun } from "../src/runs/lifecycle.ts";
import { eventOf, fillingBatch, type Live, type Sample, secondsPerStep, tickMs } from "./live-run.ts";

/** Share of the events that are receipts of checkpoints, as long as somebody has none. */
const receiptShare = 0.3;

/** About so many events, each with its rows. */
export async function tick(tx: Tx, live: Live, events: number): Promise<void> {
  const { spec } = live;
  await lockRun(tx, live.runId);
  const batch = await fillingBatch(tx, live);
  const left = events - (await receive(tx, live, Math.round(events * receiptShare)));
  // Of the tasks, as many are for the batch under way as fill it until its step; the others' groups come too late for any.
  const perTick = (0.9 * spec.batch.settledGroups * tickMs) / (1000 * secondsPerStep);
  const { groupsPerTask } = spec.generation;
  // Four events a task, two for each one that dropped it before, on average one, and two a group.
  const tasks = Math.floor(left / (6 + 2 * groupsPerTask));
  const made: MadeGroup[] = [];
  const news: NewEvent[] = [];
  const drops: Drop[] = [];
  for (let i = 0; i < tasks; i++) {
    const room =
      live.placed + made.filter(({ place }) => place !== null).length + groupsPerTask <
      0.9 * spec.batch.settledGroups;
    made.push(
      ...makeTask(
        live,
        { batch: room && i * groupsPerTask <= perTick ? batch : null, before: made, drops },
        news,
      ),
    );
  }
  if (tasks === 0) return;
  await storeTasks(tx, live, { groups: made, batch, drops });
  await holdForGroups(
    tx,
    made.map(({ id, nodeId, tokens }) => ({
      organizationId: live.organizationId,
      runId: live.runId,
      nodeId,
      groupId: id,
      amount: BigInt(tokens) * BigInt(spec.prices.generatedToken),
    })),
  );
  await appendEvents(tx, news);
  live.events += news.length;
  live.groups += made.length;
}

/** Nodes that say that they have the newest version. @returns how many did */
async function receive(tx: Tx, live: Live, count: number): Promise<number> {
  const nodes = live.missing.splice(0, count);
  if (nodes.length === 0) return 0;
  const { random, version } = live;
  const rows = nodes.map((nodeId) => ({
    id: newId("receipt"),
    nodeId,
    seconds: Math.round(-4_000 * Math.log(1 - random.next())) / 1000,
  }));
  await tx.$executeRaw`
    INSERT INTO "CheckpointReceipt" (id, "organizationId", "runId", "checkpointId", version, "nodeId", layout, seconds, bytes, "wastedBytes", "creditedBytes", "settledAt")
    SELECT r.id, ${live.organizationId}::uuid, ${live.runId}::uuid, ${version.id}::uuid, ${version.number}, r."nodeId", 'FULL', r.seconds, c.size, 0, 0, now()
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS r(id uuid, "nodeId" uuid, seconds float8), "Checkpoint" c
    WHERE c.id = ${version.id}::uuid ON CONFLICT DO NOTHING`;
  await appendEvents(
    tx,
    rows.map(({ nodeId, seconds }) =>
      eventOf(live, "checkpoint.received", toTypeId("ckpt", version.id), {
        node: toTypeId("node", nodeId),
        version: version.number,
        layout: "FULL",
        seconds,
      }),
    ),
  );
  live.events += rows.length;
  return rows.length;
}

/** An attempt that came to nothing. */
type Drop = { id: string; taskId: string; number: number; nodeId: string };

type MadeGroup = {
  id: string;
  taskId: string;
  attemptId: string;
  /** Number of the attempt that was accepted. */
  attempt: number;
  nodeId: string;
  index: number;
  version: number;
  tokens: number;
  meanReward: number;
  signal: boolean;
  /** In the batch; null for one that came too late. */
  place: number | null;
  finalAfter: number;
  sample: Sample;
};

const dropReason = "released: the machine is needed for something else";

/** One task from its opening to its groups' acceptance. Adds its events. @returns its groups */
function makeTask(
  live: Live,
  at: { batch: Batch | null; before: readonly MadeGroup[]; drops: Drop[] },
  news: NewEvent[],
): MadeGroup[] {
  const { random, spec } = live;
  const worker = random.pick(live.workers);
  const taskId = newId("task");
  const attemptId = newId("attempt");
  const version = at.batch === null ? Math.max(0, live.version.number - 14) : live.version.number;
  const subject = toTypeId("task", taskId);
  const data = { kind: "GENERATE", version };
  const dropped = random.between(0, 2);
  const attempt = dropped + 1;
  const leaseUntil = new Date(Date.now() + 1000 * spec.leaseSeconds).toISOString();
  news.push(eventOf(live, "task.opened", subject, { ...data, attempt: 0 }));
  for (let number = 1; number < attempt; number++) {
    const nodeId = random.pick(live.present);
    at.drops.push({ id: newId("attempt"), taskId, number, nodeId });
    news.push(
      eventOf(live, "task.leased", subject, {
        ...data,
        attempt: number,
        node: toTypeId("node", nodeId),
        leaseUntil,
      }),
      eventOf(live, "task.released", subject, { ...data, attempt: number, reason: dropReason }),
    );
  }
  news.push(
    eventOf(live, "task.leased", subject, { ...data, attempt, node: worker.typeId, leaseUntil }),
    eventOf(live, "task.submitted", subject, { ...data, attempt, node: worker.typeId }),
    eventOf(live, "task.done", subject, { ...data, attempt }),
  );
  const placed = at.before.filter(({ place }) => place !== null).length;
  return Array.from({ length: spec.generation.groupsPerTask }, (_, index): MadeGroup => {
    const sample = random.pick(live.samples);
    const rewards = sample.rollouts.map(({ reward }) => reward);
    const signal = rewards.some((reward) => reward !== rewards[0]);
    const meanReward = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
    const tokens = sample.rollouts.reduce((sum, rollout) => sum + rollout.tokens, 0);
    const id = newId("group");
    const about = { node: worker.typeId, version, meanReward };
    const group = toTypeId("group", id);
    const place = at.batch === null ? null : at.batch.settledGroups + placed + index;
    news.push(eventOf(live, "group.submitted", group, { ...about, audited: false, duplicate: false }));
    news.push(
      eventOf(live, "group.decided", group, {
        ...about,
        state: place === null || signal ? "ACCEPTED" : "SET_ASIDE",
        acceptance: "TRUSTED",
        reason: null,
      }),
    );
    return {
      id,
      taskId,
      attemptId,
      attempt,
      nodeId: worker.id,
      index,
      version,
      tokens,
      meanReward,
      signal,
      place,
      finalAfter: worker.finalAfter,
      sample,
    };
  });
}

async function storeTasks(
  tx: Tx,
  live: Live,
  { groups, batch, drops }: { groups: readonly MadeGroup[]; batch: Batch; drops: readonly Drop[] },
): Promise<void> {
  const { organizationId, runId, spec } = live;
  const tasks = groups
    .filter(({ index }) => index === 0)
    .map(({ sample, ...task }) => ({ ...task, packHash: sample.packHash }));
  await tx.$executeRaw`
    WITH made AS MATERIALIZED (
      SELECT * FROM jsonb_to_recordset(${JSON.stringify(tasks)}::jsonb) AS t("taskId" uuid, "attemptId" uuid, attempt int, "nodeId" uuid, version int, "packHash" text)
    ), opened AS (
      INSERT INTO "Task" (id, "organizationId", "runId", kind, state, revision, "policyVersion", payload, attempt, "leaseNodeId", "updatedAt", "doneAt")
      SELECT "taskId", ${organizationId}::uuid, ${runId}::uuid, 'GENERATE', 'DONE', 1, version, '{"kind":"GENERATE","prompts":[]}', attempt, "nodeId", now(), now() FROM made
    )
    INSERT INTO "Attempt" (id, "organizationId", "runId", "taskId", number, "nodeId", state, "leaseUntil", "endedAt", "versionAtClaim", "packHash", "cpuSeconds")
    SELECT "attemptId", ${organizationId}::uuid, ${runId}::uuid, "taskId", attempt, "nodeId", 'SUBMITTED', now(), now(), version, "packHash", 1.5 FROM made`;
  await tx.$executeRaw`
    INSERT INTO "Attempt" (id, "organizationId", "runId", "taskId", number, "nodeId", state, "leaseUntil", "endedAt", reason)
    SELECT id, ${organizationId}::uuid, ${runId}::uuid, "taskId", number, "nodeId", 'RELEASED', now(), now(), ${dropReason}
    FROM jsonb_to_recordset(${JSON.stringify(drops)}::jsonb) AS d(id uuid, "taskId" uuid, number int, "nodeId" uuid)`;
  const rows = groups.map(({ sample, signal, place, ...group }) => ({
    ...group,
    packHash: sample.packHash,
    prompt: sample.prompt,
    exampleSeed: sample.exampleSeed,
    state: place === null || signal ? "ACCEPTED" : "SET_ASIDE",
  }));
  await tx.$executeRaw`
    INSERT INTO "Group" (id, "organizationId", "runId", "taskId", "attemptId", "nodeId", index, "exampleSeed", prompt, "policyVersion", "packHash", state,
      acceptance, "advantagesReady", "meanReward", tokens, "auditRate", epoch, "decidedAt", "finalAfter")
    SELECT id, ${organizationId}::uuid, ${runId}::uuid, "taskId", "attemptId", "nodeId", index, "exampleSeed", prompt, version, "packHash", state::"GroupState",
      'TRUSTED', true, "meanReward", tokens, ${spec.verification.audit.floor}, ${live.epoch}, now(), "finalAfter"
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS g(id uuid, "taskId" uuid, "attemptId" uuid, "nodeId" uuid, index int, "exampleSeed" text,
      prompt text, version int, "packHash" text, state text, "meanReward" float8, tokens int, "finalAfter" int)`;
  const rollouts = groups.flatMap(({ id, index, sample }) =>
    sample.rollouts.map((rollout, i) => ({
      ...rollout,
      id: newId("rollout"),
      groupId: id,
      index: index * sample.rollouts.length + i,
    })),
  );
  await tx.$executeRaw`
    INSERT INTO "Rollout" (id, "organizationId", "runId", "groupId", index, preview, tokens, "finishReason", reward, "rewardParts", advantage)
    SELECT id, ${organizationId}::uuid, ${runId}::uuid, "groupId", index, preview, tokens, 'eos', reward, parts, advantage
    FROM jsonb_to_recordset(${JSON.stringify(rollouts)}::jsonb) AS r(id uuid, "groupId" uuid, index int, preview text, tokens int, reward float8, parts jsonb,
      advantage float8)`;
  const placed = groups.filter(({ place }) => place !== null);
  if (placed.length === 0) return;
  await tx.batchGroup.createMany({
    data: placed.map(({ id, place, signal }) => ({
      batchId: batch.id,
      position: place ?? 0,
      groupId: id,
      organizationId,
      signal,
      policyLag: 0,
    })),
  });
  await tx.batch.update({
    where: { id: batch.id },
    data: {
      settledGroups: { increment: placed.length },
      signalGroups: { increment: placed.filter(({ signal }) => signal).length },
    },
  });
  live.placed += placed.length;
}
