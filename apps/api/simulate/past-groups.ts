import { type Example, exampleSeed, groupAdvantages, toTypeId } from "@muster/protocol";
import { auditRate, finalAfter } from "@muster/verification";
import { epochAt, manifestOf, type Scene, type Settled, type Worker } from "./past-scene.ts";
import { addTask } from "./past-tasks.ts";
import { accuse, addVerification, type Fate, join, measure, record, stake } from "./past-verdicts.ts";
import type { Random } from "./random.ts";
import { sha256Of } from "./random.ts";
import { rewardAt } from "./series.ts";
import type { SimulatedNode } from "./world.ts";

type StepScene = {
  step: number;
  steps: number;
  from: number;
  pace: number;
  choose: () => Worker;
  /** Groups that wait for the step's batch. */
  waiting: number;
};

/** Tasks until there are enough settled groups for the step's batch. @returns them */
export function addGroups(scene: Scene, { step, steps, from, pace, choose, waiting }: StepScene): Settled[] {
  const { spec, random } = scene.plan;
  const { settledGroups } = spec.batch;
  const { groupsPerTask } = spec.generation;
  const expected = Math.ceil((1.08 * settledGroups) / groupsPerTask);
  const settled: Settled[] = [];
  for (let k = 0; waiting + settled.length < settledGroups; k++) {
    const at = from + (0.02 + 0.75 * Math.min(1, (k + random.next()) / expected)) * pace;
    const version = step > 1 && random.chance(0.2) ? step - 2 : step - 1;
    const quick = Math.min(90_000, 0.05 * pace);
    settled.push(
      ...addGenerated(scene, choose, { at, quick, version, share: step / steps, recent: step > steps - 12 }),
    );
  }
  return settled;
}

type Generated = {
  at: number;
  /** Milliseconds that a task takes at most. */
  quick: number;
  version: number;
  /** Of the run's way. */
  share: number;
  /** Whether the planner would still look at a group of this version. */
  recent: boolean;
};

function addGenerated(scene: Scene, choose: () => Worker, input: Generated): Settled[] {
  const { at, quick, version } = input;
  const { plan, env } = scene;
  const { random, spec } = plan;
  const failed: { node: SimulatedNode; state: "EXPIRED" | "RELEASED" | "SUBMITTED"; reason: string }[] = [];
  let worker = choose();
  while (worker.node.character === "flaky" && failed.length < 3 && random.chance(0.35)) {
    join(scene, worker, at);
    const kind = random.next();
    if (kind < 0.5)
      failed.push({ node: worker.node, state: "EXPIRED", reason: "The lease was not renewed." });
    else if (kind < 0.9)
      failed.push({
        node: worker.node,
        state: "RELEASED",
        reason: "out of memory: the machine is needed for something else",
      });
    else {
      const reason = "The pack does not read: it ends in the middle.";
      failed.push({ node: worker.node, state: "SUBMITTED", reason });
      record(scene, worker, { kind: "REFUSED", groupId: null, at, reason });
    }
    worker = choose();
  }
  join(scene, worker, at);
  const taskId = random.uuid(at);
  const task = toTypeId("task", taskId);
  const pack = sha256Of(`pack ${taskId}`);
  const submittedAt = at + quick * (0.3 + 0.7 * random.next());
  const { groupSize, groupsPerTask, maxOutputTokens, sampling } = spec.generation;
  const examples = Array.from({ length: groupsPerTask }, (_, index) => {
    const seed = exampleSeed(spec.seed, task, index);
    return { seed: Buffer.from(seed).toString("hex"), example: env.example(seed, "train") };
  });
  const { attemptId } = addTask(scene, {
    id: taskId,
    kind: "GENERATE",
    version,
    payload: {
      kind: "GENERATE",
      seed: spec.seed,
      manifest: manifestOf(scene.manifests, plan.id, version),
      prompts: examples.map(({ example }) => env.tokenizer.encode(example.prompt)),
      groupSize,
      maxOutputTokens,
      sampling,
      form: spec.verification.form,
      topK: spec.verification.topK,
    },
    from: at,
    to: submittedAt,
    node: worker.node,
    failed,
    pack,
  });
  return examples.flatMap(({ seed, example }, index) => {
    const made = addGroup(scene, worker, {
      ...input,
      taskId,
      attemptId,
      pack,
      index,
      seed,
      example,
      submittedAt,
    });
    return made === null ? [] : [made];
  });
}

