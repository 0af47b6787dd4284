import { type AuditPolicy, probationGroups, upperBound } from "@muster/verification";
import type { Ctx, Services } from "../context.ts";
import { forfeitedByNode } from "../ledger/stakes.ts";
import { backlogLimit } from "../runs/demand.ts";
import { specOf } from "../runs/spec.ts";

/** What audits are made, what they found and what they cost. Everything follows from the rows. */
export type AuditSummary = AuditPolicy & {
  readonly probationGroups: number;
  /** Groups an audit was made of, or is being made. */
  readonly audited: number;
  /** Groups accepted unaudited. */
  readonly trusted: number;
  readonly auditedShare: number | null;
  /** Decided audits that were drawn at the floor rate: a fair sample of what trusted nodes make. */
  readonly auditedAtTrust: number;
  readonly badAtTrust: number;
  /** Upper bound of the rejected share among trusted nodes' groups, 95 % at all times at once. */
  readonly badUpper95: number;
  /** The same as a share of all accepted groups. */
  readonly poisonUpper95: number;
  /** Groups that were trusted and are or were audited afterwards. */
  readonly retroactive: number;
  readonly retroactivePending: number;
  /** Rejected groups that a sealed batch has trained on. */
  readonly poisonTrained: number;
  /** Micro-credits, net of refunds. */
  readonly forfeited: bigint;
  /** VERIFY tasks that wait or are being measured. */
  readonly backlog: number;
  readonly backlogLimit: number;
  readonly oldestBacklogSeconds: number | null;
  /** CPU-seconds of measuring over those of generating, as the nodes report them. */
  readonly costShare: number | null;
  /** The same for groups of nodes that were trusted when they submitted. */
  readonly costShareAtTrust: number | null;
};

type Row = {
  audited: number;
  trusted: number;
  accepted: number;
  auditedAtTrust: number;
  badAtTrust: number;
  retroactive: number;
  retroactivePending: number;
  poisonTrained: number;
  backlog: number;
  oldestBacklogSeconds: number | null;
  generating: number | null;
  generatingAtTrust: number | null;
  measuring: number | null;
  measuringAtTrust: number | null;
};

export async function auditSummary(
  ctx: Pick<Services, "prisma" | "db">,
  run: { readonly id: string; readonly revision: number },
): Promise<AuditSummary> {
  const spec = await specOf(ctx.prisma, run.id, run.revision);
  const policy = spec.verification.audit;
  const { rows } = await ctx.db.pool.query<Row>({
    name: "audit-summary",
    text: `
      SELECT g.*, c.*, b.*,
        (SELECT count(*)::int FROM "Group" r JOIN "BatchGroup" p ON p."groupId" = r.id AND p.signal
          WHERE r."runId" = $1 AND r.state = 'REJECTED') AS "poisonTrained"
      FROM (
        SELECT
          (count(*) FILTER (WHERE "verifyTaskId" IS NOT NULL))::int AS audited,
          (count(*) FILTER (WHERE "verifyTaskId" IS NULL AND taken))::int AS trusted,
          (count(*) FILTER (WHERE taken))::int AS accepted,
          (count(*) FILTER (WHERE sampled AND (taken OR state = 'REJECTED')))::int AS "auditedAtTrust",
          (count(*) FILTER (WHERE sampled AND state = 'REJECTED'))::int AS "badAtTrust",
          (count(*) FILTER (WHERE retroactive))::int AS retroactive,
          (count(*) FILTER (WHERE retroactive AND (state = 'VERIFYING' OR (taken AND acceptance = 'TRUSTED'))))::int AS "retroactivePending"
        FROM (
          SELECT *, state IN ('ACCEPTED', 'SET_ASIDE', 'STALE') AS taken,
            -- Neither a duplicate nor an audit afterwards was drawn at random.
            "auditRate" < 1 AND "verifyTaskId" IS NOT NULL AND NOT duplicate AND NOT retroactive AS sampled
          FROM "Group" WHERE "runId" = $1
        ) x
      ) g, (
        SELECT sum(a.cpu) AS generating, sum(a.cpu) FILTER (WHERE a.rate < 1) AS "generatingAtTrust",
          sum(v.cost) AS measuring, sum(v.cost) FILTER (WHERE a.rate < 1) AS "measuringAtTrust"
        FROM (
          SELECT t.id, t."cpuSeconds" AS cpu, (SELECT "auditRate" FROM "Group" WHERE "taskId" = t."taskId" LIMIT 1) AS rate, t."taskId"
          FROM "Attempt" t JOIN "Task" k ON k.id = t."taskId" AND k.kind = 'GENERATE'
          WHERE t."runId" = $1 AND t.state = 'SUBMITTED'
        ) a LEFT JOIN LATERAL (
          SELECT sum(m.cost) AS cost FROM "Group" g CROSS JOIN LATERAL (
            SELECT cost FROM "Verification" WHERE "groupId" = g.id
            -- Watching validators is a cost of measuring too.
            UNION ALL SELECT w."cpuSeconds" FROM "Probe" p JOIN "Attempt" w ON w."taskId" = p."taskId" WHERE p."groupId" = g.id
          ) m WHERE g."taskId" = a."taskId"
        ) v ON true
      ) c, (
        SELECT count(*)::int AS backlog, EXTRACT(EPOCH FROM now() - min("createdAt"))::float8 AS "oldestBacklogSeconds"
        FROM "Task" WHERE "runId" = $1 AND kind = 'VERIFY' AND state IN ('OPEN', 'LEASED')
      ) b`,
    values: [run.id],
  });
  const row = rows[0];
  if (row === undefined) throw new Error("an aggregate always has one row");
  const { accepted, generating, generatingAtTrust, measuring, measuringAtTrust, ...counts } = row;
  const badUpper95 = upperBound(row.badAtTrust, row.auditedAtTrust);
  const share = (cost: number | null, of: number | null) => (of && cost !== null ? cost / of : null);
  let forfeited = 0n;
  for (const amount of (await forfeitedByNode(ctx.prisma, run.id)).values()) forfeited += amount;
  return {
    ...policy,
    ...counts,
    probationGroups: probationGroups(policy),
    auditedShare: row.audited + row.trusted === 0 ? null : row.audited / (row.audited + row.trusted),
    badUpper95,
    poisonUpper95: accepted === 0 ? 0 : badUpper95 * (row.trusted / accepted),
    forfeited,
    backlogLimit: backlogLimit(spec),
    costShare: share(measuring, generating),
    costShareAtTrust: share(measuringAtTrust, generatingAtTrust),
  };
}

// A page lists many nodes of one run; what they forfeited is one question.
const forfeits = new WeakMap<Ctx, Map<string, Promise<Map<string, bigint>>>>();

/** Micro-credits a node has forfeited in a run, net of refunds. */
export async function forfeitedOf(
  ctx: Ctx,
  { runId, nodeId }: { runId: string; nodeId: string },
): Promise<bigint> {
  const runs = forfeits.get(ctx) ?? new Map<string, Promise<Map<string, bigint>>>();
  forfeits.set(ctx, runs);
  const known = runs.get(runId) ?? forfeitedByNode(ctx.prisma, runId);
  runs.set(runId, known);
  return (await known).get(nodeId) ?? 0n;
}
