import { finalAfter, probationGroups } from "@muster/verification";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { RunNode } from "../nodes/schema.ts";
import { Group } from "../rollouts/schema.ts";
import { Run } from "../runs/schema.ts";
import { specOf } from "../runs/spec.ts";
import { type AuditSummary, auditSummary, forfeitedOf } from "./audit-summary.ts";

const AuditSummaryRef = builder.objectRef<AuditSummary>("AuditSummary").implement({
  description: "What audits are made in a run, what they found and what they cost.",
  // Only ever reached through its run, which decides.
  authScopes: { signedIn: true },
  fields: (t) => ({
    probationGroups: t.exposeInt("probationGroups", {
      description: "Audited-valid groups before a node is trusted: a(1 − f) / (ε f).",
    }),
    floor: t.exposeFloat("floor", { description: "Audit rate of a trusted node, f. Everyone else's is 1." }),
    epsilon: t.exposeFloat("epsilon", { description: "Accepted share of poisoned groups, ε." }),
    adversaryShare: t.exposeFloat("adversaryShare", { description: "Assumed share of dishonest nodes, a." }),
    audited: t.exposeInt("audited", { description: "Groups an audit was made of, or is being made." }),
    trusted: t.exposeInt("trusted", { description: "Groups accepted unaudited." }),
    auditedShare: t.exposeFloat("auditedShare", {
      nullable: true,
      description: "Audited among both; null before there are any.",
    }),
    auditedAtTrust: t.exposeInt("auditedAtTrust", {
      description:
        "Decided audits that were drawn at the floor rate: a fair sample of what trusted nodes make.",
    }),
    badAtTrust: t.exposeInt("badAtTrust", { description: "How many of these were rejected." }),
    badUpper95: t.exposeFloat("badUpper95", {
      description:
        "Upper 95 % bound of the rejected share among trusted nodes' groups. It holds at all times at once, however often one looks.",
    }),
    poisonUpper95: t.exposeFloat("poisonUpper95", {
      description: "The same as a share of all accepted groups: times the share of them that is unaudited.",
    }),
    retroactive: t.exposeInt("retroactive", {
      description: "Groups that were trusted and are or were audited afterwards, because their node failed.",
    }),
    retroactivePending: t.exposeInt("retroactivePending", { description: "Those without a verdict so far." }),
    poisonTrained: t.exposeInt("poisonTrained", {
      description: "Rejected groups that a sealed batch has trained on.",
    }),
    forfeited: t.expose("forfeited", {
      type: "BigInt",
      description: "Micro-credits taken back from nodes, net of refunds.",
    }),
    backlog: t.exposeInt("backlog", {
      description: "VERIFY tasks that are open or leased.",
    }),
    backlogLimit: t.exposeInt("backlogLimit", {
      description: "Above this backlog no further GENERATE task is opened.",
    }),
    oldestBacklogSeconds: t.exposeFloat("oldestBacklogSeconds", { nullable: true }),
    costShare: t.exposeFloat("costShare", {
      nullable: true,
      description: "CPU-seconds of measuring over those of generating, as the nodes report them.",
    }),
    costShareAtTrust: t.exposeFloat("costShareAtTrust", {
      nullable: true,
      description: "The same for groups of nodes that were trusted when they submitted.",
    }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  audit: t.field({
    // It reads every group of the run.
    extensions: { cost: 50 },
    type: AuditSummaryRef,
    authScopes: { can: "run:read" },
    select: { id: true, revision: true },
    resolve: (run, _args, ctx) => auditSummary(ctx, run),
  }),
}));

const policyOf = async (ctx: Ctx, run: { id: string; revision: number }) =>
  (await specOf(ctx.prisma, run.id, run.revision)).verification.audit;

builder.prismaObjectFields(RunNode, (t) => ({
  needed: t.int({
    description: "Audited-valid groups in a row after which the node is trusted.",
    select: { run: { select: { id: true, revision: true } } },
    resolve: async ({ run }, _args, ctx) => probationGroups(await policyOf(ctx, run)),
  }),
  forfeited: t.field({
    type: "BigInt",
    description: "Micro-credits taken back from the node in this run, net of refunds.",
    select: { runId: true, nodeId: true },
    resolve: (trust, _args, ctx) => forfeitedOf(ctx, trust),
  }),
  finalAfter: t.string({
    description: "What has to happen before held credits are released, in one sentence.",
    select: { accepted: true, run: { select: { id: true, revision: true } } },
    resolve: async ({ accepted, run }, _args, ctx) => {
      const spec = await specOf(ctx.prisma, run.id, run.revision);
      const after = finalAfter(accepted, spec.verification.audit);
      return `A group accepted now is final after ${after - accepted} more audited-valid groups (${after} in all), the run's end or 24 hours, and not before its dispute window of ${spec.disputeWindowSeconds} seconds is over.`;
    },
  }),
}));

builder.prismaObjectFields(Group, (t) => ({
  audited: t.boolean({
    description: "Whether somebody measures it or has measured it; the others are accepted on trust.",
    select: { verifyTaskId: true },
    resolve: (group) => group.verifyTaskId !== null,
  }),
  retroactive: t.exposeBoolean("retroactive", {
    description: "Whether it was trusted at first and is audited because its node failed since.",
  }),
  finalAfter: t.exposeInt("finalAfter", {
    nullable: true,
    description: "Audited-valid groups of its node after which it is final.",
  }),
}));
