import type { RunSpec } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { cancelTasks, failTask } from "../tasks/lease.ts";
import { openEvaluations } from "../training/evaluation-plan.ts";
import { awaitsVerdict } from "../verification/acceptance.ts";
import { restsOnLostTrust } from "../verification/undecided.ts";
import { endRun, noteReason, type StartedRun } from "./lifecycle.ts";

/** Minutes that a finishing run waits for somebody to claim a last measurement or evaluation. */
const patienceMinutes = 10;

/**
 * Brings a run to its end without losing work: nothing new is generated, what was submitted is still measured and paid, a step under way
 * is finished, the last version is evaluated. COMPLETED comes when none of that is left.
 */
export async function finishRun(
  tx: Tx,
  run: StartedRun,
  spec: RunSpec,
  reason: string,
): Promise<{ changed: boolean; opened: boolean }> {
  if (run.stateReason !== reason) await noteReason(tx, run, reason);
  const cancelled = await cancelTasks(
    tx,
    { runId: run.id, kind: "GENERATE", state: { in: ["OPEN", "LEASED"] } },
    `The run is finishing: ${reason}.`,
  );
  const opened = await openEvaluations(tx, run, spec, { final: true });
  const givenUp = await giveUpUnclaimed(tx, run);
  const open = await tx.task.count({
    where: { runId: run.id, state: { in: ["OPEN", "LEASED", "SUBMITTED"] } },
  });
  const undecided = await tx.group.count({
    where: { runId: run.id, OR: [{ state: "SUBMITTED" }, awaitsVerdict, restsOnLostTrust(run.id)] },
  });
  const changed = run.stateReason !== reason || cancelled > 0 || opened > 0 || givenUp > 0;
  if (open > 0 || undecided > 0) return { changed, opened: opened > 0 };
  await endRun(tx, run, "COMPLETED", reason);
  return { changed: true, opened: false };
}

/** Nobody may ever come for what is still open: without an evaluator at once, else after a while. */
async function giveUpUnclaimed(tx: Tx, run: StartedRun): Promise<number> {
  const evaluators = await tx.roleGrant.count({
    where: { runId: run.id, role: "EVALUATOR", revokedAt: null },
  });
  const since = new Date(Date.now() - patienceMinutes * 60_000);
  const unclaimed = await tx.task.findMany({
    where: {
      runId: run.id,
      state: "OPEN",
      OR: [
        { kind: { in: ["VERIFY", "EVALUATE"] }, updatedAt: { lt: since } },
        ...(evaluators === 0 ? [{ kind: "EVALUATE" as const }] : []),
      ],
    },
    select: { id: true },
    orderBy: { id: "asc" },
  });
  for (const task of unclaimed) await failTask(tx, task, "Nobody claimed it before the run's end.");
  // A step that nobody trains is no failure of a run that ends anyway.
  const untrained = await cancelTasks(
    tx,
    { runId: run.id, kind: "TRAIN", state: "OPEN", updatedAt: { lt: since } },
    "Nobody claimed it before the run's end.",
  );
  return unclaimed.length + untrained;
}
