import { CaseState, ProbeOutcome, ProbePurpose } from "@muster/db";
import { fromTypeId, toTypeId } from "@muster/protocol";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { ComputeNode, RunNode } from "../nodes/schema.ts";
import { Group } from "../rollouts/schema.ts";
import { Run } from "../runs/schema.ts";
import { coordinatorPublicKey } from "./coordinator-key.ts";
import { decideCase, disputeCase, maySeeCase, reinstateNode } from "./decisions.ts";
import { evidencePath } from "./evidence.ts";

const CaseStateEnum = builder.enumType(CaseState, { name: "CaseState" });
const ProbePurposeEnum = builder.enumType(ProbePurpose, { name: "ProbePurpose" });
const ProbeOutcomeEnum = builder.enumType(ProbeOutcome, { name: "ProbeOutcome" });

const findNode = (ctx: Ctx, id: string) => ctx.prisma.node.findUniqueOrThrow({ where: { id } });

const Case = builder.prismaNode("Case", {
  description: "A rejected group with its evidence, until it is decided whether the rejection stands.",
  id: { field: "id" },
  include: { group: { select: { node: { select: { ownerId: true } } } } },
  authScopes: (accused, ctx) => maySeeCase(ctx, { ...accused, ownerId: accused.group.node.ownerId }),
  fields: (t) => ({
    group: t.relation("group"),
    node: t.field({
      type: ComputeNode,
      description: "The accused.",
      select: { nodeId: true },
      resolve: (accused, _args, ctx) => findNode(ctx, accused.nodeId),
    }),
    state: t.expose("state", { type: CaseStateEnum }),
    reason: t.exposeString("reason", { description: "Why the group was rejected." }),
    statement: t.exposeString("statement", { nullable: true, description: "What the accused says." }),
    openedAt: t.expose("openedAt", { type: "DateTime" }),
    openUntil: t.expose("openUntil", {
      type: "DateTime",
      description: "Until then the accused may object; nothing is upheld before.",
    }),
    disputedAt: t.expose("disputedAt", { type: "DateTime", nullable: true }),
    confirmed: t.exposeBoolean("confirmed", {
      nullable: true,
      description:
        "Whether one of the organizer's own validators, measuring again, found the same; null until then.",
    }),
    decision: t.exposeString("decision", { nullable: true, description: "Why it was decided so." }),
    decidedAt: t.expose("decidedAt", { type: "DateTime", nullable: true }),
    evidence: t.string({
      nullable: true,
      description: "Path of the evidence bundle; null when it cannot be made.",
      select: { groupId: true },
      resolve: (accused, _args, ctx) => evidencePath(ctx, accused.groupId),
    }),
  }),
});

