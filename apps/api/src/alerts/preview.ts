import { assertAllowed } from "../auth/permissions.ts";
import type { Ctx } from "../context.ts";
import { notFound } from "../errors.ts";
import { assertCondition, type Condition } from "./conditions.ts";
import { kinds, readStretches, type SignalRun } from "./signals.ts";

/** A stretch during which a rule would have fired. */
export type PastEpisode = {
  readonly runId: string;
  readonly from: Date;
  /** Undefined: it would be firing now. */
  readonly to: Date | undefined;
  readonly worst: number;
  readonly limit: number;
};

export type Preview = {
  /** Whether the past can be told from what is stored. */
  readonly possible: boolean;
  readonly fired: number;
  /** Runs that were looked at. */
  readonly runs: number;
  readonly days: number;
  /** The newest, newest first. */
  readonly episodes: readonly PastEpisode[];
};

const days = 7;
/** Runs that are looked at, newest first, and moments: one a minute. */
const mostRuns = 20;
const everyMs = 60_000;
const mostEpisodes = 50;

/**
 * How often a rule would have fired in the last seven days, by the same reckoning as the loop's, once a minute.
 * @throws CodedError `FORBIDDEN`, `NOT_FOUND` or `INPUT_INVALID`
 */
export async function previewRule(
  ctx: Ctx,
  { organizationId, runId, condition }: { organizationId: string; runId?: string; condition: Condition },
): Promise<Preview> {
  assertAllowed(ctx.actor, "run:read", organizationId);
  assertCondition(condition);
  const { past, reach, read } = kinds[condition.kind];
  if (!past) return { possible: false, fired: 0, runs: 0, days, episodes: [] };
  const to = Date.now();
  const from = to - days * 86_400_000;
  const runs = await ctx.prisma.run.findMany({
    where: {
      organizationId,
      ...(runId === undefined ? {} : { id: runId }),
      startedAt: { not: null },
      OR: [{ endedAt: null }, { endedAt: { gt: new Date(from) } }],
    },
    select: { id: true, organizationId: true, startedAt: true, endedAt: true },
    orderBy: { id: "desc" },
    take: mostRuns,
  });
  if (runId !== undefined && (await ctx.prisma.run.count({ where: { id: runId, organizationId } })) === 0)
    throw notFound("The run");
  const episodes: PastEpisode[] = [];
  for (const run of runs) {
    const at = await read(ctx.db, run, { from: from - reach(condition) * 1000, to });
    episodes.push(
      ...(await episodesOf(ctx, run, { from, to }, (moment, since) => at(moment, condition, since))),
    );
    // A week of minutes takes some milliseconds: others wait no longer than for one run.
    await new Promise((resolve) => setImmediate(resolve));
  }
  episodes.sort((a, b) => b.from.getTime() - a.from.getTime());
  return {
    possible: true,
    fired: episodes.length,
    runs: runs.length,
    days,
    episodes: episodes.slice(0, mostEpisodes),
  };
}

async function episodesOf(
  ctx: Ctx,
  run: SignalRun,
  { from, to }: { from: number; to: number },
  read: (at: number, since: number) => { value: number; limit: number; firing: boolean } | undefined,
): Promise<PastEpisode[]> {
  const episodes: PastEpisode[] = [];
  for (const stretch of await readStretches(ctx.db, run)) {
    const end = Math.min(stretch.to, to);
    let current: PastEpisode | undefined;
    for (let at = Math.max(stretch.from, from); at <= end; at += everyMs) {
      const reading = read(at, stretch.from);
      if (reading === undefined) continue;
      if (reading.firing) {
        const { value, limit } = reading;
        current =
          current === undefined
            ? { runId: run.id, from: new Date(at), to: undefined, worst: value, limit }
            : { ...current, worst: further(current, value) };
      } else if (current !== undefined) {
        episodes.push({ ...current, to: new Date(at) });
        current = undefined;
      }
    }
    // A run that stops ends its episodes.
    if (current !== undefined)
      episodes.push({ ...current, to: stretch.to <= to ? new Date(stretch.to) : undefined });
  }
  return episodes;
}

/** The value that is further beyond the limit. */
const further = ({ worst, limit }: PastEpisode, value: number): number =>
  Math.abs(value - limit) > Math.abs(worst - limit) ? value : worst;
