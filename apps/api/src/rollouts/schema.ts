import { Acceptance, GroupState } from "@muster/db";
import { fromTypeId } from "@muster/protocol";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Actor } from "../context.ts";
import { ComputeNode } from "../nodes/schema.ts";
import { Run } from "../runs/schema.ts";
import { nodeOf } from "../tasks/lease.ts";
import { SubmissionResult, SubmitPackInput, submissionInput, submissionResult } from "../tasks/schema.ts";
import { inTurn } from "../tasks/turns.ts";
import { submitRollouts } from "./intake.ts";
import { type TokenView, tokenView } from "./token-view.ts";

const GroupStateEnum = builder.enumType(GroupState, { name: "GroupState" });
const AcceptanceEnum = builder.enumType(Acceptance, { name: "Acceptance" });

/** Rollouts are private: the organization's members see them, and a node sees its own. */
export function maySeeGroup(actor: Actor, group: { organizationId: string; nodeId: string }): boolean {
  return (
    allows(actor, "rollout:read", group.organizationId) ||
    (actor.kind === "node" && actor.nodeId === group.nodeId)
  );
}

export const Group = builder.prismaNode("Group", {
  id: { field: "id" },
  authScopes: (group, ctx) => maySeeGroup(ctx.actor, group),
  fields: (t) => ({
    index: t.exposeInt("index"),
    prompt: t.exposeString("prompt"),
    policyVersion: t.exposeInt("policyVersion"),
    node: t.relation("node", { type: ComputeNode }),
    state: t.expose("state", { type: GroupStateEnum }),
    acceptance: t.expose("acceptance", { type: AcceptanceEnum, nullable: true }),
    reason: t.exposeString("reason", { nullable: true }),
    meanReward: t.exposeFloat("meanReward"),
    tokens: t.exposeInt("tokens"),
    auditRate: t.exposeFloat("auditRate"),
    duplicate: t.exposeBoolean("duplicate"),
    submittedAt: t.expose("submittedAt", { type: "DateTime" }),
    decidedAt: t.expose("decidedAt", { type: "DateTime", nullable: true }),
    finalAt: t.expose("finalAt", { type: "DateTime", nullable: true }),
    step: t.int({
      nullable: true,
      description: "The training step whose batch holds it.",
      select: { batchGroup: { select: { batch: { select: { step: true } } } } },
      resolve: (group) => group.batchGroup?.batch.step ?? null,
    }),
    policyLag: t.int({
      nullable: true,
      description: "Version when its batch was sealed minus the version that generated it.",
      select: { batchGroup: { select: { policyLag: true } } },
      resolve: (group) => group.batchGroup?.policyLag ?? null,
    }),
    rollouts: t.relation("rollouts", { query: { orderBy: { index: "asc" } } }),
    verifications: t.relation("verifications", { query: { orderBy: { createdAt: "asc" } } }),
  }),
});

const TokenViewRef = builder.objectRef<TokenView>("TokenView").implement({
  description: "One output token beside what its producer claimed and what a validator measured.",
  // Only ever reached through its rollout, which decides.
  authScopes: { signedIn: true },
  fields: (t) => ({
    position: t.exposeInt("position"),
    token: t.exposeInt("token"),
    text: t.exposeString("text"),
    claimedLogProbability: t.exposeFloat("claimedLogProbability"),
    measuredLogProbability: t.exposeFloat("measuredLogProbability", { nullable: true }),
    margin: t.exposeFloat("margin", { nullable: true }),
  }),
});

export const Rollout = builder.prismaNode("Rollout", {
  id: { field: "id" },
  select: { groupId: true, group: { select: { organizationId: true, nodeId: true } } },
  authScopes: (rollout, ctx) => maySeeGroup(ctx.actor, rollout.group),
  fields: (t) => ({
    index: t.exposeInt("index"),
    preview: t.exposeString("preview"),
    tokens: t.exposeInt("tokens"),
    finishReason: t.exposeString("finishReason"),
    reward: t.exposeFloat("reward"),
    rewardParts: t.field({
      type: "JSON",
      select: { rewardParts: true },
      resolve: (rollout) => rollout.rewardParts,
    }),
    advantage: t.exposeFloat("advantage", { nullable: true }),
    group: t.relation("group"),
    tokenView: t.field({
      // A whole pack is read and decoded.
      extensions: { cost: 500 },
      type: [TokenViewRef],
      nullable: true,
      description: "The completion token by token; null when retention deleted the pack.",
      select: { groupId: true, index: true },
      resolve: (rollout, _args, ctx) => tokenView(ctx, rollout),
    }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  groups: t.relatedConnection("groups", {
    cursor: "id",
    description: "Groups, newest first.",
    authScopes: { can: "rollout:read" },
    args: {
      state: t.arg({ type: GroupStateEnum, required: false }),
      node: t.arg.id({ required: false }),
      version: t.arg.int({ required: false }),
    },
    query: (args) => ({
      where: {
        ...(args.state == null ? {} : { state: args.state }),
        ...(args.node == null ? {} : { nodeId: fromTypeId(args.node, "node") }),
        ...(args.version == null ? {} : { policyVersion: args.version }),
      },
      orderBy: { id: "desc" },
    }),
  }),
  rollouts: t.relatedConnection("rollouts", {
    cursor: "id",
    description: "Rollouts, newest first.",
    authScopes: { can: "rollout:read" },
    args: {
      state: t.arg({ type: GroupStateEnum, required: false }),
      node: t.arg.id({ required: false }),
    },
    query: (args) => ({
      where: {
        ...(args.state == null && args.node == null
          ? {}
          : {
              group: {
                ...(args.state == null ? {} : { state: args.state }),
                ...(args.node == null ? {} : { nodeId: fromTypeId(args.node, "node") }),
              },
            }),
      },
      orderBy: { id: "desc" },
    }),
  }),
}));

builder.mutationField("submitRollouts", (t) =>
  t.field({
    type: SubmissionResult,
    description:
      "Hands in the rollouts of a GENERATE task: the pack was PUT before, this names and signs it.",
    authScopes: { node: true },
    args: { input: t.arg({ type: SubmitPackInput }) },
    resolve: async (_root, { input }, ctx) =>
      submissionResult(ctx, await inTurn(nodeOf(ctx), () => submitRollouts(ctx, submissionInput(input)))),
  }),
);
