import type { Prisma } from "@muster/db";
import { newId } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { type CreateRunOutcome, personOf, putRevision } from "../runs/create-run.ts";
import { nudgeRun, runFor } from "../runs/lifecycle.ts";
import { isStorable } from "../storable.ts";

/** Characters of a calibration's evidence as JSON. */
const mostEvidence = 1_000_000;

/**
 * Puts calibrated thresholds in force, as a new revision of the run's spec, and keeps what they were derived from. Thresholds that are
 * not given stay as they are. What was opened before is judged by the revision it was opened under.
 */
export async function recordCalibration(
  ctx: Ctx,
  input: { runId: string; thresholds: unknown; evidence: unknown },
): Promise<CreateRunOutcome> {
  const { organizationId } = await runFor(ctx, input.runId, "run:control");
  const { thresholds, evidence } = input;
  if (!isObject(thresholds) || Object.keys(thresholds).length === 0)
    throw new CodedError("INPUT_INVALID", "`thresholds` must be an object with at least one threshold.");
  if (!isObject(evidence) || !isStorable(evidence) || JSON.stringify(evidence).length > mostEvidence)
    throw new CodedError(
      "INPUT_INVALID",
      `\`evidence\` must be a JSON object of at most ${mostEvidence} characters.`,
    );
  const outcome = await ctx.prisma.$transaction(async (tx) => {
    const revised = await putRevision(ctx, tx, input.runId, (before) => ({
      ...before,
      verification: {
        ...before.verification,
        thresholds: { ...before.verification.thresholds, ...thresholds },
      },
    }));
    if (revised.kind !== "created") return revised;
    const { revision } = await tx.run.findUniqueOrThrow({
      where: { id: input.runId },
      select: { revision: true },
    });
    await tx.calibration.create({
      data: {
        id: newId(),
        organizationId,
        runId: input.runId,
        revision,
        // Both came through JSON, and a new revision was made of the one.
        thresholds: thresholds as Prisma.InputJsonObject,
        evidence: evidence as Prisma.InputJsonObject,
        createdById: personOf(ctx),
      },
    });
    return revised;
  });
  if (outcome.kind === "created") nudgeRun(ctx, input.runId);
  return outcome;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
