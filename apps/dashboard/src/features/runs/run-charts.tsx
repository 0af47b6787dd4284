"use client";

import { useMemo } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { axisOf, type Bucket, columnOf, joinLive } from "../../ui/chart/chart-data.ts";
import { type Axis, ChartGroup } from "../../ui/chart/chart-group.tsx";
import type { Line } from "../../ui/chart/lines.ts";
import { TimeSeries } from "../../ui/chart/time-series.tsx";
import { formatMetric } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { useChartView } from "../../ui/view-state.ts";
import { type ChartDefinition, chartDefinitions } from "./chart-definitions.ts";
import type { RunLive } from "./run-live.ts";
import { bucketsOf } from "./run-metrics.ts";

const RunChartsQuery = graphql(`
  query RunCharts($id: ID!, $from: Int, $to: Int, $buckets: Int) {
    run(id: $id) {
      id
      trainSteps(from: $from, to: $to, buckets: $buckets) {
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

const buckets = 400;
const axes: readonly [Axis, ...Axis[]] = [
  { kind: "step", label: "step" },
  { kind: "time", label: "time" },
];

/** The run's curves. They share a crosshair and a range; drag over one to zoom all, or name the steps. */
export function RunCharts({ runId, live }: { runId: string; live: RunLive }) {
  const [view] = useChartView();
  const byTime = view.x === "time";
  // the coordinator buckets by step: a part of time is cut from all of them
  const part = view.range?.kind === "fixed" && !byTime ? view.range : undefined;
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: RunChartsQuery,
    variables: {
      id: runId,
      from: part ? Math.floor(part.from) : null,
      to: part ? Math.ceil(part.to) : null,
      buckets,
    },
  });
  const steps = data?.run?.trainSteps;
  const joined = useMemo(
    () => (steps ? joinLive(bucketsOf(steps), live.points) : undefined),
    [steps, live.points],
  );
  const times = useMemo(
    () => new Map(steps?.map(({ toStep, at }) => [toStep, Date.parse(at) / 1000])),
    [steps],
  );
  const shown = useMemo(
    () => (byTime ? joined?.filter((bucket) => times.has(bucket.to)) : joined),
    [byTime, joined, times],
  );
  const x = useMemo(
    () => axisOf(shown ?? []).map((step) => (byTime ? (times.get(step) ?? 0) : step)),
    [shown, byTime, times],
  );
  const n = useMemo(() => shown?.map((bucket) => bucket.n), [shown]);
  const charts = useMemo(() => (shown ? chartsOf(shown) : []), [shown]);
  return (
    <Section
      title="Curves"
      note={
        joined?.some((bucket) => bucket.n > 1)
          ? "Each point is the last of its steps; the band is their range."
          : undefined
      }
    >
      <QueryState
        query={{ data: joined, error, fetching }}
        retry={retry}
        what="the curves"
        shown="The curves"
        height={200}
      />
      {joined && charts.length === 0 ? (
        <Empty title="No step yet">The first point appears when the first batch is trained.</Empty>
      ) : null}
      {charts.length > 0 ? (
        <ChartGroup name={`run-${runId}`} axes={axes} x={x}>
          <div className="grid gap-x-8 gap-y-5 md:grid-cols-2 xl:grid-cols-3">
            {charts.map(({ definition, lines }) => (
              <TimeSeries
                key={definition.title}
                title={definition.title}
                help={definition.about}
                x={x}
                lines={lines}
                {...(n ? { n } : {})}
                format={definition.format ?? formatMetric}
                {...(definition.bounds ? { bounds: definition.bounds } : {})}
              />
            ))}
          </div>
        </ChartGroup>
      ) : null}
    </Section>
  );
}

function chartsOf(all: readonly Bucket[]): { definition: ChartDefinition; lines: Line[] }[] {
  return chartDefinitions.flatMap((definition) => {
    const lines = definition.lines.flatMap(({ label, names }) => {
      const column = columnOf(all, names);
      return column ? [{ label, ...column }] : [];
    });
    return lines.length === 0 ? [] : [{ definition, lines }];
  });
}
