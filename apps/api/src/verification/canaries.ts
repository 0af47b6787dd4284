import type { Group, Task, Verification } from "@muster/db";
import {
  decodeMeasurementPack,
  decodeRolloutPack,
  environment,
  groupOf,
  type RunSpec,
} from "@muster/protocol";
import type { Ctx } from "../context.ts";
import type { Loop } from "../loops.ts";
import { specOf } from "../runs/spec.ts";
import { openTasks, uncountedId } from "../tasks/lease.ts";
import { epochKeyOf, secretDraws } from "./audit.ts";
import { writeBlindPack } from "./blind.ts";
import { type CanaryPurpose, canaryKey, firstTasks, nextCanary, shapeCanary } from "./canary.ts";
import { insertProbes, openReexecutions, ownValidators } from "./reexecution.ts";

/** Slips canaries among the audits that wait. */
export const canaryLoop: Loop = {
  name: "canaries",
  everyMs: 2_000,
  // A validator that has just come must not be through with its first tasks before its first canary is among them.
  atLeastMs: 500,
  topics: ["run:*"],
  leader: true,
  run: openCanaries,
};

/** Opens every canary that is due in any run. @returns how many */
export async function openCanaries(ctx: Ctx): Promise<number> {
  const runs = await ctx.prisma.$queryRaw<{ id: string }[]>`
    SELECT r.id FROM "Run" r WHERE r.state = 'RUNNING' AND r."stateReason" IS NULL
      AND (EXISTS (SELECT 1 FROM "Task" t WHERE t."runId" = r.id AND t.kind = 'VERIFY' AND t.state IN ('OPEN', 'LEASED'))
        OR EXISTS (SELECT 1 FROM "Verification" v WHERE v."runId" = r.id AND v."createdAt" > now() - interval '1 minute'))`;
  let opened = 0;
  for (const { id: runId } of runs) {
    try {
      for (const validator of await dueValidators(ctx, runId)) {
        if (await openCanary(ctx, runId, validator)) opened++;
      }
    } catch (error) {
      // One run's trouble is not the others': it is tried again at the next turn.
      ctx.log.error({ err: error, run: runId }, "watching a run's validators failed");
    }
  }
  if (opened > 0) ctx.bus.publish("offers:VERIFY");
  return opened;
}

type Due = { readonly nodeId: string; readonly purpose: CanaryPurpose; readonly place: number };

/** Validators whose next tasks hold a canary. `place`: how many audits they take before it. */
async function dueValidators(ctx: Ctx, runId: string): Promise<Due[]> {
  const validators = await ctx.prisma.$queryRaw<
    { nodeId: string; had: number; issued: number; open: number; present: boolean }[]
  >`
    SELECT g."nodeId",
      ((SELECT count(*) FROM "Verification" v WHERE v."validatorNodeId" = g."nodeId" AND v."runId" = g."runId")
        + (SELECT count(*) FROM "Probe" p WHERE p."runId" = g."runId" AND p."nodeId" = g."nodeId" AND p."measurementHash" IS NOT NULL)
        + (SELECT count(*) FROM "Attempt" a JOIN "Task" t ON t.id = a."taskId"
            WHERE a."nodeId" = g."nodeId" AND a.state = 'LIVE' AND a."runId" = g."runId" AND t.kind = 'VERIFY'))::int AS had,
      (SELECT count(*) FROM "Probe" p JOIN "Task" t ON t.id = p."taskId" WHERE p."runId" = g."runId" AND p."nodeId" = g."nodeId"
        AND p.purpose <> 'REEXECUTION' AND (p.outcome IS NULL OR t.attempt > 0))::int AS issued,
      (SELECT count(*) FROM "Probe" p WHERE p."runId" = g."runId" AND p."nodeId" = g."nodeId" AND p.purpose <> 'REEXECUTION'
        AND p.outcome IS NULL)::int AS open,
      -- Who measures is there, whether it says so or not.
      (n."lastSeenAt" > now() - interval '2 minutes' OR EXISTS (SELECT 1 FROM "Verification" v
        WHERE v."validatorNodeId" = g."nodeId" AND v."runId" = g."runId" AND v."createdAt" > now() - interval '1 day')) AS present
    FROM "RoleGrant" g JOIN "Node" n ON n.id = g."nodeId"
      LEFT JOIN "NodeTrust" t ON t."runId" = g."runId" AND t."nodeId" = g."nodeId"
    WHERE g."runId" = ${runId}::uuid AND g.role = 'VALIDATOR' AND g."revokedAt" IS NULL
      AND (t.state IS NULL OR t.state NOT IN ('QUARANTINED', 'EJECTED'))`;
  const own = await ownValidators(ctx.prisma, runId);
  const key = canaryKey(ctx.config.secret, runId);
  return validators.flatMap(({ nodeId, had, issued, open, present }) => {
    const { at, purpose } = nextCanary(key, nodeId, issued);
    // One at a time, but both of the first when it took its first tasks before there was anything to make them of.
    // What is known is known from another than itself.
    if (!present || [...own].every((id) => id === nodeId)) return [];
    if ((open > 0 && issued >= 2) || at > had + mostClaimed) return [];
    return [{ nodeId, purpose, place: Math.max(0, at - had - 1) }];
  });
}

