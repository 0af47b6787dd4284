"use client";

import dynamic from "next/dynamic";
import { useEffect, useMemo, useState } from "react";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { Button } from "../../ui/button.tsx";
import type { DataColumn, Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { useKeyset } from "../../ui/data-table/use-keyset.ts";
import { absent, formatCount, formatDifference, formatReward, shortId } from "../../ui/format.ts";
import { Panel } from "../../ui/page.tsx";
import { Empty, Loading } from "../../ui/states.tsx";
import { Age } from "../../ui/time.tsx";
import { plainLine } from "../../ui/untrusted.ts";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { useFacet, useOpenFacet } from "../../ui/view-state.ts";
import { acceptanceInWords, GroupStateWord, groupStates, groupStateWord } from "./group-state.tsx";

const RolloutLook = dynamic(async () => (await import("./rollout-page.tsx")).RolloutLook, {
  loading: () => <Loading what="the rollout" height={240} />,
});

const RolloutsQuery = graphql(`
  query Rollouts($id: ID!, $after: String, $state: GroupState, $node: ID) {
    run(id: $id) {
      id
      rollouts(first: 50, after: $after, state: $state, node: $node) {
        edges {
          node {
            id
            index
            preview
            tokens
            finishReason
            reward
            advantage
            group {
              id
              index
              prompt
              policyVersion
              state
              acceptance
              retroactive
              reason
              submittedAt
              node {
                id
                name
              }
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

const RolloutWorkersQuery = graphql(`
  query RolloutWorkers($id: ID!) {
    run(id: $id) {
      id
      workers(first: 200) {
        edges {
          node {
            id
            roles
            node {
              id
              name
            }
          }
        }
      }
    }
  }
`);

type Rollout = NonNullable<ResultOf<typeof RolloutsQuery>["run"]>["rollouts"]["edges"][number]["node"];

const columns: readonly DataColumn<Rollout>[] = [
  {
    id: "rollout",
    head: "Rollout",
    width: 112,
    cell: (rollout) => <span className="font-mono">{shortId(rollout.id)}</span>,
    text: (rollout) => rollout.id,
  },
  {
    id: "state",
    head: "State",
    help: "The state of its group, which is its own too.",
    width: 104,
    cell: ({ group }) => <GroupStateWord state={group.state} />,
    text: ({ group }) => groupStateWord(group.state),
  },
  {
    id: "prompt",
    head: "Prompt",
    width: 176,
    grow: true,
    cell: ({ group }) => <UntrustedText line text={group.prompt} />,
    text: ({ group }) => group.prompt,
    narrow: "second",
  },
  {
    id: "output",
    head: "Output",
    width: 192,
    grow: true,
    cell: (rollout) => <UntrustedText line text={rollout.preview} />,
    text: (rollout) => rollout.preview,
    narrow: "none",
  },
  {
    id: "reward",
    head: "Reward",
    number: true,
    width: 76,
    cell: (rollout) => <span className="font-medium">{formatReward(rollout.reward)}</span>,
    text: (rollout) => String(rollout.reward),
    narrow: "first",
  },
  {
    id: "advantage",
    head: "Advantage",
    help: "Reward against its group, in deviations; known when the group is accepted.",
    number: true,
    width: 92,
    cell: ({ advantage }) => (
      <span
        className="text-muted"
        title={advantage === null ? "Known when the group is accepted" : undefined}
      >
        {advantage === null ? absent : formatDifference(advantage)}
      </span>
    ),
    text: (rollout) => String(rollout.advantage ?? ""),
  },
  {
    id: "tokens",
    head: "Tokens",
    number: true,
    width: 72,
    cell: (rollout) => formatCount(rollout.tokens),
    text: (rollout) => String(rollout.tokens),
  },
  {
    id: "finish",
    head: "Finish",
    width: 72,
    cell: (rollout) => <span className="text-muted">{rollout.finishReason}</span>,
    text: (rollout) => rollout.finishReason,
  },
  {
    id: "version",
    head: "Version",
    help: "The policy version that generated it.",
    number: true,
    width: 72,
    cell: ({ group }) => `v${group.policyVersion}`,
    text: ({ group }) => String(group.policyVersion),
  },
  {
    id: "worker",
    head: "Worker",
    width: 128,
    cell: ({ group }) => <UntrustedText line text={group.node.name} />,
    text: ({ group }) => group.node.name,
    narrow: "second",
  },
  {
    id: "reason",
    head: "Reason",
    width: 168,
    cell: ({ group }) => (
      <span className="text-muted">
        {group.reason ? (
          <UntrustedText line text={group.reason} />
        ) : (
          acceptanceInWords(group.acceptance, group.retroactive)
        )}
      </span>
    ),
    text: ({ group }) => group.reason ?? acceptanceInWords(group.acceptance, group.retroactive),
  },
  {
    id: "submitted",
    head: "Submitted",
    width: 92,
    cell: ({ group }) => (
      <span className="text-muted">
        <Age at={group.submittedAt} />
      </span>
    ),
    text: ({ group }) => group.submittedAt,
    narrow: "second",
  },
  {
    id: "group",
    head: "Group",
    width: 112,
    cell: ({ group }) => <span className="font-mono text-muted">{shortId(group.id)}</span>,
    text: ({ group }) => group.id,
    hidden: true,
  },
];

/**
 * The run's rollouts, newest first. Nothing moves under the reader: new ones are counted in a button, states change in place.
 * @param fresh grows with every group submitted while the page is open.
 * @param decided grows with every verdict.
 */
export function RolloutsTable({ runId, fresh, decided }: { runId: string; fresh: number; decided: number }) {
  const [[state], setStates] = useFacet("state", groupStates);
  const [[node], setNodes] = useOpenFacet("worker");
  const { rows, query, old, page, retry } = useKeyset({
    query: RolloutsQuery,
    variables: { id: runId, state: state ?? null, node: node ?? null },
    connection: (data) => data.run?.rollouts,
  });
  const seen = useSeen(fresh, `${state}|${node}`, query.fetching);
  // a verdict changes rows that are shown; while new groups wait for the reader, the page stays as it is
  useNudge(seen.waiting === 0 ? decided : 0, retry, 3000);
  const workers = useWorkerOptions(runId, node);
  const facets = useMemo(
    (): Facet[] => [
      {
        field: "state",
        label: "State",
        single: true,
        options: groupStates.map((value) => ({ value, label: groupStateWord(value) })),
        value: state === undefined ? [] : [state],
        onChange: setStates,
      },
      {
        field: "worker",
        label: "Worker",
        single: true,
        options: workers,
        value: node === undefined ? [] : [node],
        onChange: setNodes,
      },
    ],
    [state, node, workers, setStates, setNodes],
  );
  const filtered = state !== undefined || node !== undefined;
  return (
    <Panel
      title="Rollouts"
      note="Text comes from workers and is shown as it is, invisible characters included."
    >
      <DataTable<Rollout>
        label="Rollouts"
        columns={columns}
        rows={rows}
        getRowId={(rollout) => rollout.id}
        href={(rollout) => `/runs/${runId}/rollouts/${rollout.id}`}
        linkLabel={(rollout) => `Rollout ${shortId(rollout.id)}`}
        query={query}
        retry={retry}
        old={old}
        page={page}
        facets={facets}
        fresh={{
          count: seen.waiting,
          noun: "group",
          show: () => {
            seen.reset();
            retry();
          },
        }}
        peek={(rollout) => <RolloutLook runId={runId} rolloutId={rollout.id} />}
        peekTitle={(rollout) => `Rollout ${shortId(rollout.id)}`}
        empty={
          <Empty
            title={filtered ? "No rollout matches" : "No rollouts yet"}
            action={
              filtered ? (
                <Button
                  onClick={() => {
                    setStates([]);
                    setNodes([]);
                  }}
                >
                  Show all rollouts
                </Button>
              ) : undefined
            }
          >
            {filtered
              ? "No rollout has this state and worker."
              : "They appear when the first worker submits its pack."}
          </Empty>
        }
      />
    </Panel>
  );
}

/** How many groups came since the rows on screen were read. */
function useSeen(fresh: number, view: string, loading: boolean): { waiting: number; reset(): void } {
  const [seen, setSeen] = useState(fresh);
  // another filter reads the rows anew
  useEffect(() => setSeen(fresh), [view]);
  return { waiting: loading ? 0 : Math.max(0, fresh - seen), reset: () => setSeen(fresh) };
}

/** Whoever generates in the run, by name; whoever only measures or trains has no rollouts to look for. */
function useWorkerOptions(runId: string, chosen: string | undefined) {
  const [{ data }] = useSteadyQuery({ query: RolloutWorkersQuery, variables: { id: runId } });
  return useMemo(() => {
    const nodes =
      data?.run?.workers.edges.flatMap(({ node }) => (node.roles.includes("WORKER") ? [node.node] : [])) ??
      [];
    const options = nodes.map(({ id, name }) => ({ value: id, label: plainLine(name) }));
    if (chosen === undefined || nodes.some(({ id }) => id === chosen)) return options;
    return [...options, { value: chosen, label: shortId(chosen) }];
  }, [data, chosen]);
}
