import type { AlertKind } from "@muster/db";
import type { Services } from "../context.ts";
import { runStream } from "../events/append.ts";
import type { Condition, Reading } from "./conditions.ts";

// Each kind of condition reads what it needs of a run once for a span of time, and then answers for any moment in it. What fires now and
// what would have fired last week come from the same function.

type Db = Services["db"];

export type SignalRun = {
  readonly id: string;
  readonly organizationId: string;
  readonly startedAt: Date | null;
  readonly endedAt: Date | null;
};

/** Milliseconds since 1970. */
export type Span = { readonly from: number; readonly to: number };

/** The reading at a moment of the span; undefined: there is too little to say anything. `since`: when the run last began to run. */
export type Signal = (at: number, condition: Condition, since: number) => Reading | undefined;

type Kind = {
  /** Seconds before a moment that its answer depends on. */
  reach(condition: Condition): number;
  /** Whether the past can be told from what is stored. */
  readonly past: boolean;
  read(db: Db, run: SignalRun, span: Span): Promise<Signal>;
};

const window = ({ windowSeconds }: Condition): number => windowSeconds;
const nothing = (): number => 0;

export const kinds: Record<AlertKind, Kind> = {
  RUN_STALLED: { reach: nothing, past: true, read: readSteps },
  NO_ACCEPTED: { reach: nothing, past: true, read: readAccepted },
  REJECT_RATE: { reach: (rule) => window(rule) + usualSeconds(rule), past: true, read: readDecisions },
  KL_ABOVE: { reach: window, past: true, read: (db, run, span) => readMetric(db, run, span, "kl") },
  ENTROPY_BELOW: { reach: window, past: true, read: (db, run, span) => readMetric(db, run, span, "entropy") },
  BROADCAST_P95: { reach: window, past: true, read: readBroadcasts },
  WORKER_OFFLINE: { reach: nothing, past: false, read: readAbsent },
  VERIFY_QUEUE_AGE: { reach: nothing, past: true, read: readQueue },
  BUDGET_SPENT: { reach: nothing, past: true, read: readBudget },
};

/** When a run was RUNNING, oldest first; the last stretch has no end while it is. */
export type Stretch = { readonly from: number; readonly to: number };

export async function readStretches(db: Db, run: SignalRun): Promise<Stretch[]> {
  const { rows } = await db.pool.query<{ at: Date; running: boolean }>({
    name: "alert-stretches",
    text: `SELECT at, data->>'state' = 'RUNNING' AS running FROM "Event" WHERE stream = $1 AND type = 'run.state' ORDER BY at, id`,
    values: [runStream(run.id)],
  });
  const stretches: Stretch[] = [];
  // Before what is kept of its events it ran: one that was paused since would have said so.
  let from = rows[0]?.running === true ? undefined : run.startedAt?.getTime();
  for (const { at, running } of rows) {
    if (running) from ??= at.getTime();
    else if (from !== undefined) {
      if (at.getTime() > from) stretches.push({ from, to: at.getTime() });
      from = undefined;
    }
  }
  const to = run.endedAt?.getTime() ?? Number.POSITIVE_INFINITY;
  if (from !== undefined && to > from) stretches.push({ from, to });
  return stretches;
}

/** Seconds without something that should happen again and again. */
function absence(times: readonly number[]): Signal {
  return (at, { windowSeconds }, since) => {
    const last = times[upTo(times, at) - 1] ?? 0;
    const value = Math.max(0, (at - Math.max(last, since)) / 1000);
    return { value, limit: windowSeconds, firing: value > windowSeconds };
  };
}

