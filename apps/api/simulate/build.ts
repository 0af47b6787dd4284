import { environment, environmentHash } from "@muster/protocol";
import type { Services } from "../src/context.ts";
import { insertEpoch } from "../src/verification/audit.ts";
import { addBroadcast, addGrants } from "./broadcast.ts";
import { addCheckpoints, storeVersions } from "./checkpoints.ts";
import { createLoader } from "./copy.ts";
import { addHistory, type Past, stepsOf } from "./history.ts";
import { epochAt } from "./past-scene.ts";
import { planRuns, type Scale } from "./plan.ts";
import { randomOf } from "./random.ts";
import { pointsPerStep } from "./series.ts";
import { addWorld, makeWorld, type World } from "./world.ts";

export type Built = {
  readonly world: World;
  readonly pasts: readonly Past[];
  /** Rows by table. */
  readonly rows: ReadonlyMap<string, number>;
  /** Values of metrics in training steps. */
  readonly points: number;
  readonly seconds: number;
};

/**
 * Writes people, machines and the runs' past, in one transaction. The same seed, scale and moment give the same rows, but for the audit
 * epochs' keys: secrets follow from no seed.
 * @param input.now milliseconds since 1970; all times are relative to it.
 */
export async function buildPast(
  services: Services,
  input: { seed: string; scale: Scale; now: number; suffix: string; say: (text: string) => void },
): Promise<Built> {
  const started = performance.now();
  const { seed, scale, now, say } = input;
  const random = randomOf(seed);
  const world = makeWorld({
    random: random.fork("world"),
    now,
    workers: scale.workers,
    suffix: input.suffix,
  });
  const plans = planRuns(world, scale, { random: random.fork("runs"), now });
  const trainer = world.staff.trainers[0];
  if (trainer === undefined) throw new RangeError("there is a trainer");

  const client = await services.db.pool.connect();
  try {
    await client.query("BEGIN");
    await client.query("SET LOCAL statement_timeout = 0");
    await client.query("SET LOCAL idle_in_transaction_session_timeout = 0");
    // A million rows that were just made to fit need no look at each of their keys. Only a superuser may leave it out.
    await client.query("SAVEPOINT unchecked");
    await client
      .query("SET LOCAL session_replication_role = replica")
      .catch(() => client.query("ROLLBACK TO unchecked"));
    const loader = createLoader(client);
    addWorld(loader, world, { now }, seed);
    await loader.flush();
    await addEnvironments(
      services,
      plans.map(({ spec }) => spec.environment),
    );
    const known = new Set<string>();
    const accounts = new Map<string, string>();
    const pasts: Past[] = [];
    let left = scale.points - sum(plans.map(stepsOf)) * pointsPerStep;
    for (const plan of plans) {
      const steps = plan.long ? Math.max(40, Math.floor(left / pointsPerStep)) : stepsOf(plan);
      if (plan.long) left -= steps * pointsPerStep;
      const stored = await storeVersions(services.blobs, plan, { steps, trainer });
      const past = await addHistory(loader, plan, { world, accounts, steps, manifests: stored });
      const checkpoints = addCheckpoints(loader, past, { stored, trainer, known });
      if (plan.state !== "DRAFT") addGrants(loader, past, world);
      addBroadcast(loader, past, { world, now, checkpoints, stored });
      past.log.write(loader);
      pasts.push(past);
      await loader.relieve();
      say(`${plan.spec.name}: ${steps} steps, ${plan.groups} groups`);
    }
    await loader.flush();
    await client.query(
      `UPDATE "Account" a SET balance = s.sum FROM (SELECT "accountId", sum(amount)::bigint AS sum FROM "LedgerEntry" GROUP BY 1) s
       WHERE a.id = s."accountId" AND a."organizationId" = ANY($1::uuid[])`,
      [world.organizations.map(({ id }) => id)],
    );
    await client.query("COMMIT");
    client.release();
    for (const past of pasts) await openEpochs(services, past);
    // The planner of a database that was just filled knows nothing of it.
    await services.db.pool.query("ANALYZE");
    return {
      world,
      pasts,
      rows: loader.counts,
      points: sum(pasts.map(({ steps }) => steps)) * pointsPerStep,
      seconds: (performance.now() - started) / 1000,
    };
  } catch (error) {
    client.release(true);
    throw error;
  }
}

async function addEnvironments({ prisma }: Services, slugs: readonly string[]): Promise<void> {
  for (const slug of new Set(slugs)) {
    const env = environment(slug);
    const described = { hash: environmentHash(env), title: env.title, description: env.description };
    await prisma.environment.upsert({ where: { slug }, create: { slug, ...described }, update: described });
  }
}

/** The audit epochs of a run's past, their keys revealed, since nothing depends on them any more. */
async function openEpochs(services: Services, { plan, steps }: Past): Promise<void> {
  // A long run has no groups that a key was drawn for.
  const last = steps === 0 || plan.long ? 1 : epochAt(plan, plan.until);
  const run = { id: plan.id, organizationId: plan.organizationId };
  for (let number = 1; number <= last; number++)
    await insertEpoch(
      services,
      services.prisma,
      run,
      number,
      new Date(plan.createdAt + (number - 1) * 86_400_000),
    );
  await services.prisma.auditEpoch.updateMany({
    where: { runId: plan.id, closedAt: { lt: new Date() } },
    data: { revealedAt: new Date() },
  });
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
