import type { Ctx, Tx } from "../context.ts";
import { storable } from "../storable.ts";
import { acceptSubmission, fenceOf, reopenTask } from "./lease.ts";
import type { SignedSubmission, SubmissionOutcome } from "./submission.ts";

/**
 * The answer to a submission that needs no look at its pack: the first one again when it is sent again, and `lost` for an attempt that
 * cannot win any more. Undefined when the pack is to be judged; the fence inside that transaction is what decides then.
 */
export function answeredBefore(
  { attempt, task, nodeId }: SignedSubmission,
  pack: string,
): SubmissionOutcome | undefined {
  const input = { taskId: task.id, attempt: attempt.number, nodeId, packHash: pack };
  const fence = fenceOf(input, task, attempt);
  if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
  if (fence.kind === "fresh") return undefined;
  return attempt.reason === null
    ? { kind: "submitted", taskId: task.id, duplicate: true }
    : { kind: "refused", taskId: task.id, code: "PACK_INVALID", message: attempt.reason };
}

/**
 * Ends an attempt whose pack cannot be what the task asked for: the reason is stored with it and the task opens again, unless
 * somebody newer holds it. `also` joins the transaction when the refusal is new; `first` begins it, with locks that come before the task's.
 */
export async function refuseSubmission(
  ctx: Ctx,
  { task, nodeId, attempt, signature }: SignedSubmission,
  refusal: { readonly pack: string; readonly what: string; readonly message: string },
  also?: (tx: Tx) => Promise<void>,
  first?: (tx: Tx) => Promise<void>,
): Promise<SubmissionOutcome> {
  const { pack, what } = refusal;
  // A reason may quote what a stranger wrote.
  const message = storable(refusal.message, 500);
  const outcome = await ctx.prisma.$transaction(async (tx): Promise<SubmissionOutcome> => {
    await first?.(tx);
    const fence = await acceptSubmission(tx, {
      taskId: task.id,
      attempt: attempt.number,
      nodeId,
      packHash: pack,
      signature,
    });
    if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
    if (fence.kind === "fresh") {
      await tx.attempt.update({ where: { id: fence.attempt.id }, data: { reason: message } });
      await reopenTask(tx, fence.task, `${what} refused: ${message}`, { failed: true });
      await also?.(tx);
    }
    return { kind: "refused", taskId: task.id, code: "PACK_INVALID", message };
  });
  ctx.bus.publish("events");
  ctx.bus.publish(`offers:${task.kind}`);
  ctx.bus.publish(`run:${task.runId}`);
  return outcome;
}