async function readSteps(db: Db, run: SignalRun, { from, to }: Span): Promise<Signal> {
  // The index begins with the run; steps are few beside groups.
  const { rows } = await db.pool.query<{ at: Date }>({
    name: "alert-steps",
    text: `(SELECT "createdAt" AS at FROM "TrainStep" WHERE "runId" = $1 AND "createdAt" < $2 ORDER BY step DESC LIMIT 1)
      UNION ALL (SELECT "createdAt" FROM "TrainStep" WHERE "runId" = $1 AND "createdAt" BETWEEN $2 AND $3) ORDER BY at`,
    values: [run.id, new Date(from), new Date(to)],
  });
  return absence(rows.map(({ at }) => at.getTime()));
}

async function readAccepted(db: Db, run: SignalRun, { from, to }: Span): Promise<Signal> {
  const { rows } = await db.pool.query<{ at: Date }>({
    name: "alert-accepted",
    text: `(SELECT "decidedAt" AS at FROM "Group" WHERE "runId" = $1 AND "decidedAt" < $2 AND state IN ('ACCEPTED', 'SET_ASIDE')
        ORDER BY "decidedAt" DESC LIMIT 1)
      UNION ALL (SELECT max("decidedAt") FROM "Group" WHERE "runId" = $1 AND "decidedAt" BETWEEN $2 AND $3
        AND state IN ('ACCEPTED', 'SET_ASIDE') GROUP BY date_trunc('minute', "decidedAt")) ORDER BY at`,
    values: [run.id, new Date(from), new Date(to)],
  });
  return absence(rows.map(({ at }) => at.getTime()));
}

/** Windows of the past that say what is usual, at most a week, and decisions without which nothing fires. */
const usualWindows = 20;
const leastDecisions = 20;
const usualSeconds = (rule: Condition): number => Math.min(usualWindows * window(rule), 604_800);

/**
 * The share rejected, against the upper control limit of a p-chart: p̄ + 3 √(p̄ (1 − p̄) / n), p̄ from the windows before, each side given one
 * more decision so that a spotless past does not make the first rejection an alarm. A threshold is the least limit.
 */
async function readDecisions(db: Db, run: SignalRun, { from, to }: Span): Promise<Signal> {
  const { rows } = await db.pool.query<{ minute: Date; decided: number; rejected: number }>({
    name: "alert-decisions",
    text: `SELECT date_trunc('minute', "decidedAt") AS minute, count(*)::int AS decided,
        (count(*) FILTER (WHERE state = 'REJECTED'))::int AS rejected
      FROM "Group" WHERE "runId" = $1 AND "decidedAt" BETWEEN $2 AND $3 AND state IN ('ACCEPTED', 'SET_ASIDE', 'REJECTED')
      GROUP BY 1 ORDER BY 1`,
    values: [run.id, new Date(from), new Date(to)],
  });
  const minutes = rows.map(({ minute }) => minute.getTime());
  const decided = runningSums(rows.map((row) => row.decided));
  const rejected = runningSums(rows.map((row) => row.rejected));
  const between = (sums: readonly number[], begin: number, end: number) =>
    (sums[upTo(minutes, end)] ?? 0) - (sums[upTo(minutes, begin)] ?? 0);
  return (at, rule) => {
    const begin = at - window(rule) * 1000;
    const before = begin - usualSeconds(rule) * 1000;
    const n = between(decided, begin, at);
    const usual = between(decided, before, begin);
    const least = rule.threshold ?? 0;
    // Too few to tell from chance: not out of control, which also ends what fired before.
    if (n < leastDecisions || (usual < leastDecisions && rule.threshold === null))
      return { value: n === 0 ? 0 : between(rejected, begin, at) / n, limit: 1, firing: false };
    const p = (between(rejected, before, begin) + 1) / (usual + 2);
    const control = usual < leastDecisions ? least : p + 3 * Math.sqrt((p * (1 - p)) / n);
    const limit = Math.min(1, Math.max(least, control));
    const value = between(rejected, begin, at) / n;
    return { value, limit, firing: value > limit };
  };
}

