import type { Prisma } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { payNodes } from "../ledger/ledger.ts";
import { lockAccounts } from "../ledger/postings.ts";
import { lockRun } from "../runs/lifecycle.ts";
import { acceptSubmissions, completeTasks } from "../tasks/lease.ts";
import type { SubmissionOutcome } from "../tasks/submission.ts";
import { acceptGroups, decideAgainst } from "./acceptance.ts";
import { forfeitConvicted, openCase } from "./cases.ts";
import { retryElsewhere } from "./inconclusive.ts";
import { explain, type JudgedGroup, type JudgedProbe } from "./judging.ts";
import { decideProbes } from "./probes.ts";
import { type NewAuditEntry, recordEntries } from "./record.ts";
import { openReexecutions } from "./reexecution.ts";
import { lockStandings, recordOutcome, replayStanding } from "./trust.ts";

// Verdicts are applied in sets: a validator measures up to sixteen groups in one prefill, and a transaction for each took longer than the
// checks themselves.

/** A measurement that was judged. `reexecuted`: the secret draw has it measured again. */
export type Sound = (JudgedGroup & { readonly reexecuted: boolean }) | JudgedProbe;

/** A verdict with the id of the row that is going to tell it. */
type Decided = Extract<Sound, { kind: "group" }> & { readonly verificationId: string };

/** Applies verdicts whose submissions still hold their leases: groups, standing, money and advantages change together or not at all. */
export async function applyVerdicts(
  tx: Tx,
  sound: readonly Sound[],
): Promise<{ outcomes: SubmissionOutcome[] }> {
  const barred = await lockConcerned(tx, sound);
  // What it measured before it was found out counts as little as what it would measure now.
  const heard = sound.filter((each) => !barred.has(keyOf(each)));
  const accepted = await acceptSubmissions(
    tx,
    heard.map(({ submission, input }) => ({
      taskId: submission.task.id,
      attempt: input.attempt,
      nodeId: submission.nodeId,
      packHash: input.pack,
      signature: input.signature,
    })),
  );
  const fences = sound.map((each) => accepted[heard.indexOf(each)]);
  const fresh = sound.filter((_, i) => fences[i]?.kind === "fresh");
  if (fresh.length > 0) {
    await lockPayments(tx, fresh);
    await keepMeasurements(tx, fresh);
    await decideGroups(
      tx,
      fresh.flatMap((each) => (each.kind === "group" ? [{ ...each, verificationId: newId("verif") }] : [])),
    );
    await decideProbes(
      tx,
      fresh.flatMap((each) => (each.kind === "probe" ? [each] : [])),
    );
    await completeTasks(
      tx,
      fresh.map(({ submission }) => submission.task.id),
    );
    await pay(tx, fresh);
  }
  const outcomes = sound.map(({ submission: { task } }, i): SubmissionOutcome => {
    const fence = fences[i];
    if (fence === undefined) return { kind: "lost", taskId: task.id, message: quarantined };
    if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
    return { kind: "submitted", taskId: task.id, duplicate: fence.kind === "duplicate" };
  });
  return { outcomes };
}

const quarantined =
  "This node is quarantined in the run: it decides nothing any more, also not what it measured before.";
const keyOf = ({ group, submission }: Sound) => `${group.runId} ${submission.nodeId}`;

/**
 * Locks what everybody locks first, in everybody's order: runs that may lose groups from a batch, then standings.
 * @returns the runs' validators that may decide nothing, by `keyOf`
 */
async function lockConcerned(tx: Tx, sound: readonly Sound[]): Promise<Set<string>> {
  const rejects = sound.filter((each) =>
    each.kind === "group" ? each.verdict.verdict === "REJECTED" : each.verdict !== null,
  );
  for (const runId of runsOf(rejects)) await lockRun(tx, runId);
  const barred = new Set<string>();
  for (const runId of runsOf(sound)) {
    const own = sound.filter(({ group }) => group.runId === runId);
    const standings = await lockStandings(
      tx,
      runId,
      own.flatMap((each) => [
        each.group.nodeId,
        each.submission.nodeId,
        ...(each.kind === "probe" ? [each.known.validatorNodeId] : []),
      ]),
    );
    for (const each of own) {
      const state = standings.get(each.submission.nodeId)?.state;
      if (state === "QUARANTINED" || state === "EJECTED") barred.add(keyOf(each));
    }
  }
  return barred;
}

async function lockPayments(tx: Tx, fresh: readonly Sound[]): Promise<void> {
  for (const runId of runsOf(fresh)) {
    const own = fresh.filter(({ group }) => group.runId === runId);
    const [first] = own;
    if (first === undefined) continue;
    await lockAccounts(tx, {
      organizationId: first.group.organizationId,
      runId,
      producers: own.map(({ group }) => group.nodeId),
      payees: own.map(({ submission }) => submission.nodeId),
    });
  }
}

function runsOf(sound: readonly Sound[]): string[] {
  return [...new Set(sound.map(({ group }) => group.runId))].sort();
}

