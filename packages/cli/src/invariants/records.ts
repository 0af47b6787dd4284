import type { Invariants } from "./invariant.ts";

/** Event streams, and references to packs. */
export const recordInvariants: Invariants = [
  {
    id: "streams-dense",
    sentence: "The events of a stream are numbered without a hole, from 1 unless retention has passed.",
    sql: `
      SELECT 'stream ' || stream || ' holds ' || count(seq) || ' events from ' || min(seq) || ' to ' || max(seq) AS what
      FROM "Event" WHERE seq IS NOT NULL GROUP BY stream HAVING count(seq) <> max(seq) - min(seq) + 1
      UNION ALL
      SELECT 'stream ' || e.stream || ' of a run from ' || r."createdAt" || ' begins at ' || min(e.seq)
      FROM "Event" e JOIN "Run" r ON e.stream = 'run:' || r.id
      WHERE e.seq IS NOT NULL AND r."createdAt" > now() - interval '1 day' GROUP BY e.stream, r."createdAt" HAVING min(e.seq) <> 1`,
  },
  {
    id: "stream-heads",
    sentence: "A stream's head is the number of its newest event.",
    sql: `
      SELECT 'stream ' || e.stream || ' ends at ' || e.newest || '; its head is ' || coalesce(s.head::text, 'missing') AS what
      FROM (SELECT stream, max(seq) AS newest FROM "Event" WHERE seq IS NOT NULL GROUP BY stream) e
        LEFT JOIN "EventStream" s USING (stream) WHERE s.head IS DISTINCT FROM e.newest`,
  },
  {
    id: "events-numbered",
    sentence: "An event gets its number soon.",
    sql: `
      SELECT 'event ' || e.id || ' of ' || e.stream || ' has no number since ' || e.at AS what
      FROM "Event" e, clock WHERE e.seq IS NULL AND e.at < clock.at - clock.grace`,
  },
  {
    id: "references-have-packs",
    sentence: "Whatever names a pack that is still needed names one that is there.",
    sql: `
      SELECT 'reference ' || r.id || ' (' || r.kind || ') names the missing pack ' || r.sha256 AS what
      FROM "PackReference" r WHERE NOT EXISTS (SELECT 1 FROM "Pack" p WHERE p.sha256 = r.sha256)
      UNION ALL
      SELECT named.what || ' names the missing pack ' || named.sha256 FROM (
        SELECT 'manifest of version ' || version || ' of run ' || "runId" AS what, "manifestHash" AS sha256 FROM "Checkpoint" WHERE state = 'AVAILABLE'
        UNION ALL SELECT 'state of version ' || version || ' of run ' || "runId", "stateHash" FROM "Checkpoint" WHERE state = 'AVAILABLE' AND "stateHash" IS NOT NULL
        UNION ALL SELECT 'SEALED batch ' || step || ' of run ' || "runId", "packHash" FROM "Batch" WHERE state = 'SEALED'
        UNION ALL SELECT 'group ' || id, "packHash" FROM "Group" WHERE "finalAt" IS NULL
        UNION ALL SELECT 'verification ' || v.id, v."measurementHash" FROM "Verification" v JOIN "Group" g ON g.id = v."groupId" WHERE g."finalAt" IS NULL
        UNION ALL SELECT t.kind || ' task ' || t.id, t."manifestHash" FROM "Task" t WHERE t.state IN ('OPEN', 'LEASED', 'SUBMITTED') AND t."manifestHash" IS NOT NULL
      ) named WHERE NOT EXISTS (SELECT 1 FROM "Pack" p WHERE p.sha256 = named.sha256)`,
  },
];
