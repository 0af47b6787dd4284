-- CreateEnum
CREATE TYPE "AlertKind" AS ENUM ('RUN_STALLED', 'NO_ACCEPTED', 'REJECT_RATE', 'KL_ABOVE', 'ENTROPY_BELOW', 'BROADCAST_P95', 'WORKER_OFFLINE', 'VERIFY_QUEUE_AGE', 'BUDGET_SPENT');

-- CreateEnum
CREATE TYPE "AlertSeverity" AS ENUM ('INFO', 'WARNING', 'CRITICAL');

-- CreateEnum
CREATE TYPE "WebhookEndpointState" AS ENUM ('ACTIVE', 'PAUSED');

-- CreateEnum
CREATE TYPE "DeliveryState" AS ENUM ('PENDING', 'DELIVERED', 'FAILED');

-- CreateTable
CREATE TABLE "AlertRule" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID,
    "name" TEXT NOT NULL,
    "kind" "AlertKind" NOT NULL,
    "threshold" DOUBLE PRECISION,
    "windowSeconds" INTEGER NOT NULL,
    "severity" "AlertSeverity" NOT NULL DEFAULT 'WARNING',
    "enabled" BOOLEAN NOT NULL DEFAULT true,
    "lastFiredAt" TIMESTAMPTZ(3),
    "createdById" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "AlertRule_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Alert" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "ruleId" UUID,
    "runId" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "kind" "AlertKind" NOT NULL,
    "severity" "AlertSeverity" NOT NULL,
    "summary" TEXT NOT NULL,
    "value" DOUBLE PRECISION NOT NULL,
    "newestValue" DOUBLE PRECISION NOT NULL,
    "worstValue" DOUBLE PRECISION NOT NULL,
    "limit" DOUBLE PRECISION NOT NULL,
    "firedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "resolvedAt" TIMESTAMPTZ(3),
    "resolution" TEXT,

    CONSTRAINT "Alert_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "WebhookEndpoint" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID,
    "url" TEXT NOT NULL,
    "description" TEXT NOT NULL DEFAULT '',
    "eventTypes" TEXT[],
    "state" "WebhookEndpointState" NOT NULL DEFAULT 'ACTIVE',
    "reason" TEXT,
    "secret" BYTEA NOT NULL,
    "secretMadeAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "previousSecret" BYTEA,
    "previousUntil" TIMESTAMPTZ(3),
    "failures" INTEGER NOT NULL DEFAULT 0,
    "pauseAfter" INTEGER NOT NULL DEFAULT 20,
    "restsUntil" TIMESTAMPTZ(3),
    "deliveredAt" TIMESTAMPTZ(3),
    "missed" BIGINT NOT NULL DEFAULT 0,
    "createdById" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "WebhookEndpoint_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "WebhookCursor" (
    "endpointId" UUID NOT NULL,
    "stream" TEXT NOT NULL,
    "seq" BIGINT NOT NULL,

    CONSTRAINT "WebhookCursor_pkey" PRIMARY KEY ("endpointId","stream")
);

-- CreateTable
CREATE TABLE "WebhookDelivery" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "endpointId" UUID NOT NULL,
    "messageId" TEXT NOT NULL,
    "eventType" TEXT NOT NULL,
    "body" TEXT NOT NULL,
    "state" "DeliveryState" NOT NULL DEFAULT 'PENDING',
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "sending" BOOLEAN NOT NULL DEFAULT false,
    "nextAttemptAt" TIMESTAMPTZ(3) DEFAULT CURRENT_TIMESTAMP,
    "triedSince" TIMESTAMPTZ(3),
    "lastAttemptAt" TIMESTAMPTZ(3),
    "latencyMs" INTEGER,
    "responseStatus" INTEGER,
    "responseBody" TEXT,
    "error" TEXT,
    "log" JSONB NOT NULL DEFAULT '[]',
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "WebhookDelivery_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "AlertRule_organizationId_id_idx" ON "AlertRule"("organizationId", "id");

-- CreateIndex
CREATE INDEX "AlertRule_runId_idx" ON "AlertRule"("runId");

