-- CreateEnum
CREATE TYPE "ProbePurpose" AS ENUM ('REEXECUTION', 'CANARY_GOOD', 'CANARY_BAD');

-- CreateEnum
CREATE TYPE "ProbeOutcome" AS ENUM ('AGREED', 'DISAGREED', 'INCONCLUSIVE');

-- CreateEnum
CREATE TYPE "CaseState" AS ENUM ('OPEN', 'UPHELD', 'OVERTURNED');

-- CreateEnum
CREATE TYPE "OutcomeKind" AS ENUM ('ACCEPTED', 'REJECTED', 'INVALID', 'REFUSED', 'REINSTATED');

-- DropIndex
DROP INDEX "Group_runId_state_idx";

-- AlterTable
ALTER TABLE "Attempt" ADD COLUMN     "signature" TEXT;

-- AlterTable
ALTER TABLE "Group" ADD COLUMN     "retroactive" BOOLEAN NOT NULL DEFAULT false;

-- AlterTable
ALTER TABLE "Node" ADD COLUMN     "dropped" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "droppedAt" TIMESTAMPTZ(3),
ADD COLUMN     "restsUntil" TIMESTAMPTZ(3),
ADD COLUMN     "worksFor" UUID[] DEFAULT ARRAY[]::UUID[];

-- AlterTable
ALTER TABLE "Task" ADD COLUMN     "failures" INTEGER NOT NULL DEFAULT 0;

-- AlterTable
ALTER TABLE "NodeTrust" ADD COLUMN     "disagreements" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "distrustedAt" TIMESTAMPTZ(3),
ADD COLUMN     "probes" INTEGER NOT NULL DEFAULT 0;

-- AlterTable
ALTER TABLE "RoleGrant" ADD COLUMN     "own" BOOLEAN NOT NULL DEFAULT false;

-- AlterTable
ALTER TABLE "Verification" ADD COLUMN     "signature" TEXT;

-- CreateTable
CREATE TABLE "Probe" (
    "taskId" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "groupId" UUID NOT NULL,
    "policyVersion" INTEGER NOT NULL,
    "purpose" "ProbePurpose" NOT NULL,
    "verificationId" UUID NOT NULL,
    "blindHash" TEXT NOT NULL,
    "edits" JSONB,
    "nodeId" UUID,
    "measurementHash" TEXT,
    "outcome" "ProbeOutcome",
    "note" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "decidedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Probe_pkey" PRIMARY KEY ("taskId")
);

-- CreateTable
CREATE TABLE "Case" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "groupId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "verificationId" UUID NOT NULL,
    "state" "CaseState" NOT NULL DEFAULT 'OPEN',
    "reason" TEXT NOT NULL,
    "statement" TEXT,
    "disputedAt" TIMESTAMPTZ(3),
    "openedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "openUntil" TIMESTAMPTZ(3) NOT NULL,
    "reexecutionHash" TEXT,
    "confirmed" BOOLEAN,
    "decision" TEXT,
    "decidedById" UUID,
    "decidedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Case_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "NodeOutcome" (
    "id" BIGSERIAL NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "groupId" UUID,
    "kind" "OutcomeKind" NOT NULL,
    "reason" TEXT,
    "annulled" BOOLEAN NOT NULL DEFAULT false,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "NodeOutcome_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "AuditEntry" (
    "id" BIGSERIAL NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "seq" BIGINT,
    "kind" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "data" JSONB NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "hash" TEXT,

    CONSTRAINT "AuditEntry_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Calibration" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "revision" INTEGER NOT NULL,
    "thresholds" JSONB NOT NULL,
    "evidence" JSONB NOT NULL,
    "createdById" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Calibration_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "Attempt_runId_state_idx" ON "Attempt"("runId", "state");

-- CreateIndex
CREATE INDEX "Probe_groupId_idx" ON "Probe"("groupId");