/** What a validator may take in one claim: a canary is put among the next tasks, so it must be there before they are claimed. */
const mostClaimed = 16;

type Source = Group & { verificationId: string; verifyTaskId: string; measurementHash: string };

async function openCanary(ctx: Ctx, runId: string, { nodeId, purpose, place }: Due): Promise<boolean> {
  const waiting = await ctx.prisma.task.findMany({
    // Untouched ones: what somebody gave back is older than what the validator has seen the end of, and a canary has no such excuse.
    where: { runId, kind: "VERIFY", state: "OPEN", attempt: 0, NOT: { excludedNodes: { has: nodeId } } },
    orderBy: { id: "asc" },
    take: firstTasks,
  });
  const neighbour = waiting[Math.min(place, waiting.length - 1)];
  // Whoever is so fast that nothing ever waits gets one by itself, as single audits come.
  const pattern = neighbour ?? (place === 0 ? await measuredLast(ctx, runId, nodeId) : null);
  if (pattern?.policyVersion == null || pattern.manifestHash === null) return false;
  const { policyVersion, manifestHash, revision } = pattern;
  const sources = await knownGroups(ctx, { runId, nodeId, policyVersion, revision });
  for (const source of sources) {
    const spec = await specOf(ctx.prisma, runId, revision);
    const made = await makeCanary(ctx, source, purpose, spec);
    if (made === null) continue;
    // Among the audits it waits with: made later and still not newer than they are, for a task's id and date are no secret.
    const id = uncountedId(neighbour?.id);
    await ctx.prisma.$transaction(async (tx) => {
      await tx.pack.createMany({
        data: [{ sha256: made.sha256, size: BigInt(made.size), kind: "BLIND" }],
        skipDuplicates: true,
      });
      const { organizationId } = source;
      await openTasks(tx, [
        {
          id,
          organizationId,
          runId,
          kind: "VERIFY",
          revision,
          policyVersion,
          manifestHash,
          payload: { kind: "VERIFY", manifest: manifestHash, blind: made.sha256 },
          excludedNodes: [source.nodeId],
        },
      ]);
      if (neighbour !== undefined)
        await tx.task.update({ where: { id }, data: { createdAt: neighbour.createdAt } });
      await insertProbes(tx, [
        {
          taskId: id,
          organizationId,
          runId,
          groupId: source.id,
          policyVersion,
          purpose,
          verificationId: source.verificationId,
          blindHash: made.sha256,
          edits: made.shape,
          nodeId,
        },
      ]);
    });
    return true;
  }
  if (sources.length === 0) await askForSource(ctx, { runId, nodeId, policyVersion, revision });
  return false;
}

/** The audit that a validator measured last, if it was just now. */
async function measuredLast(ctx: Ctx, runId: string, nodeId: string): Promise<Task | null> {
  const last = await ctx.prisma.verification.findFirst({
    where: { runId, validatorNodeId: nodeId, createdAt: { gt: new Date(Date.now() - 60_000) } },
    orderBy: { createdAt: "desc" },
    select: { taskId: true },
  });
  return last && ctx.prisma.task.findUnique({ where: { id: last.taskId } });
}

/** What a canary and its source have in common: another revision may measure otherwise. */
type Like = {
  readonly runId: string;
  readonly nodeId: string;
  readonly policyVersion: number;
  readonly revision: number;
};

