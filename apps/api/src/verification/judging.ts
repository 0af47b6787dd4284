import type { Group, Probe, Verification } from "@muster/db";
import {
  decodeBlindPack,
  decodeMeasurementPack,
  environment,
  groupOf,
  type MeasurementPack,
  PackError,
  type RolloutPack,
  type RunSpec,
  rolloutKey,
  toTypeId,
} from "@muster/protocol";
import { compareMeasurements, type GroupDecision, measurementFault, verifyGroup } from "@muster/verification";
import type { Ctx } from "../context.ts";
import { readRolloutPack } from "../rollouts/decoded-packs.ts";
import { specOf } from "../runs/spec.ts";
import type { SignedSubmission, SubmissionInput } from "../tasks/submission.ts";
import { epochKeyOf, secretDraws } from "./audit.ts";
import { type CanaryShape, judgeCanary } from "./canary.ts";

// What a measurement says, found out without changing anything: of a group that waits for its verdict, or of a validator that is
// being watched. Both are read and answered alike.

export type Opened = { readonly submission: SignedSubmission; readonly input: SubmissionInput };

/** The measurement cannot be one of what the task names. */
export type RefusedMeasurement = Opened & {
  readonly kind: "refused";
  readonly message: string;
  /** Whether that is the validator's fault. */
  readonly malformed: boolean;
};

type About = {
  readonly group: Group;
  readonly spec: RunSpec;
  /** The group's rows, in order. */
  readonly rollouts: readonly { readonly id: string; readonly reward: number }[];
};

export type JudgedGroup = Opened & About & { readonly kind: "group"; readonly verdict: GroupDecision };

export type JudgedProbe = Opened &
  About & {
    readonly kind: "probe";
    readonly probe: Probe;
    /** The measurement it is compared with. */
    readonly known: Verification;
    /** The verdict on the group that follows from a re-execution; null for a canary. */
    readonly verdict: GroupDecision | null;
    readonly agreement: { readonly agrees: boolean; readonly note: string };
  };

/** Judges measurements of VERIFY tasks, in their order. */
export async function judgeAll(
  ctx: Ctx,
  open: readonly Opened[],
): Promise<(RefusedMeasurement | JudgedGroup | JudgedProbe)[]> {
  const taskIds = open.map(({ submission }) => submission.task.id);
  const rollouts = { orderBy: { index: "asc" }, select: { id: true, reward: true } } as const;
  const groups = await ctx.prisma.group.findMany({
    where: { verifyTaskId: { in: taskIds } },
    include: { rollouts },
  });
  const probes = await ctx.prisma.probe.findMany({
    where: { taskId: { in: taskIds } },
    include: { group: { include: { rollouts } } },
  });
  return Promise.all(
    open.map(async (opened): Promise<RefusedMeasurement | JudgedGroup | JudgedProbe> => {
      const { submission, input } = opened;
      const refused = (message: string, malformed = true) =>
        ({ ...opened, kind: "refused", message, malformed }) as const;
      const probe = probes.find(({ taskId }) => taskId === submission.task.id);
      const found = probe?.group ?? groups.find((group) => group.verifyTaskId === submission.task.id);
      // The group was given to another validator, or decided, since this attempt began.
      if (found === undefined) return refused("The group is no longer measured by this task.", false);
      const { rollouts, ...group } = found;
      const spec = await specOf(ctx.prisma, submission.task.runId, submission.task.revision);
      const measurement = await readMeasurement(ctx, input.pack, spec);
      if (typeof measurement === "string") return refused(measurement);
      const about = { group, spec, rollouts };
      if (probe !== undefined && probe.purpose !== "REEXECUTION") {
        const judged = await judgeCanaryProbe(ctx, probe, about, measurement);
        return typeof judged === "string" ? refused(judged) : { ...opened, ...about, ...judged };
      }
      const pack = await readRolloutPack(ctx, group.packHash);
      const judged = await verdictOf(ctx, about, pack, measurement);
      if (typeof judged === "string") return refused(judged);
      if (probe === undefined) return { ...opened, ...about, kind: "group", verdict: judged };
      const known = await knownOf(ctx, probe);
      const agreement = compareMeasurements(known.measurement, measurement, { spec });
      return {
        ...opened,
        ...about,
        kind: "probe",
        probe,
        known: known.verification,
        verdict: judged,
        agreement,
      };
    }),
  );
}

