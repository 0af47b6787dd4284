import type { Invariants } from "./invariant.ts";

/** Credits. */
export const ledgerInvariants: Invariants = [
  {
    id: "ledger-zero",
    sentence: "The entries of a ledger transaction sum to zero.",
    sql: `
      SELECT 'transaction ' || t.id || ' (' || t.key || ') sums to ' || coalesce(sum(e.amount), 0) || ' over ' || count(e.id) || ' entries' AS what
      FROM "LedgerTransaction" t LEFT JOIN "LedgerEntry" e ON e."transactionId" = t.id
      GROUP BY t.id HAVING coalesce(sum(e.amount), 0) <> 0 OR count(e.id) < 2`,
  },
  {
    id: "balances",
    sentence: "An account's balance is the sum of its entries.",
    sql: `
      SELECT 'account ' || a.key || ' has ' || a.balance || ' and its entries sum to ' || coalesce(sum(e.amount), 0) AS what
      FROM "Account" a LEFT JOIN "LedgerEntry" e ON e."accountId" = a.id
      GROUP BY a.id HAVING a.balance <> coalesce(sum(e.amount), 0)`,
  },
  {
    id: "no-overdraft",
    sentence: "No account is below zero but those that credits are issued from.",
    sql: `SELECT 'account ' || key || ' has ' || balance AS what FROM "Account" WHERE balance < 0 AND kind <> 'ISSUED'`,
  },
  {
    id: "held-once",
    sentence:
      "A group is held for once and released once at most, a refund lies between two forfeits, and nothing leaves that was not held.",
    sql: `
      SELECT 'group ' || m."groupId" || ': ' || m.holds || ' × HOLD, ' || m.releases || ' × RELEASE, ' || m.forfeits || ' × FORFEIT, '
        || m.refunds || ' × REFUND, ' || m.held || ' of ' || m.hold || ' still held' AS what
      FROM (
        SELECT t."groupId",
          count(DISTINCT t.id) FILTER (WHERE t.kind = 'HOLD') AS holds,
          count(DISTINCT t.id) FILTER (WHERE t.kind = 'RELEASE') AS releases,
          count(DISTINCT t.id) FILTER (WHERE t.kind = 'FORFEIT') AS forfeits,
          count(DISTINCT t.id) FILTER (WHERE t.kind = 'REFUND') AS refunds,
          coalesce(sum(e.amount) FILTER (WHERE t.kind = 'HOLD' AND a.kind = 'NODE_HELD'), 0) AS hold,
          coalesce(sum(e.amount) FILTER (WHERE a.kind = 'NODE_HELD'), 0) AS held
        FROM "LedgerTransaction" t JOIN "LedgerEntry" e ON e."transactionId" = t.id JOIN "Account" a ON a.id = e."accountId"
        WHERE t."groupId" IS NOT NULL GROUP BY t."groupId") m
      WHERE m.holds <> 1 OR m.releases > 1 OR m.forfeits - m.refunds NOT IN (0, 1) OR m.held NOT BETWEEN 0 AND m.hold`,
  },
  {
    id: "stakes-add-up",
    sentence:
      "What a run held for groups is what it released, what was forfeited and not given back, and what it still holds.",
    sql: `
      SELECT 'run ' || r."runId" || ': held ' || r.holds || ', released ' || r.releases || ', forfeited ' || r.forfeits || ', refunded '
        || r.refunds || ', of it ' || r.paid || ' to nodes, still held ' || coalesce(h.held, 0) AS what
      FROM (
        SELECT t."runId",
          coalesce(sum(e.amount) FILTER (WHERE t.kind = 'HOLD'), 0) AS holds,
          coalesce(sum(e.amount) FILTER (WHERE t.kind = 'RELEASE'), 0) AS releases,
          coalesce(sum(e.amount) FILTER (WHERE t.kind = 'FORFEIT'), 0) AS forfeits,
          coalesce(sum(e.amount) FILTER (WHERE t.kind = 'REFUND'), 0) AS refunds,
          -- For a group that is final a refund goes to the node at once.
          coalesce(sum(e.amount) FILTER (WHERE t.kind = 'REFUND' AND a.kind = 'NODE_AVAILABLE'), 0) AS paid
        FROM "LedgerTransaction" t JOIN "LedgerEntry" e ON e."transactionId" = t.id AND e.amount > 0 JOIN "Account" a ON a.id = e."accountId"
        WHERE t."groupId" IS NOT NULL GROUP BY t."runId") r
        LEFT JOIN (SELECT "runId", sum(balance) AS held FROM "Account" WHERE kind = 'NODE_HELD' GROUP BY "runId") h ON h."runId" = r."runId"
      WHERE r.holds + r.refunds - r.paid <> r.releases + r.forfeits + coalesce(h.held, 0)`,
  },
  {
    id: "paid-once",
    sentence: "A task is paid at most once.",
    sql: `
      SELECT 'task ' || "taskId" || ' was paid ' || count(*) || ' times' AS what
      FROM "LedgerTransaction" WHERE kind = 'PAY' AND "taskId" IS NOT NULL GROUP BY "taskId" HAVING count(*) > 1`,
  },
  {
    id: "accepted-are-paid",
    sentence:
      "Every accepted group, with signal or without, is held for; when it is final nothing is held any more.",
    sql: `
      SELECT 'group ' || g.id || ' is ' || g.state || ' and nothing was held for it' AS what
      FROM "Group" g WHERE g.state IN ('ACCEPTED', 'SET_ASIDE')
        AND NOT EXISTS (SELECT 1 FROM "LedgerTransaction" t WHERE t."groupId" = g.id AND t.kind = 'HOLD')
      UNION ALL
      SELECT 'group ' || g.id || ' is final since ' || g."finalAt" || ' and ' || sum(e.amount) || ' is held for it'
      FROM "Group" g JOIN "LedgerTransaction" t ON t."groupId" = g.id JOIN "LedgerEntry" e ON e."transactionId" = t.id
        JOIN "Account" a ON a.id = e."accountId" AND a.kind = 'NODE_HELD'
      WHERE g."finalAt" IS NOT NULL GROUP BY g.id HAVING sum(e.amount) <> 0`,
  },
  {
    id: "rejected-earn-nothing",
    sentence:
      "A group that is not accepted earns nothing: what was held for it went back, and nothing was paid.",
    sql: `
      SELECT 'group ' || g.id || ' is ' || g.state || ' and has ' || sum(e.amount) AS what
      FROM "Group" g JOIN "LedgerTransaction" t ON t."groupId" = g.id JOIN "LedgerEntry" e ON e."transactionId" = t.id
        JOIN "Account" a ON a.id = e."accountId" AND a.kind IN ('NODE_HELD', 'NODE_AVAILABLE')
      -- What was accepted on trust and is measured after all keeps its stake, and is not paid.
      WHERE g.state IN ('SUBMITTED', 'REJECTED', 'INVALID') OR (g.state = 'VERIFYING' AND a.kind = 'NODE_AVAILABLE')
      GROUP BY g.id HAVING sum(e.amount) <> 0`,
  },
];
