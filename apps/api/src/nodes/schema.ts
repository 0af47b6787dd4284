import { type Role as GrantableRole, type Node, TrustState } from "@muster/db";
import { fromTypeId, prefixOf, toTypeId } from "@muster/protocol";
import { z } from "zod";
import { allows, organizationsWhere } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { notFound } from "../errors.ts";
import { nodeBalances } from "../ledger/ledger.ts";
import { grantRole, revokeRole } from "./grants.ts";
import { type HeldLease, heartbeat } from "./heartbeat.ts";
import { type Liveness, livenessOf } from "./liveness.ts";
import { createNodeChallenge, registerNode } from "./register.ts";
import { type NodeToken, renewSession } from "./session.ts";

const LivenessEnum = builder.enumType("Liveness", {
  description:
    "How a node seems to be. Display only: nothing is taken from a node for its silence but what its leases' deadlines take.",
  values: {
    ACTIVE: { description: "Seen within 30 seconds." },
    STALE: { description: "Seen within two minutes." },
    OFFLINE: { description: "Not seen for two minutes, or for 30 seconds after it stopped." },
    DRAINING: { description: "Active, finishing what it holds and taking nothing new." },
  } satisfies Record<Liveness, unknown>,
});

const RoleEnum = builder.enumType("Role", {
  description: "What a node does in a run.",
  values: {
    WORKER: { description: "Generates. Needs no grant in an open run." },
    VALIDATOR: { description: "Measures what workers generated." },
    TRAINER: { description: "Makes the base and the training steps." },
    EVALUATOR: { description: "Samples held-out examples." },
    RELAY: { description: "Passes checkpoints on." },
  } satisfies Record<GrantableRole | "WORKER", unknown>,
});

const TrustStateEnum = builder.enumType(TrustState, {
  name: "TrustState",
  description: "How far a run trusts a node.",
});

/** Which node an anonymous request has just proven to be. */
const registered = new WeakMap<Ctx, string>();

