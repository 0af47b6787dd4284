import type { Batch, PrismaClient } from "@muster/db";
import { newId, type RunSpec, toTypeId } from "@muster/protocol";
import { finalAfter } from "@muster/verification";
import type { Tx } from "../src/context.ts";
import { type NewEvent, runStream } from "../src/events/append.ts";
import { specOf } from "../src/runs/spec.ts";
import { type Random, randomOf } from "./random.ts";
import { createSeries, type Series } from "./series.ts";
import { makeWorld, type SimulatedNode } from "./world.ts";

/** Milliseconds between two transactions. */
export const tickMs = 100;
export const secondsPerStep = 10;

/** The run that is live, and what was done of it. */
export type Live = {
  readonly organizationId: string;
  readonly runId: string;
  readonly spec: RunSpec;
  readonly random: Random;
  /** Trusted ones that are there, and all that are there. */
  readonly workers: readonly { id: string; typeId: string; finalAfter: number }[];
  readonly present: readonly string[];
  /** Packs that are there, with groups that were made of them. */
  readonly samples: readonly Sample[];
  readonly series: Series;
  readonly trainer: SimulatedNode;
  step: number;
  readonly epoch: number;
  version: { id: string; number: number };
  /** Who has no receipt of the version yet. */
  missing: string[];
  nextBeat: number;
  /** Groups of the batch under way that were placed by this. */
  placed: number;
  events: number;
  groups: number;
  steps: number;
};

export type Sample = {
  packHash: string;
  index: number;
  prompt: string;
  exampleSeed: string;
  rollouts: { preview: string; tokens: number; reward: number; parts: object; advantage: number }[];
};

export async function readLive(
  prisma: PrismaClient,
  runId: string,
  { seed }: { seed: string },
): Promise<Live> {
  const random = randomOf(seed).fork(`live ${Date.now()}`);
  const run = await prisma.run.findUniqueOrThrow({ where: { id: runId } });
  const spec = await specOf(prisma, runId, run.revision);
  const trusted = await prisma.nodeTrust.findMany({
    where: { runId, state: "TRUSTED" },
    select: { nodeId: true, accepted: true },
  });
  const there = await prisma.node.findMany({
    where: {
      trust: { some: { runId, state: { in: ["TRUSTED", "PROBATION"] } } },
      grants: { none: { runId } },
      draining: false,
    },
    select: { id: true, lastSeenAt: true },
  });
  const checkpoint = await prisma.checkpoint.findUniqueOrThrow({
    where: { runId_version: { runId, version: run.currentVersion ?? 0 } },
  });
  // Those of the past have no packs any more.
  const packs = await prisma.packReference.findMany({
    where: { runId, kind: "ROLLOUTS" },
    select: { sha256: true },
    orderBy: { id: "desc" },
    take: 200,
  });
  const groups = await prisma.group.findMany({
    where: {
      runId,
      state: { in: ["ACCEPTED", "SET_ASIDE"] },
      packHash: { in: packs.map(({ sha256 }) => sha256) },
    },
    take: 200,
    include: { rollouts: { orderBy: { index: "asc" } } },
  });
  const epoch = await prisma.auditEpoch.aggregate({ where: { runId }, _max: { number: true } });
  const held = new Set(
    (
      await prisma.checkpointReceipt.findMany({
        where: { checkpointId: checkpoint.id },
        select: { nodeId: true },
      })
    ).map(({ nodeId }) => nodeId),
  );
  const present = there.map(({ id }) => id);
  const workers = trusted.map(({ nodeId, accepted }) => ({
    id: nodeId,
    typeId: toTypeId("node", nodeId),
    finalAfter: finalAfter(accepted, spec.verification.audit),
  }));
  if (workers.length === 0 || groups.length === 0)
    throw new Error(
      "Live mode needs trusted nodes and groups with packs: simulate with more --groups first.",
    );
  return {
    organizationId: run.organizationId,
    runId,
    spec,
    random,
    workers,
    present,
    samples: groups.map(({ packHash, index, prompt, exampleSeed, rollouts }) => ({
      packHash,
      index,
      prompt,
      exampleSeed,
      rollouts: rollouts.map(({ preview, tokens, reward, rewardParts, advantage }) => ({
        preview,
        tokens,
        reward,
        // JSON objects by what writes them.
        parts: rewardParts as object,
        advantage: advantage ?? 0,
      })),
    })),
    series: createSeries(random.fork("series"), run.step + 1_000),
    // The same keys as when the world was made: they follow from the seed alone.
    trainer: { ...trainerOf(seed), id: checkpoint.trainerNodeId },
    step: run.step,
    epoch: epoch._max.number ?? 1,
    version: { id: checkpoint.id, number: checkpoint.version },
    missing: present.filter((id) => !held.has(id)),
    nextBeat: 0,
    placed: 0,
    events: 0,
    groups: 0,
    steps: 0,
  };
}

export async function fillingBatch(tx: Tx, { runId, organizationId, step }: Live): Promise<Batch> {
  const found = await tx.batch.findUnique({ where: { runId_step: { runId, step: step + 1 } } });
  return (
    found ?? (await tx.batch.create({ data: { id: newId("batch"), organizationId, runId, step: step + 1 } }))
  );
}

export function eventOf(
  live: Live,
  type: NewEvent["type"],
  subject: string,
  data: NewEvent["data"],
): NewEvent {
  return { stream: runStream(live.runId), organizationId: live.organizationId, type, subject, data };
}

function trainerOf(seed: string): SimulatedNode {
  const world = makeWorld({ random: randomOf(seed).fork("world"), now: Date.now(), workers: 20, suffix: "" });
  const [trainer] = world.staff.trainers;
  if (trainer === undefined) throw new RangeError("there is a trainer");
  return trainer;
}
