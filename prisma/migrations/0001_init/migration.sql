-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "public";

-- CreateEnum
CREATE TYPE "AccountKind" AS ENUM ('ISSUED', 'BUDGET', 'NODE_HELD', 'NODE_AVAILABLE');

-- CreateEnum
CREATE TYPE "LedgerKind" AS ENUM ('FUND', 'HOLD', 'RELEASE', 'FORFEIT', 'PAY', 'REFUND');

-- CreateEnum
CREATE TYPE "Role" AS ENUM ('VALIDATOR', 'TRAINER', 'EVALUATOR', 'RELAY');

-- CreateEnum
CREATE TYPE "TrustState" AS ENUM ('PROBATION', 'TRUSTED', 'QUARANTINED', 'EJECTED');

-- CreateEnum
CREATE TYPE "GroupState" AS ENUM ('SUBMITTED', 'VERIFYING', 'ACCEPTED', 'SET_ASIDE', 'REJECTED', 'INVALID', 'STALE');

-- CreateEnum
CREATE TYPE "Acceptance" AS ENUM ('AUDITED', 'TRUSTED');

-- CreateEnum
CREATE TYPE "Verdict" AS ENUM ('ACCEPTED', 'REJECTED', 'INCONCLUSIVE');

-- CreateEnum
CREATE TYPE "RunState" AS ENUM ('DRAFT', 'RUNNING', 'PAUSED', 'COMPLETED', 'CANCELLED', 'FAILED');

-- CreateEnum
CREATE TYPE "TaskKind" AS ENUM ('BASE', 'GENERATE', 'VERIFY', 'TRAIN', 'EVALUATE');

-- CreateEnum
CREATE TYPE "TaskState" AS ENUM ('OPEN', 'LEASED', 'SUBMITTED', 'DONE', 'CANCELLED', 'FAILED');

-- CreateEnum
CREATE TYPE "AttemptState" AS ENUM ('LIVE', 'SUBMITTED', 'RELEASED', 'EXPIRED', 'CANCELLED');

-- CreateEnum
CREATE TYPE "PackKind" AS ENUM ('ROLLOUTS', 'BLIND', 'MEASUREMENT', 'BATCH', 'STATE', 'MANIFEST', 'SHARD', 'SAMPLES', 'BASE');

-- CreateEnum
CREATE TYPE "BatchState" AS ENUM ('FILLING', 'SEALED', 'TRAINED');

-- CreateEnum
CREATE TYPE "CheckpointState" AS ENUM ('PUBLISHING', 'AVAILABLE', 'RETIRED');

