"use client";

import Link from "next/link";
import { parseAsString, parseAsStringLiteral, useQueryStates } from "nuqs";
import { useEffect, useState } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { Button } from "../../ui/button.tsx";
import { absent, formatCount, formatDifference, formatReward, shortId } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Select } from "../../ui/select.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Cell, Head, Pages, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { plainLine } from "../../ui/untrusted.ts";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { acceptanceInWords, GroupStateWord, groupStates, groupStateWord } from "./group-state.tsx";

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

/**
 * The run's rollouts, newest first. Nothing moves under the reader: new ones are counted in a button, states change in place.
 * @param fresh grows with every group submitted while the page is open.
 * @param decided grows with every verdict.
 */
export function RolloutsTable({ runId, fresh, decided }: { runId: string; fresh: number; decided: number }) {
  const [{ state, node, after }, setUrl] = useQueryStates(
    { state: parseAsStringLiteral(groupStates), node: parseAsString, after: parseAsString },
    { history: "push" },
  );
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: RolloutsQuery,
    variables: { id: runId, after, state, node },
  });
  const seen = useSeen(fresh, `${state}|${node}|${after}`, fetching);
  // a verdict changes rows that are shown; while new groups wait for the reader, the page stays as it is
  useNudge(seen.waiting === 0 ? decided : 0, retry, 3000);
  const rollouts = data?.run?.rollouts.edges.map((edge) => edge.node) ?? [];
  const pageInfo = data?.run?.rollouts.pageInfo;
  return (
    <Section
      title="Rollouts"
      note="Text comes from workers and is shown as it is, invisible characters included."
      actions={
        <>
          {after === null && seen.waiting > 0 ? (
            <Button
              tone="primary"
              onClick={() => {
                seen.reset();
                retry();
              }}
            >
              ↑ {formatCount(seen.waiting)} new {seen.waiting === 1 ? "group" : "groups"}
            </Button>
          ) : null}
          <Select
            label="State"
            value={state ?? "all"}
            options={[
              { value: "all", label: "All" },
              ...groupStates.map((value) => ({ value, label: groupStateWord(value) })),
            ]}
            onChange={(value) =>
              void setUrl({ state: groupStates.find((known) => known === value) ?? null, after: null })
            }
          />
          <WorkerFilter
            runId={runId}
            value={node}
            onChange={(value) => void setUrl({ node: value, after: null })}
          />
        </>
      }
    >
      <QueryState query={{ data, error, fetching }} retry={retry} what="the rollouts" rows={10} />
      {pageInfo && rollouts.length === 0 ? (
        <Empty
          title={state || node || after ? "No rollout matches" : "No rollouts yet"}
          action={
            state || node || after ? (
              <Button onClick={() => void setUrl({ state: null, node: null, after: null })}>
                Show all rollouts
              </Button>
            ) : undefined
          }
        >
          {state || node
            ? "No rollout has this state and worker."
            : "They appear when the first worker submits its pack."}
        </Empty>
      ) : null}
      {rollouts.length > 0 ? (
        <Table
          label="Rollouts"
          head={
            <>
              <Head>State</Head>
              <Head>Rollout</Head>
              <Head>Prompt</Head>
              <Head>Output</Head>
              <Head number>Reward</Head>
              <Head number>Advantage</Head>
              <Head number>Tokens</Head>
              <Head>Finish</Head>
              <Head number>Version</Head>
              <Head>Worker</Head>
              <Head>Reason</Head>
              <Head>Submitted</Head>
            </>
          }
        >
          {rollouts.map(({ group, ...rollout }) => (
            <Row key={rollout.id}>
              <Cell>
                <GroupStateWord state={group.state} />
              </Cell>
              <Cell className="whitespace-nowrap">
                <Link
                  className="font-mono hover:underline"
                  href={`/runs/${runId}/rollouts/${rollout.id}`}
                  title={rollout.id}
                >
                  <span className="sr-only">Rollout </span>
                  {shortId(rollout.id)}
                </Link>
              </Cell>
              <Cell className="max-w-56">
                <UntrustedText line text={group.prompt} />
              </Cell>
              <Cell className="max-w-64">
                <UntrustedText line text={rollout.preview} />
              </Cell>
              <Cell number className="font-medium">
                {formatReward(rollout.reward)}
              </Cell>
              <Cell
                number
                className="text-muted"
                {...(rollout.advantage === null ? { title: "Known when the group is accepted" } : {})}
              >
                {rollout.advantage === null ? absent : formatDifference(rollout.advantage)}
              </Cell>
              <Cell number>{formatCount(rollout.tokens)}</Cell>
              <Cell className="text-muted">{rollout.finishReason}</Cell>
              <Cell number>v{group.policyVersion}</Cell>
              <Cell className="max-w-40">
                <UntrustedText line text={group.node.name} />
              </Cell>
              <Cell className="max-w-64 text-muted">
                {group.reason ? (
                  <UntrustedText line text={group.reason} />
                ) : (
                  acceptanceInWords(group.acceptance, group.retroactive)
                )}
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                <Age at={group.submittedAt} />
              </Cell>
            </Row>
          ))}
        </Table>
      ) : null}
      <Pages
        after={after}
        next={pageInfo?.hasNextPage ? pageInfo.endCursor : null}
        onChange={(cursor) => void setUrl({ after: cursor })}
      />
    </Section>
  );
}

/** How many groups came since the rows on screen were read. */
function useSeen(fresh: number, view: string, loading: boolean): { waiting: number; reset(): void } {
  const [seen, setSeen] = useState(fresh);
  // another filter or page reads the rows anew
  useEffect(() => setSeen(fresh), [view]);
  return { waiting: loading ? 0 : Math.max(0, fresh - seen), reset: () => setSeen(fresh) };
}

function WorkerFilter({
  runId,
  value,
  onChange,
}: {
  runId: string;
  value: string | null;
  onChange(node: string | null): void;
}) {
  const [{ data }] = useSteadyQuery({ query: RolloutWorkersQuery, variables: { id: runId } });
  // whoever only measures or trains has no rollouts to look for
  const workers = data?.run?.workers.edges.filter((edge) => edge.node.roles.includes("WORKER")) ?? [];
  const nodes = workers.map((edge) => edge.node.node);
  const known = value === null || nodes.some((node) => node.id === value);
  const options: { value: string; label: string }[] = [
    { value: "all", label: "All" },
    ...nodes.map((node) => ({ value: node.id, label: plainLine(node.name) })),
    ...(known || value === null ? [] : [{ value, label: shortId(value) }]),
  ];
  return (
    <Select
      label="Worker"
      value={value ?? "all"}
      options={options}
      onChange={(chosen) => onChange(chosen === "all" ? null : chosen)}
    />
  );
}
