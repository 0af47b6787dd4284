-- CreateEnum
CREATE TYPE "RelayState" AS ENUM ('PROBING', 'LIVE', 'OFFLINE', 'DROPPED');

-- CreateEnum
CREATE TYPE "CheckpointLayout" AS ENUM ('FULL', 'DELTA', 'LOCAL');

-- CreateEnum
CREATE TYPE "RelayFault" AS ENUM ('CORRUPT', 'STALLED', 'UNREACHABLE', 'REFUSED');

-- AlterTable
ALTER TABLE "Checkpoint" ADD COLUMN     "originBytes" BIGINT NOT NULL DEFAULT 0;

-- CreateTable
CREATE TABLE "Relay" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "nodeId" UUID,
    "url" TEXT NOT NULL,
    "region" TEXT,
    "uplinkMbps" DOUBLE PRECISION NOT NULL,
    "state" "RelayState" NOT NULL DEFAULT 'PROBING',
    "parentId" UUID,
    "placed" BOOLEAN NOT NULL DEFAULT false,
    "newestVersion" INTEGER,
    "heldBytes" BIGINT NOT NULL DEFAULT 0,
    "sentBytes" BIGINT NOT NULL DEFAULT 0,
    "clients" INTEGER NOT NULL DEFAULT 0,
    "lastSeenAt" TIMESTAMPTZ(3),
    "probedAt" TIMESTAMPTZ(3),
    "nextProbeAt" TIMESTAMPTZ(3),
    "probeFailures" INTEGER NOT NULL DEFAULT 0,
    "reason" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "Relay_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "RelayReport" (
    "relayId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "fault" "RelayFault" NOT NULL,
    "sha256" TEXT NOT NULL,
    "manifestHash" TEXT NOT NULL,
    "count" INTEGER NOT NULL DEFAULT 1,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "RelayReport_pkey" PRIMARY KEY ("relayId","nodeId")
);

-- CreateTable
CREATE TABLE "CheckpointReceipt" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "checkpointId" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "nodeId" UUID NOT NULL,
    "layout" "CheckpointLayout" NOT NULL,
    "seconds" DOUBLE PRECISION NOT NULL,
    "bytes" BIGINT NOT NULL,
    "wastedBytes" BIGINT NOT NULL,
    "creditedBytes" BIGINT NOT NULL,
    "receivedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "settledAt" TIMESTAMPTZ(3),

    CONSTRAINT "CheckpointReceipt_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "ReceiptSource" (
    "receiptId" UUID NOT NULL,
    "relayId" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "bytes" BIGINT NOT NULL,
    "creditedBytes" BIGINT NOT NULL,
    "paid" BIGINT,
    "paidAt" TIMESTAMPTZ(3),

    CONSTRAINT "ReceiptSource_pkey" PRIMARY KEY ("receiptId","relayId")
);

-- CreateIndex
CREATE INDEX "Checkpoint_manifestHash_idx" ON "Checkpoint"("manifestHash");

-- CreateIndex
CREATE INDEX "Relay_nodeId_idx" ON "Relay"("nodeId");

-- CreateIndex
CREATE INDEX "Relay_parentId_idx" ON "Relay"("parentId");

-- CreateIndex
CREATE INDEX "Relay_nextProbeAt_idx" ON "Relay"("nextProbeAt");

-- CreateIndex
CREATE UNIQUE INDEX "Relay_runId_nodeId_key" ON "Relay"("runId", "nodeId");

-- CreateIndex
CREATE INDEX "RelayReport_nodeId_at_idx" ON "RelayReport"("nodeId", "at");

-- CreateIndex
CREATE INDEX "RelayReport_at_idx" ON "RelayReport"("at");

-- CreateIndex
CREATE INDEX "CheckpointReceipt_runId_nodeId_version_idx" ON "CheckpointReceipt"("runId", "nodeId", "version");

-- CreateIndex
CREATE INDEX "CheckpointReceipt_nodeId_idx" ON "CheckpointReceipt"("nodeId");

-- CreateIndex
CREATE UNIQUE INDEX "CheckpointReceipt_checkpointId_nodeId_key" ON "CheckpointReceipt"("checkpointId", "nodeId");

-- CreateIndex
CREATE INDEX "ReceiptSource_relayId_idx" ON "ReceiptSource"("relayId");

