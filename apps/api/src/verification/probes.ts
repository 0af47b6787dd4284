import { toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { settleReexecution } from "./cases.ts";
import type { JudgedProbe } from "./judging.ts";
import { recordEntries } from "./record.ts";
import { ownValidators } from "./reexecution.ts";
import { voidAudits } from "./remeasure.ts";
import { joinRun, quarantine } from "./trust.ts";

// Validators are watched by tasks that look like any other. A re-execution measures again what another validator measured, a canary is a
// group whose measurement is known. One measurement that does not hold ends a stranger's measuring: it cannot be honest bad luck, for the
// thresholds are those that honest machines never exceed.

/**
 * Decides probes whose measurements were taken: counts them for the validator they watch, draws the consequences of one that does not
 * hold, and lets a re-execution settle the case it was made for. The standings of everyone concerned are locked.
 */
export async function decideProbes(tx: Tx, judged: readonly JudgedProbe[]): Promise<void> {
  for (const each of judged) {
    const { probe, known, verdict, agreement, submission, input } = each;
    const { runId, organizationId } = probe;
    const outcome =
      verdict?.verdict === "INCONCLUSIVE" ? "INCONCLUSIVE" : agreement.agrees ? "AGREED" : "DISAGREED";
    const changed = await tx.probe.updateMany({
      where: { taskId: probe.taskId, outcome: null },
      data: {
        nodeId: submission.nodeId,
        measurementHash: input.pack,
        outcome,
        note: agreement.note,
        decidedAt: new Date(),
      },
    });
    if (changed.count === 0) continue;
    const watched = probe.purpose === "REEXECUTION" ? known.validatorNodeId : submission.nodeId;
    await joinRun(tx, { runId, nodeId: watched, organizationId });
    await tx.nodeTrust.update({
      where: { runId_nodeId: { runId, nodeId: watched } },
      data: {
        probes: { increment: outcome === "INCONCLUSIVE" ? 0 : 1 },
        disagreements: { increment: outcome === "DISAGREED" ? 1 : 0 },
      },
    });
    await recordEntries(tx, [
      {
        runId,
        organizationId,
        kind: "probe.decided",
        subject: toTypeId("task", probe.taskId),
        data: {
          purpose: probe.purpose,
          outcome,
          group: toTypeId("group", probe.groupId),
          validator: toTypeId("node", submission.nodeId),
          watched: toTypeId("node", watched),
          measurement: input.pack,
          note: agreement.note,
        },
      },
    ]);
    if (outcome === "DISAGREED")
      await suspect(tx, {
        runId,
        organizationId,
        nodeId: watched,
        purpose: probe.purpose,
        ...(probe.purpose === "REEXECUTION" ? { groupId: probe.groupId } : {}),
        reason: `A measurement did not survive a check of the validator itself. ${agreement.note}`,
      });
    if (probe.purpose === "REEXECUTION") await settleReexecution(tx, each);
  }
}

/**
 * A validator whose measurement does not hold. A stranger measures no more in this run, and what it decided is measured again
 * (`remeasureVoid`); the organizer hears of its own and decides itself. The validator's standing is locked.
 */
export async function suspect(
  tx: Tx,
  input: {
    runId: string;
    organizationId: string;
    nodeId: string;
    purpose: string;
    reason: string;
    /** The group of the measurement in doubt, where it is one that decided a group. */
    groupId?: string;
  },
): Promise<void> {
  const { runId, organizationId, nodeId, reason } = input;
  await appendEvents(tx, [
    {
      stream: runStream(runId),
      organizationId,
      type: "validator.suspect",
      subject: toTypeId("node", nodeId),
      data: { purpose: input.purpose, reason },
    },
  ]);
  if ((await ownValidators(tx, runId)).has(nodeId)) {
    if (input.groupId !== undefined)
      await voidAudits(tx, { runId, validatorNodeId: nodeId, only: input.groupId });
    return;
  }
  const key = { runId_nodeId: { runId, nodeId } };
  const standing = await tx.nodeTrust.findUniqueOrThrow({ where: key });
  if (standing.distrustedAt !== null) return;
  await tx.nodeTrust.update({ where: key, data: { distrustedAt: new Date() } });
  await voidAudits(tx, { runId, validatorNodeId: nodeId });
  if (standing.state === "PROBATION" || standing.state === "TRUSTED")
    await quarantine(tx, { runId, nodeId, organizationId, reason });
}
