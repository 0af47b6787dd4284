import { Counter, Gauge, Histogram, Registry } from "prom-client";

/** What an operator watches, as Prometheus metrics. One registry a server. */
export type Metrics = ReturnType<typeof createMetrics>;

export function createMetrics() {
  const registry = new Registry();
  const registers = [registry];
  return {
    registry,
    requests: new Histogram({
      name: "muster_http_request_seconds",
      help: "Time to answer an HTTP request.",
      labelNames: ["route", "status"] as const,
      buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
      registers,
    }),
    operations: new Counter({
      name: "muster_graphql_operations_total",
      help: "GraphQL operations by kind and outcome.",
      labelNames: ["kind", "outcome"] as const,
      registers,
    }),
    sockets: new Gauge({ name: "muster_websockets", help: "Open WebSocket connections.", registers }),
    subscriptions: new Gauge({ name: "muster_subscriptions", help: "Subscriptions under way.", registers }),
    sent: new Counter({
      name: "muster_subscription_messages_total",
      help: "Messages sent to subscribers.",
      registers,
    }),
    executions: new Counter({
      name: "muster_subscription_executions_total",
      help: "Executions made for those messages; fewer, because equal subscriptions share one.",
      registers,
    }),
    numbered: new Counter({
      name: "muster_events_numbered_total",
      help: "Events the sequencer numbered here.",
      registers,
    }),
    blobBytes: new Counter({
      name: "muster_blob_bytes_total",
      help: "Bytes of blobs received and sent.",
      labelNames: ["direction"] as const,
      registers,
    }),
    originBytes: new Counter({
      name: "muster_origin_bytes_total",
      help: "Bytes of checkpoints that nodes and relays had from this process or its store.",
      registers,
    }),
    relayProbes: new Counter({
      name: "muster_relay_probes_total",
      help: "Looks at relays, by what was seen.",
      labelNames: ["result"] as const,
      registers,
    }),
    webhooks: new Counter({
      name: "muster_webhook_attempts_total",
      help: "Attempts to deliver a webhook, by outcome.",
      labelNames: ["outcome"] as const,
      registers,
    }),
    turns: new Histogram({
      name: "muster_loop_turn_seconds",
      help: "Time a turn of a loop took.",
      labelNames: ["loop", "outcome"] as const,
      buckets: [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10],
      registers,
    }),
    refused: new Counter({
      name: "muster_refused_total",
      help: "Requests refused, by error code.",
      labelNames: ["code"] as const,
      registers,
    }),
  };
}
