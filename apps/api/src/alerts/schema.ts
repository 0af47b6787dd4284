import { AlertKind, AlertSeverity } from "@muster/db";
import { fromTypeId, toTypeId } from "@muster/protocol";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { Organization } from "../organizations/schema.ts";
import { Run } from "../runs/schema.ts";
import { type PastEpisode, type Preview, previewRule } from "./preview.ts";
import { createRule, deleteRule, updateRule } from "./rules.ts";

const Kind = builder.enumType(AlertKind, {
  name: "AlertKind",
  description: [
    "What a rule watches, in every run that is RUNNING, and the unit of its threshold.",
    "RUN_STALLED: no training step for the window. NO_ACCEPTED: no group accepted for the window.",
    "REJECT_RATE: more of the window's groups rejected than p̄ + 3 √(p̄(1 − p̄)/n) of the twenty windows before; a threshold is the least limit, a share.",
    "KL_ABOVE, ENTROPY_BELOW: mean of the window's training steps.",
    "BROADCAST_P95: seconds until 95 % of a checkpoint's receivers had it, the slowest checkpoint of the window.",
    "WORKER_OFFLINE: so many nodes were here today and not within the window.",
    "VERIFY_QUEUE_AGE: seconds that the oldest group waits for a validator. BUDGET_SPENT: share of the funds spent or held.",
  ].join(" "),
});
const Severity = builder.enumType(AlertSeverity, { name: "AlertSeverity" });
const AlertRuleState = builder.enumType("AlertRuleState", { values: ["OK", "FIRING", "OFF"] as const });

