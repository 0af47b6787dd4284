import type { Role, TaskKind } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import type { PoolClient } from "pg";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { nodeOf } from "./lease.ts";

/** What a claim hands out. */
export type Lease = {
  readonly taskId: string;
  readonly runId: string;
  readonly kind: TaskKind;
  readonly attempt: number;
  readonly leaseUntil: Date;
  readonly renewAfterSeconds: number;
  readonly manifestHash: string | null;
  readonly policyVersion: number | null;
  readonly payload: unknown;
};

/** Most tasks in one claim. */
export const maxClaim = 16;

/** Most LIVE attempts a node holds of a kind: enough to fetch one while computing another, too little to hoard. */
const mostLive = { BASE: 1, TRAIN: 1, VERIFY: 16, EVALUATE: 1, GENERATE: 2 } as const satisfies Record<
  TaskKind,
  number
>;

/** The role that a kind needs. GENERATE needs none in an open run; in a closed one any grant will do. */
const roleFor: Record<TaskKind, Role | null> = {
  BASE: "TRAINER",
  TRAIN: "TRAINER",
  VERIFY: "VALIDATOR",
  EVALUATE: "EVALUATOR",
  GENERATE: null,
};

// A node that may do several kinds gets them in this order. A sealed batch holds up the whole run, so BASE and TRAIN come first;
// measuring comes before generating, because what is generated is worth nothing until it is measured; an evaluation holds up
// nobody, but one that has waited a minute goes before VERIFY, or a busy validator would never evaluate.
const turns: readonly { kind: TaskKind; waitedSeconds: number }[] = [
  { kind: "BASE", waitedSeconds: 0 },
  { kind: "TRAIN", waitedSeconds: 0 },
  { kind: "EVALUATE", waitedSeconds: 60 },
  { kind: "VERIFY", waitedSeconds: 0 },
  { kind: "EVALUATE", waitedSeconds: 0 },
  { kind: "GENERATE", waitedSeconds: 0 },
];

/** Nodes with a claim under way, of each database: one that sends many at once must not hold all of its connections. */
const claiming = new WeakMap<Ctx["db"], Set<string>>();

/**
 * Leases up to `max` tasks of the kinds asked to the calling node, within one kind by priority and then the oldest first over all its
 * runs: the planner keeps few tasks open a run, so no run can starve another. Two claims never return the same task.
 * A node is given work that needs a grant only where it said it works (`worksFor` at its registration, or the run named here): a grant
 * is what an organizer wants, and not yet what the node's owner does. Whoever named nothing generates for any open run.
 * An empty list means: nothing to do now, or another claim of the node is under way; wait for an offer.
 * @throws CodedError `ROLE_NOT_GRANTED` when the node may take none of these kinds anywhere, `NODE_QUARANTINED` when only its quarantine
 * stands in the way, `RATE_LIMITED` after it dropped too many tasks
 */
export async function claimTasks(
  ctx: Ctx,
  input: { kinds: readonly TaskKind[]; max: number; runId?: string },
): Promise<Lease[]> {
  const nodeId = nodeOf(ctx);
  const max = Math.floor(input.max);
  if (!(max >= 1 && max <= maxClaim))
    throw new CodedError("INPUT_INVALID", `\`max\` must be 1 to ${maxClaim}.`);
  if (input.kinds.length === 0) throw new CodedError("INPUT_INVALID", "`kinds` names no kind of task.");
  const busy = claiming.get(ctx.db) ?? new Set();
  claiming.set(ctx.db, busy);
  if (busy.has(nodeId)) return [];
  busy.add(nodeId);
  try {
    return await claimAlone(ctx, nodeId, { ...input, max });
  } finally {
    busy.delete(nodeId);
  }
}

async function claimAlone(
  ctx: Ctx,
  nodeId: string,
  input: { kinds: readonly TaskKind[]; max: number; runId?: string },
): Promise<Lease[]> {
  const client = await ctx.db.pool.connect();
  let outcome: Lease[] | Rest | "busy";
  try {
    outcome = await claimInTransaction(client, ctx.config.leaseSeconds, nodeId, input);
    client.release();
  } catch (error) {
    // Not given back: a connection that failed inside a transaction may still be in it.
    client.release(true);
    throw error;
  }
  if (outcome === "busy") return [];
  if (!Array.isArray(outcome)) throw resting(outcome);
  if (outcome.length === 0) await explainNothing(ctx, nodeId, input);
  else ctx.bus.publish("events");
  return outcome;
}

