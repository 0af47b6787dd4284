import { Verdict } from "@muster/db";
import { type CheckId, type CheckResult, checks, type Figures } from "@muster/verification";
import { builder } from "../builder.ts";
import { ComputeNode } from "../nodes/schema.ts";
import { maySeeGroup } from "../rollouts/schema.ts";
import { Run } from "../runs/schema.ts";
import { nodeOf } from "../tasks/lease.ts";
import { SubmissionResult, SubmitPackInput, submissionInput, submissionResult } from "../tasks/schema.ts";
import { inTurn } from "../tasks/turns.ts";
import { revealedKey } from "./audit.ts";
import { maxMeasurements, submitMeasurements } from "./measurement.ts";

export const VerdictEnum = builder.enumType(Verdict, { name: "Verdict" });
const CheckVerdictEnum = builder.enumType("CheckVerdict", {
  values: ["PASS", "FAIL", "INCONCLUSIVE"] as const,
});

export const CheckResultRef = builder.objectRef<CheckResult>("CheckResult").implement({
  description: "One check of a verdict, with every number it rests on.",
  // Only ever reached through its verification, which decides.
  authScopes: { signedIn: true },
  fields: (t) => ({
    id: t.exposeString("id", { description: "Which check: activations, decoys, sampling, …" }),
    title: t.string({ resolve: (check) => described(check.id).title }),
    verdict: t.expose("verdict", { type: CheckVerdictEnum }),
    observed: t.string({ resolve: (check) => spoken(check.observed) }),
    expected: t.string({ resolve: (check) => spoken(check.expected) }),
    threshold: t.string({ resolve: (check) => spoken(check.threshold) }),
    note: t.exposeString("note"),
    plain: t.exposeString("plain", { description: "The outcome in one sentence for anyone." }),
    does: t.string({ description: "What the check does.", resolve: (check) => described(check.id).plain }),
    cannotCatch: t.string({
      description: "What gets past the check.",
      resolve: (check) => described(check.id).cannotCatch,
    }),
  }),
});

builder.prismaNode("Verification", {
  id: { field: "id" },
  include: { group: { select: { organizationId: true, nodeId: true } } },
  authScopes: (verification, ctx) => maySeeGroup(ctx.actor, verification.group),
  fields: (t) => ({
    verdict: t.expose("verdict", { type: VerdictEnum }),
    checks: t.field({
      type: [CheckResultRef],
      select: { checks: true },
      // Written by measurement.ts from the same type, never by anyone else.
      resolve: (verification) => verification.checks as unknown as CheckResult[],
    }),
    validator: t.field({
      type: ComputeNode,
      select: { validatorNodeId: true },
      resolve: (verification, _args, ctx) =>
        ctx.prisma.node.findUniqueOrThrow({ where: { id: verification.validatorNodeId } }),
    }),
    group: t.relation("group"),
    tokens: t.exposeInt("tokens"),
    cost: t.exposeFloat("cost", { nullable: true }),
    startedAt: t.expose("startedAt", { type: "DateTime" }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

builder.prismaObject("AuditEpoch", {
  description:
    "24 hours of one run whose secret draws share a key: its hash is public before, the key after.",
  authScopes: { public: true },
  fields: (t) => ({
    number: t.exposeInt("number"),
    keyHash: t.exposeString("keyHash"),
    key: t.string({
      nullable: true,
      description: "The revealed key; null while secret.",
      resolve: (epoch, _args, ctx) => revealedKey(ctx, epoch),
    }),
    openedAt: t.expose("openedAt", { type: "DateTime" }),
    closedAt: t.expose("closedAt", { type: "DateTime", nullable: true }),
    revealedAt: t.expose("revealedAt", { type: "DateTime", nullable: true }),
  }),
});

builder.prismaObjectFields(Run, (t) => ({
  verifications: t.relatedConnection("verifications", {
    cursor: "id",
    description: "Verdicts, newest first.",
    authScopes: { can: "rollout:read" },
    args: { verdict: t.arg({ type: VerdictEnum, required: false }) },
    query: (args) => ({
      where: args.verdict == null ? {} : { verdict: args.verdict },
      orderBy: { id: "desc" },
    }),
  }),
  auditEpochs: t.relation("auditEpochs", { query: { orderBy: { number: "asc" } } }),
}));

const SubmitMeasurementsInput = builder.inputType("SubmitMeasurementsInput", {
  fields: (t) => ({
    submissions: t.field({ type: [SubmitPackInput], description: `1 to ${maxMeasurements}.` }),
  }),
});

builder.mutationFields((t) => ({
  submitMeasurement: t.field({
    type: SubmissionResult,
    description: "Hands in the blind measurement of a VERIFY task.",
    authScopes: { node: true },
    args: { input: t.arg({ type: SubmitPackInput }) },
    resolve: async (_root, { input }, ctx) => {
      const [outcome] = await inTurn(nodeOf(ctx), () => submitMeasurements(ctx, [submissionInput(input)]));
      if (outcome === undefined) throw new Error("one measurement in, one outcome out");
      return submissionResult(ctx, outcome);
    },
  }),
  submitMeasurements: t.field({
    type: [SubmissionResult],
    description: "Hands in the measurements of several VERIFY tasks; results come in their order.",
    authScopes: { node: true },
    args: { input: t.arg({ type: SubmitMeasurementsInput }) },
    resolve: async (_root, { input }, ctx) => {
      const outcomes = await inTurn(nodeOf(ctx), () =>
        submitMeasurements(ctx, input.submissions.map(submissionInput)),
      );
      return Promise.all(outcomes.map((outcome) => submissionResult(ctx, outcome)));
    },
  }),
}));

/** A verdict stored by an older version may name a check that is gone. */
function described(id: CheckId) {
  return (checks as Partial<typeof checks>)[id] ?? { title: id, plain: "", cannotCatch: "" };
}

/** `outliers 0, meanUlp 1.3` */
function spoken(figures: Figures): string {
  return Object.entries(figures)
    .map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toPrecision(6)) : value}`)
    .join(", ");
}
