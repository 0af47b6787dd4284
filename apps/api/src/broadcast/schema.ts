import { CheckpointLayout, RelayFault, RelayState } from "@muster/db";
import { fromTypeId, toTypeId } from "@muster/protocol";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import { ComputeNode } from "../nodes/schema.ts";
import { Run } from "../runs/schema.ts";
import { Checkpoint } from "../training/schema.ts";
import { type RelayAssignment, relayAssignments } from "./assignments.ts";
import { addMirror, removeMirror } from "./mirrors.ts";
import { receiptCheckpoint } from "./receipts.ts";
import { announceRelay, reinstateRelay, withdrawRelay } from "./relays.ts";
import { reportRelay } from "./reports.ts";
import { type CheckpointSource, checkpointSources } from "./sources.ts";
import { type CheckpointBroadcast, checkpointBroadcast } from "./stats.ts";
import { relayFigures } from "./tree.ts";

const RelayStateEnum = builder.enumType(RelayState, {
  name: "RelayState",
  description:
    "PROBING: nobody is sent to it yet. OFFLINE: silent, unreachable or withdrawn; it comes back by itself. DROPPED: the coordinator itself received a corrupt shard from it; only the organizer reinstates it.",
});
const RelayFaultEnum = builder.enumType(RelayFault, {
  name: "RelayFault",
  description:
    "CORRUPT: a shard arrived whole and was not what it is named after. STALLED: it stopped before the end. REFUSED: it answered with an error.",
});
const CheckpointLayoutEnum = builder.enumType(CheckpointLayout, {
  name: "CheckpointLayout",
  description:
    "How a node came to a checkpoint: FULL files, DELTA from an earlier version, or LOCAL: nothing had to be fetched.",
});

