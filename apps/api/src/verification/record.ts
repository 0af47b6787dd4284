import { type JsonValue, toTypeId } from "@muster/protocol";
import { auditEntryHash } from "@muster/verification";
import type { Services, Tx } from "../context.ts";
import { type Loop, lockOf } from "../loops.ts";

// The audit log: what was decided about work, validators and money, in an order that nobody can change afterwards. The transaction that
// decides appends its entries unchained, for an entry that waited for the one before would make every verdict of a run wait in line; one
// loop chains what is committed.

/** Everything the audit log tells. */
export type AuditKind =
  | "verdict.accepted"
  | "verdict.rejected"
  | "verdict.invalid"
  | "verdict.inconclusive"
  | "probe.decided"
  | "node.quarantined"
  | "node.reinstated"
  | "case.opened"
  | "case.disputed"
  | "case.confirmed"
  | "case.decided"
  | "ledger.forfeit"
  | "ledger.refund";

export type NewAuditEntry = {
  readonly runId: string;
  readonly organizationId: string;
  readonly kind: AuditKind;
  /** TypeID of what it is about. */
  readonly subject: string;
  /** Plain JSON; amounts as text, since they may exceed what a double holds. */
  readonly data: { readonly [name: string]: JsonValue | undefined };
};

/** Appends to the audit log inside the transaction that decided. */
export async function recordEntries(tx: Tx, entries: readonly NewAuditEntry[]): Promise<void> {
  if (entries.length === 0) return;
  await tx.$executeRaw`
    INSERT INTO "AuditEntry" ("runId", "organizationId", kind, subject, data)
    SELECT "runId", "organizationId", kind, subject, data
    FROM jsonb_to_recordset(${JSON.stringify(entries)}::jsonb)
      AS e("runId" uuid, "organizationId" uuid, kind text, subject text, data jsonb)`;
}

/** Entries chained in one transaction. */
const perPass = 1_000;

type Row = { id: string; runId: string; kind: string; subject: string; data: JsonValue; at: Date };

/**
 * Gives committed entries their places: numbers without a hole per run, each entry's hash over the one before. Any number of processes may
 * call this at once.
 * @returns how many were chained.
 */
export async function chainEntries({ db }: Pick<Services, "db">): Promise<number> {
  const { rowCount } = await db.pool.query('SELECT 1 FROM "AuditEntry" WHERE seq IS NULL LIMIT 1');
  if (!rowCount) return 0;
  const client = await db.pool.connect();
  try {
    await client.query("BEGIN");
    // Its own statement: the next one sees what the process before it chained.
    await client.query("SELECT pg_advisory_xact_lock($1, $2)", lockOf("chain audit entries"));
    const { rows } = await client.query<Row>(
      'SELECT id, "runId", kind, subject, data, at FROM "AuditEntry" WHERE seq IS NULL ORDER BY id LIMIT $1',
      [perPass],
    );
    const heads = await client.query<{ runId: string; seq: string; hash: string }>(
      `SELECT DISTINCT ON ("runId") "runId", seq, hash FROM "AuditEntry"
       WHERE "runId" = ANY($1::uuid[]) AND seq IS NOT NULL ORDER BY "runId", seq DESC`,
      [[...new Set(rows.map((row) => row.runId))]],
    );
    const links = chain(rows, new Map(heads.rows.map((head) => [head.runId, head])));
    await client.query(
      `UPDATE "AuditEntry" e SET seq = v.seq, hash = v.hash
       FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS v(id, seq, hash) WHERE e.id = v.id`,
      [links.map(({ id }) => id), links.map(({ seq }) => seq), links.map(({ hash }) => hash)],
    );
    await client.query("COMMIT");
    return rows.length;
  } catch (error) {
    await client.query("ROLLBACK").catch(() => {});
    throw error;
  } finally {
    client.release();
  }
}

function chain(
  rows: readonly Row[],
  heads: Map<string, { readonly seq: string | number; readonly hash: string }>,
): { id: string; seq: number; hash: string }[] {
  return rows.map(({ id, runId, kind, subject, data, at }) => {
    const head = heads.get(runId);
    const seq = Number(head?.seq ?? 0) + 1;
    const entry = { seq, kind, subject, data, at: at.toISOString() };
    const hash = auditEntryHash(head?.hash ?? null, toTypeId("run", runId), entry);
    heads.set(runId, { seq, hash });
    return { id, seq, hash };
  });
}

/** Chains what was recorded since. */
export const auditChainLoop: Loop = {
  name: "audit-chain",
  everyMs: 1_000,
  leader: true,
  async run(ctx, { signal }) {
    while ((await chainEntries(ctx)) === perPass && !signal.aborted);
  },
};
