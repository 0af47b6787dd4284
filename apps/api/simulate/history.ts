import { environment, toTypeId } from "@muster/protocol";
import { auditRate, newStanding } from "@muster/verification";
import { createBook } from "./book.ts";
import type { Loader } from "./copy.ts";
import { createRunLog, type RunLog } from "./log.ts";
import { addGroups } from "./past-groups.ts";
import type { Scene, Settled, Worker } from "./past-scene.ts";
import { addEvaluation, addStep } from "./past-steps.ts";
import { addTask } from "./past-tasks.ts";
import { releaseStakes } from "./past-verdicts.ts";
import type { RunPlan } from "./plan.ts";
import { sha256Of } from "./random.ts";
import { createSeries, rewardAt } from "./series.ts";
import type { SimulatedNode, World } from "./world.ts";

// A run's past, as the coordinator would have left it: who claimed what, what became of it, what it cost, and what was learned. Everything
// in it is decided, paid and final, and nothing of it is left to be measured, so its packs are those that retention has deleted.

/** Where a run's past ends. */
export type Past = {
  readonly plan: RunPlan;
  readonly steps: number;
  /** Nodes with a standing, workers first. */
  readonly participants: readonly SimulatedNode[];
  /** When each version became available; none of a draft. */
  readonly versions: readonly { readonly version: number; readonly at: number; readonly taskId: string }[];
  readonly log: RunLog;
};

/** Adds the rows of a run's past, but its checkpoints and relays: those follow from what this returns. */
export async function addHistory(
  loader: Loader,
  plan: RunPlan,
  input: {
    world: World;
    accounts: Map<string, string>;
    steps: number;
    manifests: ReadonlyMap<number, { hash: string }>;
  },
): Promise<Past> {
  const { world } = input;
  const owner = { organizationId: plan.organizationId, runId: plan.id };
  const log = createRunLog(owner, { keep: plan.events });
  const scene: Scene = {
    plan,
    loader,
    log,
    book: createBook(loader, owner, { random: plan.random.fork("ledger"), accounts: input.accounts }),
    env: environment(plan.spec.environment),
    staff: world.staff,
    owner,
    run: toTypeId("run", plan.id),
    manifests: input.manifests,
  };
  addRun(scene, input.steps);
  scene.book.fund(
    plan.flagship ? 1e12 : Math.ceil((plan.groups * 8 * 10 * 250) / 1e6 + 50) * 1e6,
    plan.createdAt,
  );
  const workers = workersOf(plan, world);
  const past = plan.state === "DRAFT" ? nothing : await addSteps(scene, workers, input.steps);
  const staff = [
    ...world.staff.trainers,
    ...world.staff.validators,
    ...world.staff.evaluators,
    ...world.staff.relays,
  ];
  if (plan.state !== "DRAFT") addStandings(scene, workers, staff);
  return { plan, log, participants: [...workers.map(({ node }) => node), ...staff], ...past };
}

/** How many steps a run's groups suffice for: nearly all of them settle. */
export function stepsOf({ groups, spec, state, long }: RunPlan): number {
  if (state === "DRAFT" || long) return 0;
  return Math.max(1, Math.floor((0.93 * groups) / spec.batch.settledGroups));
}

const nothing = { steps: 0, versions: [] };

function addRun({ plan, loader, log, owner, run }: Scene, steps: number): void {
  const { spec, state, stateReason, createdAt, until } = plan;
  const draft = state === "DRAFT";
  const ended = state === "COMPLETED" || state === "CANCELLED" || state === "FAILED";
  const startedAt = createdAt + 30_000;
  loader.add("Run", {
    id: plan.id,
    organizationId: plan.organizationId,
    slug: plan.slug,
    name: spec.name,
    environment: spec.environment,
    state,
    stateReason,
    open: spec.open,
    baseKind: spec.base.kind,
    currentVersion: draft ? null : steps,
    step: steps,
    revision: 1,
    stepLimit: state === "COMPLETED" && stateReason === "STEPS" ? steps : spec.limits.steps,
    deadlineAt: new Date(stateReason === "DEADLINE" ? until : createdAt + 400 * 86_400_000),
    createdById: plan.createdById,
    createdAt: new Date(createdAt),
    startedAt: draft ? null : new Date(startedAt),
    endedAt: ended ? new Date(until) : null,
  });
  const hash = sha256Of(`spec ${plan.id}`);
  loader.add("RunRevision", {
    id: plan.random.uuid(createdAt),
    ...owner,
    number: 1,
    spec,
    hash,
    createdById: plan.createdById,
    createdAt: new Date(createdAt),
  });
  log.event("run.created", run, createdAt, {
    name: spec.name,
    slug: plan.slug,
    environment: spec.environment,
    stepLimit: spec.limits.steps,
    hash,
  });
  if (draft) return;
  log.event("run.state", run, startedAt, { state: "RUNNING", reason: null, step: 0, version: null });
  if (state !== "RUNNING")
    log.event("run.state", run, until, { state, reason: stateReason, step: steps, version: steps });
}

