import { decodeMeasurementPack, decodeRolloutPack, environment, type RolloutPack } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { specOf } from "../runs/spec.ts";

/** One output token beside what its producer claimed and what a validator measured. */
export type TokenView = {
  readonly position: number;
  readonly token: number;
  readonly text: string;
  readonly claimedLogProbability: number;
  readonly measuredLogProbability: number | null;
  /** How far the token is from being the seeded choice; null before it was measured or when it cannot be at all. */
  readonly margin: number | null;
};

/** A rollout token by token, read from its packs. Null when retention deleted the pack. */
export async function tokenView(
  ctx: Ctx,
  input: { groupId: string; index: number },
): Promise<TokenView[] | null> {
  const group = await ctx.prisma.group.findUniqueOrThrow({
    where: { id: input.groupId },
    include: {
      task: { select: { revision: true } },
      verifications: { orderBy: { createdAt: "desc" }, take: 1, select: { measurementHash: true } },
    },
  });
  const pack = await packOf(ctx, group.packHash);
  if (pack === null) return null;
  const rollout = pack.rollouts.find((candidate) => candidate.index === input.index);
  if (rollout === undefined) return null;
  const spec = await specOf(ctx.prisma, group.runId, group.task.revision);
  const measurementHash = group.verifications[0]?.measurementHash;
  const measuredBytes = measurementHash === undefined ? null : await readIfKept(ctx, measurementHash);
  const measured =
    measuredBytes === null
      ? undefined
      : decodeMeasurementPack(measuredBytes).rollouts[input.index % spec.generation.groupSize];
  const { tokenizer } = environment(spec.environment);
  return Array.from(rollout.tokens, (token, position) => ({
    position,
    token,
    text: tokenizer.tokenText(token),
    claimedLogProbability: rollout.logprobs[position] ?? 0,
    measuredLogProbability: finiteOrNull(measured?.logprobs[position]),
    margin: finiteOrNull(measured?.margins[position]),
  }));
}

/** Packs that a request has read: its rollouts are often of the same one. */
const opened = new WeakMap<Ctx, Map<string, Promise<RolloutPack | null>>>();

function packOf(ctx: Ctx, sha256: string): Promise<RolloutPack | null> {
  const packs = opened.get(ctx) ?? new Map<string, Promise<RolloutPack | null>>();
  opened.set(ctx, packs);
  const pack =
    packs.get(sha256) ??
    readIfKept(ctx, sha256).then((bytes) => (bytes === null ? null : decodeRolloutPack(bytes)));
  packs.set(sha256, pack);
  return pack;
}

async function readIfKept(ctx: Ctx, sha256: string): Promise<Uint8Array | null> {
  try {
    return await ctx.blobs.read(sha256);
  } catch (error) {
    if (error instanceof CodedError && error.code === "BLOB_NOT_FOUND") return null;
    throw error;
  }
}

function finiteOrNull(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}