export const ComputeNode = builder.prismaNode("Node", {
  name: "ComputeNode",
  description: "A machine that nobody has to trust. Its identity is its Ed25519 public key.",
  id: { field: "id" },
  // Organizers see every machine registered here: they choose whom to grant a role. A node sees itself, also in the answer to its registration.
  authScopes: (node, ctx) =>
    ctx.actor.kind === "node"
      ? ctx.actor.nodeId === node.id
      : registered.get(ctx) === node.id || { can: "run:read" },
  fields: (t) => ({
    name: t.exposeString("name", { description: "What its owner calls it; not unique." }),
    publicKey: t.exposeString("publicKey", { description: "Ed25519, 32 bytes in hexadecimal." }),
    software: t.exposeString("software"),
    protocol: t.exposeInt("protocol"),
    hardware: t.expose("hardware", {
      type: "JSON",
      description: "What the node says of itself; nothing is decided by it.",
    }),
    liveness: t.field({
      type: LivenessEnum,
      select: { lastSeenAt: true, draining: true },
      resolve: (node) => livenessOf(node, new Date()),
    }),
    lastSeenAt: t.expose("lastSeenAt", { type: "DateTime" }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

export const RunNode = builder.prismaNode("NodeTrust", {
  name: "RunNode",
  description: "A node in a run.",
  id: { resolve: ({ runId, nodeId }) => `${runId}.${nodeId}` },
  findUnique: (id) => {
    const [runId = "", nodeId = ""] = id.split(".");
    return { runId_nodeId: { runId, nodeId } };
  },
  authScopes: (trust, { actor }) =>
    actor.kind === "node" ? actor.nodeId === trust.nodeId : allows(actor, "run:read", trust.organizationId),
  fields: (t) => ({
    node: t.relation("node"),
    roles: t.field({
      type: [RoleEnum],
      description: "The roles granted, and WORKER for a node that generates.",
      select: {
        runId: true,
        accepted: true,
        rejected: true,
        invalid: true,
        node: { select: { grants: { where: { revokedAt: null }, select: { runId: true, role: true } } } },
      },
      resolve: ({ runId, accepted, rejected, invalid, node }) => {
        const granted = node.grants.filter((grant) => grant.runId === runId).map(({ role }) => role);
        return granted.length === 0 || accepted + rejected + invalid > 0
          ? (["WORKER", ...granted] as const)
          : granted;
      },
    }),
    trust: t.expose("state", { type: TrustStateEnum }),
    auditRate: t.exposeFloat("auditRate", { description: "Share of its groups that are audited now." }),
    auditedValid: t.exposeInt("auditedValid", {
      description: "Audited-valid groups since its last failure.",
    }),
    accepted: t.exposeInt("accepted"),
    rejected: t.exposeInt("rejected"),
    invalid: t.exposeInt("invalid"),
    probes: t.int({
      nullable: true,
      description: "As a validator: probes decided. Null to the node itself.",
      select: { probes: true },
      resolve: (trust, _args, { actor }) => (actor.kind === "node" ? null : trust.probes),
    }),
    disagreements: t.int({
      nullable: true,
      description:
        "As a validator: measurements that did not survive a probe or were malformed. Null to the node itself.",
      select: { disagreements: true },
      resolve: (trust, _args, { actor }) => (actor.kind === "node" ? null : trust.disagreements),
    }),
    reason: t.exposeString("reason", { nullable: true }),
    held: t.field({
      type: "BigInt",
      description: "Micro-credits of accepted groups that are not final.",
      select: { organizationId: true, runId: true, nodeId: true },
      resolve: async (trust, _args, ctx) => (await nodeBalances(ctx.prisma, trust)).held,
    }),
    available: t.field({
      type: "BigInt",
      description: "Micro-credits released to the node, over all runs of the organization.",
      select: { organizationId: true, runId: true, nodeId: true },
      resolve: async (trust, _args, ctx) => (await nodeBalances(ctx.prisma, trust)).available,
    }),
    progress: t.field({
      type: "JSON",
      nullable: true,
      description: "What the node said with its newest heartbeat; of its tasks only those of this run.",
      select: {
        runId: true,
        node: {
          select: {
            progress: true,
            attempts: { where: { state: "LIVE" }, select: { taskId: true, runId: true } },
          },
        },
      },
      resolve: ({ runId, node }) => {
        const own = node.attempts.filter((attempt) => attempt.runId === runId);
        return progressWithin(node.progress, new Set(own.map(({ taskId }) => toTypeId("task", taskId))));
      },
    }),
    version: t.int({
      nullable: true,
      description: "The policy version the node says it holds.",
      select: { node: { select: { progress: true } } },
      resolve: ({ node: { progress } }) => {
        const said =
          typeof progress === "object" && progress !== null && "version" in progress
            ? progress.version
            : undefined;
        return typeof said === "number" && Number.isInteger(said) ? said : null;
      },
    }),
  }),
});

/** A node's progress without the tasks that are not among these: one node may work for several organizations. */
function progressWithin(progress: unknown, tasks: ReadonlySet<string>): unknown {
  const parsed = progressSchema.safeParse(progress);
  if (!parsed.success) return progress;
  return { ...parsed.data, tasks: parsed.data.tasks.filter(({ task }) => tasks.has(task)) };
}

const progressSchema = z.looseObject({ tasks: z.array(z.looseObject({ task: z.string() })) });

export const RoleGrantType = builder.prismaNode("RoleGrant", {
  description: "A role granted to a node for a run.",
  id: { field: "id" },
  authScopes: (grant, { actor }) =>
    actor.kind === "node" ? actor.nodeId === grant.nodeId : allows(actor, "run:read", grant.organizationId),
  fields: (t) => ({
    node: t.relation("node"),
    role: t.expose("role", { type: RoleEnum }),
    own: t.exposeBoolean("own", {
      description: "The organizer runs this validator itself: it may re-execute.",
    }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    revokedAt: t.expose("revokedAt", { type: "DateTime", nullable: true }),
  }),
});

builder.queryField("nodes", (t) =>
  t.prismaConnection({
    type: ComputeNode,
    cursor: "id",
    description:
      "Machines that name, joined or were granted a role in something of the caller's organizations, newest first; with a run, those that joined it.",
    authScopes: { can: "run:read" },
    args: { run: t.arg.id({ required: false }) },
    resolve: async (query, _root, { run }, ctx) => {
      if (run == null) {
        const organizationId = { in: organizationsWhere(ctx.actor, "run:read") };
        const runs = await ctx.prisma.run.findMany({ where: { organizationId }, select: { id: true } });
        const ours = [...organizationId.in, ...runs.map(({ id }) => id)];
        return await ctx.prisma.node.findMany({
          ...query,
          where: {
            OR: [
              { worksFor: { hasSome: ours } },
              { trust: { some: { organizationId } } },
              { grants: { some: { organizationId } } },
            ],
          },
          orderBy: { id: "desc" },
        });
      }
      const runId = fromTypeId(run, "run");
      const found = await ctx.prisma.run.findUnique({
        where: { id: runId },
        select: { organizationId: true },
      });
      if (found === null || !allows(ctx.actor, "run:read", found.organizationId)) throw notFound("The run");
      return await ctx.prisma.node.findMany({
        ...query,
        where: { trust: { some: { runId } } },
        orderBy: { id: "desc" },
      });
    },
  }),
);

const NodeChallenge = builder.objectRef<{ challenge: string; expiresAt: Date }>("NodeChallenge").implement({
  authScopes: { public: true },
  fields: (t) => ({
    challenge: t.exposeString("challenge"),
    expiresAt: t.expose("expiresAt", { type: "DateTime" }),
  }),
});

const NodeTokenType = builder.objectRef<NodeToken>("NodeToken").implement({
  authScopes: { public: true },
  fields: (t) => ({
    token: t.exposeString("token", { description: "Send it as `Authorization: Bearer …`. Shown this once." }),
    expiresAt: t.expose("expiresAt", { type: "DateTime" }),
  }),
});

const NodeRegistration = builder.objectRef<NodeToken & { node: Node }>("NodeRegistration").implement({
  authScopes: { public: true },
  fields: (t) => ({
    node: t.field({ type: ComputeNode, resolve: ({ node }) => node }),
    token: t.exposeString("token", { description: "Send it as `Authorization: Bearer …`. Shown this once." }),
    expiresAt: t.expose("expiresAt", { type: "DateTime" }),
  }),
});

const LeaseRef = builder.objectRef<HeldLease>("LeaseRef").implement({
  description: "An attempt that is still live.",
  authScopes: { node: true },
  fields: (t) => ({
    task: t.id({ resolve: ({ taskId }) => toTypeId("task", taskId) }),
    attempt: t.exposeInt("attempt"),
    leaseUntil: t.expose("leaseUntil", { type: "DateTime" }),
  }),
});

const HeartbeatReply = builder
  .objectRef<{ serverTime: Date; leases: HeldLease[] }>("HeartbeatReply")
  .implement({
    description:
      "`leases` are the attempts of this node that are still live; it stops work on what is not listed.",
    authScopes: { node: true },
    fields: (t) => ({
      serverTime: t.expose("serverTime", { type: "DateTime" }),
      leases: t.field({ type: [LeaseRef], resolve: ({ leases }) => leases }),
    }),
  });

const CreateNodeChallengeInput = builder.inputType("CreateNodeChallengeInput", {
  fields: (t) => ({
    publicKey: t.string({ description: "Raw Ed25519 public key, 32 bytes in hexadecimal." }),
  }),
});

const RegisterNodeInput = builder.inputType("RegisterNodeInput", {
  fields: (t) => ({
    publicKey: t.string(),
    challenge: t.string(),
    signature: t.string({ description: "Ed25519 over `challengeBytes`, hexadecimal." }),
    protocol: t.int({ description: "The protocol the node speaks: 1." }),
    software: t.string({ description: "Name and version of its software." }),
    name: t.string(),
    hardware: t.field({ type: "JSON" }),
    worksFor: t.idList({
      required: false,
      description:
        "Runs and organizations that the node takes work from: granted roles only from these. Without any it generates for every open run and does nothing else.",
    }),
  }),
});

const HeartbeatInput = builder.inputType("HeartbeatInput", {
  fields: (t) => ({
    progress: t.field({ type: "JSON", required: false, description: "What the node is doing, for display." }),
    draining: t.boolean({ required: false, description: "True when it wants no more work." }),
  }),
});

const GrantRoleInput = builder.inputType("GrantRoleInput", {
  fields: (t) => ({
    run: t.id(),
    node: t.id(),
    role: t.field({ type: RoleEnum }),
    own: t.boolean({
      defaultValue: false,
      required: false,
      description:
        "Of a VALIDATOR: the organizer runs the node itself, so it may re-execute. In a run without such a one every validator may.",
    }),
  }),
});

builder.mutationFields((t) => ({
  createNodeChallenge: t.field({
    type: NodeChallenge,
    description: "What the holder of a key signs to register. Valid once, for five minutes.",
    authScopes: { public: true },
    args: { input: t.arg({ type: CreateNodeChallengeInput }) },
    resolve: (_root, { input }, ctx) => createNodeChallenge(ctx, input),
  }),
  registerNode: t.field({
    type: NodeRegistration,
    description: "Opens a session for the holder of a key. The same key is always the same node.",
    authScopes: { public: true },
    args: { input: t.arg({ type: RegisterNodeInput }) },
    resolve: async (_root, { input }, ctx) => {
      const registration = await registerNode(ctx, {
        ...input,
        hardware: recordSchema.parse(input.hardware),
        worksFor: (input.worksFor ?? []).map((id) => fromTypeId(id, prefixOf(id) === "org" ? "org" : "run")),
      });
      registered.set(ctx, registration.node.id);
      return registration;
    },
  }),
  renewSession: t.field({
    type: NodeTokenType,
    description: "A new token; the present one stays valid until it expires.",
    authScopes: { node: true },
    resolve: (_root, _args, ctx) => renewSession(ctx),
  }),
  heartbeat: t.field({
    type: HeartbeatReply,
    description: "Says that the node is there. Every ten seconds.",
    authScopes: { node: true },
    args: { input: t.arg({ type: HeartbeatInput }) },
    resolve: (_root, { input }, ctx) => heartbeat(ctx, input),
  }),
  grantRole: t.field({
    type: RoleGrantType,
    authScopes: { can: "node:grant" },
    args: { input: t.arg({ type: GrantRoleInput }) },
    resolve: (_root, { input }, ctx) => grantRole(ctx, { ...grantInput(input), own: input.own ?? false }),
  }),
  revokeRole: t.field({
    type: RoleGrantType,
    authScopes: { can: "node:grant" },
    args: { input: t.arg({ type: GrantRoleInput }) },
    resolve: (_root, { input }, ctx) => revokeRole(ctx, grantInput(input)),
  }),
}));

const recordSchema = z.record(z.string(), z.json());

function grantInput({ run, node, role }: { run: string; node: string; role: GrantableRole | "WORKER" }) {
  return { runId: fromTypeId(run, "run"), nodeId: fromTypeId(node, "node"), role };
}
