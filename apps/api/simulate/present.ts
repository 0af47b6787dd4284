import { type RunSpecInput, toTypeId } from "@muster/protocol";
import { payRelays } from "../src/broadcast/pay.ts";
import type { Actor, Ctx } from "../src/context.ts";
import { numberEvents } from "../src/events/sequencer.ts";
import { grantRole } from "../src/nodes/grants.ts";
import { createRun } from "../src/runs/create-run.ts";
import { pauseRun } from "../src/runs/lifecycle.ts";
import { advanceRun } from "../src/runs/planner.ts";
import { specOf } from "../src/runs/spec.ts";
import { expireLeases } from "../src/tasks/expiry.ts";
import { openCanaries } from "../src/verification/canaries.ts";
import { settleCases } from "../src/verification/cases.ts";
import { disputeCase } from "../src/verification/decisions.ts";
import { chainEntries } from "../src/verification/record.ts";
import { auditLostTrust } from "../src/verification/retroactive.ts";
import { acceptTrusted } from "../src/verification/trusted.ts";
import { claim, ctxOf, evaluate, generate, measure, train, type Work } from "./nodes.ts";
import type { RunPlan } from "./plan.ts";
import type { Random } from "./random.ts";
import { createSeries } from "./series.ts";
import { hour, type SimulatedNode, type World } from "./world.ts";

// The newest groups of the flagship go the way that all groups go: the planner opens tasks, nodes claim, submit and measure, the coordinator
// judges, the trainer trains. Nothing here writes a verdict.

export type Present = { readonly groups: number; readonly steps: number; readonly seconds: number };

/** Nodes that act at the same moment. More only wait for each other: there is one coordinator, and it is this process. */
const atOnce = 4;

/** Goes on with the flagship until so many groups are handed in and nothing of them waits any more. */
export async function goOn(
  ctx: Ctx,
  input: { world: World; plan: RunPlan; groups: number; random: Random; say: (text: string) => void },
): Promise<Present> {
  const started = performance.now();
  const { world, plan, groups, random, say } = input;
  const work: Work = {
    runId: plan.id,
    run: toTypeId("run", plan.id),
    spec: await specOf(ctx.prisma, plan.id, 1),
    reading: (version) => ({ version, skill: 6.5 }),
    random,
  };
  const { trainers, evaluators, validators } = world.staff;
  const series = createSeries(random.fork("series"), 200);
  const metricsOf = (step: number) => series(step, { reward: 0.9, tokens: 0, lagMean: 0 });
  const crowd = crowdOf(present(world.workers));
  let made = 0;
  let steps = 0;
  let idle = 0;
  let round = 0;
  while (idle < 3) {
    await advanceRun(ctx, plan.id);
    beat(ctx, [...trainers, ...validators, ...evaluators]);
    const before = made;
    const waiting = await openTasks(ctx, plan.id);
    if (made < groups)
      await together(
        Array.from({ length: Math.min(4 * atOnce, waiting.GENERATE ?? 0) }, () => pick(crowd, random)),
        async (node) => {
          const [lease] = made < groups ? await claim(ctx, work, node, "GENERATE") : [];
          if (lease === undefined) return;
          const handedIn = await generate(ctx, work, node, lease);
          made += handedIn;
        },
      );
    await sweep(ctx, plan.id);
    // The last validator never measures anything; canaries and re-executions find it out.
    let measured = 0;
    const { VERIFY = 0 } = await openTasks(ctx, plan.id);
    const shift =
      VERIFY === 0
        ? []
        : VERIFY > 32
          ? validators
          : validators.filter((_, i) => i < 2 || (i + round) % 3 === 0);
    round++;
    await together(shift, async (node) => {
      const found = await measure(ctx, work, node, { looksAway: node === validators.at(-1) });
      measured += found;
    });
    await openCanaries(ctx);
    await advanceRun(ctx, plan.id);
    let moved = false;
    for (const trainer of trainers.slice(0, 1)) moved = await train(ctx, work, trainer, "TRAIN", metricsOf);
    for (const evaluator of evaluators) moved = (await evaluate(ctx, work, evaluator, 0.88)) || moved;
    if (moved) {
      steps++;
      say(`${plan.spec.name}: ${made} of ${groups} groups through the coordinator`);
    }
    idle = made === before && measured === 0 && !moved ? idle + 1 : 0;
    await settle(ctx);
  }
  await object(ctx, world, plan.id);
  await payRelays(ctx);
  await settle(ctx);
  return { groups: made, steps, seconds: (performance.now() - started) / 1000 };
}

/** Some machines are at work when the simulation ends. */
export async function leaveAtWork(ctx: Ctx, world: World, plan: RunPlan, random: Random): Promise<void> {
  const spec = await specOf(ctx.prisma, plan.id, 1);
  const work: Work = {
    runId: plan.id,
    run: toTypeId("run", plan.id),
    spec,
    reading: (version) => ({ version, skill: 0 }),
    random,
  };
  await advanceRun(ctx, plan.id);
  const { honest } = crowdOf(present(world.workers));
  for (let i = 0; i < 4; i++) await claim(ctx, work, random.pick(honest), "GENERATE");
  await settle(ctx);
}