/**
 * Accepted groups of a version whose measurement is beyond doubt, which this validator has never seen and nobody has fetched as a canary:
 * measured by one of the organizer's own, or measured again by one and found right. The newest first, those only its own have seen before others, since
 * strangers may tell each other.
 */
async function knownGroups(ctx: Ctx, { runId, nodeId, policyVersion, revision }: Like): Promise<Source[]> {
  const own = [...(await ownValidators(ctx.prisma, runId))].filter((id) => id !== nodeId);
  return ctx.prisma.$queryRaw<Source[]>`
    SELECT g.*, v.id AS "verificationId", v."taskId" AS "verifyTaskId", v."measurementHash"
    FROM "Group" g JOIN "Verification" v ON v."groupId" = g.id JOIN "Task" t ON t.id = g."taskId" AND t.revision = ${revision}
    WHERE g."runId" = ${runId}::uuid AND g.state IN ('ACCEPTED', 'SET_ASIDE') AND g."policyVersion" = ${policyVersion}
      AND g."nodeId" <> ${nodeId}::uuid AND v.verdict = 'ACCEPTED' AND v."validatorNodeId" <> ${nodeId}::uuid
      AND (v."validatorNodeId" = ANY(${own}::uuid[])
        OR EXISTS (SELECT 1 FROM "Probe" p WHERE p."verificationId" = v.id AND p.purpose = 'REEXECUTION' AND p.outcome = 'AGREED'
          AND p."nodeId" = ANY(${own}::uuid[])))
      AND NOT EXISTS (SELECT 1 FROM "Verification" m WHERE m."groupId" = g.id AND m."validatorNodeId" = ${nodeId}::uuid)
      AND NOT EXISTS (SELECT 1 FROM "Probe" p JOIN "Task" k ON k.id = p."taskId" WHERE p."groupId" = g.id
        AND CASE p.purpose WHEN 'REEXECUTION' THEN p."nodeId" = ${nodeId}::uuid ELSE p.outcome IS NULL OR k.attempt > 0 END)
    ORDER BY (v."validatorNodeId" = ANY(${own}::uuid[])) DESC, g.id DESC LIMIT 8`;
}

async function makeCanary(ctx: Ctx, source: Source, purpose: CanaryPurpose, spec: RunSpec) {
  const env = environment(spec.environment);
  const pack = decodeRolloutPack(await ctx.blobs.read(source.packHash));
  const known = decodeMeasurementPack(await ctx.blobs.read(source.measurementHash));
  const key = await epochKeyOf(ctx, source.runId, source.epoch);
  const made = shapeCanary(secretDraws(key, source).canary, purpose, {
    rollouts: groupOf(pack, source.index, spec.generation.groupSize),
    known,
    vocabularySize: env.tokenizer.vocabularySize,
    eos: env.tokenizer.eos,
  });
  if (made === null) return null;
  const blind = await writeBlindPack(ctx, {
    spec,
    taskId: source.taskId,
    manifest: pack.header.manifest,
    eos: env.tokenizer.eos,
    rollouts: made.rollouts,
  });
  const { order, edits } = made.shape;
  return { ...blind, shape: { order: [...order], edits: edits.map((edit) => ({ ...edit })) } };
}

/** No group will do: has one measured again, which makes it known. */
async function askForSource(ctx: Ctx, { runId, nodeId, policyVersion, revision }: Like): Promise<void> {
  const pending = await ctx.prisma.probe.count({
    where: { runId, policyVersion, purpose: "REEXECUTION", outcome: null },
  });
  if (pending > 0) return;
  const candidate: (Group & { verifications: Verification[] }) | null = await ctx.prisma.group.findFirst({
    where: {
      runId,
      policyVersion,
      task: { revision },
      state: { in: ["ACCEPTED", "SET_ASIDE"] },
      nodeId: { not: nodeId },
      probes: { none: {} },
      verifications: { some: { verdict: "ACCEPTED" }, none: { validatorNodeId: nodeId } },
    },
    include: { verifications: { where: { verdict: "ACCEPTED" }, orderBy: { createdAt: "desc" }, take: 1 } },
    orderBy: { id: "desc" },
  });
  const verification = candidate?.verifications[0];
  if (candidate === null || verification === undefined) return;
  const { verifications: _, ...group } = candidate;
  await ctx.prisma.$transaction((tx) => openReexecutions(tx, runId, [{ group, verification }]));
  ctx.bus.publish("offers:VERIFY");
}
