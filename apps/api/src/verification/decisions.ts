import type { Case, CaseState, NodeTrust } from "@muster/db";
import { toTypeId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { nudgeRun } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { storable } from "../storable.ts";
import { caseEntry, overturnCase, reexecuteCase, tellCase, upholdCase } from "./cases.ts";
import { recordEntries } from "./record.ts";
import { ownValidators } from "./reexecution.ts";
import { lockStandings, replayStanding } from "./trust.ts";

// What people and accused nodes may do about a case or a quarantine.

const longestStatement = 2_000;

/** Whether the actor may know of a case: the run's organization, the accused node, and the person who owns it. */
export function maySeeCase(
  { actor }: Pick<Ctx, "actor">,
  accused: { organizationId: string; nodeId: string; ownerId: string | null },
): boolean {
  if (actor.kind === "node") return actor.nodeId === accused.nodeId;
  if (allows(actor, "rollout:read", accused.organizationId)) return true;
  return actor.kind === "person" && actor.userId === accused.ownerId;
}

/**
 * The accused's objection. Somebody else than before measures the group again where there is somebody; then the organizer decides.
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `INPUT_INVALID`, or `STATE_CONFLICT` when it is decided, disputed already or too late
 */
export async function disputeCase(ctx: Ctx, input: { caseId: string; statement: string }): Promise<Case> {
  const statement = sentenceOf(input.statement, "statement");
  const found = await findCase(ctx, input.caseId);
  const { actor } = ctx;
  const accused =
    actor.kind === "node"
      ? actor.nodeId === found.nodeId
      : actor.kind === "person" && actor.userId === found.ownerId;
  if (!accused)
    throw new CodedError("FORBIDDEN", "Only the accused node, or the person who owns it, objects.");
  const disputed = await ctx.prisma.$transaction(async (tx) => {
    await lockStandings(tx, found.runId, [found.nodeId]);
    const current = await tx.case.findUniqueOrThrow({ where: { id: found.id } });
    if (current.state !== "OPEN")
      throw new CodedError("STATE_CONFLICT", `The case is ${current.state}: ${current.decision ?? ""}`);
    if (current.disputedAt !== null)
      throw new CodedError("STATE_CONFLICT", "The case is disputed already; the organizer decides.");
    if (current.openUntil < new Date())
      throw new CodedError(
        "STATE_CONFLICT",
        `The dispute window ended at ${current.openUntil.toISOString()}. Write to the organizer.`,
      );
    const updated = await tx.case.update({
      where: { id: current.id },
      data: { statement, disputedAt: new Date() },
    });
    if (updated.confirmed !== null && (await hasFreshEyes(tx, updated))) await reexecuteCase(tx, updated);
    await tellCase(tx, updated, "case.disputed", { statement });
    await recordEntries(tx, [caseEntry(updated, "case.disputed", { statement })]);
    return updated;
  });
  nudgeRun(ctx, found.runId);
  ctx.bus.publish("offers:VERIFY");
  return disputed;
}

/** Whether one of the organizer's own validators has not measured the group yet. */
async function hasFreshEyes(tx: Tx, accused: Case): Promise<boolean> {
  const probes = await tx.probe.findMany({ where: { groupId: accused.groupId }, select: { nodeId: true } });
  const verdicts = await tx.verification.findMany({
    where: { groupId: accused.groupId },
    select: { validatorNodeId: true },
  });
  const eyes = new Set([
    accused.nodeId,
    ...probes.map(({ nodeId }) => nodeId),
    ...verdicts.map(({ validatorNodeId }) => validatorNodeId),
  ]);
  return [...(await ownValidators(tx, accused.runId))].some((nodeId) => !eyes.has(nodeId));
}

/**
 * The organizer's word. An open case may be decided either way, an upheld one still be overturned.
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `INPUT_INVALID` or `STATE_CONFLICT`
 */
export async function decideCase(
  ctx: Ctx,
  input: { caseId: string; decision: CaseState; reason: string },
): Promise<Case> {
  if (input.decision === "OPEN")
    throw new CodedError("INPUT_INVALID", "A case is decided UPHELD or OVERTURNED.");
  const decision = sentenceOf(input.reason, "reason");
  const found = await findCase(ctx, input.caseId);
  assertAllowed(ctx.actor, "case:decide", found.organizationId);
  const by = { decision, decidedById: ctx.actor.kind === "person" ? ctx.actor.userId : null };
  const decided = await ctx.prisma.$transaction(async (tx) => {
    await lockStandings(tx, found.runId, [found.nodeId]);
    const current = await tx.case.findUniqueOrThrow({ where: { id: found.id } });
    const open = current.state === "OPEN" || (current.state === "UPHELD" && input.decision === "OVERTURNED");
    if (!open)
      throw new CodedError(
        "STATE_CONFLICT",
        `The case is ${current.state} since ${current.decidedAt?.toISOString()}.`,
      );
    if (input.decision === "UPHELD") await upholdCase(tx, current, by);
    else await overturnCase(tx, current, by);
    return tx.case.findUniqueOrThrow({ where: { id: found.id } });
  });
  nudgeRun(ctx, found.runId);
  return decided;
}

/**
 * Lifts a quarantine: the node begins anew, under full audits; one more failure quarantines it again.
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, `INPUT_INVALID`, or `STATE_CONFLICT` when the node is not quarantined
 */
export async function reinstateNode(
  ctx: Ctx,
  input: { runId: string; nodeId: string; reason: string },
): Promise<NodeTrust> {
  const { runId, nodeId } = input;
  const reason = sentenceOf(input.reason, "reason");
  const run = await ctx.prisma.run.findUnique({ where: { id: runId } });
  if (run === null || (ctx.actor.kind !== "anonymous" && !allows(ctx.actor, "run:read", run.organizationId)))
    throw notFound("The run");
  const { organizationId } = run;
  assertAllowed(ctx.actor, "case:decide", organizationId);
  const key = { runId_nodeId: { runId, nodeId } };
  const by = ctx.actor.kind === "person" ? toTypeId("user", ctx.actor.userId) : null;
  const standing = await ctx.prisma.$transaction(async (tx) => {
    await lockStandings(tx, runId, [nodeId]);
    const before = await tx.nodeTrust.findUnique({ where: key });
    if (before === null) throw notFound("The node in this run");
    if (before.state !== "QUARANTINED")
      throw new CodedError("STATE_CONFLICT", `The node is ${before.state}, not QUARANTINED.`);
    await tx.nodeTrust.update({ where: key, data: { distrustedAt: null } });
    await tx.nodeOutcome.create({ data: { runId, nodeId, organizationId, kind: "REINSTATED", reason } });
    await replayStanding(tx, { runId, nodeId, organizationId, spec: await specOf(tx, runId, run.revision) });
    await recordEntries(tx, [
      {
        runId,
        organizationId,
        kind: "node.reinstated",
        subject: toTypeId("node", nodeId),
        data: { reason, by },
      },
    ]);
    return tx.nodeTrust.findUniqueOrThrow({ where: key });
  });
  nudgeRun(ctx, runId);
  for (const kind of ["GENERATE", "VERIFY"] as const) ctx.bus.publish(`offers:${kind}`);
  return standing;
}

async function findCase(ctx: Ctx, caseId: string): Promise<Case & { ownerId: string | null }> {
  const found = await ctx.prisma.case.findUnique({
    where: { id: caseId },
    include: { group: { select: { node: { select: { ownerId: true } } } } },
  });
  if (found === null) throw notFound("The case");
  const { group, ...accused } = found;
  const visible = { ...accused, ownerId: group.node.ownerId };
  if (ctx.actor.kind !== "anonymous" && !maySeeCase(ctx, visible)) throw notFound("The case");
  if (ctx.actor.kind === "anonymous")
    throw new CodedError("UNAUTHENTICATED", "Sign in, or send a node's token, to do this.");
  return visible;
}

/** What a person or a node writes, as it is stored and hashed. */
function sentenceOf(text: string, name: string): string {
  const clean = storable(text, text.length).trim();
  if (clean === "" || clean.length > longestStatement)
    throw new CodedError("INPUT_INVALID", `\`${name}\` takes 1 to ${longestStatement} characters.`);
  return clean;
}
