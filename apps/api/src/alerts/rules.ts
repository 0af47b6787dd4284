import type { AlertRule, AlertSeverity } from "@muster/db";
import { newId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { once } from "../runs/idempotency.ts";
import { storable } from "../storable.ts";
import { assertCondition, type Condition } from "./conditions.ts";
import { resolveAlerts } from "./episodes.ts";

/** Rules of one organization. */
const mostRules = 100;

export type RuleInput = Condition & {
  readonly name: string;
  readonly severity: AlertSeverity;
  readonly enabled: boolean;
};

/**
 * Makes a rule.
 * @throws CodedError `FORBIDDEN`, `NOT_FOUND`, `INPUT_INVALID` or `STATE_CONFLICT` at the hundred and first
 * @returns its id
 */
export async function createRule(
  ctx: Ctx,
  input: RuleInput & { organizationId: string; runId?: string; idempotencyKey?: string },
): Promise<string> {
  const { organizationId, runId = null, idempotencyKey, ...given } = input;
  assertAllowed(ctx.actor, "alert:manage", organizationId);
  const data = readRule(given);
  return await ctx.prisma.$transaction(async (tx) => {
    // One at a time in an organization: two at once would both be the hundredth.
    await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('alerts:' || ${organizationId}, 0))`;
    const call = {
      actor: ctx.actor,
      operation: "createAlertRule",
      key: idempotencyKey,
      input: { organizationId, runId, ...given },
    };
    return await once(tx, call, async () => {
      if ((await tx.alertRule.count({ where: { organizationId } })) >= mostRules)
        throw new CodedError(
          "STATE_CONFLICT",
          `The organization has ${mostRules} rules, which is the most. Delete one first.`,
        );
      if (runId !== null && (await tx.run.count({ where: { id: runId, organizationId } })) === 0)
        throw notFound("The run");
      const id = newId("rule");
      const createdById = ctx.actor.kind === "person" ? ctx.actor.userId : null;
      await tx.alertRule.create({ data: { id, organizationId, runId, createdById, ...data } });
      return id;
    });
  });
}

/** Changes a rule. What it fired for under its old condition ends. */
export async function updateRule(
  ctx: Ctx,
  { id, ...change }: { id: string } & Partial<RuleInput>,
): Promise<void> {
  const rule = await ruleFor(ctx, id);
  await changeRule(ctx, rule, async (tx) => {
    const data = readRule({ ...rule, ...change });
    const same =
      data.enabled &&
      data.kind === rule.kind &&
      data.threshold === rule.threshold &&
      data.windowSeconds === rule.windowSeconds;
    if (!same) await resolveAlerts(tx, { ruleId: id }, "RULE_CHANGED");
    await tx.alertRule.update({ where: { id }, data });
  });
}

/** Deletes a rule; its alerts stay in the history. */
export async function deleteRule(ctx: Ctx, id: string): Promise<void> {
  const rule = await ruleFor(ctx, id);
  await changeRule(ctx, rule, async (tx) => {
    await resolveAlerts(tx, { ruleId: id }, "RULE_CHANGED");
    await tx.alertRule.deleteMany({ where: { id } });
  });
}

/** Under the rule's row, so that no episode begins under a condition that is being replaced. */
async function changeRule(ctx: Ctx, { id }: AlertRule, change: (tx: Tx) => Promise<void>): Promise<void> {
  await ctx.prisma.$transaction(async (tx) => {
    const found = await tx.$queryRaw<unknown[]>`SELECT 1 FROM "AlertRule" WHERE id = ${id}::uuid FOR UPDATE`;
    if (found.length === 0) throw notFound("The rule");
    await change(tx);
  });
  ctx.bus.publish("events");
}

/** The rule, when the actor manages it. @throws CodedError `NOT_FOUND`, also to those who may not see it; `FORBIDDEN` */
async function ruleFor(ctx: Ctx, id: string): Promise<AlertRule> {
  const rule = await ctx.prisma.alertRule.findUnique({ where: { id } });
  if (rule === null || !allows(ctx.actor, "run:read", rule.organizationId)) throw notFound("The rule");
  assertAllowed(ctx.actor, "alert:manage", rule.organizationId);
  return rule;
}

function readRule({ name, kind, threshold, windowSeconds, severity, enabled }: RuleInput) {
  const plain = storable(name.trim(), 100);
  if (plain === "") throw new CodedError("INPUT_INVALID", "A rule needs a name of 1 to 100 characters.");
  assertCondition({ kind, threshold, windowSeconds });
  return { name: plain, kind, threshold, windowSeconds, severity, enabled };
}