const Rule = builder.prismaNode("AlertRule", {
  description: "What an organization wants to be told about its runs.",
  id: { field: "id" },
  authScopes: (rule, { actor }) => allows(actor, "run:read", rule.organizationId),
  fields: (t) => ({
    run: t.relation("run", { type: Run, nullable: true, description: "Null: every run." }),
    name: t.exposeString("name"),
    kind: t.expose("kind", { type: Kind }),
    threshold: t.exposeFloat("threshold", {
      nullable: true,
      description: "In the unit of the kind; null where only the window counts.",
    }),
    windowSeconds: t.exposeInt("windowSeconds"),
    severity: t.expose("severity", { type: Severity }),
    enabled: t.exposeBoolean("enabled"),
    state: t.field({
      type: AlertRuleState,
      description: "FIRING while an episode of it is open in any run.",
      select: { enabled: true, alerts: { where: { resolvedAt: null }, take: 1, select: { id: true } } },
      resolve: ({ enabled, alerts }) => (enabled ? (alerts.length > 0 ? "FIRING" : "OK") : "OFF"),
    }),
    firing: t.relationCount("alerts", {
      description: "Runs for which it is firing.",
      where: { resolvedAt: null },
    }),
    lastFiredAt: t.expose("lastFiredAt", { type: "DateTime", nullable: true }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
    updatedAt: t.expose("updatedAt", { type: "DateTime" }),
  }),
});

const AlertType = builder.prismaNode("Alert", {
  description: "One episode of a rule in a run. Ended ones are kept for 90 days.",
  id: { field: "id" },
  authScopes: (alert, { actor }) => allows(actor, "run:read", alert.organizationId),
  fields: (t) => ({
    rule: t.relation("rule", { type: Rule, nullable: true, description: "Null when it was deleted." }),
    run: t.relation("run", { type: Run }),
    name: t.exposeString("name", { description: "The rule's, when it fired." }),
    kind: t.expose("kind", { type: Kind }),
    severity: t.expose("severity", { type: Severity }),
    summary: t.exposeString("summary", { description: "What was seen when it fired, in one sentence." }),
    value: t.exposeFloat("value", { description: "When it fired." }),
    newestValue: t.exposeFloat("newestValue"),
    worstValue: t.exposeFloat("worstValue"),
    limit: t.exposeFloat("limit"),
    firedAt: t.expose("firedAt", { type: "DateTime" }),
    resolvedAt: t.expose("resolvedAt", { type: "DateTime", nullable: true }),
    resolution: t.exposeString("resolution", {
      nullable: true,
      description: "RECOVERED, RUN_NOT_RUNNING or RULE_CHANGED.",
    }),
  }),
});

const firingArg = {
  required: false,
  description: "Only those that are firing, or only those that ended.",
} as const;
const onlyFiring = (firing: boolean | null | undefined) =>
  firing == null ? {} : { resolvedAt: firing ? null : { not: null } };

builder.prismaObjectFields(Organization, (t) => ({
  alertRules: t.relatedConnection("alertRules", {
    type: Rule,
    cursor: "id",
    description: "At most a hundred, oldest first.",
    authScopes: { can: "run:read" },
    query: { orderBy: { id: "asc" } },
  }),
  alerts: t.relatedConnection("alerts", {
    type: AlertType,
    cursor: "id",
    description: "Newest first.",
    authScopes: { can: "run:read" },
    args: { firing: t.arg.boolean(firingArg), rule: t.arg.id({ required: false }) },
    query: ({ firing, rule }) => ({
      where: { ...onlyFiring(firing), ...(rule == null ? {} : { ruleId: fromTypeId(rule, "rule") }) },
      orderBy: { id: "desc" },
    }),
  }),
}));

builder.prismaObjectFields(Run, (t) => ({
  alerts: t.relatedConnection("alerts", {
    type: AlertType,
    cursor: "id",
    description: "Newest first.",
    authScopes: { can: "run:read" },
    args: { firing: t.arg.boolean(firingArg) },
    query: ({ firing }) => ({ where: onlyFiring(firing), orderBy: { id: "desc" } }),
  }),
}));

const Episode = builder.objectRef<PastEpisode>("AlertPreviewEpisode").implement({
  authScopes: { can: "run:read" },
  fields: (t) => ({
    run: t.id({ resolve: ({ runId }) => toTypeId("run", runId) }),
    from: t.expose("from", { type: "DateTime" }),
    to: t.field({
      type: "DateTime",
      nullable: true,
      description: "Null: it would be firing now.",
      resolve: ({ to }) => to ?? null,
    }),
    worst: t.exposeFloat("worst"),
    limit: t.exposeFloat("limit"),
  }),
});
const PreviewType = builder.objectRef<Preview>("AlertPreview").implement({
  description: "What a rule would have done, reckoned once a minute.",
  authScopes: { can: "run:read" },
  fields: (t) => ({
    possible: t.exposeBoolean("possible", {
      description: "False for WORKER_OFFLINE: when nodes were seen is not kept.",
    }),
    fired: t.exposeInt("fired"),
    runs: t.exposeInt("runs", { description: "Runs that were looked at, the twenty newest at most." }),
    days: t.exposeInt("days"),
    episodes: t.field({
      type: [Episode],
      description: "The fifty newest at most, newest first.",
      resolve: ({ episodes }) => [...episodes],
    }),
  }),
});

const PreviewInput = builder.inputType("AlertPreviewInput", {
  fields: (t) => ({
    organization: t.id(),
    run: t.id({ required: false, description: "Without it every run." }),
    kind: t.field({ type: Kind }),
    threshold: t.float({ required: false }),
    windowSeconds: t.int(),
  }),
});

builder.queryField("alertPreview", (t) =>
  t.field({
    type: PreviewType,
    extensions: { cost: 100 },
    description: "How often a rule would have fired in the last seven days, from what is stored.",
    authScopes: { can: "run:read" },
    args: { input: t.arg({ type: PreviewInput }) },
    resolve: (_root, { input }, ctx) =>
      previewRule(ctx, {
        organizationId: fromTypeId(input.organization, "org"),
        ...(input.run == null ? {} : { runId: fromTypeId(input.run, "run") }),
        condition: {
          kind: input.kind,
          threshold: input.threshold ?? null,
          windowSeconds: input.windowSeconds,
        },
      }),
  }),
);

const Create = builder.inputType("CreateAlertRuleInput", {
  fields: (t) => ({
    organization: t.id(),
    run: t.id({ required: false, description: "Without it every run, later ones included." }),
    name: t.string(),
    kind: t.field({ type: Kind }),
    threshold: t.float({ required: false }),
    windowSeconds: t.int({ description: "60 to 604,800." }),
    severity: t.field({ type: Severity, required: false, description: "Default WARNING." }),
    enabled: t.boolean({ required: false }),
    idempotencyKey: t.string({ required: false }),
  }),
});
const Update = builder.inputType("UpdateAlertRuleInput", {
  description: "What is left out stays; `threshold: null` removes it.",
  fields: (t) => ({
    rule: t.id(),
    name: t.string({ required: false }),
    kind: t.field({ type: Kind, required: false }),
    threshold: t.float({ required: false }),
    windowSeconds: t.int({ required: false }),
    severity: t.field({ type: Severity, required: false }),
    enabled: t.boolean({ required: false }),
  }),
});
const Delete = builder.inputType("DeleteAlertRuleInput", { fields: (t) => ({ rule: t.id() }) });

const manage = { can: "alert:manage" } as const;

builder.mutationFields((t) => ({
  createAlertRule: t.prismaField({
    type: Rule,
    description: "At most a hundred an organization.",
    authScopes: manage,
    args: { input: t.arg({ type: Create }) },
    resolve: async (query, _root, { input }, ctx) => {
      const id = await createRule(ctx, {
        organizationId: fromTypeId(input.organization, "org"),
        ...(input.run == null ? {} : { runId: fromTypeId(input.run, "run") }),
        name: input.name,
        kind: input.kind,
        threshold: input.threshold ?? null,
        windowSeconds: input.windowSeconds,
        severity: input.severity ?? "WARNING",
        enabled: input.enabled ?? true,
        ...(input.idempotencyKey == null ? {} : { idempotencyKey: input.idempotencyKey }),
      });
      return read(ctx, id, query);
    },
  }),
  updateAlertRule: t.prismaField({
    type: Rule,
    description: "Changes a rule. What it fired for under its old condition ends.",
    authScopes: manage,
    args: { input: t.arg({ type: Update }) },
    resolve: async (query, _root, { input }, ctx) => {
      const { rule, name, kind, threshold, windowSeconds, severity, enabled } = input;
      const id = fromTypeId(rule, "rule");
      await updateRule(ctx, {
        id,
        ...(name == null ? {} : { name }),
        ...(kind == null ? {} : { kind }),
        ...(threshold === undefined ? {} : { threshold }),
        ...(windowSeconds == null ? {} : { windowSeconds }),
        ...(severity == null ? {} : { severity }),
        ...(enabled == null ? {} : { enabled }),
      });
      return read(ctx, id, query);
    },
  }),
  deleteAlertRule: t.boolean({
    description: "Its alerts stay in the history.",
    authScopes: manage,
    args: { input: t.arg({ type: Delete }) },
    resolve: async (_root, { input }, ctx) => {
      await deleteRule(ctx, fromTypeId(input.rule, "rule"));
      return true;
    },
  }),
}));

async function read<Query extends object>(ctx: Ctx, id: string, query: Query) {
  const found = await ctx.prisma.alertRule.findUnique({ ...query, where: { id } });
  if (found === null) throw new CodedError("NOT_FOUND", "The rule was deleted meanwhile.");
  return found;
}
