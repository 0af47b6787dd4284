import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { spending } from "../runs/spending.ts";
import { answeredBefore, refuseSubmission } from "../tasks/refusal.ts";
import { openSubmissions, type SubmissionInput, type SubmissionOutcome } from "../tasks/submission.ts";
import { judgeAll, type Opened, type RefusedMeasurement } from "./judging.ts";
import { countMalformed, suspectMalformed } from "./malformed.ts";
import { isReexecuted } from "./reexecution.ts";
import { remeasureVoid } from "./remeasure.ts";
import { acceptTrusted } from "./trusted.ts";
import { applyVerdicts, type Sound } from "./verdicts.ts";

// A validator measures, the coordinator decides: the verdict comes from packages/verification over the worker's pack and the
// blind measurement, and every number it rests on is stored with it. A measurement that watches the validator itself takes the same way
// and gets the same answer.

/** Most measurements in one call: what a validator may claim at once. */
export const maxMeasurements = 16;

/** Takes a validator's measurements, one a group, and issues the verdicts. Outcomes come in the order of the inputs. */
export async function submitMeasurements(
  ctx: Ctx,
  inputs: readonly SubmissionInput[],
): Promise<SubmissionOutcome[]> {
  if (inputs.length === 0 || inputs.length > maxMeasurements)
    throw new CodedError("INPUT_INVALID", `Submit 1 to ${maxMeasurements} measurements at once.`);
  if (new Set(inputs.map((input) => input.taskId)).size !== inputs.length)
    throw new CodedError("INPUT_INVALID", "A task stands twice in one call. Submit each once.");
  const submissions = await openSubmissions(ctx, inputs);
  const outcomes = new Map<string, SubmissionOutcome>();
  const open: Opened[] = [];
  for (const [i, submission] of submissions.entries()) {
    const input = inputs[i];
    const { task } = submission;
    if (input === undefined) continue;
    if (task.kind !== "VERIFY")
      throw new CodedError(
        "INPUT_INVALID",
        `This task is ${task.kind}, not VERIFY. Submit its result with the mutation of its kind.`,
      );
    // An answered attempt is answered the same again, without judging the pack a second time.
    const before = answeredBefore(submission, input.pack);
    if (before === undefined) open.push({ submission, input });
    else outcomes.set(task.id, before);
  }
  const judged = await judgeAll(ctx, open);
  const sound: Sound[] = [];
  for (const each of judged) {
    if (each.kind === "refused") outcomes.set(each.submission.task.id, await refuse(ctx, each));
    else if (each.kind === "probe") sound.push(each);
    else {
      const accepted = each.verdict.verdict === "ACCEPTED";
      sound.push({ ...each, reexecuted: accepted && (await isReexecuted(ctx, each.group)) });
    }
  }
  let distrusted = false;
  if (sound.length > 0) {
    // A run at a time: one whose credits are used up must not hold up another.
    for (const runId of new Set(sound.map(({ submission }) => submission.task.runId))) {
      const own = sound.filter(({ submission }) => submission.task.runId === runId);
      const applied = await spending(ctx, runId, () =>
        ctx.prisma.$transaction((tx) => applyVerdicts(tx, own), { timeout: 30_000 }),
      );
      for (const outcome of applied.outcomes) outcomes.set(outcome.taskId, outcome);
    }
    distrusted = await suspectMalformed(
      ctx,
      sound.map(({ submission }) => submission.task.id),
    );
    distrusted ||= sound.some((each) => each.kind === "probe" && !each.agreement.agrees);
  }
  if (distrusted) await remeasureVoid(ctx);
  // What waited for these verdicts.
  for (const runId of new Set(sound.map(({ submission }) => submission.task.runId)))
    await acceptTrusted(ctx, runId);
  ctx.bus.publish("events");
  for (const runId of new Set(submissions.map(({ task }) => task.runId))) ctx.bus.publish(`run:${runId}`);
  if (
    judged.some((each) => each.kind !== "group" || each.verdict.verdict !== "ACCEPTED") ||
    sound.some(asksAgain)
  )
    ctx.bus.publish("offers:VERIFY");
  return submissions.map(({ task }) => {
    const outcome = outcomes.get(task.id);
    if (outcome === undefined) throw new Error(`task ${task.id} was submitted and not answered`);
    return outcome;
  });
}

const asksAgain = (each: Sound) => each.kind === "group" && each.reexecuted;

async function refuse(ctx: Ctx, refused: RefusedMeasurement): Promise<SubmissionOutcome> {
  const { submission, input, message, malformed } = refused;
  let fresh = false;
  const refusal = { pack: input.pack, what: "measurement", message };
  const outcome = await refuseSubmission(ctx, submission, refusal, async () => {
    fresh = true;
  });
  if (fresh && malformed) await countMalformed(ctx, submission);
  return outcome;
}