/** The mean of a metric over the window's steps. */
async function readMetric(
  db: Db,
  run: SignalRun,
  { from, to }: Span,
  metric: "kl" | "entropy",
): Promise<Signal> {
  const { rows } = await db.pool.query<{ at: Date; value: number }>({
    name: `alert-${metric}`,
    text: `SELECT "createdAt" AS at, (metrics->>$4)::float8 AS value FROM "TrainStep"
      WHERE "runId" = $1 AND "createdAt" BETWEEN $2 AND $3 AND jsonb_typeof(metrics->$4) = 'number' ORDER BY "createdAt"`,
    values: [run.id, new Date(from), new Date(to), metric],
  });
  const times = rows.map(({ at }) => at.getTime());
  const sums = runningSums(rows.map(({ value }) => value));
  return (at, rule) => {
    const first = upTo(times, at - window(rule) * 1000);
    const end = upTo(times, at);
    if (end === first) return undefined;
    const value = ((sums[end] ?? 0) - (sums[first] ?? 0)) / (end - first);
    const limit = rule.threshold ?? 0;
    return { value, limit, firing: metric === "kl" ? value > limit : value < limit };
  };
}

/** The slowest checkpoint of the window. */
async function readBroadcasts(db: Db, run: SignalRun, { from, to }: Span): Promise<Signal> {
  const { rows } = await db.pool.query<{ at: Date; seconds: number }>({
    name: "alert-broadcasts",
    text: `SELECT c."availableAt" AS at,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY greatest(0, extract(epoch FROM r."receivedAt" - c."availableAt")))::float8 AS seconds
      FROM "Checkpoint" c JOIN "CheckpointReceipt" r ON r."checkpointId" = c.id AND r.layout <> 'LOCAL'
      WHERE c."runId" = $1 AND c."availableAt" BETWEEN $2 AND $3 GROUP BY c.id ORDER BY 1`,
    values: [run.id, new Date(from), new Date(to)],
  });
  const times = rows.map(({ at }) => at.getTime());
  return (at, rule) => {
    const recent = rows.slice(upTo(times, at - window(rule) * 1000), upTo(times, at));
    if (recent.length === 0) return undefined;
    const value = Math.max(...recent.map(({ seconds }) => seconds));
    const limit = rule.threshold ?? 0;
    return { value, limit, firing: value > limit };
  };
}

const todaySeconds = 86_400;

/** Nodes that were here today and are not: now only, since when nodes were seen is not kept. */
async function readAbsent(db: Db, run: SignalRun, { to }: Span): Promise<Signal> {
  const { rows } = await db.pool.query<{ at: Date }>({
    name: "alert-absent",
    text: `SELECT n."lastSeenAt" AS at FROM "NodeTrust" t JOIN "Node" n ON n.id = t."nodeId"
      WHERE t."runId" = $1 AND t.state IN ('PROBATION', 'TRUSTED') AND NOT n.draining AND n."lastSeenAt" > $2 ORDER BY 1`,
    values: [run.id, new Date(to - todaySeconds * 1000)],
  });
  const seen = rows.map(({ at }) => at.getTime());
  return (at, rule) => {
    const value = upTo(seen, at - window(rule) * 1000);
    const limit = rule.threshold ?? 1;
    return { value, limit, firing: value >= limit };
  };
}

/** Most waits that are looked at: beyond it, the oldest are what counts. */
const mostWaits = 100_000;

