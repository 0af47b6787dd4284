"use client";

import { GitCompareArrows, Plus } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { useEffect, useMemo, useRef } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { Button, buttonClass } from "../../ui/button.tsx";
import { countValues, type Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { sentence } from "../../ui/format.ts";
import { Page } from "../../ui/page.tsx";
import { useShortcuts } from "../../ui/shortcuts.tsx";
import { Empty } from "../../ui/states.tsx";
import { useFacet, useOpenFacet, useSearch } from "../../ui/view-state.ts";
import { type RunInList, RunRowFragment, runColumns, runOf } from "./run-row.tsx";

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
const mostCompared = 8;

/** Every run of the reader, live; some of them can be laid over each other. */
export function RunsList() {
  const router = useRouter();
  const [[state], setStates] = useFacet("state", states);
  const [environments, setEnvironments] = useOpenFacet("environment");
  const [search, setSearch] = useSearch();
  const { rows, query, old, page, retry } = useKeyset({
    query: RunsListQuery,
    variables: { state: state ?? null },
    connection: (data) => data.runs,
  });
  useOnReturn(retry);
  useShortcuts([{ keys: "n", label: "New run", group: "This page", run: () => router.push("/runs/new") }]);
  const wanted = search.trim().toLowerCase();
  const shown = useMemo(
    () =>
      rows.filter((run) => {
        const { name, id, environment } = runOf(run);
        if (environments.length > 0 && !environments.includes(environment.slug)) return false;
        return wanted === "" || name.toLowerCase().includes(wanted) || id.includes(wanted);
      }),
    [rows, wanted, environments],
  );
  const facets = useMemo((): Facet[] => {
    const slugs = countValues(rows, (run) => runOf(run).environment.slug);
    return [
      {
        field: "state",
        label: "State",
        single: true,
        options: states.map((value) => ({ value, label: sentence(value) })),
        value: state === undefined ? [] : [state],
        onChange: setStates,
      },
      {
        field: "environment",
        label: "Environment",
        options: [...slugs].map(([value, count]) => ({ value, label: value, count })),
        value: environments,
        onChange: setEnvironments,
      },
    ];
  }, [rows, state, environments, setStates, setEnvironments]);
  const filtered = state !== undefined || wanted !== "" || environments.length > 0;
  const newRun = (
    <Link href="/runs/new" className={buttonClass({ tone: "primary" })}>
      <Plus size={14} aria-hidden /> New run
    </Link>
  );
  return (
    <Page title="Runs" actions={newRun}>
      <DataTable<RunInList>
        label="Runs"
        columns={runColumns}
        rows={shown}
        getRowId={(run) => run.id}
        href={(run) => `/runs/${run.id}`}
        query={query}
        retry={retry}
        old={old}
        page={page}
        sort="client"
        facets={facets}
        search={{ value: search, onChange: setSearch, label: "Search runs" }}
        total={page.hasNext ? {} : { matching: shown.length, total: rows.length }}
        selection={{
          max: mostCompared,
          actions: (ids) => <Compare ids={ids} />,
        }}
        empty={
          <Empty
            title={filtered ? "No runs here" : "No runs yet"}
            action={
              filtered ? (
                <Button
                  onClick={() => {
                    setStates([]);
                    setEnvironments([]);
                    setSearch("");
                  }}
                >
                  Show all runs
                </Button>
              ) : (
                newRun
              )
            }
          >
            {filtered
              ? "No run has this state, environment and name."
              : "The form starts from the demo: a small model learns to sort digits on the machines that join."}
          </Empty>
        }
      />
    </Page>
  );
}

function Compare({ ids }: { ids: readonly string[] }) {
  const router = useRouter();
  const href = `/runs/compare?cmp=${ids.join(",")}`;
  useShortcuts([
    {
      keys: "v",
      label: "Compare the selected runs",
      group: "This page",
      run: () => {
        if (ids.length < 2) return false;
        router.push(href);
      },
    },
  ]);
  if (ids.length < 2)
    return <span className="text-table text-subtle">Select another one to compare them</span>;
  return (
    <Link href={href} className={buttonClass()}>
      <GitCompareArrows size={14} aria-hidden /> Compare {ids.length} runs
    </Link>
  );
}
