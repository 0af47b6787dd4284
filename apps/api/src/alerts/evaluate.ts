import type { Alert, AlertKind, AlertRule } from "@muster/db";
import type { Ctx } from "../context.ts";
import type { Loop } from "../loops.ts";
import type { Reading } from "./conditions.ts";
import { fireAlert, type Resolution, resolveAlerts } from "./episodes.ts";
import { kinds, readStretches, type SignalRun } from "./signals.ts";

type Watched = { readonly rule: AlertRule; readonly run: SignalRun };

/**
 * Looks at every enabled rule in every run that is RUNNING: begins and ends episodes. What cannot be told leaves things as they are.
 * @returns how many episodes began or ended
 */
export async function evaluateAlerts(
  ctx: Ctx,
  signal: AbortSignal = new AbortController().signal,
): Promise<number> {
  const rules = await ctx.prisma.alertRule.findMany({ where: { enabled: true } });
  const open = await ctx.prisma.alert.findMany({ where: { resolvedAt: null } });
  if (rules.length === 0 && open.length === 0) return 0;
  const runs = await ctx.prisma.run.findMany({
    where: {
      state: "RUNNING",
      organizationId: { in: [...new Set(rules.map((rule) => rule.organizationId))] },
    },
    select: { id: true, organizationId: true, startedAt: true, endedAt: true },
  });
  const watched = rules.flatMap((rule) =>
    runs
      .filter(({ id, organizationId }) =>
        rule.runId === null ? organizationId === rule.organizationId : id === rule.runId,
      )
      .map((run): Watched => ({ rule, run })),
  );
  let changed = await endUnwatched(ctx, open, watched);
  for (const run of runs) {
    if (signal.aborted) break;
    const here = watched.filter((one) => one.run === run);
    if (here.length === 0) continue;
    changed += await evaluateRun(
      ctx,
      run,
      here.map(({ rule }) => rule),
      open.filter((alert) => alert.runId === run.id),
    );
  }
  if (changed > 0) ctx.bus.publish("events");
  return changed;
}

/** Ends what nobody watches any more: a run that does not run, a rule that is off. */
async function endUnwatched(ctx: Ctx, open: readonly Alert[], watched: readonly Watched[]): Promise<number> {
  let ended = 0;
  for (const alert of open) {
    if (watched.some(({ rule, run }) => rule.id === alert.ruleId && run.id === alert.runId)) continue;
    const state = await ctx.prisma.run.findUnique({ where: { id: alert.runId }, select: { state: true } });
    const why: Resolution = state?.state === "RUNNING" ? "RULE_CHANGED" : "RUN_NOT_RUNNING";
    ended += await ctx.prisma.$transaction((tx) => resolveAlerts(tx, { id: alert.id }, why));
  }
  return ended;
}

async function evaluateRun(
  ctx: Ctx,
  run: SignalRun,
  rules: readonly AlertRule[],
  open: readonly Alert[],
): Promise<number> {
  const now = Date.now();
  const since = (await readStretches(ctx.db, run)).at(-1)?.from ?? now;
  const byKind = new Map<AlertKind, AlertRule[]>();
  for (const rule of rules) byKind.set(rule.kind, [...(byKind.get(rule.kind) ?? []), rule]);
  let changed = 0;
  for (const [kind, same] of byKind) {
    const { reach, read } = kinds[kind];
    const furthest = Math.max(...same.map(reach));
    const at = await read(ctx.db, run, { from: now - furthest * 1000, to: now });
    for (const rule of same) {
      const reading = at(now, rule, since);
      if (reading === undefined) continue;
      const episode = open.find((alert) => alert.ruleId === rule.id);
      changed += await apply(ctx, rule, run, episode, reading);
    }
  }
  return changed;
}

async function apply(
  ctx: Ctx,
  rule: AlertRule,
  run: SignalRun,
  episode: Alert | undefined,
  reading: Reading,
): Promise<number> {
  if (episode === undefined)
    return reading.firing && (await ctx.prisma.$transaction((tx) => fireAlert(tx, rule, run.id, reading)))
      ? 1
      : 0;
  const { value } = reading;
  const worse = rule.kind === "ENTROPY_BELOW" ? Math.min : Math.max;
  if (reading.firing && value !== episode.newestValue)
    await ctx.prisma.alert.updateMany({
      where: { id: episode.id, resolvedAt: null },
      data: { newestValue: value, worstValue: worse(episode.worstValue, value) },
    });
  if (reading.firing) return 0;
  return await ctx.prisma.$transaction(async (tx) => {
    await tx.alert.updateMany({ where: { id: episode.id, resolvedAt: null }, data: { newestValue: value } });
    return await resolveAlerts(tx, { id: episode.id }, "RECOVERED");
  });
}

export const alertLoop: Loop = {
  name: "alerts",
  everyMs: 15_000,
  leader: true,
  startAfterSeconds: 5,
  run: (ctx, { signal }) => evaluateAlerts(ctx, signal),
};

/** Days for which ended episodes are kept. */
const keptDays = 90;

export const alertRetentionLoop: Loop = {
  name: "alert retention",
  everyMs: 3_600_000,
  leader: true,
  startAfterSeconds: 60,
  run: (ctx) =>
    ctx.prisma.alert.deleteMany({
      where: { resolvedAt: { lt: new Date(Date.now() - keptDays * 86_400_000) } },
    }),
};