type GroupInput = Generated & {
  taskId: string;
  attemptId: string;
  pack: string;
  index: number;
  seed: string;
  example: Example;
  submittedAt: number;
};

/** One group with its rollouts, its verdict and its money. @returns it when it is settled */
function addGroup(scene: Scene, worker: Worker, input: GroupInput): Settled | null {
  const { plan, log } = scene;
  const { random, spec } = plan;
  const { version, submittedAt, quick } = input;
  const id = random.uuid(submittedAt);
  const rollouts = completions(scene, input);
  const rewards = rollouts.map(({ reward }) => reward);
  const tokens = rollouts.reduce((sum, rollout) => sum + rollout.tokens, 0);
  const meanReward = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  const rate = auditRate(worker.standing, spec.verification.audit);
  const audited = random.chance(rate);
  const { character } = worker.node;
  const cheating = character !== "honest" && character !== "flaky" && random.chance(0.6) ? character : null;
  const wronged = cheating === null && audited && !input.recent && random.chance(0.0006);
  const unmeasured = audited && cheating === null && !wronged && random.chance(0.001);
  const late = !audited && random.chance(0.01);
  const decidedAt = submittedAt + quick * (audited ? 0.5 + random.next() : 0.05);
  const windowMs = spec.disputeWindowSeconds * 1000;
  const fate = {
    id,
    tokens,
    decidedAt,
    submittedAt,
    finalAt: decidedAt + windowMs + random.between(1_000, 300_000),
    version,
  };
  const accused = audited && (cheating !== null || wronged);
  const verdict =
    audited && !unmeasured
      ? measure(scene, worker, { ...fate, ...input, cheat: accused ? (cheating ?? "lucky-draws") : null })
      : null;
  const accepted = !accused && !unmeasured;
  const signal = rewards.some((reward) => reward !== rewards[0]);
  const state =
    wronged || late
      ? late
        ? "STALE"
        : "ACCEPTED"
      : accused
        ? "REJECTED"
        : unmeasured
          ? "INVALID"
          : signal
            ? "ACCEPTED"
            : "SET_ASIDE";
  const reason = late
    ? `Its policy would be 3 versions behind when batch ${version + 4} is sealed; at most 2 are allowed.`
    : state === "REJECTED"
      ? (verdict?.reason ?? null)
      : unmeasured
        ? "No validator finished measuring it: Nobody claimed it before the run's end."
        : null;
  const kept = state === "ACCEPTED" || state === "SET_ASIDE" || state === "STALE";
  const acceptance = kept ? (audited ? "AUDITED" : "TRUSTED") : null;
  addGroupRows(scene, {
    input,
    id,
    worker,
    rollouts,
    tokens,
    meanReward,
    rate,
    state,
    reason,
    acceptance,
    fate,
    verifyTaskId: verdict?.taskId ?? null,
  });
  if (verdict !== null) addVerification(scene, { id, tokens, decidedAt }, verdict);
  const subject = toTypeId("group", id);
  const about = { node: worker.typeId, version, meanReward };
  log.event("group.submitted", subject, submittedAt, { ...about, audited, duplicate: false });
  log.event("group.decided", subject, decidedAt, {
    ...about,
    state: accused ? "REJECTED" : unmeasured ? "INVALID" : "ACCEPTED",
    acceptance: accepted ? acceptance : null,
    reason,
  });
  if (accused && verdict !== null) accuse(scene, worker, { ...fate, verdict, wronged });
  else if (unmeasured) {
    record(scene, worker, { kind: "INVALID", groupId: id, at: decidedAt, reason });
    log.audit("verdict.invalid", subject, decidedAt, { node: worker.typeId, reason, ours: false });
  } else {
    if (audited) record(scene, worker, { kind: "ACCEPTED", groupId: id, at: decidedAt, reason: null });
    log.audit("verdict.accepted", subject, decidedAt, { acceptance, node: worker.typeId, auditRate: rate });
  }
  if (kept) stake(scene, worker, fate);
  if (state === "SET_ASIDE")
    log.event("group.decided", subject, decidedAt + 50, {
      ...about,
      state,
      reason: "All its rewards are equal: there is nothing to learn from it.",
    });
  if (accused || unmeasured || late) return null;
  return { id, signal, version, tokens, rewards };
}

