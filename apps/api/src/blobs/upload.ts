import type { Readable } from "node:stream";
import type { PackKind, TaskKind } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import { assertAllowed } from "../auth/permissions.ts";
import type { Config } from "../config.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { specOf } from "../runs/spec.ts";
import { mostPackBytes } from "../tasks/pack-size.ts";

export type Upload = {
  readonly sha256: string;
  /** Bytes, as announced by Content-Length. */
  readonly size: number;
  readonly source: Readable;
  readonly signal: AbortSignal;
  readonly by:
    | { readonly taskId: string; readonly attempt: number; readonly kind: PackKind }
    | { readonly grantId: string };
};

/** What a task of each kind may leave. */
const kindsOf: Record<TaskKind, readonly PackKind[]> = {
  BASE: ["SHARD", "MANIFEST", "STATE"],
  TRAIN: ["SHARD", "MANIFEST", "STATE"],
  GENERATE: ["ROLLOUTS"],
  VERIFY: ["MEASUREMENT"],
  EVALUATE: ["SAMPLES"],
};

/** Largest blob of a kind, and what one attempt may upload in all, both in multiples of the largest pack. */
const shares: Record<PackKind, { blob: number; attempt: number }> = {
  ROLLOUTS: { blob: 1, attempt: 3 },
  MEASUREMENT: { blob: 1, attempt: 3 },
  SAMPLES: { blob: 1, attempt: 3 },
  BLIND: { blob: 1, attempt: 3 },
  BATCH: { blob: 1, attempt: 3 },
  MANIFEST: { blob: 1, attempt: 640 },
  SHARD: { blob: 1, attempt: 640 },
  // An optimizer's state is one file: twice the weights in float32.
  STATE: { blob: 160, attempt: 640 },
  BASE: { blob: 160, attempt: 160 },
};

/**
 * Stores a blob for an attempt of the asking node that is live (or expired while nobody else took the task), or for an upload grant.
 * The same blob again is answered like the first time.
 * @throws CodedError `FORBIDDEN`, `LEASE_LOST`, `NOT_FOUND`, `INPUT_INVALID`, `BLOB_TOO_LARGE`, `BLOB_QUOTA_EXCEEDED`, `BLOB_HASH_MISMATCH`, `STORAGE_FULL`
 */
export async function storeUpload(ctx: Ctx, upload: Upload): Promise<{ size: number }> {
  const { sha256 } = upload;
  if (!/^[0-9a-f]{64}$/.test(sha256))
    throw new CodedError("INPUT_INVALID", "A blob is named by its SHA-256 in lower-case hexadecimal.");
  const permit =
    "grantId" in upload.by
      ? await permitGrant(ctx, upload, upload.by.grantId)
      : await permitAttempt(ctx, upload, upload.by);
  if (permit.stored !== undefined) return { size: permit.stored };
  try {
    const { size } = await ctx.blobs.put(sha256, upload.source, {
      maxBytes: upload.size,
      signal: upload.signal,
    });
    if (size !== upload.size) {
      throw new CodedError(
        "BLOB_HASH_MISMATCH",
        `Content-Length said ${upload.size} bytes and ${size} came. Send the bytes again.`,
      );
    }
    const { kind, attemptId = null, grantId = null } = permit;
    // The date of an old, unreferenced row is renewed: garbage collection must not take what was just sent.
    await ctx.db.pool.query(
      `INSERT INTO "Pack" ("sha256", "kind", "size", "attemptId", "grantId") VALUES ($1, $2::"PackKind", $3, $4, $5)
       ON CONFLICT ("sha256") DO UPDATE SET "createdAt" = now()`,
      [sha256, kind, size, attemptId, grantId],
    );
    if (attemptId !== null && checkpointKinds.includes(kind))
      await noteUpload(ctx, { sha256, kind, attemptId });
    await permit.done();
    ctx.metrics.blobBytes.inc({ direction: "in" }, size);
    return { size };
  } catch (error) {
    await permit.refund();
    throw error;
  }
}

