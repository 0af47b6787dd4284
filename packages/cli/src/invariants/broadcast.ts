import type { Invariants } from "./invariant.ts";

/** Relays, and what they earn. */
export const broadcastInvariants: Invariants = [
  {
    id: "relay-tree",
    sentence:
      "A relay pulls from a LIVE one of its run or from the coordinator, nobody is above itself, and every LIVE relay has a place.",
    sql: `
      SELECT 'relay ' || l.id || ' (' || l.state || ') pulls from ' || p.id || ', which is ' || p.state AS what
      FROM "Relay" l JOIN "Relay" p ON p.id = l."parentId"
      WHERE p.state <> 'LIVE' OR p."runId" <> l."runId" OR NOT p.placed OR NOT l.placed OR l.state = 'DROPPED'
      UNION ALL
      SELECT 'relay ' || up.id || ' is above itself' FROM (
        WITH RECURSIVE up(id, at, steps) AS (
          SELECT id, "parentId", 1 FROM "Relay" WHERE "parentId" IS NOT NULL
          UNION ALL SELECT up.id, l."parentId", up.steps + 1 FROM up JOIN "Relay" l ON l.id = up.at WHERE up.at <> up.id AND up.steps < 1000
        ) SELECT id FROM up WHERE at = id OR steps = 1000) up
      UNION ALL
      SELECT 'relay ' || l.id || ' is LIVE and has no place' FROM "Relay" l JOIN "Run" r ON r.id = l."runId"
      WHERE l.state = 'LIVE' AND NOT l.placed AND r.state IN ('RUNNING', 'PAUSED')`,
  },
  {
    id: "relays-speak",
    sentence:
      "A node's relay that is not OFFLINE has spoken within half a minute, or the sweeper comes soon.",
    sql: `
      SELECT 'relay ' || l.id || ' is ' || l.state || ' and was last heard of at ' || coalesce(l."lastSeenAt"::text, 'no time') AS what
      FROM "Relay" l, clock
      WHERE l.state IN ('PROBING', 'LIVE') AND l."nodeId" IS NOT NULL
        AND (l."lastSeenAt" IS NULL OR l."lastSeenAt" < clock.at - interval '30 seconds' - clock.grace)`,
  },
  {
    id: "receipts-bounded",
    sentence:
      "A receipt credits relays with no more than the checkpoint's bytes, and its sources share exactly that.",
    sql: `
      SELECT 'receipt ' || r.id || ' credits ' || r."creditedBytes" || ' bytes of ' || c.size || ', its sources ' || coalesce(sum(s."creditedBytes"), 0) AS what
      FROM "CheckpointReceipt" r JOIN "Checkpoint" c ON c.id = r."checkpointId" LEFT JOIN "ReceiptSource" s ON s."receiptId" = r.id
      GROUP BY r.id, c.id HAVING r."creditedBytes" > c.size OR r."creditedBytes" <> coalesce(sum(s."creditedBytes"), 0) OR r.version <> c.version`,
  },
  {
    id: "relays-paid",
    sentence:
      "What a relay was paid for a receipt is in the ledger, is not for its own node, and all of a receipt's are worth no more than the checkpoint; a settled receipt owes nothing.",
    sql: `
      SELECT 'relay ' || s."relayId" || ' has ' || s.paid || ' for receipt ' || r.id || ', the ledger ' || coalesce(sum(e.amount), 0) AS what
      FROM "ReceiptSource" s JOIN "CheckpointReceipt" r ON r.id = s."receiptId" JOIN "Relay" l ON l.id = s."relayId"
        LEFT JOIN "LedgerTransaction" t ON t.kind = 'PAY' AND t.key = 'relay:' || r."checkpointId" || ':' || r."nodeId" || ':' || s."relayId"
        LEFT JOIN "Account" a ON a.kind = 'NODE_AVAILABLE' AND a."nodeId" = l."nodeId"
        LEFT JOIN "LedgerEntry" e ON e."transactionId" = t.id AND e."accountId" = a.id
      WHERE s.paid IS NOT NULL GROUP BY s."receiptId", s."relayId", r.id, l.id
      HAVING s.paid <> coalesce(sum(e.amount), 0) OR (s.paid > 0 AND (l."nodeId" IS NULL OR l."nodeId" = r."nodeId"))
      UNION ALL
      SELECT 'receipt ' || r.id || ' paid ' || sum(s.paid) || ' for a checkpoint of ' || c.size || ' bytes'
      FROM "CheckpointReceipt" r JOIN "Checkpoint" c ON c.id = r."checkpointId" JOIN "ReceiptSource" s ON s."receiptId" = r.id
      GROUP BY r.id, c.id
      HAVING sum(s.paid) > c.size * (SELECT max((v.spec->'prices'->>'relayedMiB')::numeric) FROM "RunRevision" v WHERE v."runId" = r."runId") / 1048576
      UNION ALL
      SELECT 'receipt ' || r.id || ' is ' || CASE WHEN r."settledAt" IS NULL THEN 'not ' ELSE '' END || 'settled and relay ' || s."relayId" || ' has '
        || coalesce(s.paid::text, 'nothing')
      FROM "CheckpointReceipt" r JOIN "ReceiptSource" s ON s."receiptId" = r.id JOIN "Relay" l ON l.id = s."relayId"
      WHERE (r."settledAt" IS NULL) <> (s.paid IS NULL) AND s."creditedBytes" > 0 AND l."nodeId" IS NOT NULL`,
  },
  {
    id: "relays-paid-for-work",
    sentence: "A relay was paid only for nodes whose work on that version was accepted and is final.",
    sql: `
      SELECT 'relay ' || s."relayId" || ' has ' || s.paid || ' for version ' || r.version || ' to node ' || r."nodeId" AS what
      FROM "ReceiptSource" s JOIN "CheckpointReceipt" r ON r.id = s."receiptId"
      WHERE s.paid > 0 AND NOT EXISTS (SELECT 1 FROM "Group" g WHERE g."runId" = r."runId" AND g."nodeId" = r."nodeId"
        AND g."policyVersion" = r.version AND g.state IN ('ACCEPTED', 'SET_ASIDE') AND g."finalAt" IS NOT NULL)`,
  },
];
