"use client";

import { useClient } from "urql";
import { type FragmentOf, graphql, type ResultOf, readFragment } from "../../graphql/graphql.ts";
import type { EventStream } from "../../live/event-stream.ts";
import { useEventStream, useNudge } from "../../live/use-event-stream.ts";
import { useFrameStore } from "../../live/use-frame-store.ts";
import type { DataColumn } from "../../ui/data-table/columns.ts";
import { absent, formatCount, formatReward, formatShare, shortId } from "../../ui/format.ts";
import { Sparkline } from "../../ui/sparkline.tsx";
import { Age } from "../../ui/time.tsx";
import { emptyRunLive, foldRun, type RunLive } from "./run-live.ts";
import { rewardsOf } from "./run-metrics.ts";
import { isOver, RunStateWord, reasonInWords, runStateWord } from "./run-state.tsx";

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

/** A run of the list, still masked: its fields are read by the columns. */
export type RunInList = FragmentOf<typeof RunRowFragment> & { readonly id: string };

export type RunInListData = ResultOf<typeof RunRowFragment>;

export function runOf(run: RunInList): RunInListData {
  return readFragment(RunRowFragment, run);
}

/** While a run is not over its row follows it and reads itself again, at most once a second. Only rows in sight do. */
function Following({ run }: { run: RunInListData }) {
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
  return stream ? <Nudge stream={stream} reload={reload} /> : null;
}

function Nudge({ stream, reload }: { stream: EventStream<RunLive>; reload: () => void }) {
  useNudge(useFrameStore(stream.store).view.touched.run, reload);
  return null;
}

/** What a list of runs can show of one. */
export const runColumns: readonly DataColumn<RunInList>[] = [
  {
    id: "name",
    head: "Name",
    width: 240,
    grow: true,
    cell: (run) => <span className="font-medium">{runOf(run).name}</span>,
    text: (run) => runOf(run).name,
    sort: (run) => runOf(run).name,
  },
  {
    id: "state",
    head: "State",
    width: 112,
    cell: (run) => {
      const { state, stateReason } = runOf(run);
      return (
        <span title={reasonInWords(stateReason)}>
          <RunStateWord state={state} />
          <Following run={runOf(run)} />
        </span>
      );
    },
    text: (run) => runStateWord(runOf(run).state),
    sort: (run) => runOf(run).state,
  },
  {
    id: "step",
    head: "Step",
    number: true,
    width: 104,
    cell: (run) => (
      <>
        {formatCount(runOf(run).step)}{" "}
        <span className="text-subtle">/ {formatCount(runOf(run).stepLimit)}</span>
      </>
    ),
    text: (run) => String(runOf(run).step),
    sort: (run) => runOf(run).step,
  },
  {
    id: "version",
    head: "Version",
    help: "The newest policy version that workers can fetch.",
    number: true,
    width: 76,
    cell: (run) => (runOf(run).currentVersion === null ? absent : `v${runOf(run).currentVersion}`),
    text: (run) => String(runOf(run).currentVersion ?? ""),
    sort: (run) => runOf(run).currentVersion,
    narrow: "none",
  },
  {
    id: "reward",
    head: "Reward",
    help: "Mean reward of the newest trained batch.",
    number: true,
    width: 84,
    cell: (run) => <span className="font-medium">{formatReward(runOf(run).stats.reward)}</span>,
    text: (run) => String(runOf(run).stats.reward ?? ""),
    sort: (run) => runOf(run).stats.reward,
    narrow: "second",
  },
  {
    id: "curve",
    head: "Reward by step",
    width: 152,
    cell: (run) => (
      <Sparkline values={rewardsOf(runOf(run).trainSteps).map(({ reward }) => reward)} label="Reward" />
    ),
    narrow: "none",
  },
  {
    id: "workers",
    head: "Workers",
    help: "Nodes that may generate and were seen within 30 seconds.",
    number: true,
    width: 80,
    cell: (run) => (isOver(runOf(run).state) ? absent : formatCount(runOf(run).stats.workersActive)),
    text: (run) => (isOver(runOf(run).state) ? "" : String(runOf(run).stats.workersActive)),
    sort: (run) => (isOver(runOf(run).state) ? null : runOf(run).stats.workersActive),
    narrow: "none",
  },
  {
    id: "accepted",
    head: "Accepted",
    help: "Groups that count, those without signal among them.",
    number: true,
    width: 88,
    cell: (run) => formatCount(acceptedOf(runOf(run))),
    text: (run) => String(acceptedOf(runOf(run))),
    sort: (run) => acceptedOf(runOf(run)),
  },
  {
    id: "rejected",
    head: "Rejected",
    number: true,
    width: 84,
    cell: (run) => formatCount(runOf(run).stats.groups.rejected),
    text: (run) => String(runOf(run).stats.groups.rejected),
    sort: (run) => runOf(run).stats.groups.rejected,
  },
  {
    id: "rejects",
    head: "Reject %",
    help: "Rejected groups among those judged.",
    number: true,
    width: 84,
    cell: (run) => formatShare(rejectShare(runOf(run))),
    text: (run) => String(rejectShare(runOf(run)) ?? ""),
    sort: (run) => rejectShare(runOf(run)),
    hidden: true,
  },
  {
    id: "environment",
    head: "Environment",
    width: 180,
    cell: (run) => <span className="font-mono text-muted">{runOf(run).environment.slug}</span>,
    text: (run) => runOf(run).environment.slug,
    sort: (run) => runOf(run).environment.slug,
    narrow: "none",
  },
  {
    id: "created",
    head: "Created",
    width: 96,
    first: "down",
    cell: (run) => (
      <span className="text-muted">
        <Age at={runOf(run).createdAt} />
      </span>
    ),
    text: (run) => runOf(run).createdAt,
    sort: (run) => runOf(run).createdAt,
    narrow: "second",
  },
  {
    id: "id",
    head: "Id",
    width: 104,
    cell: (run) => <span className="font-mono text-muted">{shortId(run.id)}</span>,
    text: (run) => run.id,
    hidden: true,
  },
];

function acceptedOf({ stats }: RunInListData): number {
  return stats.groups.accepted + stats.groups.setAside;
}

function rejectShare(run: RunInListData): number | null {
  const { rejected } = run.stats.groups;
  const judged = acceptedOf(run) + rejected;
  return judged === 0 ? null : rejected / judged;
}