-- AddForeignKey
ALTER TABLE "Relay" ADD CONSTRAINT "Relay_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Relay" ADD CONSTRAINT "Relay_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Relay" ADD CONSTRAINT "Relay_parentId_fkey" FOREIGN KEY ("parentId") REFERENCES "Relay"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "RelayReport" ADD CONSTRAINT "RelayReport_relayId_fkey" FOREIGN KEY ("relayId") REFERENCES "Relay"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "CheckpointReceipt" ADD CONSTRAINT "CheckpointReceipt_checkpointId_fkey" FOREIGN KEY ("checkpointId") REFERENCES "Checkpoint"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "CheckpointReceipt" ADD CONSTRAINT "CheckpointReceipt_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "ReceiptSource" ADD CONSTRAINT "ReceiptSource_receiptId_fkey" FOREIGN KEY ("receiptId") REFERENCES "CheckpointReceipt"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "ReceiptSource" ADD CONSTRAINT "ReceiptSource_relayId_fkey" FOREIGN KEY ("relayId") REFERENCES "Relay"("id") ON DELETE CASCADE ON UPDATE CASCADE;


-- By hand, from here on: what Prisma's schema language cannot say.

ALTER TABLE "Checkpoint" ADD CONSTRAINT "Checkpoint_origin_check" CHECK ("originBytes" >= 0);

-- A mirror is nobody's node and pulls from nobody; whoever is out of the tree has no parent; whoever is not to be used says why.
ALTER TABLE "Relay"
  ADD CONSTRAINT "Relay_figures_check" CHECK (
    "uplinkMbps" > 0 AND "heldBytes" >= 0 AND "sentBytes" >= 0 AND "clients" >= 0 AND "probeFailures" >= 0),
  ADD CONSTRAINT "Relay_parent_check" CHECK (
    "parentId" IS NULL OR ("parentId" <> "id" AND "placed" AND "nodeId" IS NOT NULL AND "state" <> 'DROPPED')),
  ADD CONSTRAINT "Relay_reason_check" CHECK ("state" NOT IN ('OFFLINE', 'DROPPED') OR "reason" IS NOT NULL);

ALTER TABLE "RelayReport" ADD CONSTRAINT "RelayReport_count_check" CHECK ("count" >= 1);

-- Nobody is credited with more than was fetched, and nothing was fetched of what was there.
ALTER TABLE "CheckpointReceipt" ADD CONSTRAINT "CheckpointReceipt_figures_check" CHECK (
  "version" >= 0 AND "seconds" >= 0 AND "bytes" >= 0 AND "wastedBytes" >= 0 AND "creditedBytes" BETWEEN 0 AND "bytes"
  AND ("layout" <> 'LOCAL' OR "creditedBytes" = 0));
ALTER TABLE "ReceiptSource"
  ADD CONSTRAINT "ReceiptSource_figures_check" CHECK ("creditedBytes" BETWEEN 0 AND "bytes" AND "paid" >= 0),
  ADD CONSTRAINT "ReceiptSource_paid_check" CHECK (("paid" IS NULL) = ("paidAt" IS NULL));

-- A receipt is settled once and never changes otherwise; each of its relays is paid once.
CREATE TRIGGER "CheckpointReceipt_append_only" BEFORE UPDATE ON "CheckpointReceipt"
  FOR EACH ROW WHEN (
    OLD."settledAt" IS NOT NULL OR NEW."settledAt" IS NULL
    OR (NEW."id", NEW."organizationId", NEW."runId", NEW."checkpointId", NEW."version", NEW."nodeId", NEW."layout", NEW."seconds",
        NEW."bytes", NEW."wastedBytes", NEW."creditedBytes", NEW."receivedAt")
      IS DISTINCT FROM (OLD."id", OLD."organizationId", OLD."runId", OLD."checkpointId", OLD."version", OLD."nodeId", OLD."layout",
        OLD."seconds", OLD."bytes", OLD."wastedBytes", OLD."creditedBytes", OLD."receivedAt")
  ) EXECUTE FUNCTION append_only();
CREATE TRIGGER "ReceiptSource_append_only" BEFORE UPDATE ON "ReceiptSource"
  FOR EACH ROW WHEN (
    OLD."paid" IS NOT NULL OR NEW."paid" IS NULL
    OR (NEW."receiptId", NEW."relayId", NEW."organizationId", NEW."runId", NEW."bytes", NEW."creditedBytes")
      IS DISTINCT FROM (OLD."receiptId", OLD."relayId", OLD."organizationId", OLD."runId", OLD."bytes", OLD."creditedBytes")
  ) EXECUTE FUNCTION append_only();

-- The paymaster's work list: receipts whose relays wait until the work they made possible is final.
CREATE INDEX "CheckpointReceipt_unsettled_idx" ON "CheckpointReceipt" ("runId", "nodeId", "version") WHERE "settledAt" IS NULL;
-- Whether a node's work on a version is final is asked for every receipt that is not settled.
CREATE INDEX "Group_final_idx" ON "Group" ("runId", "nodeId", "policyVersion") WHERE "finalAt" IS NOT NULL AND "state" IN ('ACCEPTED', 'SET_ASIDE');
