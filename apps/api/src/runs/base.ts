import type { Run } from "@muster/db";
import { fromTypeId, parseManifest, type RunSpec, type RunSpecIssue } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { openTask } from "../tasks/lease.ts";

/** Where a run's version 0 comes from, when it is something that must be there already. */
export type BaseSource = {
  readonly manifest: string | null;
  readonly packs: readonly { sha256: string; kind: "MANIFEST" | "SHARD" | "BASE" }[];
};

/** Finds what `spec.base` names, in the same organization. */
export async function findBase(
  ctx: Ctx,
  organizationId: string,
  spec: RunSpec,
): Promise<BaseSource | RunSpecIssue> {
  switch (spec.base.kind) {
    case "warmup":
      return { manifest: null, packs: [] };
    case "checkpoint": {
      const runId = uuidOf(spec.base.run);
      const checkpoint =
        runId === undefined
          ? null
          : await ctx.prisma.checkpoint.findFirst({
              where: { organizationId, runId, version: spec.base.version, state: "AVAILABLE" },
            });
      if (checkpoint === null)
        return {
          path: "base",
          message: `Version ${spec.base.version} of ${spec.base.run} is not available in this organization.`,
        };
      const manifest = parseManifest(await ctx.blobs.read(checkpoint.manifestHash));
      const shards = manifest.files.flatMap((file) => file.shards.map((shard) => shard.sha256));
      return {
        manifest: checkpoint.manifestHash,
        packs: [
          { sha256: checkpoint.manifestHash, kind: "MANIFEST" },
          ...[...new Set(shards)].map((sha256) => ({ sha256, kind: "SHARD" as const })),
        ],
      };
    }
    case "upload": {
      const { sha256 } = spec.base;
      const grant = await ctx.prisma.uploadGrant.findFirst({
        where: { organizationId, sha256, kind: "BASE", usedAt: { not: null } },
      });
      if (grant === null || !(await ctx.blobs.has(sha256)))
        return {
          path: "base.sha256",
          message:
            "Nothing was uploaded under this hash. Ask for an upload with createUpload, PUT the file, then create the run.",
        };
      return { manifest: null, packs: [{ sha256, kind: "BASE" }] };
    }
  }
}

/** Opens the task that publishes version 0. What it starts from was referenced for the run when the run was created. */
export async function openBase(tx: Tx, run: Run, spec: RunSpec): Promise<void> {
  const parent =
    spec.base.kind === "checkpoint"
      ? await tx.packReference.findFirst({
          where: { runId: run.id, subject: run.id, kind: "MANIFEST" },
          select: { sha256: true },
        })
      : null;
  const taskId = await openTask(tx, {
    organizationId: run.organizationId,
    runId: run.id,
    kind: "BASE",
    revision: run.revision,
    payload: {
      kind: "BASE",
      environment: spec.environment,
      model: spec.model,
      seed: spec.seed,
      base: spec.base,
      parent: parent?.sha256 ?? null,
    },
  });
  if (spec.base.kind !== "upload") return;
  // The trainer that holds the lease may read the upload.
  await tx.packReference.create({
    data: {
      organizationId: run.organizationId,
      runId: run.id,
      taskId,
      subject: taskId,
      sha256: spec.base.sha256,
      kind: "BASE",
    },
  });
}

function uuidOf(runTypeId: string): string | undefined {
  try {
    return fromTypeId(runTypeId, "run");
  } catch {
    return undefined;
  }
}
