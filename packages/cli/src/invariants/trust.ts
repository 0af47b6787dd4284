import { type JsonValue, type RunSpec, toTypeId } from "@muster/protocol";
import {
  auditEntryHash,
  newStanding,
  nextStanding,
  type OutcomeKind,
  type Standing,
} from "@muster/verification";
import type pg from "pg";
import type { Invariants } from "./invariant.ts";

/** Audits, standings, cases and the audit log. */
export const trustInvariants: Invariants = [
  {
    id: "trusted-are-unmeasured",
    sentence: "A group that was accepted on trust has no verdict, unless it is audited afterwards.",
    sql: `
      SELECT 'group ' || g.id || ' was accepted on trust and has the verdict ' || v.id AS what
      FROM "Group" g JOIN "Verification" v ON v."groupId" = g.id
      WHERE g.acceptance = 'TRUSTED' AND NOT g.retroactive`,
  },
  {
    id: "lost-trust-is-audited",
    sentence: "When a node loses its trust, what rests on it and is not final is audited soon.",
    sql: `
      SELECT 'group ' || g.id || ' rests on the trust of node ' || t."nodeId" || ', which is ' || t.state || ' since ' || t."updatedAt" AS what
      FROM clock, "Group" g JOIN "NodeTrust" t ON t."runId" = g."runId" AND t."nodeId" = g."nodeId" JOIN "Run" r ON r.id = g."runId"
      WHERE g.acceptance = 'TRUSTED' AND NOT g.retroactive AND g."finalAt" IS NULL AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE')
        AND t.state <> 'TRUSTED' AND r.state IN ('RUNNING', 'PAUSED') AND t."updatedAt" < clock.at - clock.grace`,
  },
  {
    id: "standing-is-the-fold",
    sentence:
      "A node's standing follows from what became of its groups, in order and without what was annulled.",
    find: wrongStandings,
  },
  {
    id: "open-case-freezes",
    sentence: "While a case against a node is open, nothing of its work in that run becomes final.",
    sql: `
      SELECT 'group ' || g.id || ' became final at ' || g."finalAt" || ' while case ' || c.id || ' is open since ' || c."openedAt" AS what
      FROM clock, "Case" c JOIN "Group" g ON g."runId" = c."runId" AND g."nodeId" = c."nodeId"
      WHERE c.state = 'OPEN' AND g."finalAt" > c."openedAt" + clock.grace`,
  },
  {
    id: "probes-have-tasks",
    sentence: "Every probe that is not decided has its VERIFY task.",
    sql: `
      SELECT 'probe ' || p."taskId" || ' (' || p.purpose || ') ' || coalesce('has a ' || t.kind || ' task', 'has no task') AS what
      FROM "Probe" p LEFT JOIN "Task" t ON t.id = p."taskId" AND t."runId" = p."runId"
      WHERE p.outcome IS NULL AND t.kind IS DISTINCT FROM 'VERIFY'`,
  },
  {
    id: "audit-entries-chained",
    sentence: "An entry of the audit log gets its place soon.",
    sql: `
      SELECT 'audit entry ' || e.id || ' (' || e.kind || ') has no place since ' || e.at AS what
      FROM "AuditEntry" e, clock WHERE e.seq IS NULL AND e.at < clock.at - clock.grace`,
  },
  {
    id: "audit-chain",
    sentence:
      "A run's audit log is numbered from 1 without a hole, and each entry's hash follows from the one before.",
    find: brokenChains,
  },
];

type OutcomeRow = { runId: string; nodeId: string; kind: OutcomeKind };
type StandingRow = Standing & { runId: string; nodeId: string; distrusted: boolean };

const counts = ["auditedValid", "accepted", "rejected", "invalid", "invalidStreak"] as const;

