import { builder } from "../builder.ts";
import { shareAmongSubscribers } from "../graphql/shared-execution.ts";
import { followStream, streamId, streamOf } from "./follow.ts";
import type { EventBatch, StoredEvent } from "./hub.ts";

export const Event = builder.objectRef<StoredEvent>("Event").implement({
  description:
    "Something that happened. `data` carries absolute values: applying an event twice is harmless.",
  authScopes: { signedIn: true },
  fields: (t) => ({
    seq: t.expose("seq", { type: "BigInt", description: "Dense in its stream, from 1." }),
    type: t.exposeString("type", {
      description: "Such as `group.decided`; the list is in docs/protocol.md.",
    }),
    subject: t.exposeString("subject", { description: "Id of what it happened to." }),
    data: t.expose("data", { type: "JSON" }),
    at: t.expose("at", { type: "DateTime" }),
  }),
});

const EventBatchType = builder.objectRef<EventBatch>("EventBatch").implement({
  description: "Events of a stream in order; none in a heartbeat, which comes at least every five seconds.",
  authScopes: { signedIn: true },
  fields: (t) => ({
    stream: t.id({
      description: "Id of the run, organization or node.",
      resolve: (batch) => streamId(batch.stream),
    }),
    events: t.field({ type: [Event], resolve: (batch) => [...batch.events] }),
    head: t.expose("head", { type: "BigInt", description: "The newest number given in the stream." }),
    resync: t.exposeBoolean("resync", {
      description:
        "The cursor cannot be served (retention, or more than 50,000 behind): read the snapshot again, what follows starts after `head`.",
    }),
    backfill: t.exposeBoolean("backfill", {
      description: "Whether these events are older than the subscription.",
    }),
    serverTime: t.expose("serverTime", { type: "DateTime" }),
  }),
});

builder.subscriptionField("events", (t) =>
  t.field({
    type: EventBatchType,
    description:
      "Replays what came after the cursor in chunks of up to 500, then goes live in batches of at most 100 ms. Without a cursor only what happens from now on.",
    authScopes: { signedIn: true },
    args: {
      stream: t.arg.id({
        description: "Id of a run (its members), an organization (its members) or a node (itself).",
      }),
      after: t.arg({
        type: "BigInt",
        required: false,
        description: "Number of the last event applied; 0 for all that are kept.",
      }),
    },
    subscribe: async (_root, { stream, after }, ctx) =>
      shareAmongSubscribers(await followStream(ctx, { owner: streamOf(stream), after: after ?? undefined }), {
        steering: "after",
      }),
    resolve: (batch) => batch,
  }),
);
