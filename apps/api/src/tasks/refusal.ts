import type { Ctx, Tx } from "../context.ts";
import { acceptSubmission, reopenTask } from "./lease.ts";
import type { SignedSubmission, SubmissionOutcome } from "./submission.ts";

/** The first answer to a submission that is sent again; undefined when this is the first time. */
export function answeredBefore(
  { attempt, task }: SignedSubmission,
  pack: string,
): SubmissionOutcome | undefined {
  if (attempt.state !== "SUBMITTED" || attempt.packHash !== pack) return undefined;
  return attempt.reason === null
    ? { kind: "submitted", taskId: task.id, duplicate: true }
    : { kind: "refused", taskId: task.id, code: "PACK_INVALID", message: attempt.reason };
}

/**
 * Ends an attempt whose pack cannot be what the task asked for: the reason is stored with it and the task opens again, unless
 * somebody newer holds it. `also` joins the transaction when the refusal is new.
 */
export async function refuseSubmission(
  ctx: Ctx,
  { task, nodeId, attempt }: SignedSubmission,
  refusal: { readonly pack: string; readonly what: string; readonly message: string },
  also?: (tx: Tx) => Promise<void>,
): Promise<SubmissionOutcome> {
  const { pack, what, message } = refusal;
  const outcome = await ctx.prisma.$transaction(async (tx): Promise<SubmissionOutcome> => {
    const fence = await acceptSubmission(tx, {
      taskId: task.id,
      attempt: attempt.number,
      nodeId,
      packHash: pack,
    });
    if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
    if (fence.kind === "fresh") {
      await tx.attempt.update({ where: { id: fence.attempt.id }, data: { reason: message } });
      await reopenTask(tx, fence.task, `${what} refused: ${message}`);
      await also?.(tx);
    }
    return { kind: "refused", taskId: task.id, code: "PACK_INVALID", message };
  });
  ctx.bus.publish("events");
  ctx.bus.publish(`offers:${task.kind}`);
  ctx.bus.publish(`run:${task.runId}`);
  return outcome;
}
