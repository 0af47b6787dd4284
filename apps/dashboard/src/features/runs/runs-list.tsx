"use client";

import { Plus } from "lucide-react";
import Link from "next/link";
import { parseAsString, parseAsStringLiteral, useQueryState } from "nuqs";
import { useEffect, useRef } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Button, buttonClass } from "../../ui/button.tsx";
import { sentence } from "../../ui/format.ts";
import { Select } from "../../ui/select.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Head, Pages, Table } from "../../ui/table.tsx";
import { RunRow, RunRowFragment } from "./run-row.tsx";

const RunsListQuery = graphql(
  `
    query RunsList($after: String, $state: RunState) {
      runs(first: 20, after: $after, state: $state) {
        edges {
          node {
            id
            ...RunRow_run
          }
        }
        pageInfo {
          hasNextPage
          endCursor
        }
      }
    }
  `,
  [RunRowFragment],
);

/** Rows follow their own runs; a run that somebody else made is found when the reader comes back. */
function useOnReturn(reload: () => void): void {
  const latest = useRef(reload);
  latest.current = reload;
  useEffect(() => {
    const onReturn = () => {
      if (document.visibilityState === "visible") latest.current();
    };
    document.addEventListener("visibilitychange", onReturn);
    return () => document.removeEventListener("visibilitychange", onReturn);
  }, []);
}

const states = ["RUNNING", "PAUSED", "DRAFT", "COMPLETED", "CANCELLED", "FAILED"] as const;

export function RunsList() {
  const [state, setState] = useQueryState(
    "state",
    parseAsStringLiteral(states).withOptions({ history: "push" }),
  );
  const [after, setAfter] = useQueryState("after", parseAsString.withOptions({ history: "push" }));
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: RunsListQuery,
    variables: { after, state },
  });
  useOnReturn(retry);
  const runs = data?.runs.edges.map((edge) => edge.node) ?? [];
  return (
    <>
      <div className="mb-3 flex flex-wrap items-center gap-3">
        <h1 className="text-title font-semibold">Runs</h1>
        <div className="ml-auto flex items-center gap-3">
          <Select
            label="State"
            value={state ?? "all"}
            options={[
              { value: "all", label: "All" },
              ...states.map((value) => ({ value, label: sentence(value) })),
            ]}
            onChange={(value) => {
              void setAfter(null);
              void setState(value === "all" ? null : value);
            }}
          />
          <Link href="/runs/new" className={buttonClass({ tone: "primary" })}>
            <Plus size={14} aria-hidden /> New run
          </Link>
        </div>
      </div>
      <QueryState query={{ data, error, fetching }} retry={retry} what="the runs" shown="The list" rows={6} />
      {data && runs.length === 0 ? (
        <Empty
          title={state || after ? "No runs here" : "No runs yet"}
          action={
            state || after ? (
              <Button
                onClick={() => {
                  void setAfter(null);
                  void setState(null);
                }}
              >
                Show all runs
              </Button>
            ) : (
              <Link href="/runs/new" className={buttonClass({ tone: "primary" })}>
                New run
              </Link>
            )
          }
        >
          {state
            ? `No run is ${sentence(state).toLowerCase()}.`
            : "The form starts from the demo: a small model learns to sort digits on the machines that join."}
        </Empty>
      ) : null}
      {runs.length > 0 ? (
        <Table
          label="Runs"
          head={
            <>
              <Head>State</Head>
              <Head>Name</Head>
              <Head number>Step</Head>
              <Head number>Version</Head>
              <Head number>Reward</Head>
              <Head>Reward by step</Head>
              <Head number>Workers</Head>
              <Head number>Accepted</Head>
              <Head number>Rejected</Head>
              <Head>Environment</Head>
              <Head>Created</Head>
            </>
          }
        >
          {runs.map((run) => (
            <RunRow key={run.id} run={run} />
          ))}
        </Table>
      ) : null}
      <Pages
        after={after}
        next={data?.runs.pageInfo.hasNextPage ? data.runs.pageInfo.endCursor : null}
        onChange={(cursor) => void setAfter(cursor)}
      />
    </>
  );
}
