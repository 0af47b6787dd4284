"use client";

import Link from "next/link";
import { useClient } from "urql";
import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import type { EventStream } from "../../live/event-stream.ts";
import { useEventStream, useNudge } from "../../live/use-event-stream.ts";
import { useFrameStore } from "../../live/use-frame-store.ts";
import { absent, formatCount, formatReward } from "../../ui/format.ts";
import { Sparkline } from "../../ui/sparkline.tsx";
import { Cell, Row } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { emptyRunLive, foldRun, type RunLive } from "./run-live.ts";
import { rewardsOf } from "./run-metrics.ts";
import { isOver, RunStateWord, reasonInWords } from "./run-state.tsx";

export const RunRowFragment = graphql(`
  fragment RunRow_run on Run {
    id
    name
    state
    stateReason
    step
    stepLimit
    currentVersion
    createdAt
    asOf
    environment {
      slug
    }
    stats {
      reward
      workersActive
      groups {
        accepted
        setAside
        rejected
      }
    }
    trainSteps(buckets: 60) {
      toStep
      metrics {
        name
        last
      }
    }
  }
`);

const RunRowQuery = graphql(
  `
    query RunRow($id: ID!) {
      run(id: $id) {
        ...RunRow_run
      }
    }
  `,
  [RunRowFragment],
);

/** One run in a list. While it is not over the row follows it and reads itself again, at most once a second. */
export function RunRow({ run: masked }: { run: FragmentOf<typeof RunRowFragment> }) {
  const run = readFragment(RunRowFragment, masked);
  const client = useClient();
  const reload = () => {
    void client.query(RunRowQuery, { id: run.id }, { requestPolicy: "network-only" }).toPromise();
  };
  const stream = useEventStream({
    stream: isOver(run.state) ? undefined : run.id,
    after: run.asOf,
    initial: emptyRunLive,
    fold: foldRun,
    onResync: reload,
  });
  const rewards = rewardsOf(run.trainSteps).map(({ reward }) => reward);
  const { groups, workersActive, reward } = run.stats;
  return (
    <Row>
      <Cell title={reasonInWords(run.stateReason)}>
        <RunStateWord state={run.state} />
        {stream ? <Nudge stream={stream} reload={reload} /> : null}
      </Cell>
      <Cell className="max-w-72">
        <Link href={`/runs/${run.id}`} className="block truncate font-medium hover:underline">
          {run.name}
        </Link>
      </Cell>
      <Cell number>
        {formatCount(run.step)} <span className="text-subtle">/ {formatCount(run.stepLimit)}</span>
      </Cell>
      <Cell number>{run.currentVersion === null ? absent : `v${run.currentVersion}`}</Cell>
      <Cell number className="font-medium">
        {formatReward(reward)}
      </Cell>
      <Cell>
        <Sparkline values={rewards} label="Reward" />
      </Cell>
      <Cell number>{isOver(run.state) ? absent : formatCount(workersActive)}</Cell>
      <Cell number>{formatCount(groups.accepted + groups.setAside)}</Cell>
      <Cell number>{formatCount(groups.rejected)}</Cell>
      <Cell className="whitespace-nowrap font-mono text-muted">{run.environment.slug}</Cell>
      <Cell className="whitespace-nowrap text-muted">
        <Age at={run.createdAt} />
      </Cell>
    </Row>
  );
}

function Nudge({ stream, reload }: { stream: EventStream<RunLive>; reload: () => void }) {
  useNudge(useFrameStore(stream.store).view.touched.run, reload);
  return null;
}