/** What a version consists of. A manifest may only name what its own run has been given: see training/provenance.ts. */
const checkpointKinds: readonly PackKind[] = ["SHARD", "MANIFEST", "STATE"];

/**
 * Notes that an attempt sent these very bytes. The same bytes may be known already, of another run, so the pack's row cannot say it.
 * The note also keeps the parts of a checkpoint that takes hours to send. It has its task and, unlike any other, the attempt as its subject.
 */
async function noteUpload(
  ctx: Ctx,
  { sha256, kind, attemptId }: { sha256: string; kind: PackKind; attemptId: string },
): Promise<void> {
  // The task's row is held so that its end, which drops the notes, comes before or after and never in between.
  await ctx.db.pool.query({
    name: "note-upload",
    text: `INSERT INTO "PackReference" ("id", "organizationId", "sha256", "runId", "taskId", "subject", "kind")
           SELECT $1::uuid, t."organizationId", $2::text, t."runId", t."id", a."id", $3::"PackKind"
           FROM "Attempt" a JOIN "Task" t ON t."id" = a."taskId"
           WHERE a."id" = $4 AND t."state" IN ('OPEN', 'LEASED') FOR SHARE OF t
           ON CONFLICT DO NOTHING`,
    values: [newId(), sha256, kind, attemptId],
  });
}

/** Drops the notes of a run's uploads: its new version refers to what it needs, or the run is over. */
export async function dropUploadNotes(tx: Tx, runId: string): Promise<void> {
  await tx.$executeRaw`
    DELETE FROM "PackReference" WHERE "runId" = ${runId}::uuid AND "taskId" IS NOT NULL AND subject <> "taskId"`;
}

type Permit = {
  kind: PackKind;
  attemptId?: string;
  grantId?: string;
  /** Bytes that are there already, from the same upload before: none is taken again. */
  stored?: number;
  done(): Promise<void>;
  refund(): Promise<void>;
};

async function permitAttempt(
  ctx: Ctx,
  upload: Upload,
  by: { taskId: string; attempt: number; kind: PackKind },
): Promise<Permit> {
  const { actor, config } = ctx;
  if (actor.kind !== "node") {
    throw new CodedError(
      "FORBIDDEN",
      "Blobs of a task are sent by the node that holds it. Register the node and claim the task.",
    );
  }
  assertSize(upload.size, by.kind, config);
  const most = await mostOfTask(ctx, by);
  if (upload.size > most)
    throw new CodedError(
      "BLOB_TOO_LARGE",
      `This task's ${by.kind} blob may have ${most} bytes; this one has ${upload.size}.`,
    );
  const quota = ofOnePack(by.kind)
    ? shares[by.kind].attempt * most
    : shares[by.kind].attempt * config.maxPackBytes;
  const together = ofOnePack(by.kind) ? packsOfNode * config.maxPackBytes : Number.MAX_SAFE_INTEGER;
  // Permitted and reserved in one statement before the first byte: many uploads at once cannot pass the quota together.
  // SUBMITTED too, because the answer to the first PUT or submission may have been lost.
  const { rows } = await ctx.db.pool.query<{ id: string }>({
    name: "reserve-upload",
    text: `UPDATE "Attempt" a SET "uploaded" = a."uploaded" + $4::bigint FROM "Task" t
           WHERE t."id" = a."taskId" AND a."taskId" = $1 AND a."number" = $2 AND a."nodeId" = $3
             AND (a."state" = 'LIVE' OR (a."state" IN ('EXPIRED', 'SUBMITTED') AND t."attempt" = a."number"))
             AND t."kind"::text = ANY($5) AND a."uploaded" + $4::bigint <= $6::bigint
             AND $4::bigint + (SELECT COALESCE(sum(o."uploaded"), 0) FROM "Attempt" o
               WHERE o."nodeId" = $3 AND o."state" IN ('LIVE', 'RELEASED', 'EXPIRED', 'CANCELLED')
                 AND o."claimedAt" > now() - make_interval(secs => $8)) <= $7::bigint
           RETURNING a."id"`,
    values: [
      by.taskId,
      by.attempt,
      actor.nodeId,
      upload.size,
      makersOf(by.kind),
      quota,
      together,
      config.blobGraceSeconds,
    ],
  });
  const attemptId = rows[0]?.id ?? (await refuseAttempt(ctx, actor.nodeId, by, quota));
  return {
    kind: by.kind,
    attemptId,
    done: async () => {},
    refund: async () => {
      await ctx.db.pool.query(
        'UPDATE "Attempt" SET "uploaded" = greatest(0, "uploaded" - $2::bigint) WHERE "id" = $1',
        [attemptId, upload.size],
      );
    },
  };
}

