-- Written by hand: what Prisma's schema language cannot say, in SQL that Postgres 15 understands.

-- Claims read the most urgent open tasks in order and never see the rest.
CREATE INDEX "Task_open_idx" ON "Task" ("priority" DESC, "id") WHERE "state" = 'OPEN';

-- A lease has a holder and a deadline.
ALTER TABLE "Task" ADD CONSTRAINT "Task_leased_check"
  CHECK ("state" <> 'LEASED' OR ("leaseNodeId" IS NOT NULL AND "leaseUntil" IS NOT NULL));

-- At most one live attempt a task, whatever two claims at once believe.
CREATE UNIQUE INDEX "Attempt_live_key" ON "Attempt" ("taskId") WHERE "state" = 'LIVE';

-- The sequencer's work list: committed events that have no number yet.
CREATE INDEX "Event_unnumbered_idx" ON "Event" ("id") WHERE "seq" IS NULL;

-- Credits come from ISSUED accounts; no other account can be overdrawn.
ALTER TABLE "Account" ADD CONSTRAINT "Account_balance_check" CHECK ("kind" = 'ISSUED' OR "balance" >= 0);

-- Entries of a ledger transaction sum to zero. Checked at commit, when all of them are there.
CREATE FUNCTION ledger_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  total numeric;
BEGIN
  SELECT sum("amount") INTO total FROM "LedgerEntry" WHERE "transactionId" = NEW."transactionId";
  IF total <> 0 THEN
    RAISE EXCEPTION 'Entries of ledger transaction % sum to %, not to zero', NEW."transactionId", total
      USING ERRCODE = 'check_violation', CONSTRAINT = 'LedgerEntry_balanced', TABLE = 'LedgerEntry';
  END IF;
  RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER "LedgerEntry_balanced" AFTER INSERT ON "LedgerEntry"
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_balanced();

-- What was written once stays: the ledger for ever, an event until retention deletes it.
CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% of "%" refused: its rows are only ever appended', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
END $$;

CREATE TRIGGER "LedgerTransaction_append_only" BEFORE UPDATE OR DELETE ON "LedgerTransaction"
  FOR EACH ROW EXECUTE FUNCTION append_only();
CREATE TRIGGER "LedgerTransaction_no_truncate" BEFORE TRUNCATE ON "LedgerTransaction"
  FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER "LedgerEntry_append_only" BEFORE UPDATE OR DELETE ON "LedgerEntry"
  FOR EACH ROW EXECUTE FUNCTION append_only();
CREATE TRIGGER "LedgerEntry_no_truncate" BEFORE TRUNCATE ON "LedgerEntry"
  FOR EACH STATEMENT EXECUTE FUNCTION append_only();

-- The one change an event sees is its number, given once. The condition stands in WHEN, so numbering never calls the function.
CREATE TRIGGER "Event_append_only" BEFORE UPDATE ON "Event"
  FOR EACH ROW WHEN (
    OLD."seq" IS NOT NULL OR NEW."seq" IS NULL
    OR (NEW."id", NEW."organizationId", NEW."stream", NEW."type", NEW."subject", NEW."data", NEW."at")
      IS DISTINCT FROM (OLD."id", OLD."organizationId", OLD."stream", OLD."type", OLD."subject", OLD."data", OLD."at")
  ) EXECUTE FUNCTION append_only();