-- CreateIndex
CREATE INDEX "Probe_runId_nodeId_createdAt_idx" ON "Probe"("runId", "nodeId", "createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "Case_groupId_key" ON "Case"("groupId");

-- CreateIndex
CREATE INDEX "Case_runId_state_idx" ON "Case"("runId", "state");

-- CreateIndex
CREATE INDEX "Case_nodeId_runId_idx" ON "Case"("nodeId", "runId");

-- CreateIndex
CREATE INDEX "NodeOutcome_runId_nodeId_id_idx" ON "NodeOutcome"("runId", "nodeId", "id");

-- CreateIndex
CREATE INDEX "NodeOutcome_groupId_idx" ON "NodeOutcome"("groupId");

-- CreateIndex
CREATE UNIQUE INDEX "AuditEntry_runId_seq_key" ON "AuditEntry"("runId", "seq");

-- CreateIndex
CREATE INDEX "Calibration_runId_idx" ON "Calibration"("runId");

-- CreateIndex
CREATE INDEX "Verification_validatorNodeId_runId_idx" ON "Verification"("validatorNodeId", "runId");

-- CreateIndex
CREATE INDEX "Group_verifyTaskId_idx" ON "Group"("verifyTaskId");

-- CreateIndex
CREATE INDEX "Group_runId_state_policyVersion_idx" ON "Group"("runId", "state", "policyVersion");

-- AddForeignKey
ALTER TABLE "Probe" ADD CONSTRAINT "Probe_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Probe" ADD CONSTRAINT "Probe_groupId_fkey" FOREIGN KEY ("groupId") REFERENCES "Group"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Case" ADD CONSTRAINT "Case_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Case" ADD CONSTRAINT "Case_groupId_fkey" FOREIGN KEY ("groupId") REFERENCES "Group"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "NodeOutcome" ADD CONSTRAINT "NodeOutcome_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "AuditEntry" ADD CONSTRAINT "AuditEntry_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Calibration" ADD CONSTRAINT "Calibration_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;


-- By hand, from here on: what Prisma's schema language cannot say.

-- The chain's work list: committed entries that are not chained yet.
CREATE INDEX "AuditEntry_unchained_idx" ON "AuditEntry" ("id") WHERE "seq" IS NULL;

-- An entry changes once: when it takes its place in the chain.
CREATE TRIGGER "AuditEntry_append_only" BEFORE UPDATE ON "AuditEntry"
  FOR EACH ROW WHEN (
    OLD."seq" IS NOT NULL OR NEW."seq" IS NULL OR NEW."hash" IS NULL
    OR (NEW."id", NEW."organizationId", NEW."runId", NEW."kind", NEW."subject", NEW."data", NEW."at")
      IS DISTINCT FROM (OLD."id", OLD."organizationId", OLD."runId", OLD."kind", OLD."subject", OLD."data", OLD."at")
  ) EXECUTE FUNCTION append_only();

-- What a standing is folded from stays; a case may annul it and nothing else may change.
CREATE TRIGGER "NodeOutcome_append_only" BEFORE UPDATE ON "NodeOutcome"
  FOR EACH ROW WHEN (
    (NEW."id", NEW."organizationId", NEW."runId", NEW."nodeId", NEW."groupId", NEW."kind", NEW."reason", NEW."at")
      IS DISTINCT FROM (OLD."id", OLD."organizationId", OLD."runId", OLD."nodeId", OLD."groupId", OLD."kind", OLD."reason", OLD."at")
  ) EXECUTE FUNCTION append_only();

-- Open VERIFY probes and undecided cases are looked for often and are few.
CREATE INDEX "Probe_open_idx" ON "Probe" ("runId") WHERE "outcome" IS NULL;
CREATE INDEX "Case_open_idx" ON "Case" ("openUntil") WHERE "state" = 'OPEN';

-- Every node is audited in full until it is trusted: the rate is no choice any more.
UPDATE "RunRevision" SET "spec" = "spec" #- '{verification,audit,rate}' WHERE "spec" #> '{verification,audit,rate}' IS NOT NULL;

-- What is not final yet, by the time it was decided: finality asks every few seconds for what is due.
CREATE INDEX "Group_unfinal_idx" ON "Group" ("runId", "decidedAt") WHERE "finalAt" IS NULL;
-- What rests on trust alone: all of it is audited when the node fails.
CREATE INDEX "Group_at_stake_idx" ON "Group" ("runId", "nodeId") WHERE "acceptance" = 'TRUSTED' AND "finalAt" IS NULL;
-- Audited afterwards where they stand, in a sealed batch or past all batches, and without a verdict so far.
CREATE INDEX "Group_in_place_idx" ON "Group" ("runId") WHERE "retroactive" AND "acceptance" = 'TRUSTED';
-- The few transactions of a run that are not about its everyday work.
CREATE INDEX "LedgerTransaction_few_idx" ON "LedgerTransaction" ("runId") WHERE "kind" IN ('FUND', 'FORFEIT', 'REFUND');