/** The measurement, or why it does not read. */
async function readMeasurement(ctx: Ctx, sha256: string, spec: RunSpec): Promise<MeasurementPack | string> {
  const bytes = await ctx.blobs.read(sha256);
  try {
    return decodeMeasurementPack(bytes, {
      bytes: bytes.length,
      rollouts: spec.generation.groupSize,
      tokens: spec.model.maxPositions,
    });
  } catch (error) {
    if (error instanceof PackError) return `The measurement does not read: ${error.message}`;
    throw error;
  }
}

/** The verdict, or why the measurement cannot be of this group. */
export async function verdictOf(
  ctx: Ctx,
  { group, spec, rollouts }: About,
  pack: RolloutPack,
  measurement: MeasurementPack,
): Promise<GroupDecision | string> {
  const packed = groupOf(pack, group.index, spec.generation.groupSize);
  const env = environment(spec.environment);
  const example = env.example(Buffer.from(group.exampleSeed, "hex"), "train");
  const prompt = env.tokenizer.encode(example.prompt);
  const taskId = toTypeId("task", group.taskId);
  const key = await epochKeyOf(ctx, group.runId, group.epoch);
  const task = {
    policyVersion: group.policyVersion,
    manifest: pack.header.manifest,
    promptTokens: packed.map(() => prompt),
    keys: packed.map((rollout) => rolloutKey(spec.seed, taskId, rollout.index)),
    ...(group.blindHash === null ? {} : { blind: group.blindHash }),
    example,
    rewards: rollouts.map((rollout) => rollout.reward),
  };
  const verdict = verifyGroup({
    spec,
    task,
    rollouts: packed,
    measurement,
    decoyKey: secretDraws(key, group).decoys,
  });
  if (!verdict.measurementFault) return verdict;
  return malformed(measurementFault(spec, task, packed, measurement));
}

async function judgeCanaryProbe(
  ctx: Ctx,
  probe: Probe,
  { group, spec }: About,
  measurement: MeasurementPack,
): Promise<Pick<JudgedProbe, "kind" | "probe" | "known" | "verdict" | "agreement"> | string> {
  const blind = decodeBlindPack(await ctx.blobs.read(probe.blindHash));
  const task = {
    policyVersion: group.policyVersion,
    manifest: blind.header.manifest,
    promptTokens: blind.rollouts.map(({ prompt }) => prompt),
    keys: blind.rollouts.map(({ key }) => key),
    blind: probe.blindHash,
  };
  const fault = measurementFault(spec, task, blind.rollouts, measurement);
  if (fault !== undefined) return malformed(fault);
  const known = await knownOf(ctx, probe);
  // Written by canaries.ts from the same type, never by anyone else.
  const shape = probe.edits as unknown as CanaryShape;
  return {
    kind: "probe",
    probe,
    known: known.verification,
    verdict: null,
    agreement: judgeCanary(spec, shape, known.measurement, measurement),
  };
}

async function knownOf(
  ctx: Ctx,
  { verificationId }: Probe,
): Promise<{ verification: Verification; measurement: MeasurementPack }> {
  const verification = await ctx.prisma.verification.findUniqueOrThrow({ where: { id: verificationId } });
  return {
    verification,
    measurement: decodeMeasurementPack(await ctx.blobs.read(verification.measurementHash)),
  };
}

/** Said in the same words whatever the task was for. */
function malformed(fault: string | undefined): string {
  return `The measurement is malformed. ${fault ?? ""}`;
}

/** The first check that did not pass, in a sentence. */
export function explain(verdict: GroupDecision): string {
  const telling =
    verdict.checks.find((check) => check.verdict === "FAIL") ??
    verdict.checks.find((check) => check.verdict !== "PASS");
  return telling === undefined
    ? ""
    : telling.note === ""
      ? telling.plain
      : `${telling.plain} ${telling.note}`;
}