/** A run of two rollouts as long as they come, for whoever looks at one. */
export async function addLongest(
  ctx: Ctx,
  input: { world: World; tokens: number; random: Random },
): Promise<void> {
  const { world, tokens, random } = input;
  const [organization, person] = [world.organizations[0], world.people[0]];
  const { trainers, validators } = world.staff;
  const [trainer, validator, worker] = [
    trainers[0],
    validators[0],
    present(world.workers).find(({ character }) => character === "honest"),
  ];
  if (!organization || !person || !trainer || !validator || !worker)
    throw new RangeError("the world is empty");
  const actor: Actor = {
    kind: "person",
    userId: person.id,
    memberships: [{ organizationId: organization.id, role: "owner" }],
  };
  const owner: Ctx = { ...ctx, actor };
  const spec: RunSpecInput = {
    name: "Long answers",
    environment: "muster/sort-digits@1",
    seed: random.hex(32),
    model: { hiddenSize: 8, layers: 1, heads: 1, maxPositions: tokens + 16 },
    base: { kind: "warmup", steps: 50 },
    generation: { groupSize: 2, groupsPerTask: 1, maxOutputTokens: tokens },
    verification: { topK: 16, thresholds: { meanUlp: 256 } },
    evaluation: { examples: 8, versions: [] },
  };
  const created = await createRun(owner, {
    organizationId: organization.id,
    spec,
    credits: 10n ** 12n,
    start: true,
  });
  if (created.kind !== "created") throw new Error(created.message);
  const { runId } = created;
  await grantRole(owner, { runId, nodeId: trainer.id, role: "TRAINER" });
  await grantRole(owner, { runId, nodeId: validator.id, role: "VALIDATOR", own: true });
  const work: Work = {
    runId,
    run: toTypeId("run", runId),
    spec: await specOf(ctx.prisma, runId, 1),
    reading: (version) => ({ version, skill: 3, endless: true }),
    random,
  };
  await train(ctx, work, trainer, "BASE", () => ({ loss: 0.4 }));
  await advanceRun(ctx, runId);
  const [lease] = await claim(ctx, work, worker, "GENERATE");
  if (lease === undefined) throw new Error("The run of long rollouts has no task to claim.");
  await generate(ctx, work, worker, lease);
  await measure(ctx, work, validator);
  await pauseRun(owner, { runId, reason: "ORGANIZER" });
  await settle(ctx);
}

async function openTasks(ctx: Ctx, runId: string): Promise<Record<string, number>> {
  const rows = await ctx.prisma.task.groupBy({ by: ["kind"], where: { runId, state: "OPEN" }, _count: true });
  return Object.fromEntries(rows.map(({ kind, _count }) => [kind, _count]));
}

/** What the sweepers and loops would do of themselves. */
async function sweep(ctx: Ctx, runId: string): Promise<void> {
  while ((await expireLeases(ctx)) === 64);
  while ((await auditLostTrust(ctx, runId)) > 0);
  await acceptTrusted(ctx, runId);
  await settleCases(ctx);
}

async function settle(ctx: Ctx): Promise<void> {
  await ctx.presence.flush(ctx.prisma);
  while ((await numberEvents(ctx)) > 0);
  while ((await chainEntries(ctx)) > 0);
}

/** Some of the accused say something for themselves. */
async function object(ctx: Ctx, world: World, runId: string): Promise<void> {
  const open = await ctx.prisma.case.findMany({
    where: { runId, state: "OPEN" },
    orderBy: { id: "asc" },
    take: 60,
  });
  const nodes = new Map(world.workers.map((node) => [node.id, node]));
  for (const [i, { id, nodeId }] of open.entries()) {
    const node = nodes.get(nodeId);
    if (i % 3 !== 0 || node === undefined) continue;
    await disputeCase(ctxOf(ctx, node), {
      caseId: id,
      statement: "I run the released version and changed nothing. Please measure it again.",
    });
  }
}

const present = (workers: readonly SimulatedNode[]) =>
  workers.filter(({ silence, draining }) => silence < hour && !draining);

function beat(ctx: Ctx, nodes: readonly SimulatedNode[]): void {
  for (const { id } of nodes) ctx.presence.beat(id, {});
}

type Crowd = Record<"honest" | "flaky" | "cheating", readonly SimulatedNode[]>;

function crowdOf(nodes: readonly SimulatedNode[]): Crowd {
  const of = (character: string) => nodes.filter((node) => node.character === character);
  const [honest, flaky] = [of("honest"), of("flaky")];
  return {
    honest,
    flaky,
    cheating: nodes.filter(({ character }) => character !== "honest" && character !== "flaky"),
  };
}

/** More of those who make trouble than there are, so that all kinds of it come up among a few groups. */
function pick({ honest, flaky, cheating }: Crowd, random: Random): SimulatedNode {
  const draw = random.next();
  if (draw < 0.05) return random.pick(cheating);
  if (draw < 0.12) return random.pick(flaky);
  // The faster of two: whoever is fast is there more often.
  const [a, b] = [random.pick(honest), random.pick(honest)];
  return a.speed > b.speed ? a : b;
}

/** Does something for each, some at a time. */
async function together<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (let item = left.shift(); item !== undefined; item = left.shift()) await act(item);
    }),
  );
}
