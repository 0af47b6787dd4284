"use client";

import { Plus } from "lucide-react";
import { useMemo, useState } from "react";
import { useMutation } from "urql";
import { graphql, type ResultOf, readFragment } from "../../graphql/graphql.ts";
import { Button } from "../../ui/button.tsx";
import { Confirm } from "../../ui/confirm.tsx";
import type { DataColumn } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { useShortcuts } from "../../ui/shortcuts.tsx";
import { Empty } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { toast } from "../../ui/toast.tsx";
import type { Place } from "./alerts-page.tsx";
import { EndpointDetail } from "./endpoint-detail.tsx";
import { EndpointForm } from "./endpoint-form.tsx";
import { EndpointState, stateOf } from "./endpoint-state.tsx";
import { hostOf } from "./host.ts";
import { SecretOnce } from "./secret-once.tsx";
import { useEvery } from "./use-every.ts";

export const WebhookEndpointFragment = graphql(`
  fragment WebhookEndpoint_endpoint on WebhookEndpoint {
    id
    url
    description
    eventTypes
    state
    reason
    failures
    pauseAfter
    restsUntil
    secretMadeAt
    previousSecretUntil
    deliveredAt
    missed
    waiting
    createdAt
    run {
      id
      name
    }
  }
`);

const WebhookEndpointsQuery = graphql(
  `
    query WebhookEndpoints($org: ID!, $after: String) {
      node(id: $org) {
        id
        ... on Organization {
          webhookEndpoints(first: 20, after: $after) {
            edges {
              node {
                id
                ...WebhookEndpoint_endpoint
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
  [WebhookEndpointFragment],
);

const DeleteWebhookEndpoint = graphql(`
  mutation DeleteWebhookEndpoint($input: WebhookEndpointInput!) {
    deleteWebhookEndpoint(input: $input)
  }
`);

export type WebhookEndpoint = ResultOf<typeof WebhookEndpointFragment>;

/** Where the organization is told of events. */
export function EndpointsTable({ place }: { place: Place }) {
  const { rows, query, old, page, retry } = useKeyset({
    query: WebhookEndpointsQuery,
    variables: { org: place.id },
    connection: (data) =>
      data.node && "webhookEndpoints" in data.node ? data.node.webhookEndpoints : undefined,
  });
  useEvery(5_000, retry);
  const endpoints = useMemo(() => rows.map((row) => readFragment(WebhookEndpointFragment, row)), [rows]);
  const [edited, setEdited] = useState<WebhookEndpoint | "new">();
  const [secret, setSecret] = useState<{ text: string; url: string }>();
  const [doomed, setDoomed] = useState<WebhookEndpoint>();
  const [asking, setAsking] = useState(false);
  const [{ fetching, error }, remove] = useMutation(DeleteWebhookEndpoint);
  useShortcuts(
    place.manages
      ? [{ keys: "n", label: "New webhook", group: "This page", run: () => setEdited("new") }]
      : [],
  );

  async function end(): Promise<void> {
    if (doomed === undefined) return;
    const outcome = await remove({ input: { endpoint: doomed.id } });
    if (outcome.error) return;
    setAsking(false);
    toast("Deleted the webhook");
    retry();
  }

  const add = place.manages ? (
    <Button tone="primary" onClick={() => setEdited("new")}>
      <Plus size={14} aria-hidden /> New webhook
    </Button>
  ) : undefined;
  return (
    <>
      {secret ? <SecretOnce secret={secret.text} url={secret.url} hide={() => setSecret(undefined)} /> : null}
      <DataTable<WebhookEndpoint>
        label="Webhooks"
        prefix="hooks"
        columns={columns}
        rows={endpoints}
        getRowId={(endpoint) => endpoint.id}
        query={query}
        retry={retry}
        old={old}
        page={page}
        sort="client"
        total={{ matching: endpoints.length, total: endpoints.length }}
        height={520}
        skeleton={4}
        tools={add}
        peekTitle={(endpoint) => hostOf(endpoint.url)}
        peek={(endpoint) => (
          <EndpointDetail
            endpoint={endpoint}
            place={place}
            edit={() => setEdited(endpoint)}
            remove={() => {
              setDoomed(endpoint);
              setAsking(true);
            }}
            rotated={(text) => setSecret({ text, url: endpoint.url })}
            changed={retry}
          />
        )}
        empty={
          <Empty title="No webhooks yet">
            {place.manages
              ? "A webhook is told of events as they happen, signed, and again until it answers. Look into a row with Space."
              : "Owners and admins of the organization make them."}
          </Empty>
        }
      />
      {edited === undefined ? null : (
        <EndpointForm
          key={edited === "new" ? "new" : edited.id}
          place={place}
          endpoint={edited === "new" ? undefined : edited}
          close={() => setEdited(undefined)}
          saved={(made) => {
            if (made) setSecret(made);
            retry();
          }}
        />
      )}
      {doomed === undefined ? null : (
        <Confirm
          open={asking}
          onOpenChange={setAsking}
          title={`Delete the webhook to ${hostOf(doomed.url)}?`}
          description="Nothing is sent there any more, and its delivery log goes with it. Pause it instead to keep its place."
          button="Delete webhook"
          danger
          busy={fetching}
          error={error}
          onConfirm={end}
        />
      )}
    </>
  );
}

const columns: readonly DataColumn<WebhookEndpoint>[] = [
  {
    id: "url",
    head: "Goes to",
    width: 300,
    grow: true,
    cell: (endpoint) => (
      <span className="truncate font-mono text-table" title={endpoint.url}>
        {endpoint.url}
      </span>
    ),
    text: (endpoint) => endpoint.url,
    sort: (endpoint) => endpoint.url,
  },
  {
    id: "state",
    head: "State",
    width: 148,
    cell: (endpoint) => <EndpointState endpoint={endpoint} />,
    text: (endpoint) => stateOf(endpoint).word,
    sort: (endpoint) => stateOf(endpoint).word,
  },
  {
    id: "description",
    head: "What for",
    width: 160,
    cell: (endpoint) => <span className="text-muted">{endpoint.description || "–"}</span>,
    text: (endpoint) => endpoint.description,
  },
  {
    id: "events",
    head: "Hears",
    width: 220,
    cell: (endpoint) => (
      <span className="truncate text-muted" title={endpoint.eventTypes.join(", ")}>
        {endpoint.eventTypes.includes("*") ? "every event" : endpoint.eventTypes.join(", ")}
      </span>
    ),
    text: (endpoint) => endpoint.eventTypes.join(" "),
  },
  {
    id: "scope",
    head: "Of",
    width: 132,
    cell: (endpoint) => <span className="truncate">{endpoint.run?.name ?? "every run"}</span>,
    text: (endpoint) => endpoint.run?.name ?? "every run",
  },
  {
    id: "waiting",
    head: "Waiting",
    help: "Deliveries that are not over.",
    number: true,
    width: 84,
    cell: (endpoint) => endpoint.waiting,
    text: (endpoint) => String(endpoint.waiting),
    sort: (endpoint) => endpoint.waiting,
  },
  {
    id: "delivered",
    head: "Last delivered",
    width: 116,
    cell: (endpoint) => (
      <span className="text-muted">{endpoint.deliveredAt ? <Age at={endpoint.deliveredAt} /> : "never"}</span>
    ),
    text: (endpoint) => endpoint.deliveredAt ?? "",
    sort: (endpoint) => endpoint.deliveredAt ?? "",
    first: "down",
  },
];
