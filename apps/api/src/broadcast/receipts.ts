import type { CheckpointLayout } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { appendEvents, runStream } from "../events/append.ts";
import { nodeOf } from "../tasks/lease.ts";
import { manifestOf } from "./manifests.ts";
import { checkpointNamed, type NamedCheckpoint, takesPart } from "./participation.ts";

// What a receipt may cost is bounded whoever writes it: a node has one for each checkpoint, it credits all relays together with no more
// than the checkpoint's cheapest way to this node needed, and it is worth nothing until the node's own work on that version is final.

export type Receipt = {
  readonly manifest: string;
  readonly layout: CheckpointLayout;
  readonly seconds: number;
  readonly bytes: bigint;
  readonly wastedBytes: bigint;
  /** `relayId` null: the coordinator itself. */
  readonly sources: readonly { readonly relayId: string | null; readonly bytes: bigint }[];
};

/** A node asks six relays at a time; over a long download they may change. */
const mostSources = 64;
const mostSeconds = 7 * 86_400;
/** Minutes after which what a relay brought before it went away is not credited any more. */
const goneMinutes = 10;

/**
 * Notes that a node has a checkpoint and whom it has it from. The first receipt counts.
 * @returns whether it was taken: not for a second one, nor from a node that has not worked in the run
 * @throws CodedError `UNAUTHENTICATED`, `INPUT_INVALID`, `BLOB_NOT_FOUND`
 */
export async function receiptCheckpoint(ctx: Ctx, receipt: Receipt): Promise<boolean> {
  const nodeId = nodeOf(ctx);
  const checkpoint = await checkpointNamed(ctx, receipt.manifest);
  assertPlausible(receipt, checkpoint);
  const { runId, organizationId, version } = checkpoint;
  if (!(await takesPart(ctx, runId, nodeId))) return false;
  const sources = await creditsOf(ctx, nodeId, receipt, checkpoint);
  const id = newId("receipt");
  const { layout, seconds, bytes, wastedBytes } = receipt;
  const creditedBytes = sources.reduce((sum, source) => sum + source.creditedBytes, 0n);
  const taken = await ctx.prisma.$transaction(async (tx) => {
    const { count } = await tx.checkpointReceipt.createMany({
      data: [
        {
          id,
          organizationId,
          runId,
          checkpointId: checkpoint.id,
          version,
          nodeId,
          layout,
          seconds,
          bytes,
          wastedBytes,
          creditedBytes,
          // Nobody waits to be paid for it.
          ...(creditedBytes === 0n ? { settledAt: new Date() } : {}),
        },
      ],
      skipDuplicates: true,
    });
    if (count === 0) return false;
    await tx.receiptSource.createMany({
      data: sources.map((source) => ({ ...source, receiptId: id, organizationId, runId })),
    });
    await appendEvents(tx, [
      {
        stream: runStream(runId),
        organizationId,
        type: "checkpoint.received",
        subject: toTypeId("ckpt", checkpoint.id),
        data: { node: toTypeId("node", nodeId), version, layout, seconds, bytes: Number(bytes) },
      },
    ]);
    return true;
  });
  if (taken) ctx.bus.publish("events");
  return taken;
}

function assertPlausible({ seconds, bytes, wastedBytes, sources }: Receipt, { size }: NamedCheckpoint): void {
  const wrong = (what: string) => new CodedError("INPUT_INVALID", what);
  if (!(seconds >= 0 && seconds <= mostSeconds)) throw wrong("`seconds` is 0 or more, and at most a week.");
  // A delta with its parents may be somewhat more than the files, and never twice as much.
  if (bytes < 0n || bytes > 2n * size)
    throw wrong(
      `\`bytes\` is at most twice the checkpoint's ${size}; what was thrown away goes to \`wastedBytes\`.`,
    );
  if (wastedBytes < 0n || wastedBytes > 64n * size) throw wrong("`wastedBytes` is out of all proportion.");
  if (sources.length > mostSources || sources.some((source) => source.bytes < 0n))
    throw wrong(`At most ${mostSources} sources, of 0 bytes or more each.`);
  if (sources.reduce((sum, source) => sum + source.bytes, 0n) > bytes)
    throw wrong("The sources brought more than was fetched in all.");
  const named = sources.flatMap(({ relayId }) => relayId ?? []);
  if (new Set(named).size !== named.length) throw wrong("A relay is named twice.");
}

type Credit = { relayId: string; bytes: bigint; creditedBytes: bigint };

/** Each relay of the run that is named, and what counts of what it brought. */
async function creditsOf(
  ctx: Ctx,
  nodeId: string,
  receipt: Receipt,
  checkpoint: NamedCheckpoint,
): Promise<Credit[]> {
  const said = new Map(
    receipt.sources.flatMap(({ relayId, bytes }) => (relayId === null ? [] : [[relayId, bytes]])),
  );
  const relays = await ctx.prisma.relay.findMany({
    where: { id: { in: [...said.keys()] }, runId: checkpoint.runId },
    select: {
      id: true,
      state: true,
      probeFailures: true,
      updatedAt: true,
      nodeId: true,
      node: { select: { ownerId: true } },
    },
  });
  const asking = await ctx.prisma.node.findUniqueOrThrow({
    where: { id: nodeId },
    select: { ownerId: true },
  });
  const since = Date.now() - goneMinutes * 60_000;
  const counts = ({ state, nodeId: owner, node, ...relay }: (typeof relays)[number]): boolean => {
    // Mirrors are nobody's; nobody is paid for serving itself.
    if (owner === null || owner === nodeId) return false;
    if (asking.ownerId !== null && asking.ownerId === node?.ownerId) return false;
    const justLeft = state === "OFFLINE" && relay.probeFailures === 0 && relay.updatedAt.getTime() > since;
    return state === "LIVE" || justLeft;
  };
  const total = relays.filter(counts).reduce((sum, { id }) => sum + (said.get(id) ?? 0n), 0n);
  const most = await mostCredited(ctx, nodeId, receipt.layout, checkpoint);
  return relays.map((relay) => {
    const bytes = said.get(relay.id) ?? 0n;
    if (!counts(relay)) return { relayId: relay.id, bytes, creditedBytes: 0n };
    return { relayId: relay.id, bytes, creditedBytes: total > most ? (bytes * most) / total : bytes };
  });
}

/**
 * Bytes of the cheapest way by which this node could come to the checkpoint, as far as the coordinator knows: from the newest version in
 * the delta's chain that the node has receipted, else whole.
 */
async function mostCredited(
  ctx: Ctx,
  nodeId: string,
  layout: CheckpointLayout,
  { runId, size, manifestHash }: NamedCheckpoint,
): Promise<bigint> {
  if (layout === "LOCAL") return 0n;
  const { manifest } = await manifestOf(ctx, manifestHash);
  if (manifest.delta === null) return size;
  const { chain } = manifest.delta;
  const held = await ctx.prisma.checkpointReceipt.findMany({
    where: { runId, nodeId, version: { in: chain.map(({ version }) => version) } },
    select: { version: true },
  });
  const from = layout === "DELTA" ? chain.length - 1 : -1;
  const nearest = chain.findIndex(({ version }) => held.some((receipt) => receipt.version === version));
  const last = nearest >= 0 ? nearest : from;
  if (last < 0) return size;
  const weights = manifest.files.find(({ name }) => name === "model.safetensors")?.size ?? 0;
  const deltas = chain.slice(0, last + 1).reduce((sum, { bytes }) => sum + bytes, 0);
  const cheapest = size - BigInt(weights) + BigInt(deltas);
  return cheapest < size ? cheapest : size;
}
