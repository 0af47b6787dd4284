"use client";

import dynamic from "next/dynamic";
import { parseAsStringLiteral, useQueryState } from "nuqs";
import { useEffect } from "react";
import { failureOf } from "../../graphql/failure.ts";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import type { EventStream } from "../../live/event-stream.ts";
import { useEventStream, useFollowed, useNudge } from "../../live/use-event-stream.ts";
import { useFrameStore } from "../../live/use-frame-store.ts";
import { useCrumbs } from "../../ui/crumbs.tsx";
import { shortId } from "../../ui/format.ts";
import { Failed, Loading, NotFound, Partial } from "../../ui/states.tsx";
import { Tabs } from "../../ui/tabs.tsx";
import { PhaseStrip, PhaseStripFragment } from "./phase-strip.tsx";
import { RunCounters, RunCountersFragment } from "./run-counters.tsx";
import { RunEvaluations, RunEvaluationsFragment } from "./run-evaluations.tsx";
import { RunHeader, RunHeaderFragment } from "./run-header.tsx";
import { emptyRunLive, foldRun, type RunLive } from "./run-live.ts";
import { RunSpec, RunSpecFragment } from "./run-spec.tsx";

const RunPageQuery = graphql(
  `
    query RunPage($id: ID!) {
      run(id: $id) {
        id
        name
        asOf
        ...RunHeader_run
        ...PhaseStrip_run
        ...RunCounters_run
        ...RunEvaluations_run
        ...RunSpec_run
      }
    }
  `,
  [RunHeaderFragment, PhaseStripFragment, RunCountersFragment, RunEvaluationsFragment, RunSpecFragment],
);

/** One run: what it is doing, whether it learns, who works for it, and what happened. */
export function RunPage({ id }: { id: string }) {
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: RunPageQuery,
    variables: { id },
  });
  const run = data?.run ?? undefined;
  const stream = useEventStream({
    stream: run?.id,
    after: run?.asOf,
    initial: emptyRunLive,
    fold: foldRun,
    onResync: retry,
  });
  useFollowed(stream);
  const name = run?.name;
  useCrumbs([{ label: "Runs", href: "/runs" }, { label: name ?? shortId(id) }]);
  useEffect(() => {
    if (name !== undefined) document.title = `${name} · Muster`;
  }, [name]);

  if (run === undefined) {
    if (error) return <Failed page failure={failureOf(error)} what="this run" retry={retry} />;
    if (fetching || data === undefined) return <Loading what="the run" height={240} />;
    return <NotFound page what="this run" />;
  }
  return (
    <>
      {error ? (
        <Partial retry={retry}>{failureOf(error).message} Some figures may be missing or old.</Partial>
      ) : null}
      {stream ? (
        <LiveRun run={run} stream={stream} reload={retry} />
      ) : (
        <Run run={run} live={emptyRunLive} stream={undefined} />
      )}
    </>
  );
}

type RunData = NonNullable<ResultOf<typeof RunPageQuery>["run"]>;

function LiveRun({
  run,
  stream,
  reload,
}: {
  run: RunData;
  stream: EventStream<RunLive>;
  reload: () => void;
}) {
  const { view, refusal } = useFrameStore(stream.store);
  useNudge(view.touched.run, reload);
  return (
    <>
      {refusal ? (
        <Partial>Live updates were refused: {refusal.message} Reload the page to see what is new.</Partial>
      ) : null}
      <Run run={run} live={view} stream={stream} />
    </>
  );
}

// each tab brings its own code
const loading = () => <Loading what="this part of the run" height={240} />;
const RunCharts = dynamic(async () => (await import("./run-charts.tsx")).RunCharts, { loading });
const RolloutsTable = dynamic(async () => (await import("../rollouts/rollouts-table.tsx")).RolloutsTable, {
  loading,
});
const RunWorkers = dynamic(async () => (await import("./run-workers.tsx")).RunWorkers, { loading });
const RunVerification = dynamic(
  async () => (await import("../verification/run-verification.tsx")).RunVerification,
  { loading },
);
const RunEvents = dynamic(async () => (await import("./run-events.tsx")).RunEvents, { loading });

const tabs = ["training", "rollouts", "verification", "workers", "events", "spec"] as const;

function Run({
  run,
  live,
  stream,
}: {
  run: RunData;
  live: RunLive;
  stream: EventStream<RunLive> | undefined;
}) {
  const [tab, setTab] = useQueryState(
    "tab",
    parseAsStringLiteral(tabs).withDefault("training").withOptions({ history: "push" }),
  );
  return (
    <>
      <RunHeader run={run} live={live} />
      <PhaseStrip run={run} live={live} />
      <div className="mt-4">
        <Tabs
          label="Parts of the run"
          value={tab}
          onChange={(value) => void setTab(value)}
          tabs={[
            {
              value: "training",
              label: "Training",
              panel: (
                <div className="grid gap-8">
                  <RunCharts runId={run.id} live={live} />
                  <RunEvaluations run={run} />
                  <RunCounters run={run} touched={live.touched.run} />
                </div>
              ),
            },
            {
              value: "rollouts",
              label: "Rollouts",
              panel: <RolloutsTable runId={run.id} fresh={live.newGroups} decided={live.touched.rollouts} />,
            },
            {
              value: "verification",
              label: "Verification",
              panel: <RunVerification runId={run.id} touched={live.touched.verification} />,
            },
            {
              value: "workers",
              label: "Workers",
              panel: <RunWorkers runId={run.id} touched={live.touched.workers} />,
            },
            { value: "events", label: "Events", panel: <RunEvents stream={stream} /> },
            { value: "spec", label: "Spec", panel: <RunSpec run={run} /> },
          ]}
        />
      </div>
    </>
  );
}