/** How long the oldest VERIFY task waits that nobody has claimed yet. */
async function readQueue(db: Db, run: SignalRun, { from, to }: Span): Promise<Signal> {
  const { rows } = await db.pool.query<{ begun: Date; ended: Date | null }>({
    name: "alert-queue",
    text: `SELECT t."createdAt" AS begun, w.ended FROM "Task" t CROSS JOIN LATERAL (
        SELECT COALESCE((SELECT min(a."claimedAt") FROM "Attempt" a WHERE a."taskId" = t.id),
          CASE WHEN t.state = 'OPEN' THEN NULL ELSE t."updatedAt" END) AS ended
      ) w
      WHERE t."runId" = $1 AND t.kind = 'VERIFY' AND t."createdAt" <= $3 AND (t.state IN ('OPEN', 'LEASED') OR t."updatedAt" >= $2)
        AND (w.ended IS NULL OR w.ended >= $2)
      ORDER BY t."createdAt" LIMIT ${mostWaits}`,
    values: [run.id, new Date(from), new Date(to)],
  });
  const begun = rows.map((row) => row.begun.getTime());
  // The latest end so far never falls, so the first that is after a moment belongs to the oldest wait that was open then.
  const ends: number[] = [];
  for (const { ended } of rows)
    ends.push(Math.max(ends.at(-1) ?? 0, ended?.getTime() ?? Number.POSITIVE_INFINITY));
  return (at, rule, since) => {
    const oldest = begun[upTo(ends, at)];
    // While a run is paused nobody may measure: that is no wait.
    const value = oldest === undefined || oldest > at ? 0 : (at - Math.max(oldest, since)) / 1000;
    const limit = rule.threshold ?? 0;
    return { value, limit, firing: value > limit };
  };
}

/** The share of what a run was funded with that has left its budget. */
async function readBudget(db: Db, run: SignalRun, { from, to }: Span): Promise<Signal> {
  // Funding is all that the organization's account of issued credits sees of a run: few rows, where a run's own are many.
  const { rows: now } = await db.pool.query<{ funded: string; balance: string }>({
    name: "alert-budget",
    text: `SELECT COALESCE((SELECT -sum(e.amount) FROM "Account" a JOIN "LedgerEntry" e ON e."accountId" = a.id
          JOIN "LedgerTransaction" t ON t.id = e."transactionId" AND t."runId" = $1 AND t.kind = 'FUND' WHERE a.key = $2), 0)::text AS funded,
        COALESCE((SELECT balance FROM "Account" WHERE key = $3), 0)::text AS balance`,
    values: [run.id, `issued:${run.organizationId}`, `budget:${run.id}`],
  });
  const { rows } = await db.pool.query<{ minute: Date; funded: string; moved: string }>({
    name: "alert-budget-moves",
    text: `SELECT date_trunc('minute', e."createdAt") AS minute, sum(e.amount)::text AS moved,
        COALESCE(sum(e.amount) FILTER (WHERE t.kind = 'FUND'), 0)::text AS funded
      FROM "Account" a JOIN "LedgerEntry" e ON e."accountId" = a.id JOIN "LedgerTransaction" t ON t.id = e."transactionId"
      WHERE a.key = $1 AND e."createdAt" BETWEEN $2 AND $3 GROUP BY 1 ORDER BY 1`,
    values: [`budget:${run.id}`, new Date(from), new Date(to)],
  });
  const minutes = rows.map(({ minute }) => minute.getTime());
  const funded = runningSums(rows.map((row) => Number(row.funded)));
  const moved = runningSums(rows.map((row) => Number(row.moved)));
  const after = (sums: readonly number[], at: number) => (sums.at(-1) ?? 0) - (sums[upTo(minutes, at)] ?? 0);
  return (at, rule) => {
    const given = Number(now[0]?.funded ?? 0) - after(funded, at);
    if (given <= 0) return undefined;
    const value = 1 - (Number(now[0]?.balance ?? 0) - after(moved, at)) / given;
    const limit = rule.threshold ?? 1;
    return { value, limit, firing: value >= limit };
  };
}

/** How many of the sorted times are not after a moment. */
function upTo(times: readonly number[], at: number): number {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((times[middle] ?? 0) <= at) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** [0, a, a + b, …] */
function runningSums(values: readonly number[]): number[] {
  const sums = [0];
  for (const value of values) sums.push((sums.at(-1) ?? 0) + value);
  return sums;
}
