import type { Case, Group, Verification } from "@muster/db";
import { newId, type RunSpec, toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { appendEvents, type EventType, type NewEvent, runStream } from "../events/append.ts";
import { forfeitHeld, refundGroups, refundHeld } from "../ledger/stakes.ts";
import type { Loop } from "../loops.ts";
import { specOf } from "../runs/spec.ts";
import { acceptGroups } from "./acceptance.ts";
import type { JudgedProbe } from "./judging.ts";
import { recordEntries } from "./record.ts";
import { openReexecutions } from "./reexecution.ts";
import { lockStandings, replayStanding } from "./trust.ts";

// An accusation is not proof. A rejection opens a case; one of the organizer's own validators measures the group again, and the accused may
// object until the dispute window ends. Only a case that is UPHELD costs credits. One that is OVERTURNED leaves the ledger and the node's
// standing as if the rejection had not happened, in one transaction.

/** Re-executions that may be tried for one case. */
const tries = 4;

/** Days after which a case that only a person can decide is decided by what is known. */
export const undecidedDays = 7;

/** Opens the case of a group that was just rejected, and has it measured again. */
export async function openCase(
  tx: Tx,
  input: {
    group: Group;
    spec: RunSpec;
    verification: Pick<Verification, "id" | "taskId">;
    reason: string;
  },
): Promise<void> {
  const { group, spec, verification, reason } = input;
  const { runId, organizationId, nodeId } = group;
  const openUntil = new Date(Date.now() + spec.disputeWindowSeconds * 1000);
  const fresh = { organizationId, runId, nodeId, verificationId: verification.id, reason, openUntil };
  // A group that was rejected before and overturned since is tried anew.
  const opened = await tx.case.upsert({
    where: { groupId: group.id },
    create: { id: newId("case"), groupId: group.id, ...fresh },
    update: {
      ...fresh,
      state: "OPEN",
      openedAt: new Date(),
      statement: null,
      disputedAt: null,
      reexecutionHash: null,
      confirmed: null,
      decision: null,
      decidedById: null,
      decidedAt: null,
    },
  });
  await keepManifest(tx, opened, verification.taskId);
  await openReexecutions(tx, runId, [{ group, verification }]);
  await tellCase(tx, opened, "case.opened", { reason, openUntil: openUntil.toISOString() });
  await recordEntries(tx, [caseEntry(opened, "case.opened", { reason, group: toTypeId("group", group.id) })]);
}

/** The evidence names the checkpoint's manifest, which retention would otherwise delete with it. */
async function keepManifest(tx: Tx, { id, organizationId, runId }: Case, taskId: string): Promise<void> {
  const task = await tx.task.findUnique({ where: { id: taskId }, select: { manifestHash: true } });
  if (task?.manifestHash == null) return;
  await tx.packReference.createMany({
    data: [{ organizationId, runId, sha256: task.manifestHash, subject: id, kind: "MANIFEST" }],
    skipDuplicates: true,
  });
}

/** What a re-execution says about the case it was made for. The accused's standing is locked. */
export async function settleReexecution(tx: Tx, { probe, verdict, input }: JudgedProbe): Promise<void> {
  const found = await tx.case.findUnique({ where: { groupId: probe.groupId } });
  if (found === null || found.state !== "OPEN" || found.verificationId !== probe.verificationId) return;
  switch (verdict?.verdict) {
    case "REJECTED": {
      if (found.confirmed !== null) return;
      const confirmed = await tx.case.update({
        where: { id: found.id },
        data: { confirmed: true, reexecutionHash: input.pack },
      });
      await recordEntries(tx, [caseEntry(confirmed, "case.confirmed", { measurement: input.pack })]);
      if (isDue(confirmed)) await upholdCase(tx, confirmed, { decision: undisputed, decidedById: null });
      return;
    }
    case "ACCEPTED":
      if (found.confirmed === true) {
        // Two of ours have seen two things; a person has been asked already.
        await tx.case.update({ where: { id: found.id }, data: { confirmed: false } });
        return;
      }
      await tx.case.update({
        where: { id: found.id },
        data: { confirmed: false, reexecutionHash: input.pack },
      });
      return overturnCase(tx, found, {
        decision: "Measured again, the group passes every check.",
        decidedById: null,
      });
    default:
      // INCONCLUSIVE: nothing is known; the loop has it measured once more.
      return;
  }
}

const undisputed = "Measured again, it fails again; nobody objected.";

function isDue({ confirmed, disputedAt, openUntil }: Case): boolean {
  return confirmed === true && disputedAt === null && openUntil <= new Date();
}

type Decision = { readonly decision: string; readonly decidedById: string | null };

/** OPEN → UPHELD, which takes all the node still holds in the run. The accused's standing is locked. */
export async function upholdCase(tx: Tx, accused: Case, by: Decision): Promise<void> {
  const changed = await tx.case.updateMany({
    where: { id: accused.id, state: "OPEN" },
    data: { state: "UPHELD", decidedAt: new Date(), ...by },
  });
  if (changed.count === 0) return;
  await tellDecision(tx, accused, "UPHELD", by);
  const { runId, nodeId, organizationId } = accused;
  await forfeitConvicted(tx, { organizationId, runId, nodeIds: [nodeId] });
}

/**
 * Takes what nodes hold in a run in which a rejection of theirs was upheld; others are passed over. One is enough: it was measured twice and
 * nobody objected, and a cheat that could leave after two would stake nothing (bench/audit.ts). Whatever is accepted of such a node from
 * before the end of the case goes the same way, so what it has lost does not depend on the order in which its groups were judged.
 */
export async function forfeitConvicted(
  tx: Tx,
  input: { organizationId: string; runId: string; nodeIds: Iterable<string> },
): Promise<void> {
  const { organizationId, runId } = input;
  const upheld = await tx.case.groupBy({
    by: ["nodeId"],
    where: { runId, nodeId: { in: [...new Set(input.nodeIds)] }, state: "UPHELD" },
    orderBy: { nodeId: "asc" },
    _count: true,
    _max: { decidedAt: true },
  });
  for (const { nodeId, _count: count, _max } of upheld) {
    const memo =
      count === 1 ? "A rejection of the node was upheld" : `${count} rejections of the node were upheld`;
    // What it does afterwards is new work under full audits, and its own.
    const submittedUntil = _max.decidedAt ?? new Date();
    await forfeitHeld(tx, { organizationId, runId, nodeId, memo, submittedUntil });
  }
}

/**
 * OPEN or UPHELD → OVERTURNED: the group is accepted, paid and counted as if it had never been rejected, and whatever followed from the
 * rejection is taken back. The accused's standing is locked.
 */
export async function overturnCase(tx: Tx, accused: Case, by: Decision): Promise<void> {
  const changed = await tx.case.updateMany({
    where: { id: accused.id, state: { in: ["OPEN", "UPHELD"] } },
    data: { state: "OVERTURNED", decidedAt: new Date(), ...by },
  });
  if (changed.count === 0) return;
  const { runId, nodeId, organizationId, groupId } = accused;
  const owner = { organizationId, runId, nodeId };
  await tellDecision(tx, accused, "OVERTURNED", by);
  await tx.nodeOutcome.updateMany({
    where: { groupId, kind: "REJECTED", annulled: false },
    data: { annulled: true },
  });
  const group = await tx.group.findUniqueOrThrow({ where: { id: groupId } });
  const task = await tx.task.findUniqueOrThrow({ where: { id: group.taskId }, select: { revision: true } });
  const spec = await specOf(tx, runId, task.revision);
  if (group.state === "REJECTED") {
    const again = { state: "VERIFYING", reason: null, finalAt: null } as const;
    await tx.group.update({ where: { id: groupId }, data: again });
    const rollouts = await tx.rollout.findMany({
      where: { groupId },
      orderBy: { index: "asc" },
      select: { id: true, reward: true },
    });
    await acceptGroups(tx, [{ group: { ...group, ...again }, spec, rollouts }], "AUDITED");
    // It kept its place in a batch that was sealed when it was rejected.
    const place = await tx.batchGroup.findUnique({ where: { groupId }, select: { signal: true } });
    if (place?.signal === false)
      await tx.group.update({ where: { id: groupId }, data: { state: "SET_ASIDE" } });
  }
  await refundGroups(tx, [{ ...owner, groupId }], "The rejection was overturned");
  await replayStanding(tx, { ...owner, spec });
  const standing = await tx.case.aggregate({
    where: { runId, nodeId, state: "UPHELD" },
    _count: true,
    _max: { decidedAt: true },
  });
  // What it submitted before the end of a case that stands is lost to that one.
  await refundHeld(tx, {
    ...owner,
    memo: `${standing._count} rejections of the node stand`,
    submittedAfter: standing._max.decidedAt,
  });
  await forfeitConvicted(tx, { organizationId, runId, nodeIds: [nodeId] });
}

/** Decides cases whose time has come, and has those measured again that still wait for it. */
export const casesLoop: Loop = { name: "cases", everyMs: 5_000, leader: true, run: settleCases };

/** Cases looked at in one query. */
const perPage = 256;

/** @returns how many cases were decided. */
export async function settleCases(ctx: Ctx): Promise<number> {
  const patience = new Date(Date.now() - undecidedDays * 86_400_000);
  // Those of a run whose credits do not cover a refund stay due, as do those that were tried often enough: they hold up nobody else's.
  const failing = new Set<string>();
  let decided = 0;
  let after: string | undefined;
  for (;;) {
    const due = await dueCases(ctx, patience, after);
    for (const accused of due) {
      if (failing.has(accused.runId)) continue;
      try {
        if (await settleDue(ctx, accused, patience)) decided++;
      } catch (error) {
        failing.add(accused.runId);
        ctx.log.error({ err: error, run: accused.runId }, "settling a run's cases failed");
      }
    }
    if (due.length > 0) {
      ctx.bus.publish("events");
      ctx.bus.publish("offers:VERIFY");
    }
    after = due.at(-1)?.id;
    if (due.length < perPage) return decided;
  }
}

type Due = { readonly id: string; readonly nodeId: string; readonly runId: string };

/** Open cases about which something may be done, the oldest first. */
function dueCases(ctx: Ctx, patience: Date, after: string | undefined): Promise<Due[]> {
  return ctx.prisma.case.findMany({
    where: {
      state: "OPEN",
      OR: [
        { confirmed: true, disputedAt: null, openUntil: { lte: new Date() } },
        { disputedAt: { lt: patience } },
        { confirmed: null, openUntil: { lt: patience } },
        {
          confirmed: null,
          run: { state: "RUNNING" },
          group: { probes: { none: { purpose: "REEXECUTION", outcome: null } } },
        },
      ],
    },
    orderBy: [{ openUntil: "asc" }, { id: "asc" }],
    take: perPage,
    ...(after === undefined ? {} : { cursor: { id: after }, skip: 1 }),
    select: { id: true, nodeId: true, runId: true },
  });
}

async function settleDue(ctx: Ctx, { id, nodeId, runId }: Due, patience: Date): Promise<boolean> {
  const moved = await ctx.prisma.$transaction(async (tx) => {
    await lockStandings(tx, runId, [nodeId]);
    return settleCase(tx, await tx.case.findUniqueOrThrow({ where: { id } }), patience);
  });
  if (moved) ctx.bus.publish(`run:${runId}`);
  return moved;
}

async function settleCase(tx: Tx, accused: Case, patience: Date): Promise<boolean> {
  if (accused.state !== "OPEN") return false;
  if (isDue(accused)) {
    await upholdCase(tx, accused, { decision: undisputed, decidedById: null });
    return true;
  }
  const asked = accused.disputedAt ?? accused.openUntil;
  if (asked < patience) {
    if (accused.confirmed === true)
      await upholdCase(tx, accused, {
        decision: `Measured again, it failed again; the organizer did not answer the objection within ${undecidedDays} days.`,
        decidedById: null,
      });
    else
      await overturnCase(tx, accused, {
        decision: `The rejection was not confirmed within ${undecidedDays} days.`,
        decidedById: null,
      });
    return true;
  }
  if (accused.confirmed === null) await reexecuteAgain(tx, accused);
  return false;
}

/** Opens another re-execution when none is under way: the last one was inconclusive or nobody made it. */
async function reexecuteAgain(tx: Tx, accused: Case): Promise<void> {
  const made = await tx.probe.findMany({
    where: { groupId: accused.groupId, purpose: "REEXECUTION", verificationId: accused.verificationId },
    select: { outcome: true },
  });
  if (made.length >= tries || made.some(({ outcome }) => outcome === null)) return;
  await reexecuteCase(tx, accused);
}

/** Has a case's group measured once more, as long as its checkpoint is there to measure with. */
export async function reexecuteCase(tx: Tx, accused: Case): Promise<void> {
  const group = await tx.group.findUniqueOrThrow({ where: { id: accused.groupId } });
  const checkpoint = await tx.checkpoint.findUnique({
    where: { runId_version: { runId: group.runId, version: group.policyVersion } },
    select: { state: true },
  });
  if (checkpoint?.state !== "AVAILABLE") return;
  const verification = await tx.verification.findUniqueOrThrow({ where: { id: accused.verificationId } });
  await openReexecutions(tx, accused.runId, [{ group, verification }]);
}

async function tellDecision(
  tx: Tx,
  accused: Case,
  state: "UPHELD" | "OVERTURNED",
  { decision, decidedById }: Decision,
): Promise<void> {
  await tellCase(tx, accused, "case.decided", { state, decision });
  const by = decidedById === null ? null : toTypeId("user", decidedById);
  await recordEntries(tx, [caseEntry(accused, "case.decided", { state, decision, by })]);
}

/** Tells the run's members and the accused node. */
export async function tellCase(
  tx: Tx,
  accused: Case,
  type: Extract<EventType, `case.${string}`>,
  data: NewEvent["data"],
): Promise<void> {
  const event = {
    organizationId: accused.organizationId,
    type,
    subject: toTypeId("case", accused.id),
    data: {
      group: toTypeId("group", accused.groupId),
      node: toTypeId("node", accused.nodeId),
      run: toTypeId("run", accused.runId),
      ...data,
    },
  };
  await appendEvents(tx, [
    { ...event, stream: runStream(accused.runId) },
    { ...event, stream: `node:${accused.nodeId}` },
  ]);
}

/** A line of the audit log about a case. */
export function caseEntry(
  accused: Case,
  kind: "case.opened" | "case.disputed" | "case.confirmed" | "case.decided",
  data: Record<string, string | null>,
) {
  return {
    runId: accused.runId,
    organizationId: accused.organizationId,
    kind,
    subject: toTypeId("case", accused.id),
    data: { node: toTypeId("node", accused.nodeId), ...data },
  };
}