/** What a node waits for that dropped so many tasks in a row. */
type Rest = { readonly dropped: number; readonly restSeconds: number };

function resting({ dropped, restSeconds }: Rest): CodedError {
  const retryAfterSeconds = Math.ceil(restSeconds);
  return new CodedError(
    "RATE_LIMITED",
    `This node dropped ${dropped} tasks in a row and submitted none, so it gets none for ${retryAfterSeconds} s. See in its log what kept it from submitting.`,
    { details: { retryAfterSeconds } },
  );
}

async function claimInTransaction(
  client: PoolClient,
  leaseSeconds: number,
  nodeId: string,
  input: { kinds: readonly TaskKind[]; max: number; runId?: string },
): Promise<Lease[] | Rest | "busy"> {
  await client.query("BEGIN");
  // One claim of a node at a time, in all processes: two at once would each see room for the same lease. Nobody waits for the other,
  // for a connection is held meanwhile.
  const { rows } = await client.query<{ alone: boolean; dropped: number; restSeconds: number | null }>({
    name: "claim-lock",
    text: `SELECT pg_try_advisory_xact_lock(hashtextextended('claim:' || $1, 0)) AS alone, n.dropped,
        EXTRACT(EPOCH FROM n."restsUntil" - now())::float8 AS "restSeconds"
      FROM "Node" n WHERE n.id = $1::uuid`,
    values: [nodeId],
  });
  const [node] = rows;
  if (node?.alone === true && (node.restSeconds ?? 0) <= 0) {
    const leases = await claimKinds(client, leaseSeconds, nodeId, input);
    await client.query("COMMIT");
    return leases;
  }
  await client.query("ROLLBACK");
  return node?.alone === true ? { dropped: node.dropped, restSeconds: node.restSeconds ?? 0 } : "busy";
}

async function claimKinds(
  client: PoolClient,
  leaseSeconds: number,
  nodeId: string,
  input: { kinds: readonly TaskKind[]; max: number; runId?: string },
): Promise<Lease[]> {
  const live = await liveAttempts(client, nodeId);
  const leases: Lease[] = [];
  for (const { kind, waitedSeconds } of turns) {
    if (!input.kinds.includes(kind)) continue;
    const room = Math.min(input.max - leases.length, mostLive[kind] - (live.get(kind) ?? 0));
    if (room <= 0) continue;
    const claimed = await claimKind(client, {
      kind,
      waitedSeconds,
      nodeId,
      room,
      leaseSeconds,
      runId: input.runId ?? null,
    });
    live.set(kind, (live.get(kind) ?? 0) + claimed.length);
    leases.push(...claimed);
  }
  return leases;
}

async function liveAttempts(client: PoolClient, nodeId: string): Promise<Map<TaskKind, number>> {
  const { rows } = await client.query<{ kind: TaskKind; n: number }>({
    name: "claim-live",
    text: `
      SELECT t.kind, count(*)::int AS n FROM "Attempt" a JOIN "Task" t ON t.id = a."taskId"
      WHERE a."nodeId" = $1 AND a.state = 'LIVE' GROUP BY t.kind`,
    values: [nodeId],
  });
  return new Map(rows.map((row) => [row.kind, row.n]));
}

type Row = {
  id: string;
  runId: string;
  organizationId: string;
  attempt: number;
  leaseUntil: Date;
  leaseSeconds: number;
  manifestHash: string | null;
  policyVersion: number | null;
  payload: unknown;
};

// Without a validator that is marked as the organizer's own, all of them are: the organizer granted each.
const validatorSql = `
      CASE WHEN $3::"Role" = 'VALIDATOR' THEN EXISTS (SELECT 1 FROM "RoleGrant" o WHERE o."runId" = r.id AND o."nodeId" = $1 AND o.role = 'VALIDATOR'
          AND o.own AND o."revokedAt" IS NULL)
        OR NOT EXISTS (SELECT 1 FROM "RoleGrant" o WHERE o."runId" = r.id AND o.role = 'VALIDATOR' AND o.own AND o."revokedAt" IS NULL) END AS own,
      CASE WHEN $3::"Role" = 'VALIDATOR' THEN NOT EXISTS (SELECT 1 FROM "RoleGrant" o WHERE o."runId" = r.id AND o.role = 'VALIDATOR'
        AND o."nodeId" <> $1 AND o."revokedAt" IS NULL) END AS alone`;

