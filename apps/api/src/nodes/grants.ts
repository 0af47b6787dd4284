import type { Role, RoleGrant } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { joinRun } from "../verification/trust.ts";

export type GrantInput = {
  readonly runId: string;
  readonly nodeId: string;
  /** WORKER needs no grant: it is refused. */
  readonly role: Role | "WORKER";
  /** VALIDATOR only: the organizer runs the node itself, so it may re-execute what others measured. Default false. */
  readonly own?: boolean;
};

/**
 * Grants a role to a node for a run; granting it again changes nothing but `own`.
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `UNAUTHENTICATED` or `INPUT_INVALID`
 */
export async function grantRole(
  ctx: Ctx,
  { runId, nodeId, role, own = false }: GrantInput,
): Promise<RoleGrant> {
  const granted = grantable(role);
  if (own && granted !== "VALIDATOR")
    throw new CodedError("INPUT_INVALID", "Only a VALIDATOR can be the organizer's own.");
  const grant = await ctx.prisma.$transaction(async (tx) => {
    const organizationId = await assertMayGrant(tx, ctx, runId);
    const node = await tx.node.findUnique({ where: { id: nodeId }, select: { id: true } });
    if (node === null) throw notFound("The node");
    await joinRun(tx, { runId, nodeId, organizationId });
    const key = { runId_nodeId_role: { runId, nodeId, role: granted } };
    const present = await tx.roleGrant.findUnique({ where: key });
    if (present !== null && present.revokedAt === null && present.own === own) return present;
    const grantedById = ctx.actor.kind === "person" ? ctx.actor.userId : null;
    await tx.roleGrant.createMany({
      data: [{ organizationId, runId, nodeId, role: granted }],
      skipDuplicates: true,
    });
    const made = await tx.roleGrant.update({ where: key, data: { revokedAt: null, grantedById, own } });
    await tellGrant(tx, made);
    return made;
  });
  ctx.bus.publish("events");
  // The node may have tried before it was allowed.
  for (const kind of kindsOf[granted]) ctx.bus.publish(`offers:${kind}`);
  return grant;
}

/**
 * Takes a role back. Leases the node holds are not renewed any more, and it gets no new ones.
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `UNAUTHENTICATED` or `INPUT_INVALID`
 */
export async function revokeRole(ctx: Ctx, { runId, nodeId, role }: GrantInput): Promise<RoleGrant> {
  const granted = grantable(role);
  const grant = await ctx.prisma.$transaction(async (tx) => {
    await assertMayGrant(tx, ctx, runId);
    const key = { runId_nodeId_role: { runId, nodeId, role: granted } };
    const present = await tx.roleGrant.findUnique({ where: key });
    if (present === null) throw notFound("The grant");
    if (present.revokedAt !== null) return present;
    const revoked = await tx.roleGrant.update({ where: key, data: { revokedAt: new Date() } });
    await tellGrant(tx, revoked);
    return revoked;
  });
  ctx.bus.publish("events");
  return grant;
}

const kindsOf: Record<Role, readonly string[]> = {
  VALIDATOR: ["VERIFY"],
  TRAINER: ["BASE", "TRAIN"],
  EVALUATOR: ["EVALUATE"],
  RELAY: [],
};

function grantable(role: Role | "WORKER"): Role {
  if (role !== "WORKER") return role;
  throw new CodedError(
    "INPUT_INVALID",
    "Generating needs no grant: any node works for an open run. Grant VALIDATOR, TRAINER, EVALUATOR or RELAY.",
  );
}

async function assertMayGrant(tx: Tx, { actor }: Ctx, runId: string): Promise<string> {
  const run = await tx.run.findUnique({ where: { id: runId }, select: { organizationId: true } });
  // Who may not even read the run hears nothing of it.
  if (run === null || (actor.kind !== "anonymous" && !allows(actor, "run:read", run.organizationId)))
    throw notFound("The run");
  assertAllowed(actor, "node:grant", run.organizationId);
  return run.organizationId;
}

async function tellGrant(tx: Tx, grant: RoleGrant): Promise<void> {
  await appendEvents(tx, [
    {
      stream: runStream(grant.runId),
      organizationId: grant.organizationId,
      type: "grant.changed",
      subject: toTypeId("node", grant.nodeId),
      data: { role: grant.role, granted: grant.revokedAt === null, own: grant.own },
    },
  ]);
}
