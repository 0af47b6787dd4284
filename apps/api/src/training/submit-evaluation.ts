import {
  decodeSamplesPack,
  type EvaluatePayload,
  environment,
  evaluatePayloadSchema,
  heldOutExample,
  newId,
  PackError,
  type RunSpec,
  type SamplesPack,
  toTypeId,
} from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { payNode } from "../ledger/ledger.ts";
import { lockRun, nudgeRun } from "../runs/lifecycle.ts";
import { specOf } from "../runs/spec.ts";
import { acceptSubmission, completeTask } from "../tasks/lease.ts";
import { answeredBefore, refuseSubmission } from "../tasks/refusal.ts";
import {
  openSubmission,
  type SignedSubmission,
  type SubmissionInput,
  type SubmissionOutcome,
} from "../tasks/submission.ts";
import { bootstrap, pairedGain } from "./interval.ts";

/** Takes an evaluator's samples. The rewards are computed here, on examples drawn here. */
export async function submitEvaluation(ctx: Ctx, input: SubmissionInput): Promise<SubmissionOutcome> {
  const submission = await openSubmission(ctx, input);
  const { task } = submission;
  if (task.kind !== "EVALUATE")
    throw new CodedError(
      "INPUT_INVALID",
      `This task is ${task.kind}, not EVALUATE. Submit its result with the mutation of its kind.`,
    );
  const before = answeredBefore(submission, input.pack);
  if (before !== undefined) return before;
  const spec = await specOf(ctx.prisma, task.runId, task.revision);
  const payload = evaluatePayloadSchema.parse(task.payload);
  const judged = judge(await ctx.blobs.read(input.pack), {
    spec,
    payload,
    run: toTypeId("run", task.runId),
    version: task.policyVersion,
  });
  if (judged.kind === "refused")
    return refuseSubmission(ctx, submission, { pack: input.pack, what: "samples", message: judged.message });

  const publish = (pay: "paid" | "unpaid") =>
    ctx.prisma.$transaction((tx) => storeEvaluation(tx, submission, input, { spec, payload, judged, pay }));
  let outcome: SubmissionOutcome;
  try {
    outcome = await publish("paid");
  } catch (error) {
    if (!(error instanceof CodedError) || error.code !== "BUDGET_EXHAUSTED") throw error;
    ctx.log.warn(
      { run: task.runId, task: task.id },
      "an evaluation was stored unpaid: the budget does not cover it",
    );
    outcome = await publish("unpaid");
  }
  nudgeRun(ctx, task.runId);
  return outcome;
}

type Scored = { readonly kind: "scored"; readonly rewards: readonly number[]; readonly tokens: number };

function judge(
  bytes: Uint8Array,
  asked: { spec: RunSpec; payload: EvaluatePayload; run: string; version: number | null },
): Scored | { readonly kind: "refused"; readonly message: string } {
  const { spec, payload } = asked;
  let pack: SamplesPack;
  try {
    pack = decodeSamplesPack(bytes, {
      bytes: bytes.length,
      rollouts: payload.prompts.length,
      tokens: spec.model.maxPositions,
    });
  } catch (error) {
    if (error instanceof PackError)
      return { kind: "refused", message: `The pack does not read: ${error.message}` };
    throw error;
  }
  const flaw = flawOf(pack, asked);
  if (flaw !== undefined) return { kind: "refused", message: flaw };

  const env = environment(spec.environment);
  const rewards = pack.samples.map(({ index, tokens, finish }) => {
    const text = env.tokenizer.decode(finish === "eos" ? tokens.subarray(0, -1) : tokens);
    return env.score(heldOutExample(env, payload.suite, index), text, { finishReason: finish }).reward;
  });
  return {
    kind: "scored",
    rewards,
    tokens: pack.samples.reduce((sum, sample) => sum + sample.tokens.length, 0),
  };
}

