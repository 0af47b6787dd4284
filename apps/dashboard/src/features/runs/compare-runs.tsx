"use client";

import { X } from "lucide-react";
import Link from "next/link";
import { useEffect, useMemo, useState } from "react";
import { type CombinedError, useClient } from "urql";
import { failureOf } from "../../graphql/failure.ts";
import { graphql, type ResultOf } from "../../graphql/graphql.ts";
import { iconButton } from "../../ui/button.tsx";
import { columnOf } from "../../ui/chart/chart-data.ts";
import { type Axis, ChartGroup } from "../../ui/chart/chart-group.tsx";
import { joinLines, slotsOf } from "../../ui/chart/lines.ts";
import { Swatch, TimeSeries } from "../../ui/chart/time-series.tsx";
import { absent, formatDifference, formatExact, formatMetric, formatReward } from "../../ui/format.ts";
import { Page, Panel } from "../../ui/page.tsx";
import { Empty, Failed, Loading, Partial } from "../../ui/states.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { useChartView, useCompared } from "../../ui/view-state.ts";
import { chartDefinitions } from "./chart-definitions.ts";
import { bucketsOf } from "./run-metrics.ts";
import { RunStateWord } from "./run-state.tsx";
import { specDiff } from "./spec-diff.ts";

const CompareRunQuery = graphql(`
  query CompareRun($id: ID!) {
    run(id: $id) {
      id
      name
      state
      step
      revision {
        id
        spec
      }
      stats {
        reward
      }
      evaluations {
        id
        version
        mean
        ciLow
        ciHigh
        gain
        n
      }
      trainSteps(buckets: 400) {
        fromStep
        toStep
        n
        at
        metrics {
          name
          min
          max
          last
        }
      }
    }
  }
`);

type Run = NonNullable<ResultOf<typeof CompareRunQuery>["run"]>;

const most = 8;
const axes: readonly [Axis, ...Axis[]] = [
  { kind: "step", label: "step" },
  { kind: "time", label: "run time", elapsed: true },
];

/** Up to eight runs over each other: their curves, where they ended, and in what their specs differ. */
export function CompareRuns() {
  const [compared, setCompared] = useCompared();
  const ids = useMemo(() => [...new Set(compared)].slice(0, most), [compared]);
  const { runs, errors, loading } = useRuns(ids);
  const slots = useMemo(() => slotsOf(ids), [ids]);
  return (
    <Page title="Compare" crumbs={[{ label: "Runs", href: "/runs" }]}>
      {ids.length < 2 ? (
        <Empty
          title="Nothing to compare"
          action={
            <Link className="underline underline-offset-2" href="/runs">
              Choose runs
            </Link>
          }
        >
          Select between two and eight runs in the list and press <kbd className="keycap">V</kbd>.
        </Empty>
      ) : null}
      {errors.map((error) =>
        runs.length > 0 ? (
          <Partial key={error.message}>{failureOf(error).message} One run is missing here.</Partial>
        ) : (
          <Failed key={error.message} failure={failureOf(error)} what="these runs" />
        ),
      )}
      {loading && runs.length === 0 ? <Loading what="the runs" height={320} /> : null}
      {runs.length > 0 ? (
        <div className="grid gap-8">
          <Finals
            runs={runs}
            slots={slots}
            onRemove={(id) => void setCompared(ids.filter((each) => each !== id))}
          />
          <Curves runs={runs} slots={slots} />
          <Differences runs={runs} slots={slots} />
        </div>
      ) : null}
    </Page>
  );
}

function Curves({ runs, slots }: { runs: readonly Run[]; slots: ReadonlyMap<string, number> }) {
  const [view] = useChartView();
  const byTime = view.x === "time";
  const charts = useMemo(() => {
    const parts = runs.map((run) => {
      const buckets = bucketsOf(run.trainSteps);
      const start = Date.parse(run.trainSteps[0]?.at ?? "");
      const x = run.trainSteps.map(({ toStep, at }) => (byTime ? (Date.parse(at) - start) / 1000 : toStep));
      return { run, buckets, x };
    });
    return chartDefinitions.flatMap((definition) => {
      const [line] = definition.lines;
      const lines = parts.flatMap(({ run, buckets, x }) => {
        const column = line ? columnOf(buckets, line.names) : undefined;
        const slot = slots.get(run.id) ?? 0;
        return column ? [{ x, line: { label: run.name, slot, values: column.values } }] : [];
      });
      return lines.length === 0 ? [] : [{ definition, ...joinLines(lines) }];
    });
  }, [runs, slots, byTime]);
  const longest = charts.reduce<readonly number[]>((all, { x }) => (x.length > all.length ? x : all), []);
  if (charts.length === 0) return <Empty title="No step yet">None of these runs has trained a step.</Empty>;
  return (
    <Panel
      title="Curves"
      help="Each run keeps its colour in every chart. Every value is the last of its bucket."
    >
      <ChartGroup name="compare" axes={axes} x={longest}>
        <div className="grid gap-x-8 gap-y-5 md:grid-cols-2">
          {charts.map(({ definition, x, lines }) => (
            <TimeSeries
              key={definition.title}
              title={definition.title}
              help={definition.about}
              x={x}
              lines={lines}
              spanGaps
              format={definition.format ?? formatMetric}
              {...(definition.bounds ? { bounds: definition.bounds } : {})}
            />
          ))}
        </div>
      </ChartGroup>
    </Panel>
  );
}

