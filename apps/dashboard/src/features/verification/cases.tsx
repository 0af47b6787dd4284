"use client";

import Link from "next/link";
import { parseAsString, parseAsStringLiteral, useQueryStates } from "nuqs";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { Button } from "../../ui/button.tsx";
import { shortId } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Select } from "../../ui/select.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Cell, Head, Pages, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
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

/** Rejected groups and whether the rejection stands, newest first. */
export function Cases({ runId, touched }: { runId: string; touched: number }) {
  const [{ cases: state, casesAfter: after }, setUrl] = useQueryStates(
    { cases: parseAsStringLiteral(caseStates), casesAfter: parseAsString },
    { history: "push" },
  );
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: CasesQuery,
    variables: { id: runId, after, state },
  });
  useNudge(touched, retry, 3000);
  const found = data?.run?.cases;
  const rows = found?.edges.map((edge) => edge.node) ?? [];
  return (
    <Section
      title="Cases"
      note="Each rejected group has one. It is measured again by one of the organizer’s own validators, and the accused may object."
      actions={
        <Select
          label="State"
          value={state ?? "all"}
          options={[
            { value: "all", label: "All" },
            ...caseStates.map((value) => ({ value, label: caseStateWord(value) })),
          ]}
          onChange={(value) =>
            void setUrl({ cases: caseStates.find((known) => known === value) ?? null, casesAfter: null })
          }
        />
      }
    >
      <QueryState query={{ data, error, fetching }} retry={retry} what="the cases" rows={4} />
      {found && rows.length === 0 ? (
        <Empty
          title={state || after ? "No case matches" : "No group was rejected"}
          action={
            state || after ? (
              <Button onClick={() => void setUrl({ cases: null, casesAfter: null })}>Show all cases</Button>
            ) : undefined
          }
        >
          {state ? "No case is in this state." : "A case appears here when a check fails."}
        </Empty>
      ) : null}
      {rows.length > 0 ? (
        <Table
          label="Cases"
          head={
            <>
              <Head>State</Head>
              <Head>Case</Head>
              <Head>Accused</Head>
              <Head>Reason</Head>
              <Head>Measured again</Head>
              <Head>Objection</Head>
              <Head>Opened</Head>
              <Head>Decided</Head>
            </>
          }
        >
          {rows.map((each) => (
            <Row key={each.id}>
              <Cell>
                <CaseStateWord state={each.state} />
              </Cell>
              <Cell className="whitespace-nowrap">
                <Link
                  className="font-mono hover:underline"
                  href={`/runs/${runId}/cases/${each.id}`}
                  title={each.id}
                >
                  <span className="sr-only">Case </span>
                  {shortId(each.id)}
                </Link>
              </Cell>
              <Cell className="max-w-40" title={each.node.id}>
                <UntrustedText line text={each.node.name} />
              </Cell>
              <Cell className="max-w-md min-w-48 text-muted" title={each.reason}>
                <span className="block truncate">{each.reason}</span>
              </Cell>
              <Cell>
                <ConfirmedWord confirmed={each.confirmed} />
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                {each.disputedAt ? (
                  <Age at={each.disputedAt} />
                ) : each.state === "OPEN" ? (
                  <>
                    possible until <Age at={each.openUntil} />
                  </>
                ) : (
                  "none"
                )}
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                <Age at={each.openedAt} />
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                {each.decidedAt ? <Age at={each.decidedAt} /> : "not yet"}
              </Cell>
            </Row>
          ))}
        </Table>
      ) : null}
      <Pages
        after={after}
        next={found?.pageInfo.hasNextPage ? found.pageInfo.endCursor : null}
        onChange={(cursor) => void setUrl({ casesAfter: cursor })}
      />
    </Section>
  );
}
