import type { Invariants } from "./invariant.ts";

/** Tasks, attempts, leases and what keeps anything from waiting for ever. */
export const workInvariants: Invariants = [
  {
    id: "task-states",
    sentence:
      "Tasks are open, leased, submitted, done, failed or cancelled; these counts add up to all tasks.",
    sql: `
      SELECT 'run ' || "runId" || ': ' || count(*) || ' tasks, '
        || count(*) FILTER (WHERE state IN ('OPEN', 'LEASED', 'SUBMITTED', 'DONE', 'FAILED', 'CANCELLED')) || ' in known states' AS what
      FROM "Task" GROUP BY "runId"
      HAVING count(*) <> count(*) FILTER (WHERE state IN ('OPEN', 'LEASED', 'SUBMITTED', 'DONE', 'FAILED', 'CANCELLED'))`,
  },
  {
    id: "attempt-states",
    sentence:
      "Attempts are live, submitted, released, expired or cancelled; a task's attempts are numbered 1 to its newest.",
    sql: `
      SELECT 'task ' || t.id || ': newest attempt ' || t.attempt || ', ' || count(a.id) || ' attempts up to ' || coalesce(max(a.number), 0) AS what
      FROM "Task" t LEFT JOIN "Attempt" a ON a."taskId" = t.id
        AND a.state IN ('LIVE', 'SUBMITTED', 'RELEASED', 'EXPIRED', 'CANCELLED')
      GROUP BY t.id HAVING count(a.id) <> t.attempt OR coalesce(max(a.number), 0) <> t.attempt`,
  },
  {
    id: "one-live-attempt",
    sentence: "A task has at most one LIVE attempt.",
    sql: `
      SELECT 'task ' || "taskId" || ': ' || count(*) || ' live attempts' AS what
      FROM "Attempt" WHERE state = 'LIVE' GROUP BY "taskId" HAVING count(*) > 1`,
  },
  {
    id: "lease-is-attempt",
    sentence: "A task is LEASED exactly while its newest attempt is LIVE, by the same node.",
    sql: `
      SELECT 'task ' || t.id || ' is ' || t.state || ' while its attempt ' || coalesce(a.number || ' is ' || a.state, t.attempt || ' is missing') AS what
      FROM "Task" t LEFT JOIN "Attempt" a ON a."taskId" = t.id AND a.number = t.attempt
      WHERE t.state = 'LEASED' AND (a.id IS NULL OR a.state <> 'LIVE' OR a."nodeId" IS DISTINCT FROM t."leaseNodeId")
      UNION ALL
      SELECT 'attempt ' || a.id || ' is LIVE while its task ' || t.id || ' is ' || t.state || ' at attempt ' || t.attempt
      FROM "Attempt" a JOIN "Task" t ON t.id = a."taskId"
      WHERE a.state = 'LIVE' AND (t.state <> 'LEASED' OR t.attempt <> a.number)`,
  },
  {
    id: "done-was-submitted",
    sentence: "A task is SUBMITTED or DONE only by a submission of its newest attempt.",
    sql: `
      SELECT 'task ' || t.id || ' is ' || t.state || ' without a submission of attempt ' || t.attempt AS what
      FROM "Task" t WHERE t.state IN ('SUBMITTED', 'DONE') AND NOT EXISTS (
        SELECT 1 FROM "Attempt" a WHERE a."taskId" = t.id AND a.number = t.attempt AND a.state = 'SUBMITTED')`,
  },
  {
    id: "leases-end",
    sentence: "A lease has a deadline, and the sweeper ends it soon after.",
    sql: `
      SELECT 'task ' || t.id || ' is LEASED until ' || coalesce(t."leaseUntil"::text, 'never') AS what
      FROM "Task" t, clock WHERE t.state = 'LEASED' AND (t."leaseUntil" IS NULL OR t."leaseUntil" < clock.at - clock.grace)`,
  },
  {
    id: "submissions-are-judged",
    sentence: "A submission is judged in the transaction that takes it.",
    sql: `
      SELECT 'task ' || t.id || ' is SUBMITTED since ' || t."updatedAt" AS what FROM "Task" t WHERE t.state = 'SUBMITTED'`,
  },
  {
    id: "runs-end",
    sentence: "An unfinished run has a deadline, and the planner ends it soon after.",
    sql: `
      SELECT 'run ' || r.id || ' is ' || r.state || ' until ' || coalesce(r."deadlineAt"::text, 'ever') AS what
      FROM "Run" r, clock
      WHERE r.state IN ('DRAFT', 'RUNNING', 'PAUSED') AND (r."deadlineAt" IS NULL OR r."deadlineAt" < clock.at - clock.grace)`,
  },
  {
    id: "ended-runs-rest",
    sentence: "An ended run has no unfinished task and no group that awaits a verdict.",
    sql: `
      SELECT 'task ' || t.id || ' is ' || t.state || ' in run ' || r.id || ', which is ' || r.state AS what
      FROM "Task" t JOIN "Run" r ON r.id = t."runId"
      WHERE r.state IN ('COMPLETED', 'CANCELLED', 'FAILED') AND t.state IN ('OPEN', 'LEASED', 'SUBMITTED')
      UNION ALL
      SELECT 'group ' || g.id || ' is ' || g.state || ' in run ' || r.id || ', which is ' || r.state
      FROM "Group" g JOIN "Run" r ON r.id = g."runId"
      WHERE r.state IN ('COMPLETED', 'CANCELLED', 'FAILED') AND (g.state IN ('SUBMITTED', 'VERIFYING')
        OR (g.retroactive AND g.acceptance = 'TRUSTED'))`,
  },
  {
    id: "groups-get-decided",
    sentence: "Every group that has no verdict, or is audited afterwards, has a task that will decide it.",
    sql: `
      SELECT 'group ' || g.id || ' is ' || g.state || CASE WHEN g.retroactive THEN ' and audited afterwards,' ELSE '' END
        || ' and its VERIFY task ' || coalesce(t.id::text || ' is ' || t.state, 'is missing') AS what
      FROM clock, "Group" g LEFT JOIN "Task" t ON t.id = g."verifyTaskId"
      WHERE (g.state IN ('SUBMITTED', 'VERIFYING') OR (g.retroactive AND g.acceptance = 'TRUSTED' AND g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE')))
        AND (t.id IS NULL OR t.state NOT IN ('OPEN', 'LEASED', 'SUBMITTED'))
        -- A measurement whose validator was found out since is made anew from then on.
        AND greatest(coalesce(t."updatedAt", g."submittedAt"), (
          SELECT max(p."decidedAt") FROM "Probe" p WHERE p."runId" = g."runId" AND p.outcome = 'DISAGREED'
        )) < clock.at - clock.grace`,
  },
];