-- CreateTable
CREATE TABLE "User" (
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "email" TEXT NOT NULL,
    "emailVerified" BOOLEAN NOT NULL DEFAULT false,
    "image" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "User_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "AuthSession" (
    "id" UUID NOT NULL,
    "userId" UUID NOT NULL,
    "token" TEXT NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,
    "ipAddress" TEXT,
    "userAgent" TEXT,
    "activeOrganizationId" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "AuthSession_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "AuthAccount" (
    "id" UUID NOT NULL,
    "userId" UUID NOT NULL,
    "accountId" TEXT NOT NULL,
    "providerId" TEXT NOT NULL,
    "accessToken" TEXT,
    "refreshToken" TEXT,
    "accessTokenExpiresAt" TIMESTAMPTZ(3),
    "refreshTokenExpiresAt" TIMESTAMPTZ(3),
    "scope" TEXT,
    "idToken" TEXT,
    "password" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "AuthAccount_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "AuthVerification" (
    "id" UUID NOT NULL,
    "identifier" TEXT NOT NULL,
    "value" TEXT NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "AuthVerification_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Organization" (
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "slug" TEXT NOT NULL,
    "logo" TEXT,
    "metadata" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Organization_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Member" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "userId" UUID NOT NULL,
    "role" TEXT NOT NULL DEFAULT 'member',
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Member_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Invitation" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "email" TEXT NOT NULL,
    "role" TEXT,
    "status" TEXT NOT NULL DEFAULT 'pending',
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "inviterId" UUID NOT NULL,

    CONSTRAINT "Invitation_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "ApiKey" (
    "id" UUID NOT NULL,
    "configId" TEXT NOT NULL DEFAULT 'default',
    "name" TEXT,
    "start" TEXT,
    "prefix" TEXT,
    "key" TEXT NOT NULL,
    "referenceId" TEXT NOT NULL,
    "refillInterval" INTEGER,
    "refillAmount" INTEGER,
    "lastRefillAt" TIMESTAMPTZ(3),
    "enabled" BOOLEAN NOT NULL DEFAULT true,
    "rateLimitEnabled" BOOLEAN NOT NULL DEFAULT true,
    "rateLimitTimeWindow" INTEGER,
    "rateLimitMax" INTEGER,
    "requestCount" INTEGER NOT NULL DEFAULT 0,
    "remaining" INTEGER,
    "lastRequest" TIMESTAMPTZ(3),
    "expiresAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,
    "permissions" TEXT,
    "metadata" TEXT,

    CONSTRAINT "ApiKey_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Event" (
    "id" BIGSERIAL NOT NULL,
    "organizationId" UUID,
    "stream" TEXT NOT NULL,
    "seq" BIGINT,
    "type" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "data" JSONB NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Event_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "EventStream" (
    "stream" TEXT NOT NULL,
    "head" BIGINT NOT NULL DEFAULT 0,

    CONSTRAINT "EventStream_pkey" PRIMARY KEY ("stream")
);

-- CreateTable
CREATE TABLE "Account" (
    "id" UUID NOT NULL,
    "key" TEXT NOT NULL,
    "organizationId" UUID NOT NULL,
    "kind" "AccountKind" NOT NULL,
    "runId" UUID,
    "nodeId" UUID,
    "balance" BIGINT NOT NULL DEFAULT 0,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Account_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "LedgerTransaction" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID,
    "kind" "LedgerKind" NOT NULL,
    "key" TEXT NOT NULL,
    "groupId" UUID,
    "taskId" UUID,
    "memo" TEXT NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "LedgerTransaction_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "LedgerEntry" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "transactionId" UUID NOT NULL,
    "accountId" UUID NOT NULL,
    "amount" BIGINT NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "LedgerEntry_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Node" (
    "id" UUID NOT NULL,
    "publicKey" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "ownerId" UUID,
    "software" TEXT NOT NULL,
    "protocol" INTEGER NOT NULL,
    "hardware" JSONB NOT NULL,
    "draining" BOOLEAN NOT NULL DEFAULT false,
    "progress" JSONB,
    "lastSeenAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Node_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "NodeChallenge" (
    "challenge" TEXT NOT NULL,
    "publicKey" TEXT NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "NodeChallenge_pkey" PRIMARY KEY ("challenge")
);

-- CreateTable
CREATE TABLE "NodeSession" (
    "id" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "tokenHash" TEXT NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "NodeSession_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "RoleGrant" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "role" "Role" NOT NULL,
    "grantedById" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "revokedAt" TIMESTAMPTZ(3),

    CONSTRAINT "RoleGrant_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "NodeTrust" (
    "runId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "state" "TrustState" NOT NULL DEFAULT 'PROBATION',
    "auditedValid" INTEGER NOT NULL DEFAULT 0,
    "accepted" INTEGER NOT NULL DEFAULT 0,
    "rejected" INTEGER NOT NULL DEFAULT 0,
    "invalid" INTEGER NOT NULL DEFAULT 0,
    "invalidStreak" INTEGER NOT NULL DEFAULT 0,
    "auditRate" DOUBLE PRECISION NOT NULL DEFAULT 1,
    "quarantinedAt" TIMESTAMPTZ(3),
    "reason" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "NodeTrust_pkey" PRIMARY KEY ("runId","nodeId")
);

-- CreateTable
CREATE TABLE "Group" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "taskId" UUID NOT NULL,
    "attemptId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "index" INTEGER NOT NULL,
    "exampleSeed" TEXT NOT NULL,
    "prompt" TEXT NOT NULL,
    "policyVersion" INTEGER NOT NULL,
    "packHash" TEXT NOT NULL,
    "state" "GroupState" NOT NULL DEFAULT 'SUBMITTED',
    "acceptance" "Acceptance",
    "reason" TEXT,
    "advantagesReady" BOOLEAN NOT NULL DEFAULT false,
    "meanReward" DOUBLE PRECISION NOT NULL,
    "tokens" INTEGER NOT NULL,
    "auditRate" DOUBLE PRECISION NOT NULL DEFAULT 1,
    "epoch" INTEGER NOT NULL,
    "duplicate" BOOLEAN NOT NULL DEFAULT false,
    "verifyTaskId" UUID,
    "blindHash" TEXT,
    "inconclusive" INTEGER NOT NULL DEFAULT 0,
    "submittedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "decidedAt" TIMESTAMPTZ(3),
    "finalAt" TIMESTAMPTZ(3),
    "finalAfter" INTEGER,

    CONSTRAINT "Group_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Rollout" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "groupId" UUID NOT NULL,
    "index" INTEGER NOT NULL,
    "preview" TEXT NOT NULL,
    "tokens" INTEGER NOT NULL,
    "finishReason" TEXT NOT NULL,
    "reward" DOUBLE PRECISION NOT NULL,
    "rewardParts" JSONB NOT NULL,
    "advantage" DOUBLE PRECISION,

    CONSTRAINT "Rollout_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "WindowFingerprint" (
    "runId" UUID NOT NULL,
    "hash" TEXT NOT NULL,
    "taskId" UUID NOT NULL,
    "groupId" UUID NOT NULL,

    CONSTRAINT "WindowFingerprint_pkey" PRIMARY KEY ("runId","hash","groupId")
);

-- CreateTable
CREATE TABLE "Verification" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "groupId" UUID NOT NULL,
    "taskId" UUID NOT NULL,
    "validatorNodeId" UUID NOT NULL,
    "measurementHash" TEXT NOT NULL,
    "verdict" "Verdict" NOT NULL,
    "checks" JSONB NOT NULL,
    "tokens" INTEGER NOT NULL,
    "cost" DOUBLE PRECISION,
    "startedAt" TIMESTAMPTZ(3) NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Verification_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Environment" (
    "slug" TEXT NOT NULL,
    "hash" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT NOT NULL,

    CONSTRAINT "Environment_pkey" PRIMARY KEY ("slug")
);

-- CreateTable
CREATE TABLE "Run" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "slug" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "environment" TEXT NOT NULL,
    "state" "RunState" NOT NULL DEFAULT 'DRAFT',
    "stateReason" TEXT,
    "open" BOOLEAN NOT NULL DEFAULT true,
    "baseKind" TEXT NOT NULL,
    "currentVersion" INTEGER,
    "step" INTEGER NOT NULL DEFAULT 0,
    "revision" INTEGER NOT NULL DEFAULT 1,
    "stepLimit" INTEGER NOT NULL,
    "deadlineAt" TIMESTAMPTZ(3),
    "createdById" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "startedAt" TIMESTAMPTZ(3),
    "endedAt" TIMESTAMPTZ(3),

    CONSTRAINT "Run_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "RunRevision" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "spec" JSONB NOT NULL,
    "hash" TEXT NOT NULL,
    "createdById" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "RunRevision_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "AuditEpoch" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "keyHash" TEXT NOT NULL,
    "key" BYTEA NOT NULL,
    "openedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "closedAt" TIMESTAMPTZ(3),
    "revealedAt" TIMESTAMPTZ(3),

    CONSTRAINT "AuditEpoch_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Task" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "kind" "TaskKind" NOT NULL,
    "state" "TaskState" NOT NULL DEFAULT 'OPEN',
    "priority" INTEGER NOT NULL DEFAULT 0,
    "revision" INTEGER NOT NULL,
    "policyVersion" INTEGER,
    "manifestHash" TEXT,
    "payload" JSONB NOT NULL,
    "attempt" INTEGER NOT NULL DEFAULT 0,
    "maxAttempts" INTEGER NOT NULL DEFAULT 5,
    "leaseNodeId" UUID,
    "leaseUntil" TIMESTAMPTZ(3),
    "notBefore" TIMESTAMPTZ(3),
    "excludedNodes" UUID[] DEFAULT ARRAY[]::UUID[],
    "failure" TEXT,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMPTZ(3) NOT NULL,
    "doneAt" TIMESTAMPTZ(3),

    CONSTRAINT "Task_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Attempt" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "taskId" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "nodeId" UUID NOT NULL,
    "state" "AttemptState" NOT NULL DEFAULT 'LIVE',
    "claimedAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "leaseUntil" TIMESTAMPTZ(3) NOT NULL,
    "endedAt" TIMESTAMPTZ(3),
    "reason" TEXT,
    "versionAtClaim" INTEGER,
    "packHash" TEXT,
    "uploaded" BIGINT NOT NULL DEFAULT 0,
    "cpuSeconds" DOUBLE PRECISION,

    CONSTRAINT "Attempt_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Pack" (
    "sha256" TEXT NOT NULL,
    "kind" "PackKind" NOT NULL,
    "size" BIGINT NOT NULL,
    "attemptId" UUID,
    "grantId" UUID,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Pack_pkey" PRIMARY KEY ("sha256")
);

-- CreateTable
CREATE TABLE "PackReference" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "sha256" TEXT NOT NULL,
    "runId" UUID NOT NULL,
    "taskId" UUID,
    "subject" UUID NOT NULL,
    "kind" "PackKind" NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "PackReference_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "UploadGrant" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "userId" UUID,
    "kind" "PackKind" NOT NULL,
    "sha256" TEXT NOT NULL,
    "maxSize" BIGINT NOT NULL,
    "expiresAt" TIMESTAMPTZ(3) NOT NULL,
    "usedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "UploadGrant_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "IdempotencyKey" (
    "actor" TEXT NOT NULL,
    "operation" TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "inputHash" TEXT NOT NULL,
    "result" JSONB NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "IdempotencyKey_pkey" PRIMARY KEY ("actor","operation","key")
);

-- CreateTable
CREATE TABLE "Batch" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "step" INTEGER NOT NULL,
    "state" "BatchState" NOT NULL DEFAULT 'FILLING',
    "signalGroups" INTEGER NOT NULL DEFAULT 0,
    "settledGroups" INTEGER NOT NULL DEFAULT 0,
    "packHash" TEXT,
    "sealedAt" TIMESTAMPTZ(3),
    "trainedAt" TIMESTAMPTZ(3),
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Batch_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "BatchGroup" (
    "batchId" UUID NOT NULL,
    "position" INTEGER NOT NULL,
    "groupId" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "signal" BOOLEAN NOT NULL,
    "policyLag" INTEGER,

    CONSTRAINT "BatchGroup_pkey" PRIMARY KEY ("batchId","position")
);

-- CreateTable
CREATE TABLE "Checkpoint" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "parentVersion" INTEGER,
    "manifestHash" TEXT NOT NULL,
    "stateHash" TEXT,
    "size" BIGINT NOT NULL,
    "state" "CheckpointState" NOT NULL DEFAULT 'PUBLISHING',
    "trainerNodeId" UUID NOT NULL,
    "taskId" UUID NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "availableAt" TIMESTAMPTZ(3),

    CONSTRAINT "Checkpoint_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "TrainStep" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "step" INTEGER NOT NULL,
    "version" INTEGER NOT NULL,
    "batchId" UUID,
    "meanReward" DOUBLE PRECISION,
    "metrics" JSONB NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "TrainStep_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "Evaluation" (
    "id" UUID NOT NULL,
    "organizationId" UUID NOT NULL,
    "runId" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "suite" TEXT NOT NULL,
    "n" INTEGER NOT NULL,
    "mean" DOUBLE PRECISION NOT NULL,
    "rewards" DOUBLE PRECISION[],
    "samplesHash" TEXT NOT NULL,
    "taskId" UUID NOT NULL,
    "nodeId" UUID NOT NULL,
    "createdAt" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Evaluation_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "User_email_key" ON "User"("email");

-- CreateIndex
CREATE UNIQUE INDEX "AuthSession_token_key" ON "AuthSession"("token");

-- CreateIndex
CREATE INDEX "AuthSession_userId_idx" ON "AuthSession"("userId");

-- CreateIndex
CREATE INDEX "AuthAccount_userId_idx" ON "AuthAccount"("userId");

-- CreateIndex
CREATE INDEX "AuthVerification_identifier_idx" ON "AuthVerification"("identifier");

-- CreateIndex
CREATE UNIQUE INDEX "Organization_slug_key" ON "Organization"("slug");

-- CreateIndex
CREATE INDEX "Member_userId_idx" ON "Member"("userId");

-- CreateIndex
CREATE UNIQUE INDEX "Member_organizationId_userId_key" ON "Member"("organizationId", "userId");

-- CreateIndex
CREATE INDEX "Invitation_organizationId_idx" ON "Invitation"("organizationId");

-- CreateIndex
CREATE INDEX "Invitation_email_idx" ON "Invitation"("email");

-- CreateIndex
CREATE INDEX "ApiKey_key_idx" ON "ApiKey"("key");

-- CreateIndex
CREATE INDEX "ApiKey_referenceId_idx" ON "ApiKey"("referenceId");

-- CreateIndex
CREATE UNIQUE INDEX "Event_stream_seq_key" ON "Event"("stream", "seq");

-- CreateIndex
CREATE UNIQUE INDEX "Account_key_key" ON "Account"("key");

-- CreateIndex
CREATE INDEX "Account_runId_idx" ON "Account"("runId");

-- CreateIndex
CREATE INDEX "Account_nodeId_idx" ON "Account"("nodeId");

-- CreateIndex
CREATE UNIQUE INDEX "LedgerTransaction_key_key" ON "LedgerTransaction"("key");

-- CreateIndex
CREATE INDEX "LedgerTransaction_runId_createdAt_idx" ON "LedgerTransaction"("runId", "createdAt");

-- CreateIndex
CREATE INDEX "LedgerTransaction_groupId_idx" ON "LedgerTransaction"("groupId");

-- CreateIndex
CREATE INDEX "LedgerEntry_accountId_createdAt_idx" ON "LedgerEntry"("accountId", "createdAt");

-- CreateIndex
CREATE INDEX "LedgerEntry_transactionId_idx" ON "LedgerEntry"("transactionId");

-- CreateIndex
CREATE UNIQUE INDEX "Node_publicKey_key" ON "Node"("publicKey");

-- CreateIndex
CREATE INDEX "NodeChallenge_expiresAt_idx" ON "NodeChallenge"("expiresAt");

-- CreateIndex
CREATE UNIQUE INDEX "NodeSession_tokenHash_key" ON "NodeSession"("tokenHash");

-- CreateIndex
CREATE INDEX "NodeSession_nodeId_idx" ON "NodeSession"("nodeId");

-- CreateIndex
CREATE INDEX "NodeSession_expiresAt_idx" ON "NodeSession"("expiresAt");

-- CreateIndex
CREATE INDEX "RoleGrant_nodeId_idx" ON "RoleGrant"("nodeId");

-- CreateIndex
CREATE UNIQUE INDEX "RoleGrant_runId_nodeId_role_key" ON "RoleGrant"("runId", "nodeId", "role");

-- CreateIndex
CREATE INDEX "NodeTrust_nodeId_idx" ON "NodeTrust"("nodeId");

-- CreateIndex
CREATE INDEX "Group_runId_state_idx" ON "Group"("runId", "state");

-- CreateIndex
CREATE INDEX "Group_nodeId_runId_finalAt_idx" ON "Group"("nodeId", "runId", "finalAt");

-- CreateIndex
CREATE INDEX "Group_packHash_idx" ON "Group"("packHash");

-- CreateIndex
CREATE UNIQUE INDEX "Group_taskId_index_key" ON "Group"("taskId", "index");

-- CreateIndex
CREATE INDEX "Rollout_runId_id_idx" ON "Rollout"("runId", "id");

-- CreateIndex
CREATE UNIQUE INDEX "Rollout_groupId_index_key" ON "Rollout"("groupId", "index");

-- CreateIndex
CREATE INDEX "Verification_groupId_idx" ON "Verification"("groupId");

-- CreateIndex
CREATE INDEX "Verification_runId_createdAt_idx" ON "Verification"("runId", "createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "Verification_taskId_validatorNodeId_key" ON "Verification"("taskId", "validatorNodeId");

-- CreateIndex
CREATE INDEX "Run_state_idx" ON "Run"("state");

-- CreateIndex
CREATE UNIQUE INDEX "Run_organizationId_slug_key" ON "Run"("organizationId", "slug");

-- CreateIndex
CREATE UNIQUE INDEX "RunRevision_runId_number_key" ON "RunRevision"("runId", "number");

-- CreateIndex
CREATE UNIQUE INDEX "AuditEpoch_runId_number_key" ON "AuditEpoch"("runId", "number");

-- CreateIndex
CREATE INDEX "Task_runId_kind_state_idx" ON "Task"("runId", "kind", "state");

-- CreateIndex
CREATE INDEX "Task_state_leaseUntil_idx" ON "Task"("state", "leaseUntil");

-- CreateIndex
CREATE INDEX "Attempt_nodeId_state_idx" ON "Attempt"("nodeId", "state");

-- CreateIndex
CREATE INDEX "Attempt_state_leaseUntil_idx" ON "Attempt"("state", "leaseUntil");

-- CreateIndex
CREATE UNIQUE INDEX "Attempt_taskId_number_key" ON "Attempt"("taskId", "number");

-- CreateIndex
CREATE INDEX "Pack_createdAt_idx" ON "Pack"("createdAt");

-- CreateIndex
CREATE INDEX "PackReference_runId_idx" ON "PackReference"("runId");

-- CreateIndex
CREATE INDEX "PackReference_taskId_idx" ON "PackReference"("taskId");

-- CreateIndex
CREATE UNIQUE INDEX "PackReference_sha256_subject_kind_key" ON "PackReference"("sha256", "subject", "kind");

-- CreateIndex
CREATE INDEX "UploadGrant_sha256_idx" ON "UploadGrant"("sha256");

-- CreateIndex
CREATE INDEX "IdempotencyKey_createdAt_idx" ON "IdempotencyKey"("createdAt");

-- CreateIndex
CREATE UNIQUE INDEX "Batch_runId_step_key" ON "Batch"("runId", "step");

-- CreateIndex
CREATE UNIQUE INDEX "BatchGroup_groupId_key" ON "BatchGroup"("groupId");

-- CreateIndex
CREATE UNIQUE INDEX "Checkpoint_runId_version_key" ON "Checkpoint"("runId", "version");

-- CreateIndex
CREATE UNIQUE INDEX "TrainStep_runId_step_key" ON "TrainStep"("runId", "step");

-- CreateIndex
CREATE UNIQUE INDEX "Evaluation_runId_version_suite_key" ON "Evaluation"("runId", "version", "suite");

-- AddForeignKey
ALTER TABLE "AuthSession" ADD CONSTRAINT "AuthSession_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "AuthAccount" ADD CONSTRAINT "AuthAccount_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Member" ADD CONSTRAINT "Member_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Member" ADD CONSTRAINT "Member_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Invitation" ADD CONSTRAINT "Invitation_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Invitation" ADD CONSTRAINT "Invitation_inviterId_fkey" FOREIGN KEY ("inviterId") REFERENCES "User"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "LedgerEntry" ADD CONSTRAINT "LedgerEntry_transactionId_fkey" FOREIGN KEY ("transactionId") REFERENCES "LedgerTransaction"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "LedgerEntry" ADD CONSTRAINT "LedgerEntry_accountId_fkey" FOREIGN KEY ("accountId") REFERENCES "Account"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "NodeSession" ADD CONSTRAINT "NodeSession_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "RoleGrant" ADD CONSTRAINT "RoleGrant_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "RoleGrant" ADD CONSTRAINT "RoleGrant_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "NodeTrust" ADD CONSTRAINT "NodeTrust_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "NodeTrust" ADD CONSTRAINT "NodeTrust_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Group" ADD CONSTRAINT "Group_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Group" ADD CONSTRAINT "Group_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Group" ADD CONSTRAINT "Group_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Rollout" ADD CONSTRAINT "Rollout_groupId_fkey" FOREIGN KEY ("groupId") REFERENCES "Group"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Rollout" ADD CONSTRAINT "Rollout_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Verification" ADD CONSTRAINT "Verification_groupId_fkey" FOREIGN KEY ("groupId") REFERENCES "Group"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Verification" ADD CONSTRAINT "Verification_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Run" ADD CONSTRAINT "Run_organizationId_fkey" FOREIGN KEY ("organizationId") REFERENCES "Organization"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "RunRevision" ADD CONSTRAINT "RunRevision_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "AuditEpoch" ADD CONSTRAINT "AuditEpoch_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Task" ADD CONSTRAINT "Task_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Attempt" ADD CONSTRAINT "Attempt_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Attempt" ADD CONSTRAINT "Attempt_nodeId_fkey" FOREIGN KEY ("nodeId") REFERENCES "Node"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "PackReference" ADD CONSTRAINT "PackReference_sha256_fkey" FOREIGN KEY ("sha256") REFERENCES "Pack"("sha256") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Batch" ADD CONSTRAINT "Batch_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "BatchGroup" ADD CONSTRAINT "BatchGroup_batchId_fkey" FOREIGN KEY ("batchId") REFERENCES "Batch"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "BatchGroup" ADD CONSTRAINT "BatchGroup_groupId_fkey" FOREIGN KEY ("groupId") REFERENCES "Group"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Checkpoint" ADD CONSTRAINT "Checkpoint_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "TrainStep" ADD CONSTRAINT "TrainStep_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "Evaluation" ADD CONSTRAINT "Evaluation_runId_fkey" FOREIGN KEY ("runId") REFERENCES "Run"("id") ON DELETE CASCADE ON UPDATE CASCADE;
