import type { Attempt, Group, Verification } from "@muster/db";
import {
  canonicalJson,
  decodeRolloutPack,
  environment,
  environmentHash,
  fromTypeId,
  parseManifest,
  specHash,
  toTypeId,
} from "@muster/protocol";
import {
  type CheckResult,
  type EvidenceHeader,
  type EvidencePart,
  encodeEvidence,
} from "@muster/verification";
import { allows } from "../auth/permissions.ts";
import type { Actor, Ctx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { type Exchange, sendJson } from "../http/exchange.ts";
import { specOf } from "../runs/spec.ts";
import { inTurn } from "../tasks/turns.ts";
import { epochKeyOf, secretDraws } from "./audit.ts";
import { coordinatorPublicKey, signAsCoordinator } from "./coordinator-key.ts";

// Everything that decided a group, in one file that anyone can judge again without asking us anything. It is put together when somebody
// asks: what it is made of is kept anyway.

/** Checkpoints up to this many bytes are part of the bundle; a larger one is fetched by its manifest. */
const mostCheckpointBytes = 64 * 2 ** 20;

/** `GET /evidence/<group id>`. @throws CodedError for the server to answer */
export async function serveEvidence(ctx: Ctx, exchange: Exchange): Promise<void> {
  const { req, res, url } = exchange;
  if (req.method !== "GET" && req.method !== "HEAD") {
    res.setHeader("Allow", "GET, HEAD");
    sendJson(exchange, 405, {
      error: {
        code: "INPUT_INVALID",
        message: "Evidence is read with GET.",
        retryable: false,
        requestId: exchange.requestId,
      },
    });
    return;
  }
  const id = url.pathname.slice("/evidence/".length);
  const group = await readableGroup(ctx, fromTypeId(id, "group"));
  // One bundle at a time: each holds its packs and a whole checkpoint in memory.
  const bytes = await inLine(ctx, () => inTurn("evidence", () => buildEvidence(ctx, group)));
  res.writeHead(200, {
    "Content-Type": "application/octet-stream",
    "Content-Length": bytes.length,
    "Content-Disposition": `attachment; filename="${id}.evidence"`,
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-store",
  });
  res.end(req.method === "HEAD" ? undefined : bytes);
}

/** Bundles that a caller may wait for at once: nobody fills the line alone. */
const mostWaiting = 4;
const waiting = new Map<string, number>();

async function inLine<T>({ actor }: Ctx, work: () => Promise<T>): Promise<T> {
  const caller = callerOf(actor);
  const before = waiting.get(caller) ?? 0;
  if (before >= mostWaiting)
    throw new CodedError(
      "RATE_LIMITED",
      `You are waiting for ${before} bundles already. Fetch one after the other.`,
      { details: { retryAfterSeconds: 1 } },
    );
  waiting.set(caller, before + 1);
  try {
    return await work();
  } finally {
    const left = (waiting.get(caller) ?? 1) - 1;
    if (left === 0) waiting.delete(caller);
    else waiting.set(caller, left);
  }
}

function callerOf(actor: Actor): string {
  switch (actor.kind) {
    case "node":
      return actor.nodeId;
    case "person":
      return actor.userId;
    case "apiKey":
      return actor.keyId;
    default:
      return actor.kind;
  }
}

/** Where a group's evidence is fetched; null when it cannot be made, because its submission is older than kept signatures. */
export async function evidencePath(ctx: Ctx, groupId: string): Promise<string | null> {
  const group = await ctx.prisma.group.findUniqueOrThrow({
    where: { id: groupId },
    select: { attemptId: true },
  });
  const attempt = await ctx.prisma.attempt.findUnique({
    where: { id: group.attemptId },
    select: { signature: true },
  });
  return attempt?.signature == null ? null : `/evidence/${toTypeId("group", groupId)}`;
}

/**
 * The group, when the actor may read its evidence: the organizer always; the node that made it, and the person who owns the node, once it is
 * decided. A validator never: it would learn whose work it measured.
 */
async function readableGroup(ctx: Ctx, groupId: string): Promise<Group> {
  const { actor } = ctx;
  if (actor.kind === "anonymous")
    throw new CodedError("UNAUTHENTICATED", "Evidence is read with a session, an API key or a node's token.");
  const found = await ctx.prisma.group.findUnique({
    where: { id: groupId },
    include: { node: { select: { ownerId: true } } },
  });
  if (found === null) throw notFound("The group");
  const { node, ...group } = found;
  if (allows(actor, "rollout:read", group.organizationId)) return group;
  const made =
    actor.kind === "node"
      ? actor.nodeId === group.nodeId
      : actor.kind === "person" && actor.userId === node.ownerId;
  if (!made) throw notFound("The group");
  if (group.decidedAt === null || group.state === "VERIFYING")
    throw new CodedError("FORBIDDEN", "The group is not decided yet. Its evidence is yours to read then.");
  return group;
}

/** @throws CodedError `NOT_FOUND` when it was submitted before signatures were kept, `BLOB_NOT_FOUND` when retention deleted a part */
async function buildEvidence(ctx: Ctx, group: Group): Promise<Uint8Array> {
  const { runId } = group;
  const task = await ctx.prisma.task.findUniqueOrThrow({ where: { id: group.taskId } });
  const worker = await signedAttempt(ctx, { id: group.attemptId });
  const verification = await ctx.prisma.verification.findFirst({
    where: { groupId: group.id },
    orderBy: { createdAt: "desc" },
  });
  const validator =
    verification === null
      ? null
      : await signedAttempt(ctx, {
          taskId: verification.taskId,
          nodeId: verification.validatorNodeId,
          packHash: verification.measurementHash,
        });
  const spec = await specOf(ctx.prisma, runId, task.revision);
  const epoch = await ctx.prisma.auditEpoch.findUniqueOrThrow({
    where: { runId_number: { runId, number: group.epoch } },
    select: { keyHash: true },
  });
  const entry = await ctx.prisma.auditEntry.findFirst({
    where: {
      runId,
      subject: toTypeId("group", group.id),
      kind: { startsWith: "verdict." },
      seq: { not: null },
    },
    orderBy: { seq: "desc" },
    select: { seq: true, hash: true },
  });
  const draws = secretDraws(await epochKeyOf(ctx, runId, group.epoch), group);
  const header: Omit<EvidenceHeader, "kind" | "version" | "parts"> = {
    coordinator: coordinatorPublicKey(ctx),
    run: toTypeId("run", runId),
    group: toTypeId("group", group.id),
    task: toTypeId("task", group.taskId),
    attempt: worker.number,
    index: group.index,
    policyVersion: group.policyVersion,
    revision: task.revision,
    specHash: specHash(spec),
    environment: { slug: spec.environment, hash: environmentHash(environment(spec.environment)) },
    worker: {
      node: toTypeId("node", worker.nodeId),
      publicKey: worker.publicKey,
      signature: worker.signature,
    },
    validator:
      validator === null
        ? null
        : {
            node: toTypeId("node", validator.nodeId),
            publicKey: validator.publicKey,
            task: toTypeId("task", validator.taskId),
            attempt: validator.number,
            signature: validator.signature,
          },
    verdict:
      verification === null
        ? null
        : {
            verdict: verification.verdict,
            // Written by verdicts.ts from the same type, never by anyone else.
            checks: verification.checks as unknown as CheckResult[],
          },
    acceptance: group.acceptance,
    decoyKey: [...draws.decoys],
    audit: { rate: group.auditRate, epoch: group.epoch, keyHash: epoch.keyHash },
    ...(entry?.seq == null || entry.hash === null
      ? {}
      : { auditEntry: { seq: Number(entry.seq), hash: entry.hash } }),
    createdAt: (group.decidedAt ?? group.submittedAt).toISOString(),
  };
  const parts = await partsOf(ctx, group, canonicalJson(spec), verification).catch((error: unknown) => {
    if (!(error instanceof CodedError) || error.code !== "BLOB_NOT_FOUND") throw error;
    const what = `The evidence of ${header.group} has expired: retention deleted a part of it.`;
    throw new CodedError(error.code, `${what} Only groups with a case keep theirs for good.`, {
      cause: error,
    });
  });
  return encodeEvidence(header, parts, (bytes) => signAsCoordinator(ctx, bytes));
}

type Signed = Attempt & { signature: string; publicKey: string };

async function signedAttempt(
  ctx: Ctx,
  where: { id: string } | { taskId: string; nodeId: string; packHash: string },
): Promise<Signed> {
  const found = await ctx.prisma.attempt.findFirst({
    where,
    include: { node: { select: { publicKey: true } } },
  });
  if (found === null || found.signature === null)
    throw new CodedError(
      "NOT_FOUND",
      "There is no evidence: the submission is older than signatures are kept.",
    );
  const { node, signature, ...attempt } = found;
  return { ...attempt, signature, publicKey: node.publicKey };
}

/** In the order that a bundle has. */
async function partsOf(
  ctx: Ctx,
  group: Group,
  spec: string,
  verification: Verification | null,
): Promise<EvidencePart[]> {
  const rollouts = await ctx.blobs.read(group.packHash);
  const manifestHash = decodeRolloutPack(rollouts).header.manifest;
  const manifest = await ctx.blobs.read(manifestHash);
  const parts: EvidencePart[] = [
    { name: "spec.json", bytes: new TextEncoder().encode(spec) },
    { name: "rollouts.parquet", bytes: rollouts },
  ];
  if (group.blindHash !== null)
    parts.push({ name: "blind.parquet", bytes: await ctx.blobs.read(group.blindHash) });
  if (verification !== null)
    parts.push({
      name: "measurement.parquet",
      bytes: await ctx.blobs.read(verification.measurementHash),
    });
  parts.push({ name: "manifest.json", bytes: manifest });
  const shards = parseManifest(manifest).files.flatMap((file) => file.shards);
  if (shards.reduce((sum, { size }) => sum + size, 0) > mostCheckpointBytes) return parts;
  // All of them or none: a retired checkpoint's shards go one after the other.
  for (const { sha256 } of shards) if (!(await ctx.blobs.has(sha256))) return parts;
  for (const [n, { sha256 }] of shards.entries())
    parts.push({ name: `checkpoint/${n}`, bytes: await ctx.blobs.read(sha256) });
  return parts;
}