/** Where each run stands now. The best of a column is bold: a difference inside the intervals is none. */
function Finals(props: {
  runs: readonly Run[];
  slots: ReadonlyMap<string, number>;
  onRemove(id: string): void;
}) {
  const { runs, slots, onRemove } = props;
  const rows = runs.map((run) => ({
    run,
    evaluation: run.evaluations.toSorted((a, b) => b.version - a.version)[0],
  }));
  const bestReward = Math.max(...rows.map(({ run }) => run.stats.reward ?? Number.NEGATIVE_INFINITY));
  const bestMean = Math.max(...rows.map(({ evaluation }) => evaluation?.mean ?? Number.NEGATIVE_INFINITY));
  return (
    <Panel
      title="Finals"
      help="The newest reward of training, and the newest evaluation with its 95 % interval."
    >
      <Table
        label="Finals"
        head={
          <>
            <Head>Run</Head>
            <Head>State</Head>
            <Head number>Step</Head>
            <Head number>Reward</Head>
            <Head number>Evaluated</Head>
            <Head number>Mean</Head>
            <Head number>95 % interval</Head>
            <Head number>Gain over version 0</Head>
            <Head number>n</Head>
            <Head>
              <span className="sr-only">Remove</span>
            </Head>
          </>
        }
      >
        {rows.map(({ run, evaluation }) => (
          <Row key={run.id}>
            <Cell>
              <Link href={`/runs/${run.id}`} className="inline-flex items-center gap-2 hover:underline">
                <Swatch index={slots.get(run.id) ?? 0} />
                {run.name}
              </Link>
            </Cell>
            <Cell>
              <RunStateWord state={run.state} />
            </Cell>
            <Cell number>{formatExact(run.step)}</Cell>
            <Cell number className={run.stats.reward === bestReward ? "font-semibold" : ""}>
              {formatReward(run.stats.reward)}
            </Cell>
            <Cell number>{evaluation ? `v${evaluation.version}` : absent}</Cell>
            <Cell number className={evaluation?.mean === bestMean ? "font-semibold" : ""}>
              {formatReward(evaluation?.mean)}
            </Cell>
            <Cell number className="text-muted">
              {evaluation
                ? `${formatReward(evaluation.ciLow)} to ${formatReward(evaluation.ciHigh)}`
                : absent}
            </Cell>
            <Cell number>
              {evaluation?.gain === null || evaluation === undefined
                ? absent
                : formatDifference(evaluation.gain)}
            </Cell>
            <Cell number>{evaluation ? formatExact(evaluation.n) : absent}</Cell>
            <Cell number>
              <button
                type="button"
                className={iconButton}
                aria-label={`Take ${run.name} out`}
                title="Take out"
                onClick={() => onRemove(run.id)}
              >
                <X size={14} aria-hidden />
              </button>
            </Cell>
          </Row>
        ))}
      </Table>
    </Panel>
  );
}

function Differences({ runs, slots }: { runs: readonly Run[]; slots: ReadonlyMap<string, number> }) {
  const differences = useMemo(() => specDiff(runs.map((run) => run.revision.spec)), [runs]);
  return (
    <Panel title="Specs" help="Only settings that are not the same in all of them.">
      {differences.length === 0 ? (
        <Empty title="The specs are the same">They differ in nothing but chance.</Empty>
      ) : (
        <Table
          label="Differences between the specs"
          head={
            <>
              <Head>Setting</Head>
              {runs.map((run) => (
                <Head key={run.id}>
                  <span className="inline-flex items-center gap-2">
                    <Swatch index={slots.get(run.id) ?? 0} />
                    {run.name}
                  </span>
                </Head>
              ))}
            </>
          }
        >
          {differences.map(({ path, values }) => (
            <Row key={path}>
              <Cell className="whitespace-nowrap font-mono text-muted">{path}</Cell>
              {values.map((value, i) => (
                <Cell key={runs[i]?.id} className="max-w-72 truncate" title={value}>
                  {value ?? <span className="text-subtle">not set</span>}
                </Cell>
              ))}
            </Row>
          ))}
        </Table>
      )}
    </Panel>
  );
}

/** Several runs at once, in the order of their ids; each is shown as soon as it is there. */
function useRuns(ids: readonly string[]) {
  const client = useClient();
  const [found, setFound] = useState<ReadonlyMap<string, { run?: Run; error?: CombinedError }>>(new Map());
  useEffect(() => {
    const subscriptions = ids.map((id) =>
      client.query(CompareRunQuery, { id }, { requestPolicy: "cache-and-network" }).subscribe((result) => {
        const run = result.data?.run;
        const entry = { ...(run ? { run } : {}), ...(result.error ? { error: result.error } : {}) };
        setFound((before) => new Map(before).set(id, entry));
      }),
    );
    return () => {
      for (const { unsubscribe } of subscriptions) unsubscribe();
    };
  }, [client, ids]);
  const runs = useMemo(() => ids.flatMap((id) => found.get(id)?.run ?? []), [ids, found]);
  return {
    runs,
    errors: ids.flatMap((id) => found.get(id)?.error ?? []),
    loading: ids.some((id) => !found.has(id)),
  };
}