builder.prismaObject("Probe", {
  description: "A VERIFY task that watched a validator; shown once it is decided.",
  authScopes: { can: "rollout:read" },
  fields: (t) => ({
    task: t.id({ select: { taskId: true }, resolve: (probe) => toTypeId("task", probe.taskId) }),
    group: t.relation("group", { description: "The group it was made from." }),
    policyVersion: t.exposeInt("policyVersion"),
    purpose: t.expose("purpose", { type: ProbePurposeEnum }),
    outcome: t.expose("outcome", { type: ProbeOutcomeEnum, nullable: true }),
    validator: t.field({
      type: ComputeNode,
      nullable: true,
      description: "Who measured it.",
      select: { nodeId: true },
      resolve: (probe, _args, ctx) => (probe.nodeId === null ? null : findNode(ctx, probe.nodeId)),
    }),
    watched: t.field({
      type: ComputeNode,
      nullable: true,
      description: "Whose measuring it judges: of a re-execution, who measured first.",
      select: { nodeId: true, purpose: true, verificationId: true },
      resolve: async (probe, _args, ctx) => {
        if (probe.purpose !== "REEXECUTION")
          return probe.nodeId === null ? null : findNode(ctx, probe.nodeId);
        const known = await ctx.prisma.verification.findUnique({
          where: { id: probe.verificationId },
          select: { validatorNodeId: true },
        });
        return known === null ? null : findNode(ctx, known.validatorNodeId);
      },
    }),
    note: t.exposeString("note", { nullable: true }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    decidedAt: t.expose("decidedAt", { type: "DateTime", nullable: true }),
  }),
});

/** Only chained entries are shown, so both are there. */
builder.prismaObject("AuditEntry", {
  description:
    "A line of the run's audit log. `hash` is SHA-256 over the hash before and the canonical JSON of run, seq, kind, subject, data and at.",
  authScopes: { can: "rollout:read" },
  fields: (t) => ({
    seq: t.field({
      type: "BigInt",
      description: "Dense in the run, from 1.",
      select: { seq: true },
      resolve: (entry) => entry.seq ?? 0n,
    }),
    kind: t.exposeString("kind"),
    subject: t.exposeString("subject", { description: "Id of what it is about." }),
    data: t.expose("data", { type: "JSON" }),
    at: t.expose("at", { type: "DateTime" }),
    hash: t.string({ select: { hash: true }, resolve: (entry) => entry.hash ?? "" }),
  }),
});

const AuditHead = builder.objectRef<{ seq: bigint; hash: string }>("AuditHead").implement({
  description: "The newest line of an audit log: who keeps its hash notices any change to what came before.",
  authScopes: { can: "rollout:read" },
  fields: (t) => ({ seq: t.expose("seq", { type: "BigInt" }), hash: t.exposeString("hash") }),
});

builder.prismaObjectFields(Run, (t) => ({
  cases: t.relatedConnection("cases", {
    cursor: "id",
    description: "Cases of rejected groups, newest first.",
    authScopes: { can: "rollout:read" },
    args: { state: t.arg({ type: CaseStateEnum, required: false }) },
    query: ({ state }) => ({ where: state == null ? {} : { state }, orderBy: { id: "desc" } }),
  }),
  probes: t.relatedConnection("probes", {
    cursor: "taskId",
    description: "Decided probes of validators, newest first. An open one is nobody's to know.",
    authScopes: { can: "rollout:read" },
    args: {
      outcome: t.arg({ type: ProbeOutcomeEnum, required: false }),
      purpose: t.arg({ type: ProbePurposeEnum, required: false }),
    },
    query: ({ outcome, purpose }) => ({
      where: {
        outcome: outcome ?? { not: null },
        ...(purpose == null ? {} : { purpose }),
      },
      orderBy: [{ decidedAt: "desc" }, { taskId: "desc" }],
    }),
  }),
  auditLog: t.relatedConnection("auditEntries", {
    cursor: "id",
    description: "Every verdict, probe, case and penalty, in the order in which they are chained.",
    authScopes: { can: "rollout:read" },
    query: { where: { seq: { not: null } }, orderBy: { seq: "asc" } },
  }),
  auditHead: t.field({
    type: AuditHead,
    nullable: true,
    authScopes: { can: "rollout:read" },
    select: { id: true },
    resolve: async (run, _args, ctx) => {
      const head = await ctx.prisma.auditEntry.findFirst({
        where: { runId: run.id, seq: { not: null } },
        orderBy: { seq: "desc" },
        select: { seq: true, hash: true },
      });
      return head === null || head.seq === null || head.hash === null
        ? null
        : { seq: head.seq, hash: head.hash };
    },
  }),
}));

builder.prismaObjectField(Group, "case", (t) =>
  t.relation("case", { type: Case, nullable: true, description: "Its case, if it was ever rejected." }),
);

const Coordinator = builder.objectRef<{ publicKey: string }>("Coordinator").implement({
  authScopes: { public: true },
  fields: (t) => ({
    publicKey: t.exposeString("publicKey", {
      description: "Ed25519, 32 bytes in hexadecimal: signs evidence bundles.",
    }),
  }),
});

builder.queryField("coordinator", (t) =>
  t.field({
    type: Coordinator,
    authScopes: { public: true },
    resolve: (_root, _args, ctx) => ({ publicKey: coordinatorPublicKey(ctx) }),
  }),
);

const DisputeCaseInput = builder.inputType("DisputeCaseInput", {
  fields: (t) => ({ case: t.id(), statement: t.string({ description: "Up to 2,000 characters." }) }),
});

const DecideCaseInput = builder.inputType("DecideCaseInput", {
  fields: (t) => ({
    case: t.id(),
    decision: t.field({ type: CaseStateEnum, description: "UPHELD or OVERTURNED." }),
    reason: t.string({ description: "Up to 2,000 characters; the accused reads it." }),
  }),
});

const ReinstateNodeInput = builder.inputType("ReinstateNodeInput", {
  fields: (t) => ({ run: t.id(), node: t.id(), reason: t.string() }),
});

builder.mutationFields((t) => ({
  disputeCase: t.prismaField({
    type: Case,
    description: "The accused node, or the person who owns it, objects to a rejection.",
    authScopes: { signedIn: true },
    args: { input: t.arg({ type: DisputeCaseInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const { id } = await disputeCase(ctx, {
        caseId: fromTypeId(input.case, "case"),
        statement: input.statement,
      });
      return ctx.prisma.case.findUniqueOrThrow({ ...query, where: { id } });
    },
  }),
  decideCase: t.prismaField({
    type: Case,
    description: "The organizer decides a case. An upheld one may still be overturned.",
    authScopes: { can: "case:decide" },
    args: { input: t.arg({ type: DecideCaseInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const { id } = await decideCase(ctx, {
        caseId: fromTypeId(input.case, "case"),
        decision: input.decision,
        reason: input.reason,
      });
      return ctx.prisma.case.findUniqueOrThrow({ ...query, where: { id } });
    },
  }),
  reinstateNode: t.prismaField({
    type: RunNode,
    description:
      "Lifts a node's quarantine. It begins anew, under full audits; one more failure quarantines it again.",
    authScopes: { can: "case:decide" },
    args: { input: t.arg({ type: ReinstateNodeInput }) },
    resolve: async (query, _root, { input }, ctx) => {
      const { runId, nodeId } = await reinstateNode(ctx, {
        runId: fromTypeId(input.run, "run"),
        nodeId: fromTypeId(input.node, "node"),
        reason: input.reason,
      });
      return ctx.prisma.nodeTrust.findUniqueOrThrow({
        ...query,
        where: { runId_nodeId: { runId, nodeId } },
      });
    },
  }),
}));
