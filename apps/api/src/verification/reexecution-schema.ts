import type { Probe } from "@muster/db";
import { decodeMeasurementPack, decodeRolloutPack } from "@muster/protocol";
import type { GroupDecision } from "@muster/verification";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { specOf } from "../runs/spec.ts";
import { verdictOf } from "./judging.ts";
import { CheckResultRef, VerdictEnum } from "./schema.ts";

// What the organizer's own validators found when they measured a group again, to be laid beside the verdict on record.

const Finding = builder.objectRef<GroupDecision>("ReexecutionFinding").implement({
  description: "The verdict that follows from a re-execution's measurement, with every check.",
  authScopes: { can: "rollout:read" },
  fields: (t) => ({
    verdict: t.expose("verdict", { type: VerdictEnum }),
    checks: t.expose("checks", { type: [CheckResultRef] }),
  }),
});

builder.prismaObjectField("Probe", "finding", (t) =>
  t.field({
    // Two packs are read and decoded.
    extensions: { cost: 500 },
    type: Finding,
    nullable: true,
    description: "What a re-execution found; null for a canary, and when retention deleted a pack.",
    select: { taskId: true },
    resolve: async ({ taskId }, _args, ctx) =>
      findingOf(ctx, await ctx.prisma.probe.findUniqueOrThrow({ where: { taskId } })),
  }),
);

builder.prismaObjectField("Case", "reexecutions", (t) =>
  t.prismaField({
    type: ["Probe"],
    nullable: true,
    description:
      "Decided re-executions of its group, oldest first; null to whoever is not of the organization.",
    // The organization's: who owns the accused node reads the case, and may belong to another one.
    authScopes: ({ organizationId }, _args, { actor }) => allows(actor, "rollout:read", organizationId),
    unauthorizedResolver: () => null,
    select: { groupId: true },
    resolve: (query, { groupId }, _args, ctx) =>
      ctx.prisma.probe.findMany({
        ...query,
        where: { groupId, purpose: "REEXECUTION", outcome: { not: null } },
        orderBy: { decidedAt: "asc" },
        take: 10,
      }),
  }),
);

async function findingOf(ctx: Ctx, probe: Probe): Promise<GroupDecision | null> {
  const { measurementHash } = probe;
  if (probe.purpose !== "REEXECUTION" || measurementHash === null) return null;
  const { task, rollouts, ...group } = await ctx.prisma.group.findUniqueOrThrow({
    where: { id: probe.groupId },
    include: {
      task: { select: { revision: true } },
      rollouts: { orderBy: { index: "asc" }, select: { id: true, reward: true } },
    },
  });
  for (const kept of [measurementHash, group.packHash]) if (!(await ctx.blobs.has(kept))) return null;
  const spec = await specOf(ctx.prisma, probe.runId, task.revision);
  const pack = decodeRolloutPack(await ctx.blobs.read(group.packHash));
  const measurement = decodeMeasurementPack(await ctx.blobs.read(measurementHash));
  const found = await verdictOf(ctx, { group, spec, rollouts }, pack, measurement);
  return typeof found === "string" ? null : found;
}
