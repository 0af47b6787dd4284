"use client";

import Link from "next/link";
import { useMemo } from "react";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import type { DataColumn, Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { formatDuration, sentence } from "../../ui/format.ts";
import { Panel } from "../../ui/page.tsx";
import { StateWord } from "../../ui/state-badge.tsx";
import { Empty } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { useFacet } from "../../ui/view-state.ts";
import { resolutionInWords, severityTone, valueInWords } from "./alert-words.ts";
import type { Place } from "./alerts-page.tsx";
import { useEvery } from "./use-every.ts";

const AlertHistoryQuery = graphql(`
  query AlertHistory($org: ID!, $firing: Boolean, $after: String) {
    node(id: $org) {
      id
      ... on Organization {
        alerts(first: 25, firing: $firing, after: $after) {
          edges {
            node {
              id
              name
              kind
              severity
              summary
              worstValue
              limit
              firedAt
              resolvedAt
              resolution
              run {
                id
                name
              }
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
`);

type History = Extract<NonNullable<ResultOf<typeof AlertHistoryQuery>["node"]>, { alerts: unknown }>;
type Alert = History["alerts"]["edges"][number]["node"];

const phases = ["firing", "ended"] as const;

/** Episodes of the rules, newest first. */
export function AlertsTable({ place }: { place: Place }) {
  const [[phase], setPhases] = useFacet("alert", phases);
  const { rows, query, old, page, retry } = useKeyset({
    query: AlertHistoryQuery,
    variables: { org: place.id, firing: phase === undefined ? null : phase === "firing" },
    connection: (data) => (data.node && "alerts" in data.node ? data.node.alerts : undefined),
  });
  useEvery(10_000, retry);
  const facets = useMemo(
    (): Facet[] => [
      {
        field: "alert",
        label: "State",
        single: true,
        options: [
          { value: "firing", label: "Firing" },
          { value: "ended", label: "Ended" },
        ],
        value: phase === undefined ? [] : [phase],
        onChange: setPhases,
      },
    ],
    [phase, setPhases],
  );
  return (
    <div className="mt-8">
      <Panel title="Alerts" note="Each time a rule fired in a run, once. Ended ones are kept for 90 days.">
        <DataTable<Alert>
          label="Alerts"
          prefix="alerts"
          columns={columns}
          rows={rows}
          getRowId={(alert) => alert.id}
          query={query}
          retry={retry}
          old={old}
          page={page}
          facets={facets}
          height={360}
          skeleton={4}
          empty={
            <Empty title={phase === "firing" ? "Nothing is firing" : "Nothing has fired"}>
              {phase === undefined
                ? "When a rule fires it stands here, and goes to the webhooks that hear of alerts."
                : "Choose another state to see the others."}
            </Empty>
          }
        />
      </Panel>
    </div>
  );
}

const columns: readonly DataColumn<Alert>[] = [
  {
    id: "alert",
    head: "Alert",
    width: 180,
    cell: (alert) => <StateWord tone={severityTone[alert.severity]}>{alert.name}</StateWord>,
    text: (alert) => alert.name,
  },
  {
    id: "state",
    head: "State",
    width: 104,
    cell: (alert) =>
      alert.resolvedAt === null ? (
        <StateWord tone="rejected">Firing</StateWord>
      ) : (
        <StateWord tone="ok">Ended</StateWord>
      ),
    text: (alert) => (alert.resolvedAt === null ? "Firing" : "Ended"),
  },
  {
    id: "run",
    head: "Run",
    width: 148,
    cell: (alert) => (
      <Link href={`/runs/${alert.run.id}`} className="truncate hover:underline">
        {alert.run.name}
      </Link>
    ),
    text: (alert) => alert.run.name,
  },
  {
    id: "summary",
    head: "What was seen",
    width: 320,
    grow: true,
    cell: (alert) => (
      <span className="text-muted" title={alert.summary}>
        {alert.summary}
      </span>
    ),
    text: (alert) => alert.summary,
  },
  {
    id: "worst",
    head: "Worst",
    help: "The value that was furthest beyond the limit while it fired.",
    number: true,
    width: 92,
    cell: (alert) => valueInWords(alert.kind, alert.worstValue),
    text: (alert) => String(alert.worstValue),
  },
  {
    id: "severity",
    head: "Severity",
    width: 92,
    hidden: true,
    cell: (alert) => sentence(alert.severity),
    text: (alert) => sentence(alert.severity),
  },
  {
    id: "fired",
    head: "Fired",
    width: 92,
    cell: (alert) => (
      <span className="text-muted">
        <Age at={alert.firedAt} />
      </span>
    ),
    text: (alert) => alert.firedAt,
  },
  {
    id: "lasted",
    head: "Lasted",
    width: 200,
    cell: (alert) =>
      alert.resolvedAt === null ? (
        <span className="text-muted">still firing</span>
      ) : (
        <span className="text-muted">
          {formatDuration((new Date(alert.resolvedAt).getTime() - new Date(alert.firedAt).getTime()) / 1000)},{" "}
          {resolutionInWords(alert.resolution)}
        </span>
      ),
    text: (alert) => alert.resolvedAt ?? "",
  },
];