// What watches validators goes to those it is for: a re-execution to the organizer's own, a canary to the one validator it tests, and
// only once: a task that comes back to whoever dropped it, when any other would have gone to somebody else, would tell what it is.
// Whoever failed at a measurement leaves it to the others for a minute; one that is alone tries again at once.
const watchSql = `
        NOT EXISTS (SELECT 1 FROM "Probe" p WHERE p."taskId" = t.id
          AND NOT CASE p.purpose WHEN 'REEXECUTION' THEN a.own ELSE p."nodeId" = $1 AND t.attempt = 0 END)
        AND (a.alone OR t."updatedAt" < now() - interval '60 seconds'
          OR NOT EXISTS (SELECT 1 FROM "Attempt" f WHERE f."taskId" = t.id AND f."nodeId" = $1))`;

/** Whether the node $1 (row `n`) said that it works for the run `r`, or names it ($7) now. */
const namedSql = `(r.id = $7 OR r.id = ANY (n."worksFor") OR r."organizationId" = ANY (n."worksFor"))`;

// Raw and one statement: locking, counting the attempt and inserting it must see the same rows, and SKIP LOCKED is beyond Prisma.
// MATERIALIZED, because the planner may otherwise run the locking subquery again for every row; an array and not a join, because a
// prepared plan takes LIMIT $4 for a tenth of the table and then reads all of it (measured with 60,000 tasks: 98 ms, against 1.4).
const claimSql = `
  WITH allowed AS MATERIALIZED (
    SELECT r.id, r."currentVersion", r."organizationId", COALESCE((v.spec->>'leaseSeconds')::float8, $6) AS seconds, ${validatorSql}
    FROM "Run" r
    JOIN "RunRevision" v ON v."runId" = r.id AND v.number = r.revision
    LEFT JOIN "NodeTrust" t ON t."runId" = r.id AND t."nodeId" = $1
    JOIN "Node" n ON n.id = $1
    WHERE r.state = 'RUNNING' AND ($7::uuid IS NULL OR r.id = $7)
      AND (${namedSql} OR ($3::"Role" IS NULL AND r.open AND COALESCE(n."worksFor", '{}') = '{}'))
      AND (t.state IS NULL OR t.state NOT IN ('QUARANTINED', 'EJECTED'))
      AND (($3::"Role" IS NULL AND r.open) OR EXISTS (
        SELECT 1 FROM "RoleGrant" g WHERE g."runId" = r.id AND g."nodeId" = $1 AND g."revokedAt" IS NULL
          AND ($3::"Role" IS NULL OR g.role = $3::"Role")))
  ), picked AS MATERIALIZED (
    SELECT t.id FROM "Task" t JOIN allowed a ON a.id = t."runId"
    WHERE t.state = 'OPEN' AND t.kind = $2::"TaskKind"
      AND (t."notBefore" IS NULL OR t."notBefore" <= now())
      AND NOT ($1 = ANY (t."excludedNodes"))
      AND (t.kind <> 'VERIFY' OR (${watchSql}))
      AND ($8 = 0 OR t."createdAt" <= now() - make_interval(secs => $8))
    ORDER BY t.priority DESC, t.id LIMIT $4
    FOR UPDATE OF t SKIP LOCKED
  ), leased AS (
    UPDATE "Task" t SET state = 'LEASED', attempt = t.attempt + 1, "leaseNodeId" = $1,
      "leaseUntil" = now() + make_interval(secs => a.seconds), "updatedAt" = now()
    FROM allowed a WHERE a.id = t."runId" AND t.id = ANY (ARRAY(SELECT id FROM picked))
    RETURNING t.id, t."organizationId", t."runId", t.attempt, t.priority, t."leaseUntil", t."manifestHash", t."policyVersion", t.payload,
      a."currentVersion", a.seconds
  ), attempted AS (
    INSERT INTO "Attempt" (id, "organizationId", "runId", "taskId", number, "nodeId", state, "claimedAt", "leaseUntil", "versionAtClaim")
    SELECT ($5::uuid[])[(row_number() OVER ())::int], leased."organizationId", leased."runId", leased.id, leased.attempt, $1, 'LIVE', now(),
      leased."leaseUntil", leased."currentVersion"
    FROM leased
  )
  SELECT id, "organizationId", "runId", attempt, "leaseUntil", seconds AS "leaseSeconds", "manifestHash", "policyVersion", payload
  FROM leased ORDER BY priority DESC, id`;

