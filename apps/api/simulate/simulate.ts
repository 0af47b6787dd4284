import { type Services, systemCtx } from "../src/context.ts";
import { withoutSync } from "./blobs.ts";
import { type Built, buildPast } from "./build.ts";
import type { Scale } from "./plan.ts";
import { addLongest, goOn, leaveAtWork, type Present } from "./present.ts";
import { randomOf } from "./random.ts";
import { hour } from "./world.ts";

export type Simulated = Built & { readonly present: Present };

/**
 * Fills a database: the past by COPY, the newest groups by the coordinator's own functions.
 * @param input.now milliseconds since 1970; default: now. Times are relative to it.
 * @param input.suffix goes to every slug and address, where those without are taken.
 */
export async function simulate(
  services: Services,
  input: { seed: string; scale: Scale; now?: number; suffix?: string; say?: (text: string) => void },
): Promise<Simulated> {
  const { seed, scale, now = Date.now(), suffix = "", say = () => {} } = input;
  const { config } = services;
  const blobs =
    config.s3Endpoint === undefined ? withoutSync(services.blobs, config.stateDir) : services.blobs;
  const ctx = systemCtx({ ...services, blobs }, "simulation");
  const built = await buildPast(ctx, { seed, scale, now, suffix, say });
  const random = randomOf(seed).fork("present");
  const flagship = built.pasts.find(({ plan }) => plan.flagship)?.plan;
  if (flagship === undefined) throw new RangeError("there is no flagship");
  const { world } = built;
  await addSilence(services, built);
  const present: Present =
    scale.groups === 0
      ? { groups: 0, steps: 0, seconds: 0 }
      : await goOn(ctx, { world, plan: flagship, groups: scale.groups, random: random.fork("nodes"), say });
  if (scale.longestTokens > 0) {
    say(`Two rollouts of ${scale.longestTokens} tokens`);
    await addLongest(ctx, { world, tokens: scale.longestTokens, random: random.fork("longest") });
  }
  if (scale.groups > 0) await leaveAtWork(ctx, world, flagship, random.fork("at work"));
  // Whoever was there is there still: making all this took a while.
  await addSilence(services, built);
  return { ...built, present };
}

/** Lets everybody who is not gone have been seen as long ago as planned, from now. */
async function addSilence({ db }: Services, { world, pasts }: Built): Promise<void> {
  const there = world.workers.filter(({ silence }) => silence < hour);
  await db.pool.query(
    `UPDATE "Node" n SET "lastSeenAt" = now() - make_interval(secs => v.silence / 1000.0)
     FROM unnest($1::uuid[], $2::float8[]) AS v(id, silence) WHERE n.id = v.id`,
    [there.map(({ id }) => id), there.map(({ silence }) => silence)],
  );
  await db.pool.query(
    `UPDATE "Relay" SET "lastSeenAt" = now(), "updatedAt" = now() WHERE state = 'LIVE' AND "runId" = ANY($1::uuid[])`,
    [pasts.map(({ plan }) => plan.id)],
  );
}