const RelayType = builder.prismaNode("Relay", {
  description:
    "Who passes a run's checkpoints on: a node with a RELAY grant, or a mirror, which is nobody's node.",
  id: { field: "id" },
  authScopes: (relay, { actor }) =>
    actor.kind === "node" ? actor.nodeId === relay.nodeId : allows(actor, "run:read", relay.organizationId),
  fields: (t) => ({
    node: t.relation("node", { type: ComputeNode, nullable: true, description: "Null for a mirror." }),
    run: t.relation("run", { type: Run }),
    url: t.exposeString("url", { description: "Blobs are at `<url>/blobs/<sha256>`." }),
    state: t.expose("state", { type: RelayStateEnum }),
    reason: t.exposeString("reason", { nullable: true, description: "Why it is in its state." }),
    region: t.exposeString("region", { nullable: true }),
    uplinkMbps: t.exposeFloat("uplinkMbps", { description: "As it says." }),
    parent: t.id({
      nullable: true,
      description: "The relay it pulls from; null for the coordinator itself, and while it has no place.",
      resolve: ({ parentId }) => (parentId === null ? null : toTypeId("relay", parentId)),
    }),
    placed: t.exposeBoolean("placed", { description: "Whether it has a place in the tree." }),
    depth: t.int({
      nullable: true,
      description: "Relays between the coordinator and it, itself included; null without a place.",
      select: { id: true, runId: true },
      resolve: async ({ id, runId }, _args, ctx) => (await relayFigures(ctx, runId)).depth.get(id) ?? null,
    }),
    children: t.int({
      description: "Relays that pull from it.",
      select: { id: true, runId: true },
      resolve: async ({ id, runId }, _args, ctx) => (await relayFigures(ctx, runId)).children.get(id) ?? 0,
    }),
    newestVersion: t.exposeInt("newestVersion", {
      nullable: true,
      description: "Newest version it says it holds.",
    }),
    heldBytes: t.expose("heldBytes", { type: "BigInt", description: "As it says." }),
    sentBytes: t.expose("sentBytes", { type: "BigInt", description: "As it says." }),
    clients: t.exposeInt("clients", { description: "As it says." }),
    lastSeenAt: t.expose("lastSeenAt", { type: "DateTime", nullable: true }),
    probedAt: t.expose("probedAt", {
      type: "DateTime",
      nullable: true,
      description: "When the coordinator last fetched a shard from it.",
    }),
    paid: t.field({
      type: "BigInt",
      description: "Micro-credits it has earned in the run.",
      select: { id: true, runId: true },
      resolve: async ({ id, runId }, _args, ctx) => (await relayFigures(ctx, runId)).paid.get(id) ?? 0n,
    }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  relays: t.relatedConnection("relays", {
    type: RelayType,
    cursor: "id",
    description: "Relays and mirrors, oldest first.",
    authScopes: { can: "run:read" },
    query: { orderBy: { id: "asc" } },
  }),
}));

const ReceiptSourceType = builder.prismaObject("ReceiptSource", {
  description: "What a relay brought of a checkpoint, as the node says.",
  authScopes: (source, { actor }) => allows(actor, "run:read", source.organizationId),
  fields: (t) => ({
    relay: t.id({ resolve: ({ relayId }) => toTypeId("relay", relayId) }),
    bytes: t.expose("bytes", { type: "BigInt" }),
    paid: t.expose("paid", { type: "BigInt", nullable: true, description: "Micro-credits, once paid." }),
  }),
});

const CheckpointReceiptType = builder.prismaNode("CheckpointReceipt", {
  description: "A node has a checkpoint, as it says.",
  id: { field: "id" },
  authScopes: (receipt, { actor }) => allows(actor, "run:read", receipt.organizationId),
  fields: (t) => ({
    node: t.relation("node", { type: ComputeNode }),
    version: t.exposeInt("version"),
    layout: t.expose("layout", { type: CheckpointLayoutEnum }),
    seconds: t.exposeFloat("seconds", { description: "From the start of its download to the end." }),
    bytes: t.expose("bytes", { type: "BigInt" }),
    wastedBytes: t.expose("wastedBytes", { type: "BigInt" }),
    receivedAt: t.expose("receivedAt", { type: "DateTime" }),
    sources: t.relation("sources", { type: ReceiptSourceType }),
  }),
});

const BroadcastStraggler = builder
  .objectRef<NonNullable<CheckpointBroadcast["slowest"]>>("BroadcastStraggler")
  .implement({
    authScopes: { can: "run:read" },
    fields: (t) => ({
      node: t.id({ resolve: ({ nodeId }) => toTypeId("node", nodeId) }),
      seconds: t.exposeFloat("seconds"),
    }),
  });

const CheckpointBroadcastType = builder.objectRef<CheckpointBroadcast>("CheckpointBroadcast").implement({
  description:
    "How a checkpoint reached the nodes of its run. Seconds count from the moment it became AVAILABLE.",
  authScopes: { can: "run:read" },
  fields: (t) => ({
    nodes: t.exposeInt("nodes", {
      description:
        "Nodes it is for: those that have it and, of the newest version, those that are here and work in the run.",
    }),
    received: t.exposeInt("received", { description: "Nodes that have it." }),
    secondsTo50: t.exposeFloat("secondsTo50", {
      nullable: true,
      description: "Until half of the nodes had it; null until then.",
    }),
    secondsTo95: t.exposeFloat("secondsTo95", { nullable: true }),
    secondsTo100: t.exposeFloat("secondsTo100", { nullable: true }),
    originBytes: t.expose("originBytes", {
      type: "BigInt",
      description: "Bytes that the coordinator or its store sent, to relays and nodes; a few seconds late.",
    }),
    relayedBytes: t.expose("relayedBytes", {
      type: "BigInt",
      description: "Bytes that nodes say they have from relays.",
    }),
    wastedBytes: t.expose("wastedBytes", {
      type: "BigInt",
      description: "Bytes that nodes say they fetched and threw away.",
    }),
    slowest: t.field({
      type: BroadcastStraggler,
      nullable: true,
      resolve: ({ slowest }) => slowest,
    }),
    receipts: t.prismaConnection({
      type: CheckpointReceiptType,
      cursor: "id",
      description: "Who has it, first come first.",
      resolve: (query, { checkpointId }, _args, ctx) =>
        ctx.prisma.checkpointReceipt.findMany({
          ...query,
          where: { checkpointId },
          orderBy: { id: "asc" },
        }),
    }),
  }),
});

builder.prismaObjectFields(Checkpoint, (t) => ({
  broadcast: t.field({
    extensions: { cost: 20 },
    type: CheckpointBroadcastType,
    authScopes: { can: "run:read" },
    select: {
      id: true,
      runId: true,
      version: true,
      availableAt: true,
      originBytes: true,
      run: { select: { currentVersion: true } },
    },
    resolve: (checkpoint, _args, ctx) =>
      checkpointBroadcast(ctx, {
        ...checkpoint,
        newest: checkpoint.run.currentVersion === checkpoint.version,
      }),
  }),
}));

const CheckpointSourceType = builder.objectRef<CheckpointSource>("CheckpointSource").implement({
  description:
    "Where a node may fetch a checkpoint from. It believes nothing of what it gets but by its hash.",
  authScopes: { node: true },
  fields: (t) => ({
    relay: t.id({ resolve: ({ relayId }) => toTypeId("relay", relayId) }),
    url: t.exposeString("url"),
    ticket: t.exposeString("ticket", {
      nullable: true,
      description: "Send it as `Authorization: Bearer …`; a mirror needs none.",
    }),
    expiresAt: t.expose("expiresAt", { type: "DateTime", nullable: true }),
  }),
});

builder.queryField("checkpointSources", (t) =>
  t.field({
    extensions: { cost: 20 },
    type: [CheckpointSourceType],
    description:
      "At most six relays to fetch a checkpoint from, best first; the coordinator itself is the last resort. Never the asking node's own relay, nor one that pulls from it.",
    authScopes: { node: true },
    args: { manifest: t.arg.string({ description: "SHA-256 of `manifest.json`." }) },
    resolve: (_root, { manifest }, ctx) => checkpointSources(ctx, manifest),
  }),
);

const HeldVersion = builder.objectRef<RelayAssignment["versions"][number]>("HeldVersion").implement({
  authScopes: { node: true },
  fields: (t) => ({
    version: t.exposeInt("version"),
    manifest: t.exposeString("manifest", { description: "SHA-256 of `manifest.json`." }),
  }),
});

const RelayAssignmentType = builder.objectRef<RelayAssignment>("RelayAssignment").implement({
  description: "A relay's place in one run: whom it pulls from and what it holds.",
  authScopes: { node: true },
  fields: (t) => ({
    relay: t.id({
      description: "Its own id: it serves tickets for this id only.",
      resolve: ({ relayId }) => toTypeId("relay", relayId),
    }),
    run: t.id({ resolve: ({ runId }) => toTypeId("run", runId) }),
    parent: t.id({
      nullable: true,
      description: "Null for the coordinator itself, which takes the node's session and no ticket.",
      resolve: ({ parentId }) => (parentId === null ? null : toTypeId("relay", parentId)),
    }),
    parentUrl: t.exposeString("parentUrl"),
    ticket: t.exposeString("ticket", {
      nullable: true,
      description: "For the parent; null where it needs none.",
    }),
    ticketExpiresAt: t.expose("ticketExpiresAt", { type: "DateTime", nullable: true }),
    ticketKey: t.exposeString("ticketKey", {
      description: "Ed25519 public key that signs tickets, 32 bytes in hexadecimal.",
    }),
    fanOut: t.exposeInt("fanOut", { description: "Relays that may pull from it at once." }),
    versions: t.field({
      type: [HeldVersion],
      description: "What to hold, newest first.",
      resolve: ({ versions }) => [...versions],
    }),
  }),
});

const RelayAnnouncement = builder
  .objectRef<{ assignments: readonly RelayAssignment[] }>("RelayAnnouncement")
  .implement({
    authScopes: { node: true },
    fields: (t) => ({
      assignments: t.field({
        type: [RelayAssignmentType],
        description: "One for each run in which it has a place now.",
        resolve: ({ assignments }) => [...assignments],
      }),
    }),
  });

const RelayWithdrawal = builder.objectRef<{ withdrawn: number }>("RelayWithdrawal").implement({
  authScopes: { node: true },
  fields: (t) => ({ withdrawn: t.exposeInt("withdrawn", { description: "Runs it relayed for." }) }),
});

const RelayReportReply = builder.objectRef<{ probing: boolean }>("RelayReportReply").implement({
  authScopes: { node: true },
  fields: (t) => ({
    probing: t.exposeBoolean("probing", {
      description: "Whether the coordinator goes and looks because of it; that alone decides.",
    }),
  }),
});

const CheckpointReceiptReply = builder.objectRef<{ received: boolean }>("CheckpointReceiptReply").implement({
  authScopes: { node: true },
  fields: (t) => ({
    received: t.exposeBoolean("received", {
      description: "Whether it was taken: the first one of a node for a checkpoint, while it is fresh.",
    }),
  }),
});

const RelayHealthInput = builder.inputType("RelayHealthInput", {
  fields: (t) => ({
    newestVersion: t.int({ required: false, description: "Newest version it holds whole." }),
    heldBytes: t.field({ type: "BigInt" }),
    sentBytes: t.field({ type: "BigInt" }),
    clients: t.int(),
  }),
});

const AnnounceRelayInput = builder.inputType("AnnounceRelayInput", {
  fields: (t) => ({
    url: t.string({ description: "Where others reach it: http or https, without query or credentials." }),
    uplinkMbps: t.float(),
    region: t.string({ required: false, description: "Any name; relays of the same region are preferred." }),
    health: t.field({ type: RelayHealthInput }),
  }),
});

const ReportRelayInput = builder.inputType("ReportRelayInput", {
  fields: (t) => ({
    relay: t.id(),
    manifest: t.string(),
    sha256: t.string({ description: "The shard that was asked for." }),
    fault: t.field({ type: RelayFaultEnum }),
  }),
});

const ReceiptSourceInput = builder.inputType("ReceiptSourceInput", {
  fields: (t) => ({
    relay: t.id({ required: false, description: "Left out for the coordinator itself." }),
    bytes: t.field({ type: "BigInt" }),
  }),
});

const ReceiptCheckpointInput = builder.inputType("ReceiptCheckpointInput", {
  fields: (t) => ({
    manifest: t.string(),
    layout: t.field({ type: CheckpointLayoutEnum }),
    seconds: t.float(),
    bytes: t.field({ type: "BigInt", description: "Fetched and used." }),
    wastedBytes: t.field({ type: "BigInt", description: "Fetched and thrown away." }),
    sources: t.field({ type: [ReceiptSourceInput] }),
  }),
});

const RelayInput = builder.inputType("RelayInput", { fields: (t) => ({ relay: t.id() }) });

const AddMirrorInput = builder.inputType("AddMirrorInput", {
  fields: (t) => ({
    run: t.id(),
    url: t.string({
      description: "A static server or CDN in front of the store; may hold `{sha256}` and `{ab}`.",
    }),
    uplinkMbps: t.float({ required: false, description: "Default 1,000." }),
  }),
});

builder.mutationFields((t) => ({
  announceRelay: t.field({
    type: RelayAnnouncement,
    description:
      "Says that a relay is there, for each run that granted the node RELAY and that it works for. Every ten seconds; silent for thirty, it is OFFLINE.",
    authScopes: { node: true },
    args: { input: t.arg({ type: AnnounceRelayInput }) },
    resolve: async (_root, { input }, ctx) => ({ assignments: await announceRelay(ctx, input) }),
  }),
  withdrawRelay: t.field({
    type: RelayWithdrawal,
    description: "Says that the node's relay goes away: nobody is sent to it any more.",
    authScopes: { node: true },
    resolve: async (_root, _args, ctx) => ({ withdrawn: await withdrawRelay(ctx) }),
  }),
  reportRelay: t.field({
    type: RelayReportReply,
    description:
      "Complains of a relay. That changes nothing for anyone else: it makes the coordinator fetch the shard itself.",
    authScopes: { node: true },
    args: { input: t.arg({ type: ReportRelayInput }) },
    resolve: async (_root, { input: { relay, ...rest } }, ctx) => ({
      probing: await reportRelay(ctx, { ...rest, relayId: fromTypeId(relay, "relay") }),
    }),
  }),
  receiptCheckpoint: t.field({
    type: CheckpointReceiptReply,
    description: "Says that the node has a checkpoint, and from whom. Once for each checkpoint.",
    authScopes: { node: true },
    args: { input: t.arg({ type: ReceiptCheckpointInput }) },
    resolve: async (_root, { input: { sources, ...rest } }, ctx) => ({
      received: await receiptCheckpoint(ctx, {
        ...rest,
        sources: sources.map(({ relay, bytes }) => ({
          relayId: relay == null ? null : fromTypeId(relay, "relay"),
          bytes,
        })),
      }),
    }),
  }),
  reinstateRelay: t.prismaField({
    type: RelayType,
    description: "Gives a DROPPED relay another chance: it is probed before anybody is sent to it.",
    authScopes: { can: "node:grant" },
    args: { input: t.arg({ type: RelayInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const id = await reinstateRelay(ctx, fromTypeId(input.relay, "relay"));
      return await ctx.prisma.relay.findUniqueOrThrow({ ...query, where: { id } });
    },
  }),
  addMirror: t.prismaField({
    type: RelayType,
    description: "Names a static server or CDN that holds the run's blobs. It is probed like any relay.",
    authScopes: { can: "node:grant" },
    args: { input: t.arg({ type: AddMirrorInput }) },
    resolve: async (query, _root, { input: { run, url, uplinkMbps } }, ctx) => {
      const id = await addMirror(ctx, {
        runId: fromTypeId(run, "run"),
        url,
        ...(uplinkMbps == null ? {} : { uplinkMbps }),
      });
      return await ctx.prisma.relay.findUniqueOrThrow({ ...query, where: { id } });
    },
  }),
  removeMirror: t.field({
    type: "Boolean",
    description: "Forgets a mirror. Doing it twice is harmless.",
    authScopes: { can: "node:grant" },
    args: { input: t.arg({ type: RelayInput }) },
    resolve: async (_root, { input }, ctx) => {
      await removeMirror(ctx, fromTypeId(input.relay, "relay"));
      return true;
    },
  }),
}));

builder.subscriptionField("relayAssignments", (t) =>
  t.field({
    type: RelayAssignmentType,
    description:
      "The node's places as a relay: at once for each run, then whenever the versions to hold, the parent or its ticket change.",
    authScopes: { node: true },
    subscribe: (_root, _args, ctx) => relayAssignments(ctx),
    resolve: (assignment) => assignment,
  }),
);
