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
      "A group is held for, released and forfeited at most once each, and only what was held leaves again.",
    sql: `
      SELECT 'group ' || "groupId" || ': ' || count(*) || ' × ' || kind AS what
      FROM "LedgerTransaction" WHERE "groupId" IS NOT NULL AND kind IN ('HOLD', 'RELEASE') GROUP BY "groupId", kind HAVING count(*) > 1
      UNION ALL
      SELECT 'group ' || m."groupId" || ': held ' || m.held || ', released or forfeited ' || m.gone FROM (
        SELECT t."groupId", coalesce(sum(e.amount) FILTER (WHERE t.kind = 'HOLD'), 0) AS held,
          coalesce(sum(e.amount) FILTER (WHERE t.kind IN ('RELEASE', 'FORFEIT')), 0)
            - coalesce(sum(e.amount) FILTER (WHERE t.kind = 'REFUND'), 0) AS gone
        FROM "LedgerTransaction" t JOIN "LedgerEntry" e ON e."transactionId" = t.id AND e.amount > 0
        WHERE t."groupId" IS NOT NULL GROUP BY t."groupId") m
      WHERE m.gone <> 0 AND m.gone <> m.held`,
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
    sentence: "Every accepted group, with signal or without, is held for; when it is final it is released.",
    sql: `
      SELECT 'group ' || g.id || ' is ' || g.state || ' and nothing was held for it' AS what
      FROM "Group" g WHERE g.state IN ('ACCEPTED', 'SET_ASIDE')
        AND NOT EXISTS (SELECT 1 FROM "LedgerTransaction" t WHERE t."groupId" = g.id AND t.kind = 'HOLD')
      UNION ALL
      SELECT 'group ' || g.id || ' is final since ' || g."finalAt" || ' and what was held for it was not released'
      FROM "Group" g WHERE g.state IN ('ACCEPTED', 'SET_ASIDE', 'STALE') AND g."finalAt" IS NOT NULL
        AND EXISTS (SELECT 1 FROM "LedgerTransaction" t JOIN "LedgerEntry" e ON e."transactionId" = t.id
          WHERE t."groupId" = g.id AND t.kind = 'HOLD' AND e.amount > 0)
        AND NOT EXISTS (SELECT 1 FROM "LedgerTransaction" t WHERE t."groupId" = g.id AND t.kind IN ('RELEASE', 'FORFEIT'))`,
  },
  {
    id: "rejected-earn-nothing",
    sentence: "A group that is not accepted earns nothing: what was held for it went back.",
    sql: `
      SELECT 'group ' || m.id || ' is ' || m.state || ' and earned ' || m.earned AS what FROM (
        SELECT g.id, g.state, coalesce(sum(e.amount) FILTER (WHERE t.kind = 'RELEASE' AND e.amount > 0), 0)
          + coalesce(sum(e.amount) FILTER (WHERE t.kind = 'HOLD' AND e.amount > 0), 0)
          + coalesce(sum(e.amount) FILTER (WHERE t.kind = 'REFUND' AND e.amount > 0), 0)
          - coalesce(sum(e.amount) FILTER (WHERE t.kind IN ('RELEASE', 'FORFEIT') AND e.amount > 0), 0) AS earned
        FROM "Group" g JOIN "LedgerTransaction" t ON t."groupId" = g.id JOIN "LedgerEntry" e ON e."transactionId" = t.id
        -- What was accepted on trust and is audited afterwards stays held until there is a verdict.
        WHERE g.state IN ('SUBMITTED', 'REJECTED', 'INVALID') GROUP BY g.id) m
      WHERE m.earned <> 0`,
  },
];
