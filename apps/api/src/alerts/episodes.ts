import type { Alert, AlertRule, Prisma } from "@muster/db";
import { newId, toTypeId } from "@muster/protocol";
import type { Tx } from "../context.ts";
import { appendEvents, type NewEvent, runStream } from "../events/append.ts";
import { type Reading, summaryOf } from "./conditions.ts";

// An episode begins once and ends once, each with its event in the run's stream, in the transaction that says so.

/** Why an episode ended. */
export type Resolution = "RECOVERED" | "RUN_NOT_RUNNING" | "RULE_CHANGED";

/** Begins an episode, unless one is open already or the rule changed since it was read. @returns whether it did */
export async function fireAlert(tx: Tx, rule: AlertRule, runId: string, reading: Reading): Promise<boolean> {
  const now = await tx.$queryRaw<unknown[]>`
    SELECT 1 FROM "AlertRule" WHERE id = ${rule.id}::uuid AND "updatedAt" = ${rule.updatedAt} FOR NO KEY UPDATE`;
  if (now.length === 0) return false;
  const { organizationId, name, kind, severity } = rule;
  const { value, limit } = reading;
  const alert = {
    ...{ id: newId("alert"), organizationId, ruleId: rule.id, runId, name, kind, severity, value, limit },
    ...{ newestValue: value, worstValue: value, summary: summaryOf(rule, reading), firedAt: new Date() },
  };
  const fired = await tx.alert.createManyAndReturn({ data: [alert], skipDuplicates: true });
  if (fired.length === 0) return false;
  // Not through Prisma, which would move updatedAt: that says when people changed it.
  await tx.$executeRaw`UPDATE "AlertRule" SET "lastFiredAt" = ${alert.firedAt} WHERE id = ${rule.id}::uuid`;
  await appendEvents(tx, fired.map(firing));
  return true;
}

/** Ends open episodes. @returns how many */
export async function resolveAlerts(
  tx: Tx,
  where: Prisma.AlertWhereInput,
  resolution: Resolution,
): Promise<number> {
  const resolved = await tx.alert.updateManyAndReturn({
    where: { ...where, resolvedAt: null },
    data: { resolvedAt: new Date(), resolution },
  });
  await appendEvents(tx, resolved.map(ended));
  return resolved.length;
}

const eventOf = (alert: Alert, type: "alert.firing" | "alert.resolved"): NewEvent => ({
  stream: runStream(alert.runId),
  organizationId: alert.organizationId,
  type,
  subject: toTypeId("alert", alert.id),
  data: {
    rule: alert.ruleId === null ? null : toTypeId("rule", alert.ruleId),
    run: toTypeId("run", alert.runId),
    name: alert.name,
    kind: alert.kind,
    severity: alert.severity,
    summary: alert.summary,
    limit: alert.limit,
    firedAt: alert.firedAt.toISOString(),
    ...(type === "alert.firing"
      ? { value: alert.value }
      : {
          value: alert.newestValue,
          worst: alert.worstValue,
          resolvedAt: alert.resolvedAt?.toISOString() ?? null,
          resolution: alert.resolution,
        }),
  },
});
const firing = (alert: Alert) => eventOf(alert, "alert.firing");
const ended = (alert: Alert) => eventOf(alert, "alert.resolved");
