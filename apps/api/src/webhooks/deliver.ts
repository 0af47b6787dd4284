import { newId, toTypeId } from "@muster/protocol";
import type { Ctx, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { appendEvents, organizationStream } from "../events/append.ts";
import type { Loop } from "../loops.ts";
import { endpointFor, webhooksReach } from "./endpoints.ts";
import { openSecret } from "./secrets.ts";
import { type Answer, send } from "./send.ts";

// Invariant: a delivery is PENDING until an attempt of it succeeded or three days of attempts failed, and has a next moment while it is. An
// attempt is taken by moving that moment a minute on, before anything is sent; whoever dies in between leaves a row that is due again, and
// the receiver hears the same id twice, never not at all.

/** Attempts under way at once in this process, and for one endpoint in all. */
const atOnce = 32;
const perEndpoint = 4;
/** After so many failures in a row an endpoint is tried one delivery at a time, with rests between. */
const patience = 3;
/** Seconds until an attempt whose process is silent counts as lost. */
const leaseSeconds = 60;
const giveUpSeconds = 3 * 86_400;
/** What a stopping process lets the requests under way take. */
const farewellMs = 3_000;
/** Attempts that a delivery shows. */
const logLength = 20;

/** An attempt that this process has taken. */
export type Taken = {
  readonly id: string;
  readonly organizationId: string;
  readonly endpointId: string;
  readonly messageId: string;
  readonly body: string;
  readonly attempts: number;
  readonly triedSince: Date;
  readonly url: string;
  readonly secret: Uint8Array;
  readonly previousSecret: Uint8Array | null;
};

/** Sends what is due, a few at a time, until nothing is. @returns how many attempts were made */
export async function deliverDue(
  ctx: Ctx,
  signal: AbortSignal = new AbortController().signal,
): Promise<number> {
  const under = new Set<Promise<void>>();
  let made = 0;
  while (!signal.aborted) {
    const taken = under.size < atOnce ? await takeDue(ctx, atOnce - under.size) : [];
    for (const one of taken) {
      const sending = attempt(ctx, one, signal)
        .then(() => {
          made++;
        })
        .catch((error: unknown) =>
          ctx.log.error({ err: error, delivery: one.id }, "an attempt could not be noted; it is made again"),
        )
        .finally(() => under.delete(sending));
      under.add(sending);
    }
    if (under.size === 0) return made;
    // A slow receiver keeps nobody else waiting: new ones are looked for as soon as a place is free, and every second.
    let timer: NodeJS.Timeout | undefined;
    const pause = new Promise<void>((end) => {
      timer = setTimeout(end, 1_000);
    });
    await Promise.race([...under, pause]);
    clearTimeout(timer);
  }
  await Promise.all(under);
  return made;
}

/** Takes deliveries that are due; another process takes others. */
export async function takeDue({ db }: Pick<Ctx, "db">, most: number): Promise<Taken[]> {
  const { rows } = await db.pool.query<Taken>({
    name: "webhooks-due",
    // What may run beside others of its endpoint is counted under the endpoint's lock, but with this statement's snapshot: for a moment it
    // can be one more. The conditions stand again in the UPDATE, which looks at the row as it is now: nothing is taken twice.
    text: `
      WITH ready AS (
        SELECT e.id, CASE WHEN e.failures >= ${patience} THEN 1 ELSE ${perEndpoint} END AS most FROM "WebhookEndpoint" e
        WHERE e.state = 'ACTIVE' AND (e."restsUntil" IS NULL OR e."restsUntil" <= now())
          AND EXISTS (SELECT 1 FROM "WebhookDelivery" d WHERE d."endpointId" = e.id AND d.state = 'PENDING' AND d."nextAttemptAt" <= now())
        ORDER BY random() LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
      ), due AS (
        SELECT d.id FROM ready CROSS JOIN LATERAL (
          SELECT w.id FROM "WebhookDelivery" w
          WHERE w."endpointId" = ready.id AND w.state = 'PENDING' AND w."nextAttemptAt" <= now()
          ORDER BY w."nextAttemptAt", w.id
          LIMIT GREATEST(0, ready.most - (SELECT count(*) FROM "WebhookDelivery" f
            WHERE f."endpointId" = ready.id AND f.state = 'PENDING' AND f.sending AND f."nextAttemptAt" > now()))
        ) d LIMIT $1
      )
      UPDATE "WebhookDelivery" d SET sending = true, attempts = d.attempts + 1, "lastAttemptAt" = now(),
        "triedSince" = COALESCE(d."triedSince", now()), "nextAttemptAt" = now() + interval '${leaseSeconds} seconds'
      FROM "WebhookEndpoint" e
      WHERE d.id IN (SELECT id FROM due) AND d.state = 'PENDING' AND d."nextAttemptAt" <= now() AND e.id = d."endpointId"
      RETURNING d.id, d."organizationId", d."endpointId", d."messageId", d.body, d.attempts, d."triedSince", e.url, e.secret,
        CASE WHEN e."previousUntil" > now() THEN e."previousSecret" END AS "previousSecret"`,
    values: [most],
  });
  return rows;
}

/** Sends one, and notes what came of it. */
async function attempt(ctx: Ctx, taken: Taken, signal: AbortSignal): Promise<void> {
  const answer = await sendTaken(ctx, taken, signal);
  if (answer === undefined) {
    // This process stops: somebody else begins anew.
    await ctx.prisma.webhookDelivery.updateMany({
      where: mine(taken),
      data: { sending: false, attempts: { decrement: 1 }, nextAttemptAt: new Date() },
    });
    return;
  }
  await settle(ctx, taken, answer);
}

/** Sends what was taken. Undefined: this process stopped under way, and nobody knows. */
export async function sendTaken(
  ctx: Ctx,
  taken: Taken,
  signal: AbortSignal = new AbortController().signal,
): Promise<Answer | undefined> {
  const cut = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const farewell = () => {
    timer = setTimeout(() => cut.abort(), farewellMs);
  };
  if (signal.aborted) return undefined;
  signal.addEventListener("abort", farewell);
  try {
    const sealed = [taken.secret, ...(taken.previousSecret === null ? [] : [taken.previousSecret])];
    const secrets = sealed.map((secret) => openSecret(ctx, taken.endpointId, secret));
    const message = { url: taken.url, id: taken.messageId, body: taken.body, secrets };
    const answer = await send(webhooksReach(ctx), message, cut.signal);
    return cut.signal.aborted && answer.status === undefined ? undefined : answer;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", farewell);
  }
}

/** Only the newest attempt of a delivery says how it went: another one took over if this one was thought lost. */
const mine = ({ id, attempts }: Taken) => ({ id, attempts, sending: true });

async function settle(ctx: Ctx, taken: Taken, answer: Answer, { once = false } = {}): Promise<void> {
  const next = once ? undefined : nextAttempt(taken, answer);
  const paused = await ctx.prisma.$transaction(async (tx) => {
    // The endpoint first, as everyone who takes both does.
    await tx.$executeRaw`SELECT 1 FROM "WebhookEndpoint" WHERE id = ${taken.endpointId}::uuid FOR NO KEY UPDATE`;
    const entry = {
      at: new Date(Date.now() - answer.ms).toISOString(),
      ms: answer.ms,
      status: answer.status ?? null,
      error: answer.error ?? null,
    };
    const { count } = await tx.webhookDelivery.updateMany({
      where: mine(taken),
      data: {
        sending: false,
        state: answer.ok ? "DELIVERED" : next === undefined ? "FAILED" : "PENDING",
        nextAttemptAt: answer.ok || next === undefined ? null : next,
        latencyMs: answer.ms,
        responseStatus: answer.status ?? null,
        responseBody: answer.body ?? null,
        error: answer.error ?? null,
      },
    });
    if (count === 0) return false;
    await tx.$executeRaw`
      UPDATE "WebhookDelivery" SET log = jsonb_path_query_array(${JSON.stringify([entry])}::jsonb || log, ${newest}::jsonpath)
      WHERE id = ${taken.id}::uuid`;
    if (answer.ok) {
      await tx.webhookEndpoint.updateMany({
        where: { id: taken.endpointId },
        data: { failures: 0, restsUntil: null, deliveredAt: new Date() },
      });
      return false;
    }
    // A test by hand says nothing of how deliveries go.
    return once ? false : await noteFailure(tx, taken, answer);
  });
  ctx.metrics.webhooks.inc({ outcome: answer.ok ? "delivered" : "failed" });
  if (paused) ctx.bus.publish("events");
}

const newest = `$[0 to ${logLength - 1}]`;

/** Counts a failure and lets the endpoint rest, or pauses it. @returns whether it was paused now */
async function noteFailure(tx: Tx, taken: Taken, answer: Answer): Promise<boolean> {
  const endpoint = await tx.webhookEndpoint.update({
    where: { id: taken.endpointId },
    data: { failures: { increment: 1 } },
  });
  const { failures, pauseAfter } = endpoint;
  const gone = answer.status === 410;
  if (endpoint.state === "PAUSED" || (!gone && failures < pauseAfter)) {
    const rest = failures < patience ? 0 : Math.min(3_600, 5 * 2 ** (failures - patience));
    await tx.webhookEndpoint.update({
      where: { id: endpoint.id },
      data: { restsUntil: rest === 0 ? null : inSeconds(jittered(rest)) },
    });
    return false;
  }
  const what = answer.error ?? `It answered ${answer.status}.`;
  const reason = gone
    ? "It answered 410 Gone: it wants no more."
    : `${failures} attempts in a row failed. The last one: ${what}`;
  await tx.webhookEndpoint.update({
    where: { id: endpoint.id },
    data: { state: "PAUSED", reason, restsUntil: null },
  });
  await appendEvents(tx, [
    {
      stream: organizationStream(endpoint.organizationId),
      organizationId: endpoint.organizationId,
      type: "webhook.paused",
      subject: toTypeId("hook", endpoint.id),
      data: { failures, reason, host: new URL(endpoint.url).host },
    },
  ]);
  return true;
}

/** When it is tried again; undefined when three days are over. */
function nextAttempt({ attempts, triedSince }: Taken, { retryAfter }: Answer): Date | undefined {
  // 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, 6 h, then every 12 h.
  const wait = Math.min(12 * 3_600, 5 * 4 ** Math.min(attempts - 1, 10));
  const next = inSeconds(Math.max(jittered(wait), Math.min(retryAfter ?? 0, 86_400)));
  return next.getTime() > triedSince.getTime() + giveUpSeconds * 1000 ? undefined : next;
}

const jittered = (seconds: number): number => seconds * (0.8 + Math.random() * 0.4);
const inSeconds = (seconds: number): Date => new Date(Date.now() + seconds * 1000);

/**
 * Sends a delivery once more, as what it is: with the same id and body. Retries begin anew.
 * @throws CodedError `NOT_FOUND`, `FORBIDDEN`, or `STATE_CONFLICT` while the endpoint is paused or the delivery is being sent
 */
export async function resendDelivery(ctx: Ctx, id: string): Promise<void> {
  const found = await ctx.prisma.webhookDelivery.findUnique({ where: { id }, select: { endpointId: true } });
  if (found === null) throw notFound("The delivery");
  const endpoint = await endpointFor(ctx, found.endpointId);
  if (endpoint.state === "PAUSED")
    throw new CodedError("STATE_CONFLICT", "The endpoint is paused. Resume it, then send again.");
  const [{ count }] = await ctx.prisma.$transaction([
    ctx.prisma.webhookDelivery.updateMany({
      where: { id, sending: false },
      data: { state: "PENDING", nextAttemptAt: new Date(), triedSince: null },
    }),
    ctx.prisma.webhookEndpoint.updateMany({ where: { id: endpoint.id }, data: { restsUntil: null } }),
  ]);
  if (count === 0) throw new CodedError("STATE_CONFLICT", "It is being sent right now.");
  ctx.bus.publish("webhooks");
}

/**
 * Sends a message of type `webhook.test`, once, whether the endpoint is paused or not, and waits for the answer.
 * @returns the delivery's id
 */
export async function sendTest(ctx: Ctx, endpointId: string): Promise<string> {
  const endpoint = await endpointFor(ctx, endpointId);
  const id = newId("delivery");
  const messageId = toTypeId("delivery", id);
  const at = new Date();
  const { organizationId, url, secret } = endpoint;
  const body = JSON.stringify({
    type: "webhook.test",
    timestamp: at.toISOString(),
    subject: toTypeId("hook", endpointId),
    data: { message: "It works. Events arrive like this one." },
  });
  const overlaps = endpoint.previousUntil !== null && endpoint.previousUntil > at;
  const taken: Taken = {
    ...{ id, organizationId, endpointId, messageId, body, url, secret, attempts: 1, triedSince: at },
    previousSecret: overlaps ? endpoint.previousSecret : null,
  };
  await ctx.prisma.webhookDelivery.create({
    data: {
      ...{ id, organizationId, endpointId, messageId, body, eventType: "webhook.test" },
      ...{ sending: true, attempts: 1, triedSince: at, lastAttemptAt: at },
      nextAttemptAt: inSeconds(leaseSeconds),
    },
  });
  const answer = await sendTaken(ctx, taken);
  if (answer !== undefined) await settle(ctx, taken, answer, { once: true });
  return id;
}

export const webhookDeliveryLoop: Loop = {
  name: "webhook deliveries",
  everyMs: 1_000,
  atLeastMs: 50,
  topics: ["webhooks"],
  leader: false,
  run: (ctx, { signal }) => deliverDue(ctx, signal),
};

/** Days for which deliveries are kept. */
const keptDays = 30;

export const webhookRetentionLoop: Loop = {
  name: "webhook retention",
  everyMs: 600_000,
  leader: true,
  startAfterSeconds: 30,
  async run(ctx, { signal }) {
    const before = new Date(Date.now() - keptDays * 86_400_000);
    while (!signal.aborted && (await deleteOld(ctx, before)) === 5_000);
    // A secret that has ended is not kept.
    await ctx.prisma.webhookEndpoint.updateMany({
      where: { previousUntil: { lt: new Date() } },
      data: { previousSecret: null, previousUntil: null },
    });
  },
};

/** Deletes deliveries that began before. @returns how many; 5,000 at a time */
export async function deleteOld({ db }: Pick<Ctx, "db">, before: Date): Promise<number> {
  const { rowCount } = await db.pool.query(
    `DELETE FROM "WebhookDelivery" WHERE id IN (SELECT id FROM "WebhookDelivery" WHERE "createdAt" < $1 ORDER BY "createdAt" LIMIT 5000)`,
    [before],
  );
  return rowCount ?? 0;
}
