import { DeliveryState, WebhookEndpointState } from "@muster/db";
import { fromTypeId } from "@muster/protocol";
import { allows } from "../auth/permissions.ts";
import { builder } from "../builder.ts";
import type { Ctx } from "../context.ts";
import { CodedError, notFound } from "../errors.ts";
import { Organization } from "../organizations/schema.ts";
import { Run } from "../runs/schema.ts";
import { resendDelivery, sendTest } from "./deliver.ts";
import {
  createEndpoint,
  deleteEndpoint,
  pauseEndpoint,
  resumeEndpoint,
  rotateSecret,
  updateEndpoint,
  type WithSecret,
} from "./endpoints.ts";
import { subscribable } from "./subscriptions.ts";

const EndpointState = builder.enumType(WebhookEndpointState, {
  name: "WebhookEndpointState",
  description: "PAUSED: nothing is sent; its place in the event streams is kept.",
});
const DeliveryStateEnum = builder.enumType(DeliveryState, {
  name: "WebhookDeliveryState",
  description:
    "PENDING: it waits for its next attempt, or one is under way. FAILED: none succeeded in three days.",
});

const Endpoint = builder.prismaNode("WebhookEndpoint", {
  description: "Where an organization is told of events, signed after Standard Webhooks.",
  id: { field: "id" },
  authScopes: (endpoint, { actor }) => allows(actor, "run:read", endpoint.organizationId),
  fields: (t) => ({
    run: t.relation("run", {
      type: Run,
      nullable: true,
      description: "Null: the organization and all its runs.",
    }),
    url: t.string({
      description:
        "Whole for those who manage webhooks; for others its origin, since the rest may be a secret.",
      resolve: ({ url, organizationId }, _args, { actor }) =>
        allows(actor, "webhook:manage", organizationId) ? url : `${new URL(url).origin}/…`,
    }),
    description: t.exposeString("description"),
    eventTypes: t.exposeStringList("eventTypes", { description: "`run.state`, `alert.*` or `*`." }),
    state: t.expose("state", { type: EndpointState }),
    reason: t.exposeString("reason", { nullable: true, description: "Why it is paused." }),
    secretMadeAt: t.expose("secretMadeAt", { type: "DateTime" }),
    previousSecretUntil: t.field({
      type: "DateTime",
      nullable: true,
      description: "Until then the secret before this one signs as well.",
      resolve: ({ previousUntil }) =>
        previousUntil !== null && previousUntil > new Date() ? previousUntil : null,
    }),
    failures: t.exposeInt("failures", { description: "Attempts that failed in a row." }),
    pauseAfter: t.exposeInt("pauseAfter", { description: "So many pause it." }),
    restsUntil: t.expose("restsUntil", {
      type: "DateTime",
      nullable: true,
      description: "After failures nothing is tried before.",
    }),
    deliveredAt: t.expose("deliveredAt", { type: "DateTime", nullable: true }),
    missed: t.expose("missed", {
      type: "BigInt",
      description: "Events that retention deleted, or that were skipped on request, before they were sent.",
    }),
    waiting: t.relationCount("deliveries", {
      description: "Deliveries that are not over.",
      where: { state: "PENDING" },
    }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

type Attempt = { at: string; ms: number; status: number | null; error: string | null };
const WebhookAttempt = builder.objectRef<Attempt>("WebhookAttempt").implement({
  description: "One try at a delivery.",
  authScopes: { can: "run:read" },
  fields: (t) => ({
    at: t.field({ type: "DateTime", resolve: ({ at }) => new Date(at) }),
    ms: t.exposeInt("ms", { description: "Milliseconds until the answer, or until it was given up." }),
    status: t.exposeInt("status", { nullable: true, description: "HTTP status; null without an answer." }),
    error: t.exposeString("error", { nullable: true }),
  }),
});

const WebhookDelivery = builder.prismaNode("WebhookDelivery", {
  description: "A message for one endpoint, with what came of it. Kept for 30 days.",
  id: { field: "id" },
  authScopes: (delivery, { actor }) => allows(actor, "run:read", delivery.organizationId),
  fields: (t) => ({
    endpoint: t.relation("endpoint", { type: Endpoint }),
    messageId: t.exposeString("messageId", {
      description:
        "The `webhook-id`, the same for every attempt: `<stream>:<seq>` of an event, an id of its own for a test.",
    }),
    eventType: t.exposeString("eventType"),
    body: t.exposeString("body", { description: "The body to the byte, as it is signed." }),
    state: t.expose("state", { type: DeliveryStateEnum }),
    sending: t.exposeBoolean("sending", { description: "Whether an attempt is under way." }),
    attempts: t.exposeInt("attempts"),
    nextAttemptAt: t.field({
      type: "DateTime",
      nullable: true,
      description: "Null when it is over, and while an attempt is under way.",
      resolve: ({ sending, nextAttemptAt }) => (sending ? null : nextAttemptAt),
    }),
    lastAttemptAt: t.expose("lastAttemptAt", { type: "DateTime", nullable: true }),
    latencyMs: t.exposeInt("latencyMs", { nullable: true, description: "Of the newest attempt." }),
    responseStatus: t.exposeInt("responseStatus", { nullable: true }),
    responseBody: t.exposeString("responseBody", {
      nullable: true,
      description: "The first kilobyte of the newest answer: a stranger's text.",
    }),
    error: t.exposeString("error", { nullable: true }),
    log: t.field({
      type: [WebhookAttempt],
      description: "The newest attempts, at most twenty, newest first.",
      // Written by settle() only.
      resolve: ({ log }) => log as Attempt[],
    }),
    createdAt: t.expose("createdAt", { type: "DateTime" }),
  }),
});

builder.prismaObjectFields(Organization, (t) => ({
  webhookEndpoints: t.relatedConnection("webhookEndpoints", {
    type: Endpoint,
    cursor: "id",
    description: "At most twenty, oldest first.",
    authScopes: { can: "run:read" },
    query: { orderBy: { id: "asc" } },
  }),
  webhookDeliveries: t.prismaConnection({
    type: WebhookDelivery,
    cursor: "id",
    description: "Deliveries, newest first.",
    authScopes: { can: "run:read" },
    args: {
      endpoint: t.arg.id({ required: false }),
      states: t.arg({ type: [DeliveryStateEnum], required: false }),
      eventType: t.arg.string({ required: false }),
    },
    resolve: (query, { id }, { endpoint, states, eventType }, ctx) =>
      ctx.prisma.webhookDelivery.findMany({
        ...query,
        where: {
          organizationId: id,
          ...(endpoint == null ? {} : { endpointId: fromTypeId(endpoint, "hook") }),
          ...(states == null || states.length === 0 ? {} : { state: { in: [...states] } }),
          ...(eventType == null ? {} : { eventType }),
        },
        orderBy: { id: "desc" },
      }),
  }),
}));

builder.queryFields((t) => ({
  webhookEventTypes: t.stringList({
    description: "What an endpoint may subscribe to: every type, every area (`run.*`), and `*`.",
    authScopes: { public: true },
    resolve: () => [...subscribable],
  }),
  webhookEndpoint: t.prismaField({
    type: Endpoint,
    nullable: true,
    authScopes: { signedIn: true },
    args: { id: t.arg.id() },
    resolve: async (query, _root, args, ctx) => {
      const id = fromTypeId(args.id, "hook");
      const found = await ctx.prisma.webhookEndpoint.findUnique({
        where: { id },
        select: { organizationId: true },
      });
      if (found === null || !allows(ctx.actor, "run:read", found.organizationId)) return null;
      return ctx.prisma.webhookEndpoint.findUnique({ ...query, where: { id } });
    },
  }),
}));

const EndpointWithSecret = builder.objectRef<WithSecret>("WebhookEndpointWithSecret").implement({
  authScopes: { can: "webhook:manage" },
  fields: (t) => ({
    secret: t.exposeString("secret", {
      nullable: true,
      description:
        "`whsec_…`, shown this once; null when the call repeats an earlier one. Whoever lost it rotates it.",
    }),
    endpoint: t.prismaField({ type: Endpoint, resolve: (query, { id }, _args, ctx) => read(ctx, id, query) }),
  }),
});

const Create = builder.inputType("CreateWebhookEndpointInput", {
  fields: (t) => ({
    organization: t.id(),
    run: t.id({ required: false, description: "Only this run's events." }),
    url: t.string(),
    description: t.string({ required: false }),
    eventTypes: t.stringList(),
    pauseAfter: t.int({ required: false, description: "Failures in a row that pause it. Default 20." }),
    idempotencyKey: t.string({ required: false }),
  }),
});
const Update = builder.inputType("UpdateWebhookEndpointInput", {
  description: "What is left out stays.",
  fields: (t) => ({
    endpoint: t.id(),
    url: t.string({ required: false }),
    description: t.string({ required: false }),
    eventTypes: t.stringList({ required: false }),
    pauseAfter: t.int({ required: false }),
  }),
});
const OneEndpoint = builder.inputType("WebhookEndpointInput", { fields: (t) => ({ endpoint: t.id() }) });
const Rotate = builder.inputType("RotateWebhookSecretInput", {
  fields: (t) => ({
    endpoint: t.id(),
    overlapHours: t.float({
      required: false,
      description: "For so long both secrets sign. 0 to 168; default 24.",
    }),
  }),
});
const Resume = builder.inputType("ResumeWebhookEndpointInput", {
  fields: (t) => ({
    endpoint: t.id(),
    skipMissed: t.boolean({
      required: false,
      description: "Forget what happened meanwhile instead of sending it. Default false.",
    }),
  }),
});
const Resend = builder.inputType("ResendWebhookInput", { fields: (t) => ({ delivery: t.id() }) });

const manage = { can: "webhook:manage" } as const;

builder.mutationFields((t) => ({
  createWebhookEndpoint: t.field({
    type: EndpointWithSecret,
    description: "Makes an endpoint; it hears what happens from now on. At most twenty an organization.",
    authScopes: manage,
    args: { input: t.arg({ type: Create }) },
    resolve: (_root, { input }, ctx) =>
      createEndpoint(ctx, {
        organizationId: fromTypeId(input.organization, "org"),
        ...(input.run == null ? {} : { runId: fromTypeId(input.run, "run") }),
        url: input.url,
        description: input.description ?? "",
        eventTypes: input.eventTypes,
        pauseAfter: input.pauseAfter ?? 20,
        ...(input.idempotencyKey == null ? {} : { idempotencyKey: input.idempotencyKey }),
      }),
  }),
  updateWebhookEndpoint: t.prismaField({
    type: Endpoint,
    authScopes: manage,
    args: { input: t.arg({ type: Update }) },
    resolve: async (query, _root, { input }, ctx) => {
      const { endpoint, url, description, eventTypes, pauseAfter } = input;
      const id = fromTypeId(endpoint, "hook");
      await updateEndpoint(ctx, {
        id,
        ...(url == null ? {} : { url }),
        ...(description == null ? {} : { description }),
        ...(eventTypes == null ? {} : { eventTypes }),
        ...(pauseAfter == null ? {} : { pauseAfter }),
      });
      return read(ctx, id, query);
    },
  }),
  deleteWebhookEndpoint: t.boolean({
    description: "Ends an endpoint, its delivery log with it.",
    authScopes: manage,
    args: { input: t.arg({ type: OneEndpoint }) },
    resolve: async (_root, { input }, ctx) => {
      await deleteEndpoint(ctx, fromTypeId(input.endpoint, "hook"));
      return true;
    },
  }),
  rotateWebhookSecret: t.field({
    type: EndpointWithSecret,
    description: "Makes a new secret. During the overlap messages carry a signature with each of the two.",
    authScopes: manage,
    args: { input: t.arg({ type: Rotate }) },
    resolve: (_root, { input }, ctx) =>
      rotateSecret(ctx, {
        id: fromTypeId(input.endpoint, "hook"),
        overlapHours: input.overlapHours ?? 24,
      }),
  }),
  pauseWebhookEndpoint: t.prismaField({
    type: Endpoint,
    description: "Sends nothing until it is resumed.",
    authScopes: manage,
    args: { input: t.arg({ type: OneEndpoint }) },
    resolve: async (query, _root, { input }, ctx) => {
      const id = fromTypeId(input.endpoint, "hook");
      await pauseEndpoint(ctx, id);
      return read(ctx, id, query);
    },
  }),
  resumeWebhookEndpoint: t.prismaField({
    type: Endpoint,
    description: "Sends again, what happened meanwhile included.",
    authScopes: manage,
    args: { input: t.arg({ type: Resume }) },
    resolve: async (query, _root, { input }, ctx) => {
      const id = fromTypeId(input.endpoint, "hook");
      await resumeEndpoint(ctx, { id, skipMissed: input.skipMissed ?? false });
      return read(ctx, id, query);
    },
  }),
  sendTestWebhook: t.prismaField({
    type: WebhookDelivery,
    description:
      "Sends a message of type `webhook.test` once, to a paused endpoint too, and waits for the answer, at most 15 seconds.",
    authScopes: manage,
    args: { input: t.arg({ type: OneEndpoint }) },
    resolve: async (query, _root, { input }, ctx) =>
      readDelivery(ctx, await sendTest(ctx, fromTypeId(input.endpoint, "hook")), query),
  }),
  resendWebhook: t.prismaField({
    type: WebhookDelivery,
    description: "Sends a delivery again, with the same id and body; retries begin anew.",
    authScopes: manage,
    args: { input: t.arg({ type: Resend }) },
    resolve: async (query, _root, { input }, ctx) => {
      const id = fromTypeId(input.delivery, "delivery");
      await resendDelivery(ctx, id);
      return readDelivery(ctx, id, query);
    },
  }),
}));

async function read<Query extends object>(ctx: Ctx, id: string, query: Query) {
  const found = await ctx.prisma.webhookEndpoint.findUnique({ ...query, where: { id } });
  if (found === null) throw notFound("The endpoint");
  return found;
}

async function readDelivery<Query extends object>(ctx: Ctx, id: string, query: Query) {
  const found = await ctx.prisma.webhookDelivery.findUnique({ ...query, where: { id } });
  // Its endpoint was deleted meanwhile.
  if (found === null) throw new CodedError("NOT_FOUND", "The delivery was deleted with its endpoint.");
  return found;
}
