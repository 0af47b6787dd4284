import type { Prisma, WebhookEndpoint } from "@muster/db";
import { newId } from "@muster/protocol";
import { allows, assertAllowed } from "../auth/permissions.ts";
import type { Ctx, Services, Tx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { type Outbound, outbound, refusedHost } from "../http/outbound.ts";
import { once } from "../runs/idempotency.ts";
import { storable } from "../storable.ts";
import { newSecret, sealSecret } from "./secrets.ts";
import { readSubscriptions } from "./subscriptions.ts";

/** Endpoints of one organization. */
const mostEndpoints = 20;
const longestUrl = 1024;
const longestOverlapHours = 168;

/** What the coordinator connects to for a webhook. */
export const webhooksReach = (services: Pick<Services, "config" | "publicUrl">): Outbound =>
  outbound(services, services.config.privateWebhooks);

export type EndpointInput = {
  readonly url: string;
  readonly description: string;
  readonly eventTypes: readonly string[];
  readonly pauseAfter: number;
};

/** `secret` is undefined when the call was a repetition: a secret is shown once. */
export type WithSecret = { readonly id: string; readonly secret: string | undefined };

/**
 * Makes an endpoint. It hears what happens from now on.
 * @throws CodedError `FORBIDDEN`, `NOT_FOUND`, `INPUT_INVALID`, `TLS_REQUIRED` or `STATE_CONFLICT` at the twenty-first
 */
export async function createEndpoint(
  ctx: Ctx,
  input: EndpointInput & { organizationId: string; runId?: string; idempotencyKey?: string },
): Promise<WithSecret> {
  const { organizationId, runId = null, idempotencyKey, ...given } = input;
  assertAllowed(ctx.actor, "webhook:manage", organizationId);
  const data = readEndpoint(ctx, given);
  const id = newId("hook");
  let secret: string | undefined;
  const made = await ctx.prisma.$transaction(async (tx) => {
    // One at a time in an organization: two at once would both be the twentieth.
    await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('webhooks:' || ${organizationId}, 0))`;
    const call = {
      actor: ctx.actor,
      operation: "createWebhookEndpoint",
      key: idempotencyKey,
      input: { organizationId, runId, ...given },
    };
    // What is remembered for a repetition holds no secret.
    return await once(tx, call, async () => {
      if ((await tx.webhookEndpoint.count({ where: { organizationId } })) >= mostEndpoints)
        throw new CodedError(
          "STATE_CONFLICT",
          `The organization has ${mostEndpoints} endpoints, which is the most. Delete one first.`,
        );
      if (runId !== null && (await tx.run.count({ where: { id: runId, organizationId } })) === 0)
        throw notFound("The run");
      secret = newSecret();
      const sealed = sealSecret(ctx, id, secret);
      await tx.webhookEndpoint.create({
        data: { id, organizationId, runId, secret: sealed, createdById: personOf(ctx), ...data },
      });
      await startAtHeads(tx, id);
      return id;
    });
  });
  return { id: made, secret };
}

/** @throws CodedError as `createEndpoint` does */
export async function updateEndpoint(
  ctx: Ctx,
  { id, ...change }: { id: string } & Partial<EndpointInput>,
): Promise<void> {
  const endpoint = await endpointFor(ctx, id);
  const data = readEndpoint(ctx, { ...endpoint, ...change });
  await ctx.prisma.webhookEndpoint.update({ where: { id }, data });
}

/** Ends an endpoint, its deliveries with it. */
export async function deleteEndpoint(ctx: Ctx, id: string): Promise<void> {
  await endpointFor(ctx, id);
  await ctx.prisma.webhookEndpoint.deleteMany({ where: { id } });
}

/** Makes a new secret. For so many hours messages carry a signature with the old one as well. */
export async function rotateSecret(
  ctx: Ctx,
  { id, overlapHours }: { id: string; overlapHours: number },
): Promise<WithSecret> {
  await endpointFor(ctx, id);
  if (!(overlapHours >= 0 && overlapHours <= longestOverlapHours))
    throw new CodedError("INPUT_INVALID", `The overlap is 0 to ${longestOverlapHours} hours.`);
  const secret = newSecret();
  // One statement: of two rotations at once the second keeps the first one's secret, not both the oldest.
  const changed = await ctx.prisma.$executeRaw`
    UPDATE "WebhookEndpoint" SET secret = ${sealSecret(ctx, id, secret)}, "secretMadeAt" = now(), "updatedAt" = now(),
      "previousSecret" = CASE WHEN ${overlapHours}::float8 > 0 THEN secret END,
      "previousUntil" = CASE WHEN ${overlapHours}::float8 > 0 THEN now() + make_interval(secs => ${overlapHours}::float8 * 3600) END
    WHERE id = ${id}::uuid`;
  if (changed === 0) throw notFound("The endpoint");
  return { id, secret };
}

/** Sends nothing until it is resumed. What happens meanwhile is not lost while its events are kept. */
export async function pauseEndpoint(ctx: Ctx, id: string): Promise<void> {
  await endpointFor(ctx, id);
  await ctx.prisma.webhookEndpoint.updateMany({
    where: { id, state: "ACTIVE" },
    data: { state: "PAUSED", reason: "Paused by hand." },
  });
}

/** @param input.skipMissed forget what happened meanwhile, and what still waits, instead of sending it */
export async function resumeEndpoint(
  ctx: Ctx,
  { id, skipMissed }: { id: string; skipMissed: boolean },
): Promise<void> {
  await endpointFor(ctx, id);
  await ctx.prisma.$transaction(async (tx) => {
    await tx.$executeRaw`SELECT 1 FROM "WebhookEndpoint" WHERE id = ${id}::uuid FOR NO KEY UPDATE`;
    if (skipMissed) {
      const skipped = await startAtHeads(tx, id);
      const { count } = await tx.webhookDelivery.deleteMany({ where: { endpointId: id, state: "PENDING" } });
      await tx.webhookEndpoint.update({
        where: { id },
        data: { missed: { increment: skipped + BigInt(count) } },
      });
    }
    await tx.webhookEndpoint.update({
      where: { id },
      data: { state: "ACTIVE", reason: null, failures: 0, restsUntil: null },
    });
  });
  ctx.bus.publish("webhooks");
}

/** The endpoint, when the actor manages it. @throws CodedError `NOT_FOUND`, also to those who may not see it; `FORBIDDEN` */
export async function endpointFor(ctx: Ctx, id: string): Promise<WebhookEndpoint> {
  const endpoint = await ctx.prisma.webhookEndpoint.findUnique({ where: { id } });
  if (endpoint === null || !allows(ctx.actor, "run:read", endpoint.organizationId))
    throw notFound("The endpoint");
  assertAllowed(ctx.actor, "webhook:manage", endpoint.organizationId);
  return endpoint;
}

/** Moves an endpoint's cursors to what has happened so far: streams that begin later are heard from their start. @returns events passed over */
async function startAtHeads(tx: Tx, id: string): Promise<bigint> {
  const [row] = await tx.$queryRaw<{ passed: bigint }[]>`
    WITH heads AS (
      SELECT e.id, s.stream, s.head, COALESCE(c.seq, 0) AS seq
      FROM "WebhookEndpoint" e
      CROSS JOIN LATERAL (
        SELECT 'organization:' || e."organizationId" AS stream WHERE e."runId" IS NULL
        UNION ALL SELECT 'run:' || r.id FROM "Run" r
          WHERE r."organizationId" = e."organizationId" AND (e."runId" IS NULL OR r.id = e."runId")
      ) o
      JOIN "EventStream" s ON s.stream = o.stream
      LEFT JOIN "WebhookCursor" c ON c."endpointId" = e.id AND c.stream = s.stream
      WHERE e.id = ${id}::uuid
    ), moved AS (
      INSERT INTO "WebhookCursor" ("endpointId", stream, seq) SELECT id, stream, head FROM heads
      ON CONFLICT ("endpointId", stream) DO UPDATE SET seq = excluded.seq
    )
    SELECT COALESCE(sum(head - seq), 0)::bigint AS passed FROM heads`;
  return row?.passed ?? 0n;
}

function readEndpoint(ctx: Ctx, { url, description, eventTypes, pauseAfter }: EndpointInput) {
  if (!(Number.isInteger(pauseAfter) && pauseAfter >= 1 && pauseAfter <= 1000))
    throw new CodedError("INPUT_INVALID", "An endpoint is paused after 1 to 1000 failures in a row.");
  return {
    url: readWebhookUrl(ctx, url),
    description: storable(description.trim(), 200),
    eventTypes: readSubscriptions(eventTypes),
    pauseAfter,
  } satisfies Prisma.WebhookEndpointUpdateInput;
}

/** @throws CodedError `INPUT_INVALID` or `TLS_REQUIRED` */
function readWebhookUrl(ctx: Ctx, text: string): string {
  const url = text.length <= longestUrl ? URL.parse(text.trim()) : null;
  if (
    url === null ||
    !/^https?:$/.test(url.protocol) ||
    url.username !== "" ||
    url.password !== "" ||
    url.hash !== ""
  )
    throw new CodedError(
      "INPUT_INVALID",
      `An endpoint's URL is http(s)://host[:port]/path, at most ${longestUrl} characters, without credentials or fragment.`,
    );
  switch (refusedHost(webhooksReach(ctx), url)) {
    case undefined:
      return url.href;
    case "own network":
      throw new CodedError(
        "INPUT_INVALID",
        `${url.host} is in the coordinator's own network. Name a public host; an operator may allow private ones with MUSTER_PRIVATE_WEBHOOKS=1.`,
      );
    case "plain http":
      throw new CodedError(
        "TLS_REQUIRED",
        "Beyond this machine webhooks go over https only: what they say is not for everyone on the way.",
      );
  }
}

const personOf = ({ actor }: Ctx): string | null => (actor.kind === "person" ? actor.userId : null);
