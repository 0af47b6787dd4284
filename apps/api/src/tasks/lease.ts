import { randomUUID } from "node:crypto";
import type { Attempt, Prisma, Task, TaskKind } from "@muster/db";
import { newId, type TaskPayload, toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { appendEvents, type EventType, type NewEvent, runStream } from "../events/append.ts";
import { storable } from "../storable.ts";
import { forgetDrops, noteDrops } from "./drops.ts";
import { attemptsThatMayBecome, tasksThatMayBecome, unfinishedTaskStates } from "./states.ts";

// Invariant: a task has at most one LIVE attempt, and its number is Task.attempt. The number grows at the claim and at no
// other moment, so everything after a claim names (task, attempt), locks the task row first and compares: whoever lost the
// lease cannot contribute, however late its message arrives. Only the lease row's own deadline ends a lease.

export type NewTask = {
  /** Made before, where the payload depends on it: seeds are derived from a task's id. */
  readonly id?: string;
  readonly organizationId: string;
  readonly runId: string;
  readonly kind: TaskKind;
  readonly revision: number;
  readonly policyVersion?: number;
  readonly manifestHash?: string;
  readonly payload: TaskPayload | Prisma.JsonValue;
  /** Higher is claimed first among tasks of its kind. Default 0. */
  readonly priority?: number;
  readonly notBefore?: Date;
  readonly excludedNodes?: readonly string[];
};

/**
 * A task id that tells when it was made and nothing more. The others count up within a millisecond, and a canary slipped among audits
 * would not be in the count.
 * @param like an id whose time it takes; now when left out.
 */
export function uncountedId(like: string = newId("task")): string {
  return like.slice(0, 15) + randomUUID().slice(15);
}

/** Opens a task. After the commit, publish `offers:<KIND>` so that waiting nodes look. */
export async function openTask(tx: Tx, input: NewTask): Promise<string> {
  const [id] = await openTasks(tx, [input]);
  if (id === undefined) throw new Error("one task in, one id out");
  return id;
}

/** Opens several tasks in two statements. Returns their ids in order. */
export async function openTasks(tx: Tx, inputs: readonly NewTask[]): Promise<string[]> {
  const rows = inputs.map(({ excludedNodes, payload, ...input }) => ({
    ...input,
    id: input.id ?? (input.kind === "VERIFY" ? uncountedId() : newId("task")),
    excludedNodes: [...(excludedNodes ?? [])],
    // A payload is plain JSON by its zod schema.
    payload: payload as Prisma.InputJsonValue,
  }));
  if (rows.length === 0) return [];
  await tx.$executeRaw`
    INSERT INTO "Task" (id, "organizationId", "runId", kind, revision, "policyVersion", "manifestHash", payload, priority, "notBefore", "excludedNodes", "updatedAt")
    SELECT id, "organizationId", "runId", kind::"TaskKind", revision, "policyVersion", "manifestHash", payload, COALESCE(priority, 0), "notBefore",
      COALESCE("excludedNodes", '{}'), now()
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS t(id uuid, "organizationId" uuid, "runId" uuid, kind text, revision int,
      "policyVersion" int, "manifestHash" text, payload jsonb, priority int, "notBefore" timestamptz, "excludedNodes" uuid[])`;
  await appendEvents(
    tx,
    rows.map((row) =>
      taskEvent("task.opened", { ...row, policyVersion: row.policyVersion ?? null, attempt: 0 }),
    ),
  );
  return rows.map((row) => row.id);
}

export type Fence =
  | { readonly kind: "fresh"; readonly task: Task; readonly attempt: Attempt }
  | { readonly kind: "duplicate"; readonly task: Task; readonly attempt: Attempt }
  | { readonly kind: "lost"; readonly message: string };

type Submitting = {
  readonly taskId: string;
  readonly attempt: number;
  readonly nodeId: string;
  readonly packHash: string;
  /** The node's over the pack: kept with the attempt, for evidence. */
  readonly signature?: string;
};

/**
 * Lets exactly one submission of a task through. Locks the task row; a fresh one makes task and attempt SUBMITTED. A late submit
 * wins while nobody newer holds the task; the same submission again is a duplicate; everything else has lost the lease.
 */
export async function acceptSubmission(tx: Tx, input: Submitting): Promise<Fence> {
  const [fence] = await acceptSubmissions(tx, [input]);
  if (fence === undefined) throw new Error("one submission in, one fence out");
  return fence;
}

/** The same for submissions of several tasks, in their order and in five statements however many they are. */
export async function acceptSubmissions(tx: Tx, inputs: readonly Submitting[]): Promise<Fence[]> {
  const taskIds = inputs.map((input) => input.taskId);
  // Locked in the order of their ids, like everywhere.
  await tx.$queryRaw`SELECT 1 FROM "Task" WHERE id = ANY(${taskIds}::uuid[]) ORDER BY id FOR UPDATE`;
  const tasks = new Map(
    (await tx.task.findMany({ where: { id: { in: taskIds } } })).map((task) => [task.id, task]),
  );
  const attempts = await tx.attempt.findMany({
    where: { OR: inputs.map(({ taskId, attempt }) => ({ taskId, number: attempt })) },
  });
  const fences = inputs.map((input) => {
    const attempt = attempts.find((one) => one.taskId === input.taskId && one.number === input.attempt);
    return fenceOf(input, tasks.get(input.taskId), attempt);
  });

  const fresh = fences.flatMap((fence) => (fence.kind === "fresh" ? [fence] : []));
  if (fresh.length === 0) return fences;
  const endedAt = new Date();
  const packs = fences
    .map((fence, i) => ({
      fence,
      packHash: inputs[i]?.packHash ?? "",
      signature: inputs[i]?.signature ?? "",
    }))
    .filter(({ fence }) => fence.kind === "fresh");
  await tx.$executeRaw`
    UPDATE "Attempt" a SET state = 'SUBMITTED', "endedAt" = ${endedAt}, "packHash" = v.pack, signature = nullif(v.signature, '')
    FROM unnest(${fresh.map(({ attempt }) => attempt.id)}::uuid[], ${packs.map(({ packHash }) => packHash)}::text[],
      ${packs.map(({ signature }) => signature)}::text[]) AS v(id, pack, signature) WHERE a.id = v.id`;
  await tx.task.updateMany({
    where: { id: { in: fresh.map(({ task }) => task.id) } },
    data: { state: "SUBMITTED", leaseUntil: null },
  });
  await forgetDrops(tx, [...new Set(fresh.map(({ attempt }) => attempt.nodeId))]);
  await appendEvents(
    tx,
    fresh.map(({ task, attempt }) =>
      taskEvent("task.submitted", task, { node: toTypeId("node", attempt.nodeId) }),
    ),
  );
  return fences.map((fence, i) =>
    fence.kind === "fresh"
      ? {
          kind: "fresh",
          task: { ...fence.task, state: "SUBMITTED", leaseUntil: null },
          attempt: { ...fence.attempt, state: "SUBMITTED", endedAt, packHash: inputs[i]?.packHash ?? null },
        }
      : fence,
  );
}

/** What the rows say to a submission; only under the task's lock is it the last word. */
export function fenceOf(input: Submitting, task: Task | undefined, attempt: Attempt | undefined): Fence {
  if (task === undefined || attempt === undefined || attempt.nodeId !== input.nodeId)
    return lost(input, "This node never held it.");
  if (attempt.state === "SUBMITTED") {
    if (attempt.packHash === input.packHash) return { kind: "duplicate", task, attempt };
    return lost(input, "It was answered with another pack; only the first one counts.");
  }
  if (task.attempt !== attempt.number)
    return lost(input, `Attempt ${task.attempt} has begun since. Claim again.`);
  if (!attemptsThatMayBecome("SUBMITTED").includes(attempt.state))
    return lost(
      input,
      `It is ${attempt.state}${attempt.reason === null ? "" : ` (${attempt.reason})`}. Claim again.`,
    );
  if (!tasksThatMayBecome("SUBMITTED").includes(task.state))
    return lost(input, `The task is ${task.state}. Claim again.`);
  return { kind: "fresh", task, attempt };
}

/** SUBMITTED → DONE: its result was taken. */
export async function completeTask(tx: Tx, task: Pick<Task, "id">): Promise<void> {
  const after = await move(tx, task.id, "DONE", { doneAt: new Date() });
  await appendEvents(tx, [taskEvent("task.done", after)]);
}

/** The same for tasks that this transaction holds as SUBMITTED. */
export async function completeTasks(tx: Tx, ids: readonly string[]): Promise<void> {
  const done = await tx.task.updateManyAndReturn({
    where: { id: { in: [...ids] }, state: { in: tasksThatMayBecome("DONE") } },
    data: { state: "DONE", doneAt: new Date() },
  });
  await appendEvents(
    tx,
    done.map((task) => taskEvent("task.done", task)),
  );
}

/**
 * Gives a task back: to OPEN, or to FAILED when too many of its attempts have `failed`. For a submission that was refused, and for a
 * node that may no longer hold it or wants it no more. The caller has ended the attempt.
 */
export async function reopenTask(
  tx: Tx,
  task: Pick<Task, "id">,
  reason: string,
  { failed = false }: { failed?: boolean } = {},
): Promise<"OPEN" | "FAILED"> {
  const current = await lockTask(tx, task.id);
  if (current === null) throw new Error(`task ${task.id} is gone`);
  const failures = current.failures + (failed ? 1 : 0);
  if (failures >= current.maxAttempts) {
    await failTask(tx, task, `${reason} (attempt ${failures} of ${current.maxAttempts})`);
    return "FAILED";
  }
  const after = await move(tx, task.id, "OPEN", { leaseNodeId: null, leaseUntil: null, failures });
  await appendEvents(tx, [taskEvent("task.released", after, { reason })]);
  return "OPEN";
}

/** Gives a task up for good. What that means for its run is the planner's to decide. */
export async function failTask(tx: Tx, task: Pick<Task, "id">, reason: string): Promise<void> {
  const after = await move(tx, task.id, "FAILED", {
    failure: reason,
    leaseNodeId: null,
    leaseUntil: null,
    doneAt: new Date(),
  });
  await appendEvents(tx, [taskEvent("task.failed", after, { reason })]);
}

/** Cancels the unfinished tasks that `where` names, with their LIVE attempts. Returns how many. */
export async function cancelTasks(tx: Tx, where: Prisma.TaskWhereInput, reason: string): Promise<number> {
  const tasks = await tx.task.findMany({
    where: { AND: [where, { state: { in: unfinishedTaskStates } }] },
    orderBy: { id: "asc" },
    select: { id: true },
  });
  if (tasks.length === 0) return 0;
  // Locked in the order of their ids, and read again under the lock: a claim may have come first.
  const cancelled = await tx.$queryRaw<Task[]>`
    WITH picked AS MATERIALIZED (
      SELECT id FROM "Task" WHERE id = ANY(${tasks.map((task) => task.id)}::uuid[]) AND state IN ('OPEN', 'LEASED', 'SUBMITTED')
      ORDER BY id FOR UPDATE
    )
    UPDATE "Task" t SET state = 'CANCELLED', failure = ${reason}, "leaseNodeId" = NULL, "leaseUntil" = NULL, "doneAt" = now(), "updatedAt" = now()
    FROM picked WHERE t.id = picked.id
    RETURNING t.*`;
  await tx.attempt.updateMany({
    where: { taskId: { in: cancelled.map((task) => task.id) }, state: "LIVE" },
    data: { state: "CANCELLED", endedAt: new Date(), reason },
  });
  await appendEvents(
    tx,
    cancelled.map((task) => taskEvent("task.cancelled", task, { reason })),
  );
  return cancelled.length;
}

// A node may hold what it generates, measures or evaluates for ten leases and a training step for a week, however often it renews:
// a task that is leased is one that nobody else gets, and a run must not stand still for a node that only says it is at work.
const mostLeases = 10;
const mostTrainingSeconds = 7 * 24 * 3_600;

/**
 * Renews the caller's lease for as long as its run's spec says, while the node still may do such work in the run and has not held it for
 * too long.
 * @throws CodedError `LEASE_LOST`
 */
export async function renewLease(
  ctx: Ctx,
  input: { taskId: string; attempt: number },
): Promise<{ leaseUntil: Date }> {
  const nodeId = nodeOf(ctx);
  // One statement on the hot path: every working node comes here three times a lease.
  const { rows } = await ctx.db.pool.query<{ leaseUntil: Date }>({
    name: "renew-lease",
    text: `
      WITH renewed AS (
        UPDATE "Task" t SET "leaseUntil" = now() + make_interval(secs => COALESCE((v.spec->>'leaseSeconds')::float8, $4)), "updatedAt" = now()
        FROM "RunRevision" v, "Run" r, "Attempt" held
        WHERE t.id = $1 AND t.attempt = $2 AND t."leaseNodeId" = $3 AND t.state = 'LEASED'
          AND v."runId" = t."runId" AND v.number = t.revision
          AND r.id = t."runId" AND r.state IN ('RUNNING', 'PAUSED')
          AND held."taskId" = t.id AND held.number = t.attempt
          AND held."claimedAt" > now() - make_interval(secs => CASE WHEN t.kind IN ('BASE', 'TRAIN') THEN $6::float8
            ELSE $5::float8 * COALESCE((v.spec->>'leaseSeconds')::float8, $4) END)
          AND ((t.kind = 'GENERATE' AND r.open) OR EXISTS (
            SELECT 1 FROM "RoleGrant" g WHERE g."runId" = r.id AND g."nodeId" = $3 AND g."revokedAt" IS NULL
              AND (t.kind = 'GENERATE' OR g.role = CASE t.kind
                WHEN 'VERIFY' THEN 'VALIDATOR'::"Role" WHEN 'EVALUATE' THEN 'EVALUATOR'::"Role" ELSE 'TRAINER'::"Role" END)))
          AND NOT EXISTS (
            SELECT 1 FROM "NodeTrust" s WHERE s."runId" = r.id AND s."nodeId" = $3 AND s.state IN ('QUARANTINED', 'EJECTED'))
        RETURNING t.id, t.attempt, t."leaseUntil"
      )
      UPDATE "Attempt" a SET "leaseUntil" = renewed."leaseUntil" FROM renewed
      WHERE a."taskId" = renewed.id AND a.number = renewed.attempt AND a.state = 'LIVE'
      RETURNING a."leaseUntil"`,
    values: [input.taskId, input.attempt, nodeId, ctx.config.leaseSeconds, mostLeases, mostTrainingSeconds],
  });
  const [row] = rows;
  if (row === undefined) {
    throw new CodedError(
      "LEASE_LOST",
      `Attempt ${input.attempt} of ${toTypeId("task", input.taskId)} is no longer live, or this node may not hold it any longer. Submit if you are nearly done (it counts unless somebody else has claimed), else claim again.`,
    );
  }
  return { leaseUntil: row.leaseUntil };
}

/**
 * Hands a task back before its lease ends. Doing it twice is harmless. `failed` says that the node tried and could not do it: only that
 * counts against the task. Who hands back one task after the other and submits none gets none for a while.
 * @throws CodedError `LEASE_LOST` when the attempt ended another way.
 */
export async function releaseTask(
  ctx: Ctx,
  input: { taskId: string; attempt: number; reason: string; failed?: boolean },
): Promise<void> {
  const nodeId = nodeOf(ctx);
  const released = await ctx.prisma.$transaction(async (tx) => {
    const task = await lockTask(tx, input.taskId);
    const attempt = await tx.attempt.findUnique({
      where: { taskId_number: { taskId: input.taskId, number: input.attempt } },
    });
    if (
      task === null ||
      attempt === null ||
      attempt.nodeId !== nodeId ||
      !["LIVE", "RELEASED"].includes(attempt.state)
    )
      throw new CodedError(
        "LEASE_LOST",
        `Attempt ${input.attempt} of ${toTypeId("task", input.taskId)} is not this node's to release.`,
      );
    if (attempt.state === "RELEASED") return null;
    const reason = storable(input.reason, 500);
    await tx.attempt.update({
      where: { id: attempt.id },
      data: { state: "RELEASED", endedAt: new Date(), reason },
    });
    await reopenTask(tx, task, `released: ${reason}`, { failed: input.failed ?? false });
    return { kind: task.kind, runId: task.runId, nodeId, claimedAt: attempt.claimedAt };
  });
  if (released === null) return;
  await noteDrops(ctx, [released]);
  ctx.bus.publish("events");
  ctx.bus.publish(`offers:${released.kind}`);
  ctx.bus.publish(`run:${released.runId}`);
}

/** The calling node's id. @throws CodedError `UNAUTHENTICATED` */
export function nodeOf(ctx: Ctx): string {
  if (ctx.actor.kind === "node") return ctx.actor.nodeId;
  throw new CodedError(
    "UNAUTHENTICATED",
    "Only a node with a session holds leases. Register the node first.",
  );
}

/** An event about a task, in its run's stream. */
export function taskEvent(
  type: EventType,
  task: Pick<Task, "id" | "runId" | "organizationId" | "kind" | "attempt" | "policyVersion">,
  more: NewEvent["data"] = {},
): NewEvent {
  return {
    stream: runStream(task.runId),
    organizationId: task.organizationId,
    type,
    subject: toTypeId("task", task.id),
    data: { kind: task.kind, attempt: task.attempt, version: task.policyVersion, ...more },
  };
}

async function lockTask(tx: Tx, id: string): Promise<Task | null> {
  await tx.$queryRaw`SELECT 1 FROM "Task" WHERE id = ${id}::uuid FOR UPDATE`;
  return tx.task.findUnique({ where: { id } });
}

async function move(
  tx: Tx,
  id: string,
  to: Task["state"],
  data: Prisma.TaskUpdateManyMutationInput,
): Promise<Task> {
  const moved = await tx.task.updateManyAndReturn({
    where: { id, state: { in: tasksThatMayBecome(to) } },
    data: { ...data, state: to },
  });
  const [task] = moved;
  if (task === undefined)
    throw new CodedError(
      "STATE_CONFLICT",
      `${toTypeId("task", id)} cannot become ${to} any more. Read it again.`,
    );
  return task;
}

function lost(input: { taskId: string; attempt: number }, why: string): Fence {
  return {
    kind: "lost",
    message: `The lease of attempt ${input.attempt} of ${toTypeId("task", input.taskId)} is lost. ${why}`,
  };
}