async function claimKind(
  client: PoolClient,
  input: {
    kind: TaskKind;
    waitedSeconds: number;
    nodeId: string;
    room: number;
    leaseSeconds: number;
    runId: string | null;
  },
): Promise<Lease[]> {
  const { kind, nodeId, room } = input;
  const { rows } = await client.query<Row>({
    name: "claim-tasks",
    text: claimSql,
    values: [
      nodeId,
      kind,
      roleFor[kind],
      room,
      Array.from({ length: room }, () => newId("attempt")),
      input.leaseSeconds,
      input.runId,
      input.waitedSeconds,
    ],
  });
  await recordLeased(client, kind, nodeId, rows);
  return rows.map((row) => ({
    taskId: row.id,
    runId: row.runId,
    kind,
    attempt: row.attempt,
    leaseUntil: row.leaseUntil,
    renewAfterSeconds: Math.max(1, Math.floor(row.leaseSeconds / 3)),
    manifestHash: row.manifestHash,
    policyVersion: row.policyVersion,
    payload: row.payload,
  }));
}

// The same rows as appendEvents() writes, on this transaction's connection, which is pg's and not Prisma's.
async function recordLeased(
  client: PoolClient,
  kind: TaskKind,
  nodeId: string,
  rows: readonly Row[],
): Promise<void> {
  if (rows.length === 0) return;
  const events = rows.map((row) => ({
    organizationId: row.organizationId,
    stream: `run:${row.runId}`,
    subject: toTypeId("task", row.id),
    data: {
      kind,
      attempt: row.attempt,
      version: row.policyVersion,
      node: toTypeId("node", nodeId),
      leaseUntil: row.leaseUntil.toISOString(),
    },
  }));
  await client.query({
    name: "claim-events",
    text: `
      INSERT INTO "Event" ("organizationId", stream, type, subject, data, at)
      SELECT e."organizationId", e.stream, 'task.leased', e.subject, e.data, now()
      FROM jsonb_to_recordset($1::jsonb) AS e("organizationId" uuid, stream text, subject text, data jsonb)`,
    values: [JSON.stringify(events)],
  });
}

type Standing = { granted: boolean; named: boolean; quarantined: boolean };

/** Nothing was claimable: says so when waiting cannot help. */
async function explainNothing(
  ctx: Ctx,
  nodeId: string,
  input: { kinds: readonly TaskKind[]; runId?: string },
): Promise<void> {
  const roles = input.kinds.flatMap((kind) => roleFor[kind] ?? []);
  const generates = input.kinds.includes("GENERATE");
  const { rows } = await ctx.db.pool.query<Standing>({
    name: "claim-standing",
    text: `
      SELECT (($3 AND r.open) OR EXISTS (
          SELECT 1 FROM "RoleGrant" g WHERE g."runId" = r.id AND g."nodeId" = $1 AND g."revokedAt" IS NULL
            AND ($3 OR g.role = ANY ($4::"Role"[])))) AS granted,
        COALESCE(r.id = $2 OR r.id = ANY (n."worksFor") OR r."organizationId" = ANY (n."worksFor") OR ($3 AND r.open), false) AS named,
        COALESCE(t.state IN ('QUARANTINED', 'EJECTED'), false) AS quarantined
      FROM "Run" r JOIN "Node" n ON n.id = $1 LEFT JOIN "NodeTrust" t ON t."runId" = r.id AND t."nodeId" = $1
      WHERE ($2::uuid IS NOT NULL AND r.id = $2)
        OR ($2::uuid IS NULL AND (r.state = 'RUNNING' OR EXISTS (SELECT 1 FROM "RoleGrant" g WHERE g."runId" = r.id AND g."nodeId" = $1)))`,
    values: [nodeId, input.runId ?? null, generates, roles],
  });
  if (rows.some((row) => row.granted && row.named && !row.quarantined)) return;
  if (rows.some((row) => row.granted && row.named && row.quarantined))
    throw new CodedError(
      "NODE_QUARANTINED",
      "This node is quarantined: too much of its work was rejected. Its page names each check; ask the organizer.",
    );
  // Without a run named, an open one may yet come for whoever generates.
  if (generates && input.runId === undefined) return;
  if (input.runId !== undefined && rows.length === 0)
    throw new CodedError("NOT_FOUND", "The run does not exist, or this node may not see it.");
  if (rows.some((row) => row.granted && !row.named))
    throw new CodedError(
      "ROLE_NOT_GRANTED",
      "This node was granted a role in a run that it did not say it works for. Start it with --run or --organization to accept that.",
    );
  const needed = generates ? "any role in this closed run" : [...new Set(roles)].join(" or ");
  throw new CodedError(
    "ROLE_NOT_GRANTED",
    `This node needs ${needed}. Ask the organizer to grant it to ${toTypeId("node", nodeId)}.`,
  );
}