async function wrongStandings(client: pg.ClientBase): Promise<string[]> {
  const policies = await auditPolicies(client);
  // An outcome that replaces an annulled one of the same group stands in its place.
  const { rows: outcomes } = await client.query<OutcomeRow>(`
    SELECT o."runId", o."nodeId", o.kind::text AS kind FROM (
      SELECT *, CASE WHEN "groupId" IS NULL THEN id ELSE min(id) OVER (PARTITION BY "runId", "nodeId", "groupId") END AS place FROM "NodeOutcome"
    ) o WHERE NOT o.annulled ORDER BY o."runId", o."nodeId", o.place, o.id`);
  const folded = new Map<string, Standing>();
  for (const { runId, nodeId, kind } of outcomes) {
    const key = `${runId} ${nodeId}`;
    const policy = policies.get(runId)?.[0];
    if (policy !== undefined) folded.set(key, nextStanding(folded.get(key) ?? newStanding, kind, policy));
  }
  const { rows } = await client.query<StandingRow>(`
    SELECT "runId", "nodeId", state::text AS state, "auditedValid", accepted, rejected, invalid, "invalidStreak", "distrustedAt" IS NOT NULL AS distrusted
    FROM "NodeTrust" ORDER BY "runId", "nodeId"`);
  const found: string[] = [];
  for (const row of rows) {
    const key = `${row.runId} ${row.nodeId}`;
    const expected = folded.get(key) ?? newStanding;
    folded.delete(key);
    const wrong: string[] = counts
      .filter((name) => row[name] !== expected[name])
      .map((name) => `${name} ${row[name]}, not ${expected[name]}`);
    // Counts are the same under any policy. The state is not: it was taken under the revision in force then. Nor is it earned by whoever
    // was ejected or distrusted as a validator.
    const earned = policies.get(row.runId)?.length === 1 && row.state !== "EJECTED" && !row.distrusted;
    if (earned && row.state !== expected.state) wrong.push(`state ${row.state}, not ${expected.state}`);
    if (wrong.length > 0) found.push(`node ${row.nodeId} in run ${row.runId}: ${wrong.join("; ")}`);
  }
  for (const key of folded.keys()) {
    const [run, node] = key.split(" ");
    found.push(`node ${node} has outcomes in run ${run} and no standing`);
  }
  return found;
}

type AuditPolicy = RunSpec["verification"]["audit"];

/** The different audit policies of each run, the newest first. */
async function auditPolicies(client: pg.ClientBase): Promise<Map<string, AuditPolicy[]>> {
  const { rows } = await client.query<{ runId: string; policy: AuditPolicy }>(`
    SELECT "runId", policy FROM (
      SELECT "runId", spec->'verification'->'audit' AS policy, max(number) AS newest FROM "RunRevision" GROUP BY 1, 2
    ) p ORDER BY "runId", newest DESC`);
  const policies = new Map<string, AuditPolicy[]>();
  for (const { runId, policy } of rows) policies.set(runId, [...(policies.get(runId) ?? []), policy]);
  return policies;
}

type Entry = {
  id: string;
  runId: string;
  seq: string;
  kind: string;
  subject: string;
  data: JsonValue;
  at: Date;
  hash: string | null;
};

/** The first break of each run's log: after it nothing can be said. */
async function brokenChains(client: pg.ClientBase): Promise<string[]> {
  const found: string[] = [];
  const { rows: runs } = await client.query<{ runId: string }>(
    'SELECT DISTINCT "runId" FROM "AuditEntry" WHERE seq IS NOT NULL ORDER BY "runId"',
  );
  for (const { runId } of runs) {
    const fault = await chainFault(client, runId);
    if (fault !== undefined) found.push(`run ${runId}: ${fault}`);
  }
  return found;
}

const perPage = 5_000;

async function chainFault(client: pg.ClientBase, runId: string): Promise<string | undefined> {
  const run = toTypeId("run", runId);
  let previous: string | null = null;
  let seq = 0;
  for (;;) {
    const { rows }: pg.QueryResult<Entry> = await client.query<Entry>(
      `SELECT id, "runId", seq, kind, subject, data, at, hash FROM "AuditEntry"
       WHERE "runId" = $1 AND seq > $2 ORDER BY seq LIMIT ${perPage}`,
      [runId, seq],
    );
    for (const { kind, subject, data, at, hash, ...entry } of rows) {
      seq++;
      if (Number(entry.seq) !== seq)
        return `entry ${seq} is missing: number ${entry.seq} stands in its place`;
      const expected = auditEntryHash(previous, run, { seq, kind, subject, data, at: at.toISOString() });
      if (hash !== expected)
        return `entry ${seq} (${kind} of ${subject}) has hash ${hash}; ${expected} follows from it and the one before`;
      previous = hash;
    }
    if (rows.length < perPage) return undefined;
  }
}