-- CreateIndex
CREATE INDEX "Alert_organizationId_id_idx" ON "Alert"("organizationId", "id");

-- CreateIndex
CREATE INDEX "Alert_runId_id_idx" ON "Alert"("runId", "id");

-- CreateIndex
CREATE INDEX "Alert_ruleId_id_idx" ON "Alert"("ruleId", "id");

-- CreateIndex
CREATE INDEX "WebhookEndpoint_organizationId_id_idx" ON "WebhookEndpoint"("organizationId", "id");

-- CreateIndex
CREATE INDEX "WebhookEndpoint_runId_idx" ON "WebhookEndpoint"("runId");

-- CreateIndex
CREATE INDEX "WebhookDelivery_organizationId_id_idx" ON "WebhookDelivery"("organizationId", "id");

-- CreateIndex
CREATE INDEX "WebhookDelivery_endpointId_id_idx" ON "WebhookDelivery"("endpointId", "id");

-- CreateIndex
CREATE INDEX "WebhookDelivery_createdAt_idx" ON "WebhookDelivery"("createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "WebhookDelivery_endpointId_messageId_key" ON "WebhookDelivery"("endpointId", "messageId");

-- AddForeignKey
ALTER TABLE "AlertRule" ADD CONSTRAINT "AlertRule_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "AlertRule" ADD CONSTRAINT "AlertRule_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Alert" ADD CONSTRAINT "Alert_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Alert" ADD CONSTRAINT "Alert_ruleId_fkey" FOREIGN KEY ("ruleId") REFERENCES "AlertRule"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Alert" ADD CONSTRAINT "Alert_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "WebhookEndpoint" ADD CONSTRAINT "WebhookEndpoint_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "WebhookEndpoint" ADD CONSTRAINT "WebhookEndpoint_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "WebhookCursor" ADD CONSTRAINT "WebhookCursor_endpointId_fkey" FOREIGN KEY ("endpointId") REFERENCES "WebhookEndpoint"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "WebhookDelivery" ADD CONSTRAINT "WebhookDelivery_endpointId_fkey" FOREIGN KEY ("endpointId") REFERENCES "WebhookEndpoint"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- RenameIndex
ALTER INDEX "Group_unfinal_idx" RENAME TO "Group_runId_decidedAt_idx";



-- Written by hand: what Prisma's schema language cannot say.

-- One open episode of a rule in a run, whatever two evaluators at once believe.
CREATE UNIQUE INDEX "Alert_open_key" ON "Alert" ("ruleId", "runId") WHERE "resolvedAt" IS NULL;
ALTER TABLE "Alert" ADD CONSTRAINT "Alert_resolved_check" CHECK (("resolvedAt" IS NULL) = ("resolution" IS NULL));
ALTER TABLE "AlertRule" ADD CONSTRAINT "AlertRule_window_check" CHECK ("windowSeconds" BETWEEN 60 AND 604800);

-- A second secret is there exactly as long as it has an end.
ALTER TABLE "WebhookEndpoint" ADD CONSTRAINT "WebhookEndpoint_previous_check"
  CHECK (("previousSecret" IS NULL) = ("previousUntil" IS NULL));
ALTER TABLE "WebhookEndpoint" ADD CONSTRAINT "WebhookEndpoint_pause_check" CHECK ("pauseAfter" BETWEEN 1 AND 1000 AND "failures" >= 0);

-- A delivery that is not over has a next moment, and one that is has none: nothing is left lying.
ALTER TABLE "WebhookDelivery" ADD CONSTRAINT "WebhookDelivery_next_check"
  CHECK (("state" = 'PENDING') = ("nextAttemptAt" IS NOT NULL) AND ("state" = 'PENDING' OR NOT "sending"));
-- What is due, endpoint by endpoint.
CREATE INDEX "WebhookDelivery_due_idx" ON "WebhookDelivery" ("endpointId", "nextAttemptAt") WHERE "state" = 'PENDING';

-- When a run was running and when not: few rows among its many events.
CREATE INDEX "Event_run_state_idx" ON "Event" ("stream", "at") WHERE "type" = 'run.state';