/** Packs that are one blob, made for one task. */
const ofOnePack = (kind: PackKind) => kind === "ROLLOUTS" || kind === "MEASUREMENT" || kind === "SAMPLES";

/** What the attempts of one node that came to nothing may leave here together until garbage collection, in multiples of the largest pack. */
const packsOfNode = 16;

/** Largest blob of this kind that the task can need. */
async function mostOfTask(ctx: Ctx, by: { taskId: string; kind: PackKind }): Promise<number> {
  const { maxPackBytes } = ctx.config;
  const task = ofOnePack(by.kind)
    ? await ctx.prisma.task.findUnique({
        where: { id: by.taskId },
        select: { runId: true, revision: true, kind: true },
      })
    : null;
  // Of a task that is not there, or leaves something else, we say so further down.
  if (task === null || !kindsOf[task.kind].includes(by.kind)) return shares[by.kind].blob * maxPackBytes;
  const spec = await specOf(ctx.prisma, task.runId, task.revision);
  return Math.min(maxPackBytes, mostPackBytes(spec, task.kind));
}

/** Says why an attempt may not upload. */
async function refuseAttempt(
  ctx: Ctx,
  nodeId: string,
  by: { taskId: string; attempt: number; kind: PackKind },
  quota: number,
): Promise<never> {
  const attempt = await ctx.prisma.attempt.findUnique({
    where: { taskId_number: { taskId: by.taskId, number: by.attempt } },
    select: { nodeId: true, state: true, number: true, task: { select: { kind: true, attempt: true } } },
  });
  // Somebody else's attempt is answered like one that does not exist.
  if (attempt === null || attempt.nodeId !== nodeId) throw notFound("The attempt");
  const { task, state, number } = attempt;
  const late = (state === "EXPIRED" || state === "SUBMITTED") && task.attempt === number;
  if (state !== "LIVE" && !late) {
    throw new CodedError(
      "LEASE_LOST",
      `The attempt is ${state} and the task is no longer this node's. Drop the work and claim again.`,
    );
  }
  if (!kindsOf[task.kind].includes(by.kind)) {
    const kinds = kindsOf[task.kind].join(", ");
    throw new CodedError("INPUT_INVALID", `A ${task.kind} task leaves ${kinds}, not ${by.kind}.`);
  }
  throw new CodedError(
    "BLOB_QUOTA_EXCEEDED",
    `An attempt may upload ${quota} bytes in all, or this node has sent too much for tasks it never finished. Release the task.`,
  );
}

/** The kinds of task that leave such a blob. */
function makersOf(kind: PackKind): string[] {
  return Object.entries(kindsOf).flatMap(([task, kinds]) => (kinds.includes(kind) ? [task] : []));
}

