import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { lockRun, moveRun, nudgeRun } from "./lifecycle.ts";

/**
 * Does work that spends a run's credits. When they do not cover it nothing of it happens, the run is paused, and the node is told to
 * submit again: its task stays as it is, so no group and no node suffers for a budget, and all goes on when the run was funded and resumed.
 * @throws CodedError `NOT_READY` instead of `BUDGET_EXHAUSTED`
 */
export async function spending<T>(ctx: Ctx, runId: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CodedError) || error.code !== "BUDGET_EXHAUSTED") throw error;
    await pauseForCredits(ctx, runId);
    throw new CodedError(
      "NOT_READY",
      "The run's credits do not cover this work, and the run is paused. Nothing is lost: submit again once it was funded and resumed.",
      { cause: error },
    );
  }
}

async function pauseForCredits(ctx: Ctx, runId: string): Promise<void> {
  await ctx.prisma.$transaction(async (tx) => {
    const run = await lockRun(tx, runId);
    if (run?.state === "RUNNING") await moveRun(tx, run, "PAUSED", "BUDGET_EXHAUSTED");
  });
  nudgeRun(ctx, runId);
}
