"use client";

import { useMemo } from "react";
import { graphql, type ResultOf, readFragment } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Button } from "../../ui/button.tsx";
import type { DataColumn, Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { sentence, shortId } from "../../ui/format.ts";
import { StateWord, type Tone } from "../../ui/state-badge.tsx";
import { Empty } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { useFacet, useOpenFacet } from "../../ui/view-state.ts";
import type { Place } from "./alerts-page.tsx";
import { DeliveryInspector } from "./delivery-inspector.tsx";
import { hostOf } from "./host.ts";
import { useEvery } from "./use-every.ts";

const DeliveryRowFragment = graphql(`
  fragment DeliveryRow_delivery on WebhookDelivery {
    id
    messageId
    eventType
    state
    sending
    attempts
    nextAttemptAt
    lastAttemptAt
    latencyMs
    responseStatus
    error
    createdAt
    endpoint {
      id
      url
    }
  }
`);

const WebhookDeliveriesQuery = graphql(
  `
    query WebhookDeliveries($org: ID!, $endpoint: ID, $states: [WebhookDeliveryState!], $eventType: String, $after: String) {
      node(id: $org) {
        id
        ... on Organization {
          webhookDeliveries(first: 50, endpoint: $endpoint, states: $states, eventType: $eventType, after: $after) {
            edges {
              node {
                id
                ...DeliveryRow_delivery
              }
            }
            pageInfo {
              hasNextPage
              endCursor
            }
          }
        }
      }
    }
  `,
  [DeliveryRowFragment],
);

/** The newest ones, read again and again: what is shown follows in the cache, what is new is counted. */
const NewestDeliveriesQuery = graphql(
  `
    query NewestDeliveries($org: ID!, $endpoint: ID, $states: [WebhookDeliveryState!], $eventType: String) {
      node(id: $org) {
        id
        ... on Organization {
          newest: webhookDeliveries(first: 60, endpoint: $endpoint, states: $states, eventType: $eventType) {
            edges {
              node {
                id
                ...DeliveryRow_delivery
              }
            }
          }
        }
      }
    }
  `,
  [DeliveryRowFragment],
);

const DeliveryFacetsQuery = graphql(`
  query DeliveryFacets($org: ID!) {
    webhookEventTypes
    node(id: $org) {
      id
      ... on Organization {
        webhookEndpoints(first: 20) {
          edges {
            node {
              id
              url
            }
          }
        }
      }
    }
  }
`);

type Delivery = ResultOf<typeof DeliveryRowFragment>;

const states = ["PENDING", "DELIVERED", "FAILED"] as const;
const tones: Readonly<Record<Delivery["state"], Tone>> = {
  PENDING: "pending",
  DELIVERED: "ok",
  FAILED: "rejected",
};

/** Every message of the last thirty days, with what came of it. */
export function DeliveriesTable({ place }: { place: Place }) {
  const [chosenStates, setStates] = useFacet("state", states);
  const [[endpoint], setEndpoints] = useOpenFacet("endpoint");
  const [[eventType], setEventTypes] = useOpenFacet("event");
  const variables = {
    org: place.id,
    endpoint: endpoint ?? null,
    states: chosenStates.length === 0 ? null : chosenStates,
    eventType: eventType ?? null,
  };
  const { rows, query, old, page, retry } = useKeyset({
    query: WebhookDeliveriesQuery,
    variables,
    connection: (data) =>
      data.node && "webhookDeliveries" in data.node ? data.node.webhookDeliveries : undefined,
  });
  const deliveries = useMemo(() => rows.map((row) => readFragment(DeliveryRowFragment, row)), [rows]);
  const [{ data: newest }, look] = useSteadyQuery({ query: NewestDeliveriesQuery, variables });
  useEvery(5_000, look);
  const [{ data: known }] = useSteadyQuery({ query: DeliveryFacetsQuery, variables: { org: place.id } });

  const first = deliveries[0]?.id;
  const heads = newest?.node && "newest" in newest.node ? newest.node.newest.edges : [];
  // ids of later messages sort later
  const fresh = query.data ? heads.filter(({ node }) => first === undefined || node.id > first).length : 0;
  const endpoints = known?.node && "webhookEndpoints" in known.node ? known.node.webhookEndpoints.edges : [];
  const facets: Facet[] = [
    {
      field: "state",
      label: "State",
      options: states.map((value) => ({ value, label: sentence(value) })),
      value: chosenStates,
      onChange: setStates,
    },
    {
      field: "endpoint",
      label: "Webhook",
      single: true,
      options: endpoints.map(({ node }) => ({
        value: node.id,
        label: `${hostOf(node.url)} ${shortId(node.id)}`,
      })),
      value: endpoint === undefined ? [] : [endpoint],
      onChange: setEndpoints,
    },
    {
      field: "event",
      label: "Event",
      single: true,
      options: [
        "webhook.test",
        ...(known?.webhookEventTypes ?? []).filter((type) => !type.endsWith("*")),
      ].map((value) => ({ value, label: value })),
      value: eventType === undefined ? [] : [eventType],
      onChange: setEventTypes,
    },
  ];
  const filtered = chosenStates.length > 0 || endpoint !== undefined || eventType !== undefined;
  return (
    <DataTable<Delivery>
      label="Deliveries"
      prefix="deliveries"
      columns={columns}
      rows={deliveries}
      getRowId={(delivery) => delivery.id}
      query={query}
      retry={retry}
      old={old}
      page={page}
      facets={facets}
      fresh={{ count: fresh, show: retry, noun: "delivery" }}
      peekTitle={(delivery) => delivery.eventType}
      peek={(delivery) => <DeliveryInspector id={delivery.id} place={place} />}
      empty={
        <Empty
          title={filtered ? "No delivery matches" : "Nothing was sent yet"}
          action={
            filtered ? (
              <Button
                onClick={() => {
                  setStates([]);
                  setEndpoints([]);
                  setEventTypes([]);
                }}
              >
                Show all deliveries
              </Button>
            ) : undefined
          }
        >
          {filtered
            ? "No message has this state, webhook and event."
            : "Each message to a webhook stands here for thirty days. Send a test from its row to see one."}
        </Empty>
      }
    />
  );
}

const columns: readonly DataColumn<Delivery>[] = [
  {
    id: "event",
    head: "Event",
    width: 180,
    cell: (delivery) => <span className="font-mono text-table">{delivery.eventType}</span>,
    text: (delivery) => delivery.eventType,
  },
  {
    id: "state",
    head: "State",
    width: 116,
    cell: (delivery) => (
      <StateWord tone={delivery.sending ? "running" : tones[delivery.state]}>
        {delivery.sending ? "Sending" : sentence(delivery.state)}
      </StateWord>
    ),
    text: (delivery) => sentence(delivery.state),
  },
  {
    id: "to",
    head: "Goes to",
    width: 200,
    grow: true,
    cell: (delivery) => (
      <span className="truncate text-muted" title={delivery.endpoint.url}>
        {hostOf(delivery.endpoint.url)}
      </span>
    ),
    text: (delivery) => delivery.endpoint.url,
  },
  {
    id: "answer",
    head: "Answer",
    width: 200,
    cell: (delivery) => (
      <span className="truncate" title={delivery.error ?? undefined}>
        {delivery.responseStatus ?? delivery.error ?? "–"}
      </span>
    ),
    text: (delivery) => String(delivery.responseStatus ?? delivery.error ?? ""),
  },
  {
    id: "latency",
    head: "Latency",
    number: true,
    width: 92,
    cell: (delivery) => (delivery.latencyMs === null ? "–" : `${delivery.latencyMs} ms`),
    text: (delivery) => String(delivery.latencyMs ?? ""),
  },
  {
    id: "attempts",
    head: "Attempts",
    number: true,
    width: 84,
    cell: (delivery) => delivery.attempts,
    text: (delivery) => String(delivery.attempts),
  },
  {
    id: "next",
    head: "Next try",
    width: 92,
    cell: (delivery) => (
      <span className="text-muted">{delivery.nextAttemptAt ? <Age at={delivery.nextAttemptAt} /> : "–"}</span>
    ),
    text: (delivery) => delivery.nextAttemptAt ?? "",
  },
  {
    id: "message",
    head: "Message",
    help: "The webhook-id: the same for every attempt.",
    width: 180,
    hidden: true,
    cell: (delivery) => <span className="truncate font-mono text-table">{delivery.messageId}</span>,
    text: (delivery) => delivery.messageId,
  },
  {
    id: "made",
    head: "Made",
    width: 92,
    cell: (delivery) => (
      <span className="text-muted">
        <Age at={delivery.createdAt} />
      </span>
    ),
    text: (delivery) => delivery.createdAt,
  },
];
