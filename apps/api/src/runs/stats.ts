import type { Ctx } from "../context.ts";

/** A run in numbers. All of them follow from the rows; none is kept beside them. */
export type RunStats = {
  readonly tasks: Record<"open" | "leased" | "submitted" | "done" | "failed" | "cancelled", number>;
  readonly groups: Record<
    "submitted" | "verifying" | "accepted" | "setAside" | "rejected" | "invalid" | "stale",
    number
  >;
  readonly attempts: Record<"live" | "submitted" | "released" | "expired" | "cancelled", number>;
  /** Nodes that may generate and were seen within 30 seconds; none in a run that has ended. */
  readonly workersActive: number;
  readonly tokensGenerated: bigint;
  readonly tokensMeasured: bigint;
  /** CPU-seconds of measuring over those of generating, as the nodes report them; null before there are both. */
  readonly verificationShare: number | null;
  /** Mean reward of the newest trained batch. */
  readonly reward: number | null;
  /** Seconds to the last step at the median pace of the last ten; null before there are two, and for a run that has ended. */
  readonly etaSeconds: number | null;
};

type Row = {
  tasks: Record<string, number> | null;
  groups: Record<string, number> | null;
  attempts: Record<string, number> | null;
  workersActive: number;
  tokensGenerated: string;
  tokensMeasured: string;
  generating: number | null;
  measuring: number | null;
  reward: number | null;
  secondsPerStep: number | null;
};

/** One statement for all numbers of a run: a page that shows them asks once a second. */
export async function runStats(
  ctx: Ctx,
  run: {
    readonly id: string;
    readonly step: number;
    readonly stepLimit: number;
    readonly endedAt: Date | null;
  },
): Promise<RunStats> {
  const { rows } = await ctx.db.pool.query<Row>({
    name: "run-stats",
    text: `
      SELECT
        (SELECT json_object_agg(state, n) FROM (SELECT state, count(*)::int AS n FROM "Task" WHERE "runId" = $1 GROUP BY state) t) AS tasks,
        (SELECT json_object_agg(state, n) FROM (SELECT state, count(*)::int AS n FROM "Group" WHERE "runId" = $1 GROUP BY state) g) AS groups,
        (SELECT json_object_agg(state, n) FROM (SELECT state, count(*)::int AS n FROM "Attempt" WHERE "runId" = $1 GROUP BY state) a) AS attempts,
        (SELECT count(*)::int FROM "NodeTrust" t JOIN "Node" n ON n.id = t."nodeId"
          WHERE t."runId" = $1 AND n."lastSeenAt" > now() - interval '30 seconds' AND t.state IN ('PROBATION', 'TRUSTED')
            AND (t.accepted + t.rejected + t.invalid > 0 OR NOT EXISTS (SELECT 1 FROM "RoleGrant" g
              WHERE g."runId" = $1 AND g."nodeId" = t."nodeId" AND g."revokedAt" IS NULL))) AS "workersActive",
        (SELECT COALESCE(sum(tokens), 0)::text FROM "Group" WHERE "runId" = $1) AS "tokensGenerated",
        (SELECT COALESCE(sum(tokens), 0)::text FROM "Verification" WHERE "runId" = $1) AS "tokensMeasured",
        (SELECT sum(a."cpuSeconds") FROM "Attempt" a JOIN "Task" t ON t.id = a."taskId"
          WHERE a."runId" = $1 AND t.kind = 'GENERATE' AND a.state = 'SUBMITTED') AS generating,
        (SELECT sum(cost) FROM "Verification" WHERE "runId" = $1)
          + COALESCE((SELECT sum(a."cpuSeconds") FROM "Probe" p JOIN "Attempt" a ON a."taskId" = p."taskId" WHERE p."runId" = $1), 0) AS measuring,
        (SELECT "meanReward" FROM "TrainStep" WHERE "runId" = $1 AND "meanReward" IS NOT NULL ORDER BY step DESC LIMIT 1) AS reward,
        -- the median: a night during which nothing ran is one long step among ten, and says nothing about the next
        (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gap) FROM (
          SELECT EXTRACT(EPOCH FROM "createdAt" - lag("createdAt") OVER (ORDER BY step))::float8 AS gap
          FROM (SELECT step, "createdAt" FROM "TrainStep" WHERE "runId" = $1 AND step > 0 ORDER BY step DESC LIMIT 11) s) g) AS "secondsPerStep"`,
    values: [run.id],
  });
  const row = rows[0];
  if (row === undefined) throw new Error("an aggregate always has one row");
  const of = (counts: Record<string, number> | null, state: string) => counts?.[state] ?? 0;
  const { tasks, groups, attempts } = row;
  return {
    tasks: {
      open: of(tasks, "OPEN"),
      leased: of(tasks, "LEASED"),
      submitted: of(tasks, "SUBMITTED"),
      done: of(tasks, "DONE"),
      failed: of(tasks, "FAILED"),
      cancelled: of(tasks, "CANCELLED"),
    },
    groups: {
      submitted: of(groups, "SUBMITTED"),
      verifying: of(groups, "VERIFYING"),
      accepted: of(groups, "ACCEPTED"),
      setAside: of(groups, "SET_ASIDE"),
      rejected: of(groups, "REJECTED"),
      invalid: of(groups, "INVALID"),
      stale: of(groups, "STALE"),
    },
    attempts: {
      live: of(attempts, "LIVE"),
      submitted: of(attempts, "SUBMITTED"),
      released: of(attempts, "RELEASED"),
      expired: of(attempts, "EXPIRED"),
      cancelled: of(attempts, "CANCELLED"),
    },
    workersActive: run.endedAt === null ? row.workersActive : 0,
    tokensGenerated: BigInt(row.tokensGenerated),
    tokensMeasured: BigInt(row.tokensMeasured),
    verificationShare: row.generating && row.measuring !== null ? row.measuring / row.generating : null,
    reward: row.reward,
    etaSeconds:
      run.endedAt !== null || row.secondsPerStep === null
        ? null
        : row.secondsPerStep * Math.max(0, run.stepLimit - run.step),
  };
}
