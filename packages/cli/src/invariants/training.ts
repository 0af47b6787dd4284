import type { Invariants } from "./invariant.ts";

/** Groups, batches, steps and policy versions. */
export const trainingInvariants: Invariants = [
  {
    id: "groups-of-done-tasks",
    sentence: "Groups come from DONE GENERATE tasks, one for each place, each with all its rollouts.",
    sql: `
      SELECT 'group ' || g.id || ' comes from the ' || t.kind || ' task ' || t.id || ', which is ' || t.state AS what
      FROM "Group" g JOIN "Task" t ON t.id = g."taskId" WHERE t.kind <> 'GENERATE' OR t.state <> 'DONE'
      UNION ALL
      SELECT 'group ' || g.id || ' has ' || count(r.id) || ' rollouts of ' || (v.spec->'generation'->>'groupSize')
      FROM "Group" g JOIN "Task" t ON t.id = g."taskId"
        JOIN "RunRevision" v ON v."runId" = g."runId" AND v.number = t.revision
        LEFT JOIN "Rollout" r ON r."groupId" = g.id
      GROUP BY g.id, v.spec HAVING count(r.id) <> (v.spec->'generation'->>'groupSize')::int`,
  },
  {
    id: "one-batch-a-group",
    sentence: "A group is in at most one batch.",
    sql: `
      SELECT 'group ' || "groupId" || ' is in ' || count(*) || ' batches' AS what
      FROM "BatchGroup" GROUP BY "groupId" HAVING count(*) > 1`,
  },
  {
    id: "batch-groups",
    sentence:
      "A batch's counts say how many groups it holds, its places have no gaps, and what is set aside is in a batch.",
    sql: `
      SELECT 'batch ' || b.id || ' says ' || b."signalGroups" || ' of ' || b."settledGroups" || ' groups with signal and holds '
        || count(*) FILTER (WHERE g.signal) || ' of ' || count(g."groupId") || ' up to place ' || coalesce(max(g.position), -1) AS what
      FROM "Batch" b LEFT JOIN "BatchGroup" g ON g."batchId" = b.id
      GROUP BY b.id
      HAVING b."signalGroups" <> count(*) FILTER (WHERE g.signal) OR b."settledGroups" <> count(g."groupId")
        OR coalesce(max(g.position), -1) <> count(g."groupId") - 1
      UNION ALL
      SELECT 'group ' || g.id || ' is SET_ASIDE and in no batch' FROM "Group" g
      WHERE g.state = 'SET_ASIDE' AND NOT EXISTS (SELECT 1 FROM "BatchGroup" b WHERE b."groupId" = g.id)`,
  },
  {
    id: "trained-on-is-accepted",
    sentence:
      "A batch holds ACCEPTED groups with signal and SET_ASIDE ones without; once it is sealed, a group in it may turn out bad only in an audit afterwards.",
    sql: `
      SELECT 'batch ' || t.step || ' of run ' || t."runId" || ', ' || t.state || ', holds group ' || g.id || ', which is ' || g.state
        || CASE WHEN b.signal THEN ' with' ELSE ' without' END || ' signal' AS what
      FROM "BatchGroup" b JOIN "Group" g ON g.id = b."groupId" JOIN "Batch" t ON t.id = b."batchId"
      WHERE g.state::text <> CASE WHEN b.signal THEN 'ACCEPTED' ELSE 'SET_ASIDE' END
        AND NOT (t.state <> 'FILLING' AND g.retroactive AND g.state IN ('REJECTED', 'INVALID'))`,
  },
  {
    id: "accepted-have-advantages",
    sentence: "Every rollout of an accepted group has its advantage.",
    sql: `
      SELECT 'rollout ' || r.id || ' of group ' || g.id || ' has no advantage' AS what
      FROM "Rollout" r JOIN "Group" g ON g.id = r."groupId"
      WHERE g.state IN ('ACCEPTED', 'SET_ASIDE') AND g."advantagesReady" AND r.advantage IS NULL`,
  },
  {
    id: "policy-lag",
    sentence: "No group in a batch lags further behind than its run allows.",
    sql: `
      SELECT 'group ' || b."groupId" || ' in batch ' || t.step || ' of run ' || t."runId" || ' lags ' || coalesce(b."policyLag"::text, 'an unknown number of') || ' versions' AS what
      FROM "BatchGroup" b JOIN "Batch" t ON t.id = b."batchId"
      WHERE b."policyLag" IS NULL OR b."policyLag" < 0 OR b."policyLag" > (
        SELECT max((v.spec->'batch'->>'asyncLevel')::int) FROM "RunRevision" v WHERE v."runId" = t."runId")`,
  },
  {
    id: "batches-in-order",
    sentence:
      "Batches 1 to the run's step are TRAINED, at most the next one is SEALED, at most one is FILLING.",
    sql: `
      SELECT 'batch ' || b.step || ' of run ' || r.id || ' is ' || b.state || ' at step ' || r.step AS what
      FROM "Batch" b JOIN "Run" r ON r.id = b."runId"
      WHERE (b.step <= r.step) <> (b.state = 'TRAINED') OR (b.state = 'SEALED' AND b.step <> r.step + 1)
        OR (b.state <> 'FILLING' AND (b."sealedAt" IS NULL OR b."packHash" IS NULL))
      UNION ALL
      SELECT 'run ' || "runId" || ' has ' || count(*) || ' FILLING batches' FROM "Batch" WHERE state = 'FILLING' GROUP BY "runId" HAVING count(*) > 1`,
  },
  {
    id: "sealed-gets-trained",
    sentence: "The SEALED batch of a running run has a TRAIN task that is not finished.",
    sql: `
      SELECT 'batch ' || b.step || ' of run ' || r.id || ' is SEALED and nobody can train it' AS what
      FROM "Batch" b JOIN "Run" r ON r.id = b."runId", clock
      WHERE b.state = 'SEALED' AND r.state = 'RUNNING' AND b."sealedAt" < clock.at - clock.grace AND NOT EXISTS (
        SELECT 1 FROM "Task" t WHERE t."runId" = r.id AND t.kind = 'TRAIN' AND t.state IN ('OPEN', 'LEASED', 'SUBMITTED'))`,
  },
  {
    id: "steps-dense",
    sentence: "A run's steps are 1 to its step, each once and from a batch of its own.",
    sql: `
      SELECT 'run ' || r.id || ' is at step ' || r.step || ' with ' || count(s.id) || ' steps up to ' || coalesce(max(s.step), 0)
        || ' from ' || count(DISTINCT s."batchId") || ' batches' AS what
      FROM "Run" r LEFT JOIN "TrainStep" s ON s."runId" = r.id AND s.step > 0
      GROUP BY r.id HAVING count(s.id) <> r.step OR coalesce(max(s.step), 0) <> r.step OR count(DISTINCT s."batchId") <> r.step`,
  },
  {
    id: "versions-forward",
    sentence:
      "Policy versions are 0, 1, 2, … without a gap, each younger than the one before and made from an older one.",
    sql: `
      SELECT 'run ' || "runId" || ' has ' || count(*) || ' versions up to ' || max(version) AS what
      FROM "Checkpoint" GROUP BY "runId" HAVING min(version) <> 0 OR max(version) <> count(*) - 1
      UNION ALL
      SELECT 'version ' || version || ' of run ' || "runId" || ' has the parent ' || coalesce("parentVersion"::text, 'none')
      FROM "Checkpoint" WHERE "parentVersion" >= version OR (version > 0 AND "parentVersion" IS NULL)
      UNION ALL
      SELECT 'version ' || version || ' of run ' || "runId" || ' is older than version ' || before
      FROM (SELECT "runId", version, "availableAt", lag("availableAt") OVER w AS earlier, lag(version) OVER w AS before
        FROM "Checkpoint" WINDOW w AS (PARTITION BY "runId" ORDER BY version)) c
      WHERE "availableAt" < earlier`,
  },
  {
    id: "current-version",
    sentence: "A run's current version is its newest, and AVAILABLE.",
    sql: `
      SELECT 'run ' || r.id || ' is at version ' || coalesce(r."currentVersion"::text, 'none') || '; its newest available one is ' || coalesce(max(c.version)::text, 'none') AS what
      FROM "Run" r LEFT JOIN "Checkpoint" c ON c."runId" = r.id AND c.state = 'AVAILABLE'
      GROUP BY r.id HAVING r."currentVersion" IS DISTINCT FROM max(c.version)`,
  },
];