async function permitGrant(ctx: Ctx, upload: Upload, grantId: string): Promise<Permit> {
  const grant = await ctx.prisma.uploadGrant.findUnique({ where: { id: grantId } });
  if (grant === null || grant.sha256 !== upload.sha256 || grant.expiresAt <= new Date()) {
    throw new CodedError(
      "FORBIDDEN",
      "The upload grant is unknown, expired or for another blob. Ask for a new one with createUpload.",
    );
  }
  if (BigInt(upload.size) > grant.maxSize)
    throw new CodedError("BLOB_TOO_LARGE", `The grant is for ${grant.maxSize} bytes.`);
  // Taken before the first byte: whoever has the URL could otherwise write as often and as many at once as he likes.
  const { count } = await ctx.prisma.uploadGrant.updateMany({
    where: { id: grantId, usedAt: null },
    data: { usedAt: new Date() },
  });
  const stored = count === 0 ? await ctx.blobs.size(upload.sha256) : undefined;
  if (count === 0 && stored === undefined)
    throw new CodedError(
      "STATE_CONFLICT",
      "The upload grant is being used, or its upload was cut off. Wait, or ask for a new one with createUpload.",
    );
  return {
    kind: grant.kind,
    grantId,
    ...(stored === undefined ? {} : { stored }),
    done: async () => {},
    refund: async () => {
      await ctx.prisma.uploadGrant.update({ where: { id: grantId }, data: { usedAt: null } });
    },
  };
}

function assertSize(size: number, kind: PackKind, { maxPackBytes }: Config): void {
  const most = shares[kind].blob * maxPackBytes;
  if (size > most)
    throw new CodedError("BLOB_TOO_LARGE", `A ${kind} blob may have ${most} bytes; this one has ${size}.`);
}

const grantMs = 3_600_000;

/** What an organization may announce before garbage collection has seen it, in multiples of the largest base. */
const basesOfOrganization = 4;

export type UploadGrantInput = {
  readonly organizationId: string;
  readonly sha256: string;
  readonly size: bigint;
};

/**
 * An organizer's permission to PUT one blob, such as the base model of a run to come: whoever has the URL may use it, for this hash only.
 * @throws CodedError `FORBIDDEN`, `UNAUTHENTICATED`, `INPUT_INVALID` or `BLOB_TOO_LARGE`
 */
export async function createUpload(
  ctx: Ctx,
  { organizationId, sha256, size }: UploadGrantInput,
): Promise<{ url: string; expiresAt: Date }> {
  assertAllowed(ctx.actor, "upload:create", organizationId);
  if (!/^[0-9a-f]{64}$/.test(sha256))
    throw new CodedError("INPUT_INVALID", "`sha256` must be a SHA-256 in lower-case hexadecimal.");
  if (size <= 0n) throw new CodedError("INPUT_INVALID", "`size` is the blob's size in bytes.");
  assertSize(Number(size), "BASE", ctx.config);
  const { actor, config } = ctx;
  const most = basesOfOrganization * shares.BASE.blob * config.maxPackBytes;
  const grant = await ctx.prisma.$transaction(async (tx) => {
    await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('upload:' || ${organizationId}, 0))`;
    const { _sum } = await tx.uploadGrant.aggregate({
      where: {
        organizationId,
        createdAt: { gt: new Date(Date.now() - grantMs - config.blobGraceSeconds * 1000) },
      },
      _sum: { maxSize: true },
    });
    if ((_sum.maxSize ?? 0n) + size > BigInt(most))
      throw new CodedError(
        "BLOB_QUOTA_EXCEEDED",
        `An organization may announce ${most} bytes within ${Math.round(config.blobGraceSeconds / 60 + grantMs / 60_000)} minutes. Try again later.`,
      );
    return await tx.uploadGrant.create({
      data: {
        id: newId("grant"),
        organizationId,
        userId: actor.kind === "person" ? actor.userId : null,
        kind: "BASE",
        sha256,
        maxSize: size,
        expiresAt: new Date(Date.now() + grantMs),
      },
    });
  });
  return {
    url: `${ctx.publicUrl}/blobs/${sha256}?grant=${toTypeId("grant", grant.id)}`,
    expiresAt: grant.expiresAt,
  };
}