type Completion = { text: string; tokens: number; reward: number; parts: Record<string, number> };

/** What a policy at this share of its way says: the right answer as often as it has learned to, else something like it. */
function completions({ env, plan }: Scene, { example, share }: GroupInput): Completion[] {
  const { random, spec } = plan;
  const answer = env.answer(example);
  const hard = random.normal() * 0.9;
  const logit = Math.log(rewardAt(share) / (1 - rewardAt(share))) + hard;
  const right = 1 / (1 + Math.exp(-logit));
  return Array.from({ length: spec.generation.groupSize }, () => {
    const text = random.chance(right) ? answer : garbled(answer, random);
    const { reward, parts } = env.score(example, text, { finishReason: "eos" });
    return { text, tokens: text.length + 1, reward, parts };
  });
}

function garbled(answer: string, random: Random): string {
  const letters = [...answer];
  const i = random.between(0, letters.length - 1);
  const j = random.between(0, letters.length - 1);
  const [a = "", b = ""] = [letters[i], letters[j]];
  letters[i] = b;
  letters[j] = a;
  if (a === b) letters.pop();
  return letters.join("");
}

function addGroupRows(
  { plan, loader, owner }: Scene,
  made: {
    input: GroupInput;
    id: string;
    worker: Worker;
    rollouts: readonly Completion[];
    tokens: number;
    meanReward: number;
    rate: number;
    state: string;
    reason: string | null;
    acceptance: string | null;
    fate: Fate;
    verifyTaskId: string | null;
  },
): void {
  const { input, id, worker, rollouts, fate, state } = made;
  const { random, spec } = plan;
  const ready = state === "ACCEPTED" || state === "SET_ASIDE" || state === "STALE";
  loader.add("Group", {
    id,
    ...owner,
    taskId: input.taskId,
    attemptId: input.attemptId,
    nodeId: worker.node.id,
    index: input.index,
    exampleSeed: input.seed,
    prompt: input.example.prompt,
    policyVersion: input.version,
    packHash: input.pack,
    state,
    acceptance: made.acceptance,
    reason: made.reason,
    advantagesReady: ready,
    meanReward: made.meanReward,
    tokens: made.tokens,
    auditRate: made.rate,
    epoch: epochAt(plan, fate.submittedAt),
    verifyTaskId: made.verifyTaskId,
    blindHash: made.verifyTaskId === null ? null : sha256Of(`blind ${id}`),
    submittedAt: new Date(fate.submittedAt),
    decidedAt: new Date(fate.decidedAt),
    finalAt: new Date(fate.finalAt),
    finalAfter: ready ? finalAfter(worker.standing.accepted, spec.verification.audit) : null,
  });
  const advantages = groupAdvantages(
    rollouts.map(({ reward }) => reward),
    spec.training.advantageEpsilon,
  );
  rollouts.forEach(({ text, tokens, reward, parts }, i) => {
    loader.add("Rollout", {
      id: random.uuid(fate.submittedAt),
      ...owner,
      groupId: id,
      index: input.index * spec.generation.groupSize + i,
      preview: text,
      tokens,
      finishReason: "eos",
      reward,
      rewardParts: parts,
      advantage: ready ? (advantages[i] ?? 0) : null,
    });
  });
}