/** Measurements stay as long as somebody may ask what a verdict rests on. */
async function keepMeasurements(tx: Tx, fresh: readonly Sound[]): Promise<void> {
  await tx.packReference.createMany({
    data: fresh.map(({ submission: { task }, input }) => ({
      organizationId: task.organizationId,
      runId: task.runId,
      sha256: input.pack,
      taskId: task.id,
      subject: task.id,
      kind: "MEASUREMENT" as const,
    })),
    skipDuplicates: true,
  });
  // What a verdict cost stands in its row; a probe has none.
  for (const { kind, submission, input } of fresh) {
    if (kind !== "probe" || input.cpuSeconds === undefined) continue;
    const { id } = submission.attempt;
    await tx.attempt.update({ where: { id }, data: { cpuSeconds: input.cpuSeconds } });
  }
}

async function decideGroups(tx: Tx, decided: readonly Decided[]): Promise<void> {
  if (decided.length === 0) return;
  await storeVerifications(tx, decided);
  const accepted = decided.filter(({ verdict }) => verdict.verdict === "ACCEPTED");
  await acceptGroups(tx, accepted, "AUDITED");
  for (const runId of runsOf(accepted)) {
    const own = accepted.filter(({ group }) => group.runId === runId);
    const organizationId = own[0]?.group.organizationId ?? "";
    await forfeitConvicted(tx, { organizationId, runId, nodeIds: own.map(({ group }) => group.nodeId) });
  }
  await recordEntries(
    tx,
    accepted.map((each) => verdictEntry("verdict.accepted", each, { acceptance: "AUDITED" })),
  );
  for (const each of decided) {
    if (each.verdict.verdict === "REJECTED") await reject(tx, each);
    if (each.verdict.verdict === "INCONCLUSIVE") {
      const note = explain(each.verdict);
      await recordEntries(tx, [verdictEntry("verdict.inconclusive", each, { reason: note })]);
      await retryElsewhere(tx, { ...each, validatorNodeId: each.submission.nodeId, note });
    }
  }
  await replayVoided(tx, decided);
  const again = decided.filter(({ reexecuted }) => reexecuted);
  for (const runId of runsOf(again)) {
    await openReexecutions(
      tx,
      runId,
      again
        .filter(({ group }) => group.runId === runId)
        .map(({ group, verificationId, submission }) => ({
          group,
          verification: { id: verificationId, taskId: submission.task.id },
        })),
    );
  }
}

async function storeVerifications(tx: Tx, decided: readonly Decided[]): Promise<void> {
  await tx.verification.createMany({
    data: decided.map(({ verificationId, submission: { task, attempt, nodeId }, input, group, verdict }) => ({
      id: verificationId,
      organizationId: task.organizationId,
      runId: task.runId,
      groupId: group.id,
      taskId: task.id,
      validatorNodeId: nodeId,
      measurementHash: input.pack,
      verdict: verdict.verdict,
      // Plain numbers, strings and nulls by construction: what packages/verification reports is JSON.
      checks: verdict.checks as unknown as Prisma.InputJsonValue,
      tokens: group.tokens,
      cost: input.cpuSeconds ?? null,
      signature: input.signature,
      startedAt: attempt.claimedAt,
    })),
  });
}

/** Rejects a group that waits for its verdict, or that was trusted and is audited afterwards. */
async function reject(tx: Tx, each: Decided): Promise<void> {
  const { group, spec, verdict, verificationId, submission } = each;
  const reason = explain(verdict);
  if (!(await decideAgainst(tx, group, "REJECTED", reason))) return;
  const { runId, nodeId, organizationId } = group;
  await recordOutcome(tx, {
    runId,
    nodeId,
    organizationId,
    outcome: "REJECTED",
    groupIds: [group.id],
    spec,
    reason,
  });
  await recordEntries(tx, [verdictEntry("verdict.rejected", each, { reason })]);
  await openCase(tx, {
    group,
    spec,
    verification: { id: verificationId, taskId: submission.task.id },
    reason,
  });
}

/** A verdict that replaces one that was void takes its place in the node's history. */
async function replayVoided(tx: Tx, decided: readonly Decided[]): Promise<void> {
  const void_ = await tx.nodeOutcome.findMany({
    where: { groupId: { in: decided.map(({ group }) => group.id) }, annulled: true },
    select: { nodeId: true, runId: true },
    distinct: ["runId", "nodeId"],
    orderBy: { nodeId: "asc" },
  });
  for (const { runId, nodeId } of void_) {
    const one = decided.find(({ group }) => group.runId === runId && group.nodeId === nodeId);
    if (one !== undefined)
      await replayStanding(tx, { runId, nodeId, organizationId: one.group.organizationId, spec: one.spec });
  }
}

async function pay(tx: Tx, fresh: readonly Sound[]): Promise<void> {
  await payNodes(
    tx,
    fresh.map(({ submission: { task, nodeId }, group, spec }) => ({
      organizationId: task.organizationId,
      runId: task.runId,
      nodeId,
      amount: BigInt(group.tokens) * BigInt(spec.prices.measuredToken),
      key: `pay:${task.id}`,
      memo: "Measured group",
      taskId: task.id,
    })),
  );
}

function verdictEntry(
  kind: NewAuditEntry["kind"],
  { group, verdict, submission, input }: Decided,
  data: NewAuditEntry["data"],
): NewAuditEntry {
  return {
    runId: group.runId,
    organizationId: group.organizationId,
    kind,
    subject: toTypeId("group", group.id),
    data: {
      node: toTypeId("node", group.nodeId),
      validator: toTypeId("node", submission.nodeId),
      pack: group.packHash,
      measurement: input.pack,
      checks: Object.fromEntries(verdict.checks.map((check) => [check.id, check.verdict])),
      ...data,
    },
  };
}