function flawOf(
  { header, samples }: SamplesPack,
  {
    spec,
    payload,
    run,
    version,
  }: { spec: RunSpec; payload: EvaluatePayload; run: string; version: number | null },
): string | undefined {
  if (
    header.run !== run ||
    header.suite !== payload.suite ||
    header.manifest !== payload.manifest ||
    header.policyVersion !== version
  )
    return "The pack is for another run, suite or version than the task.";
  if (samples.length !== payload.prompts.length)
    return `The pack has ${samples.length} samples; the task has ${payload.prompts.length} prompts.`;
  const { eos, vocabularySize } = environment(spec.environment).tokenizer;
  for (const [i, sample] of samples.entries()) {
    const { tokens, finish } = sample;
    if (sample.index !== i || sample.prompt.join() !== payload.prompts[i]?.join())
      return `Sample ${i} does not answer prompt ${i}.`;
    if (tokens.some((token) => token >= vocabularySize))
      return `Sample ${i} has a token outside the vocabulary.`;
    if (tokens.length > payload.maxOutputTokens)
      return `Sample ${i} is longer than ${payload.maxOutputTokens} tokens.`;
    if (tokens.indexOf(eos) !== (finish === "eos" ? tokens.length - 1 : -1))
      return `Sample ${i} does not end where its end token is.`;
    if (finish === "length" && tokens.length !== payload.maxOutputTokens)
      return `Sample ${i} ends before its end token and before the limit.`;
  }
  return undefined;
}

async function storeEvaluation(
  tx: Tx,
  { task, nodeId }: SignedSubmission,
  input: SubmissionInput,
  result: { spec: RunSpec; payload: EvaluatePayload; judged: Scored; pay: "paid" | "unpaid" },
): Promise<SubmissionOutcome> {
  const { spec, payload, judged } = result;
  await lockRun(tx, task.runId);
  const fence = await acceptSubmission(tx, {
    taskId: task.id,
    attempt: input.attempt,
    nodeId,
    packHash: input.pack,
  });
  if (fence.kind === "lost") return { kind: "lost", taskId: task.id, message: fence.message };
  if (fence.kind === "duplicate") return { kind: "submitted", taskId: task.id, duplicate: true };
  if (input.cpuSeconds !== undefined)
    await tx.attempt.update({ where: { id: fence.attempt.id }, data: { cpuSeconds: input.cpuSeconds } });
  if (task.policyVersion === null) throw new Error(`EVALUATE task ${task.id} names no policy version`);

  const owner = { organizationId: task.organizationId, runId: task.runId };
  const id = newId("eval");
  const interval = bootstrap(judged.rewards);
  await tx.evaluation.create({
    data: {
      id,
      ...owner,
      version: task.policyVersion,
      suite: payload.suite,
      n: judged.rewards.length,
      mean: interval.mean,
      rewards: [...judged.rewards],
      samplesHash: input.pack,
      taskId: task.id,
      nodeId,
    },
  });
  await tx.packReference.create({
    data: { ...owner, taskId: task.id, subject: task.id, sha256: input.pack, kind: "SAMPLES" },
  });
  const base =
    task.policyVersion === 0
      ? null
      : await tx.evaluation.findUnique({
          where: { runId_version_suite: { runId: task.runId, version: 0, suite: payload.suite } },
        });
  const gain = base === null ? null : pairedGain(judged.rewards, base.rewards);
  await appendEvents(tx, [
    {
      stream: runStream(task.runId),
      organizationId: task.organizationId,
      type: "evaluation.done",
      subject: toTypeId("eval", id),
      data: {
        version: task.policyVersion,
        suite: payload.suite,
        n: judged.rewards.length,
        mean: interval.mean,
        ciLow: interval.low,
        ciHigh: interval.high,
        gain: gain?.mean ?? null,
        gainLow: gain?.low ?? null,
        gainHigh: gain?.high ?? null,
      },
    },
  ]);
  await completeTask(tx, task);
  if (result.pay === "paid") {
    await payNode(tx, {
      ...owner,
      nodeId,
      amount: BigInt(judged.tokens) * BigInt(spec.prices.evaluatedToken),
      key: `pay:${task.id}`,
      memo: `Evaluation of version ${task.policyVersion}`,
      taskId: task.id,
    });
  }
  return { kind: "submitted", taskId: task.id, duplicate: false };
}
