import { toTypeId } from "@muster/protocol";
import { manifestOf, type Scene, type Settled } from "./past-scene.ts";
import { addTask } from "./past-tasks.ts";
import { type Random, sha256Of } from "./random.ts";
import { rewardAt, type Series } from "./series.ts";

type StepInput = { step: number; steps: number; at: number; settled: readonly Settled[]; series: Series };

/** A sealed batch, the step that learned from it and the version it made. @returns id of its TRAIN task */
export function addStep(scene: Scene, { step, steps, at, settled, series }: StepInput): string {
  const { plan, loader, log, owner, staff, book } = scene;
  const { random, spec } = plan;
  const batchId = random.uuid(at);
  const sealedAt = at - 20_000;
  const pack = sha256Of(`batch ${plan.id} ${step}`);
  const lag: Record<string, number> = {};
  for (const { version } of settled) lag[step - 1 - version] = (lag[step - 1 - version] ?? 0) + 1;
  const signalGroups = settled.filter(({ signal }) => signal).length;
  loader.add("Batch", {
    id: batchId,
    ...owner,
    step,
    state: "TRAINED",
    signalGroups,
    settledGroups: settled.length,
    packHash: pack,
    sealedAt: new Date(sealedAt),
    trainedAt: new Date(at),
    createdAt: new Date(sealedAt - 1_000),
  });
  settled.forEach(({ id, signal, version }, position) => {
    loader.add("BatchGroup", {
      batchId,
      position,
      groupId: id,
      organizationId: plan.organizationId,
      signal,
      policyLag: step - 1 - version,
    });
  });
  const rewards = settled.flatMap((group) => group.rewards);
  const meanReward =
    rewards.length > 0
      ? rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length
      : noisy(rewardAt(step / steps), random);
  const tokens = plan.long
    ? 16_000 + random.between(0, 2_000)
    : sum(settled.filter(({ signal }) => signal).map((group) => group.tokens));
  const lagMean = sum(settled.map(({ version }) => step - 1 - version)) / Math.max(1, settled.length);
  const metrics = series(step, { reward: meanReward, tokens, lagMean });
  const stepId = random.uuid(at);
  loader.add("TrainStep", {
    id: stepId,
    ...owner,
    step,
    version: step,
    batchId,
    meanReward,
    metrics: { ...metrics, lag },
    createdAt: new Date(at),
  });
  if (!plan.long || step > steps - plan.events)
    log.event("step.trained", toTypeId("step", stepId), at, {
      step,
      version: step,
      meanReward,
      signalGroups,
      settledGroups: settled.length,
      ...metrics,
      lag,
    });
  // Two hundred thousand tasks that nobody looks at would take as long as all the rest.
  if (plan.long) return random.uuid(sealedAt);
  log.event("batch.sealed", toTypeId("batch", batchId), sealedAt, {
    step,
    signalGroups,
    settledGroups: settled.length,
    lag,
    pack,
  });
  const trainer = staff.trainers[0];
  if (trainer === undefined) throw new RangeError("a run has a trainer");
  const { id: taskId } = addTask(scene, {
    kind: "TRAIN",
    version: step - 1,
    payload: {
      kind: "TRAIN",
      step,
      totalSteps: spec.limits.steps,
      version: step,
      manifest: manifestOf(scene.manifests, plan.id, step - 1),
      state: sha256Of(`state ${plan.id} ${step - 1}`),
      batch: pack,
      reference: null,
      training: spec.training,
      temperature: spec.generation.sampling.temperature,
    },
    from: sealedAt,
    to: at,
    node: trainer,
  });
  book.pay(taskId, trainer.id, tokens * spec.prices.trainedToken, at, `Training step ${step}`);
  return taskId;
}

export function addEvaluation(scene: Scene, version: number, at: number, mean: number): void {
  const { plan, loader, log, owner, staff, book } = scene;
  const { random, spec } = plan;
  const evaluator = staff.evaluators[0];
  if (evaluator === undefined) throw new RangeError("a run has an evaluator");
  const { suite, examples } = spec.evaluation;
  const manifest = manifestOf(scene.manifests, plan.id, version);
  const { id: taskId } = addTask(scene, {
    kind: "EVALUATE",
    version,
    payload: {
      kind: "EVALUATE",
      seed: spec.seed,
      suite,
      manifest,
      prompts: [],
      maxOutputTokens: spec.generation.maxOutputTokens,
      sampling: { ...spec.generation.sampling, temperature: spec.evaluation.temperature },
    },
    from: at - 10_000,
    to: at,
    node: evaluator,
  });
  const rewards = Array.from({ length: examples }, () => (random.chance(mean) ? 1 : 0));
  const found = sum(rewards) / examples;
  const id = random.uuid(at);
  loader.add("Evaluation", {
    id,
    ...owner,
    version,
    suite,
    n: examples,
    mean: found,
    rewards,
    samplesHash: sha256Of(`samples ${id}`),
    taskId,
    nodeId: evaluator.id,
    createdAt: new Date(at),
  });
  log.event("evaluation.done", toTypeId("eval", id), at, { version, suite, n: examples, mean: found });
  book.pay(
    taskId,
    evaluator.id,
    examples * 7 * spec.prices.evaluatedToken,
    at,
    `Evaluation of version ${version}`,
  );
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function noisy(value: number, random: Random): number {
  return Math.min(1, Math.max(0, Math.round(1e6 * (value + 0.03 * random.normal())) / 1e6));
}