function workersOf(plan: RunPlan, world: World): Worker[] {
  const random = plan.random.fork("workers");
  const all = plan.flagship ? [...world.workers] : sample(world.workers, plan.workers, () => random.next());
  return all.map((node) => ({
    node,
    typeId: toTypeId("node", node.id),
    standing: newStanding,
    joined: false,
    changedAt: plan.createdAt,
    reason: null,
    quarantinedAt: null,
    stakes: [],
  }));
}

function sample<T>(list: readonly T[], count: number, next: () => number): T[] {
  const left = [...list];
  for (let i = 0; i < Math.min(count, left.length); i++) {
    const j = i + Math.floor(next() * (left.length - i));
    const held = left[i] as T; // i and j are inside the list
    left[i] = left[j] as T;
    left[j] = held;
  }
  return left.slice(0, count);
}

async function addSteps(scene: Scene, workers: readonly Worker[], steps: number) {
  const { plan, loader } = scene;
  const random = plan.random.fork("steps");
  const choose = chooser(workers, () => random.next());
  const series = createSeries(random, steps);
  const began = plan.createdAt + 5 * 60_000;
  const pace = (plan.until - began) / (steps + 0.5);
  const versions = [addBase(scene, began)];
  let waiting: Settled[] = [];
  addEvaluation(scene, 0, began + 30_000, rewardAt(0));
  for (let step = 1; step <= steps; step++) {
    const from = began + (step - 1) * pace;
    if (!plan.long)
      waiting.push(...addGroups(scene, { step, steps, from, pace, choose, waiting: waiting.length }));
    // What is left over waits for the next batch. Behind the last one nothing waits: the planner would take it, and its packs are gone.
    const room = step === steps ? waiting.length : plan.spec.batch.settledGroups;
    const settled = waiting.slice(0, room);
    waiting = waiting.slice(room);
    const taskId = addStep(scene, { step, steps, at: from + 0.95 * pace, settled, series });
    versions.push({ version: step, at: from + 0.95 * pace, taskId });
    const { every } = plan.spec.evaluation;
    if (step % every === 0) addEvaluation(scene, step, from + 0.97 * pace, rewardAt(step / steps));
    await loader.relieve();
  }
  releaseStakes(scene, workers);
  return { steps, versions };
}

/** A worker by its share of the work: a few fast ones do most of it, and so are trusted. One that is quarantined gets nothing any more. */
function chooser(workers: readonly Worker[], next: () => number): () => Worker {
  let sum = 0;
  const sums = workers.map(({ node }) => {
    sum += node.speed ** 3;
    return sum;
  });
  return () => {
    for (;;) {
      const wanted = next() * sum;
      let [low, high] = [0, sums.length - 1];
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((sums[middle] ?? 0) > wanted) high = middle;
        else low = middle + 1;
      }
      const worker = workers[low];
      if (worker !== undefined && worker.standing.state !== "QUARANTINED") return worker;
    }
  };
}

function addBase(scene: Scene, at: number) {
  const trainer = scene.staff.trainers[0];
  if (trainer === undefined) throw new RangeError("a run has a trainer");
  const { spec } = scene.plan;
  const payload = {
    kind: "BASE",
    environment: spec.environment,
    model: spec.model,
    seed: spec.seed,
    base: spec.base,
    parent: null,
  };
  const { id: taskId } = addTask(scene, {
    kind: "BASE",
    version: null,
    payload,
    from: scene.plan.createdAt + 30_000,
    to: at,
    node: trainer,
  });
  return { version: 0, at, taskId };
}

function addStandings(
  { plan, loader, owner }: Scene,
  workers: readonly Worker[],
  staff: readonly SimulatedNode[],
): void {
  const { audit } = plan.spec.verification;
  for (const { node, standing, changedAt, quarantinedAt, reason } of [
    ...workers,
    ...staff.map((node) => ({
      node,
      standing: newStanding,
      changedAt: plan.createdAt,
      quarantinedAt: null,
      reason: null,
    })),
  ])
    loader.add("NodeTrust", {
      ...owner,
      nodeId: node.id,
      ...standing,
      auditRate: auditRate(standing, audit),
      quarantinedAt: quarantinedAt === null ? null : new Date(quarantinedAt),
      reason,
      createdAt: new Date(plan.createdAt),
      updatedAt: new Date(changedAt),
    });
}
