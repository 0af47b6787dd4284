import { setTimeout as sleep } from "node:timers/promises";
import type { Ctx } from "../src/context.ts";
import { numberEvents } from "../src/events/sequencer.ts";
import { expireLeases } from "../src/tasks/expiry.ts";
import { chainEntries } from "../src/verification/record.ts";
import { type Live, readLive, secondsPerStep, tickMs } from "./live-run.ts";
import { prepareStep, trainStep } from "./live-steps.ts";
import { tick } from "./live-tasks.ts";

// A busy run: thousands of events a second, each about rows that change in the same transaction. It is the traffic of a run of ten thousand
// trusted workers: tasks that are opened, leased, submitted and done, groups accepted on trust, a step every ten seconds, and a receipt for
// each version from everybody. What has to be measured is not here: that way takes a coordinator, and present.ts goes it.

export type LiveReport = {
  readonly seconds: number;
  readonly events: number;
  /** Events a second over all of it. */
  readonly rate: number;
  readonly groups: number;
  readonly steps: number;
  /** The longest that one tick took, milliseconds. */
  readonly slowestMs: number;
};

/**
 * Goes on with a run at `rate` events a second until the signal, or for so many seconds. Events are numbered here too, so it needs no other
 * coordinator; one that runs may follow them, plan the run and sweep it.
 */
export async function goLive(
  ctx: Ctx,
  input: {
    runId: string;
    seed: string;
    rate: number;
    seconds: number | null;
    signal: AbortSignal;
    say: (text: string) => void;
  },
): Promise<LiveReport> {
  const { runId, rate, seconds, signal, say } = input;
  const live = await readLive(ctx.prisma, runId, { seed: input.seed });
  const started = performance.now();
  const passed = () => (performance.now() - started) / 1000;
  let said = 0;
  let stepped = 0;
  let slowestMs = 0;
  const over = new AbortController();
  const numbering = keepNumbering(ctx, over.signal);
  try {
    while (!signal.aborted && (seconds === null || passed() < seconds)) {
      const begun = performance.now();
      // What a slow tick left undone is made up for, but not all at once.
      const most = Math.ceil((4 * rate * tickMs) / 1000);
      const owed = Math.min(Math.round(passed() * rate) - live.events, most);
      if (passed() - stepped >= secondsPerStep) {
        stepped += secondsPerStep;
        const made = await prepareStep(ctx, live);
        await ctx.prisma.$transaction((tx) => trainStep(tx, live, made), { timeout: 60_000 });
      }
      if (owed > 0) await ctx.prisma.$transaction((tx) => tick(tx, live, owed), { timeout: 60_000 });
      ctx.bus.publish("events");
      await beat(ctx, live);
      const took = performance.now() - begun;
      slowestMs = Math.max(slowestMs, took);
      if (passed() - said >= 5) {
        said = passed();
        const mean = Math.round(live.events / said);
        say(`${live.events} events in ${said.toFixed(0)} s, ${mean}/s; step ${live.step}`);
      }
      await sleep(Math.max(0, tickMs - took), undefined, { signal }).catch(() => {});
    }
  } finally {
    over.abort();
    await numbering;
  }
  const took = passed();
  while ((await numberEvents(ctx)) > 0);
  return {
    seconds: took,
    events: live.events,
    rate: Math.round(live.events / took),
    groups: live.groups,
    steps: live.steps,
    slowestMs: Math.round(slowestMs),
  };
}

/** Everybody is heard of every ten seconds, a few at a time. */
async function beat({ db }: Ctx, live: Live): Promise<void> {
  const { present, random } = live;
  const share = Math.ceil(present.length / (10_000 / tickMs));
  const nodes = present.slice(live.nextBeat, live.nextBeat + share);
  live.nextBeat = live.nextBeat + share >= present.length ? 0 : live.nextBeat + share;
  await db.pool.query({
    name: "simulated-beats",
    text: `UPDATE "Node" SET "lastSeenAt" = now(), progress = jsonb_set(COALESCE(progress, '{}'), '{submitted}', to_jsonb($2::int)) WHERE id = ANY($1::uuid[])`,
    values: [nodes, random.between(1, 500)],
  });
  if (live.nextBeat === 0)
    await db.pool.query(`UPDATE "Relay" SET "lastSeenAt" = now() WHERE state = 'LIVE' AND "runId" = $1`, [
      live.runId,
    ]);
}

/** Numbers events as they come, and sweeps what nobody else may be there to sweep. */
async function keepNumbering(ctx: Ctx, signal: AbortSignal): Promise<void> {
  let swept = performance.now();
  while (!signal.aborted) {
    await numberEvents(ctx);
    if (performance.now() - swept > 1_000) {
      swept = performance.now();
      await expireLeases(ctx);
      await chainEntries(ctx);
    }
    await sleep(40, undefined, { signal }).catch(() => {});
  }
}
