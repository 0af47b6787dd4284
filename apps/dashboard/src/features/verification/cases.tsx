"use client";

import { useMemo } from "react";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { Button } from "../../ui/button.tsx";
import type { DataColumn, Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { shortId } from "../../ui/format.ts";
import { Panel } from "../../ui/page.tsx";
import { Empty } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { useFacet } from "../../ui/view-state.ts";
import { CaseStateWord, ConfirmedWord, caseStates, caseStateWord } from "./case-state.tsx";

const CasesQuery = graphql(`
  query Cases($id: ID!, $after: String, $state: CaseState) {
    run(id: $id) {
      id
      cases(first: 20, after: $after, state: $state) {
        edges {
          node {
            id
            state
            reason
            confirmed
            openedAt
            openUntil
            disputedAt
            decidedAt
            node {
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
`);

type Case = NonNullable<ResultOf<typeof CasesQuery>["run"]>["cases"]["edges"][number]["node"];

const columns: readonly DataColumn<Case>[] = [
  {
    id: "case",
    head: "Case",
    width: 104,
    cell: (each) => <span className="font-mono">{shortId(each.id)}</span>,
    text: (each) => each.id,
  },
  {
    id: "state",
    head: "State",
    width: 104,
    cell: (each) => <CaseStateWord state={each.state} />,
    text: (each) => caseStateWord(each.state),
  },
  {
    id: "accused",
    head: "Accused",
    width: 144,
    cell: (each) => (
      <span title={each.node.id}>
        <UntrustedText line text={each.node.name} />
      </span>
    ),
    text: (each) => each.node.name,
    narrow: "second",
  },
  {
    id: "reason",
    head: "Reason",
    width: 260,
    grow: true,
    cell: (each) => (
      <span className="text-muted" title={each.reason}>
        {each.reason}
      </span>
    ),
    text: (each) => each.reason,
    narrow: "none",
  },
  {
    id: "again",
    head: "Measured again",
    help: "What one of the organizer's own validators found.",
    width: 132,
    cell: (each) => <ConfirmedWord confirmed={each.confirmed} />,
    text: (each) => (each.confirmed === null ? "" : each.confirmed ? "found the same" : "found otherwise"),
    narrow: "second",
  },
  {
    id: "objection",
    head: "Objection",
    width: 148,
    cell: (each) => (
      <span className="text-muted">
        {each.disputedAt ? (
          <Age at={each.disputedAt} />
        ) : each.state === "OPEN" ? (
          <>
            possible until <Age at={each.openUntil} />
          </>
        ) : (
          "none"
        )}
      </span>
    ),
    text: (each) => each.disputedAt ?? "",
  },
  {
    id: "opened",
    head: "Opened",
    width: 92,
    cell: (each) => (
      <span className="text-muted">
        <Age at={each.openedAt} />
      </span>
    ),
    text: (each) => each.openedAt,
  },
  {
    id: "decided",
    head: "Decided",
    width: 92,
    cell: (each) => (
      <span className="text-muted">{each.decidedAt ? <Age at={each.decidedAt} /> : "not yet"}</span>
    ),
    text: (each) => each.decidedAt ?? "",
  },
];

/** Rejected groups and whether the rejection stands, newest first. */
export function Cases({ runId, touched }: { runId: string; touched: number }) {
  const [[state], setStates] = useFacet("case", caseStates);
  const { rows, query, old, page, retry } = useKeyset({
    query: CasesQuery,
    variables: { id: runId, state: state ?? null },
    connection: (data) => data.run?.cases,
  });
  useNudge(touched, retry, 3000);
  const facets = useMemo(
    (): Facet[] => [
      {
        field: "case",
        label: "State",
        single: true,
        options: caseStates.map((value) => ({ value, label: caseStateWord(value) })),
        value: state === undefined ? [] : [state],
        onChange: setStates,
      },
    ],
    [state, setStates],
  );
  return (
    <Panel
      title="Cases"
      note="Each rejected group has one. It is measured again by one of the organizer’s own validators, and the accused may object."
    >
      <DataTable<Case>
        label="Cases"
        prefix="cases"
        columns={columns}
        rows={rows}
        getRowId={(each) => each.id}
        href={(each) => `/runs/${runId}/cases/${each.id}`}
        linkLabel={(each) => `Case ${shortId(each.id)}`}
        query={query}
        retry={retry}
        old={old}
        page={page}
        facets={facets}
        height={420}
        skeleton={4}
        empty={
          <Empty
            title={state ? "No case matches" : "No group was rejected"}
            action={state ? <Button onClick={() => setStates([])}>Show all cases</Button> : undefined}
          >
            {state ? "No case is in this state." : "A case appears here when a check fails."}
          </Empty>
        }
      />
    </Panel>
  );
}
