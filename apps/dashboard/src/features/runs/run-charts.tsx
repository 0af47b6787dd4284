"use client";

import { parseAsInteger, useQueryStates } from "nuqs";
import { useEffect, useMemo, useState } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { Button } from "../../ui/button.tsx";
import { Chart, type Line } from "../../ui/chart.tsx";
import { axisOf, type Bucket, columnOf, joinLive } from "../../ui/chart-data.ts";
import { formatMetric, formatReward } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import type { RunLive } from "./run-live.ts";
import { bucketsOf, rewardName } from "./run-metrics.ts";

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

type Definition = {
  title: string;
  about: string;
  lines: readonly { label: string; names: readonly string[] }[];
  format?: (value: number | null | undefined) => string;
  bounds?: readonly [number, number];
};

const definitions: readonly Definition[] = [
  {
    title: "Reward",
    about:
      "Mean reward over every rollout of the step's settled groups, computed by the coordinator (metric: meanReward).",
    lines: [{ label: "Reward", names: [rewardName] }],
    format: formatReward,
    bounds: [0, 1],
  },
  {
    title: "Loss",
    about:
      "The clipped policy loss of the step with its penalties, as the trainer reports it (metric: loss).",
    lines: [{ label: "Loss", names: ["loss"] }],
  },
  {
    title: "Entropy",
    about:
      "Mean entropy of the policy over the trained tokens, in nats: near zero it has stopped exploring (metric: entropy).",
    lines: [{ label: "Entropy", names: ["entropy"] }],
  },
  {
    title: "Divergence",
    about:
      "Estimated divergence between the policy that generated and the one that is trained, in nats (metric: kl).",
    lines: [{ label: "KL", names: ["kl"] }],
  },
  {
    title: "Clipped tokens",
    about:
      "Share of trained tokens whose probability ratio left the clip range (metrics: clipLow, clipHigh).",
    lines: [
      { label: "Below", names: ["clipLow"] },
      { label: "Above", names: ["clipHigh"] },
    ],
    bounds: [0, 1],
  },
  {
    title: "Gradient norm",
    about: "Length of the gradient before it is clipped (metric: gradNorm).",
    lines: [{ label: "Norm", names: ["gradNorm"] }],
  },
];

const buckets = 400;

/** The run's curves. They share a crosshair and a range; drag over one to zoom all, or name the steps. */
export function RunCharts({ runId, live }: { runId: string; live: RunLive }) {
  const [{ from, to }, setRange] = useQueryStates(
    { from: parseAsInteger, to: parseAsInteger },
    { history: "replace", throttleMs: 200 },
  );
  const range = from !== null && to !== null && from < to ? ([from, to] as const) : undefined;
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: RunChartsQuery,
    variables: { id: runId, from: range?.[0] ?? null, to: range?.[1] ?? null, buckets },
  });
  const steps = data?.run?.trainSteps;
  const joined = useMemo(
    () => (steps ? joinLive(bucketsOf(steps), live.points) : undefined),
    [steps, live.points],
  );
  const charts = useMemo(() => (joined ? chartsOf(joined) : []), [joined]);
  const zoom = (chosen: readonly [number, number] | undefined) =>
    void setRange(chosen ? { from: chosen[0], to: chosen[1] } : { from: null, to: null });

  return (
    <Section
      title="Curves"
      note={
        joined?.some((bucket) => bucket.n > 1)
          ? "Each point is the last of its steps; the band is their range."
          : undefined
      }
      actions={
        <RangeFields
          key={`${from}-${to}`}
          range={range}
          first={joined?.[0]?.from}
          last={joined?.at(-1)?.to}
          onRange={zoom}
        />
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
      <div className="grid gap-x-8 gap-y-5 md:grid-cols-2 xl:grid-cols-3">
        {charts.map(({ definition, x, lines }) => (
          <Chart
            key={definition.title}
            title={definition.title}
            about={definition.about}
            axis="step"
            x={x}
            lines={lines}
            format={definition.format ?? formatMetric}
            {...(definition.bounds ? { bounds: definition.bounds } : {})}
            range={range}
            onRange={zoom}
            group={`run-${runId}`}
          />
        ))}
      </div>
    </Section>
  );
}

function chartsOf(all: readonly Bucket[]): { definition: Definition; x: number[]; lines: Line[] }[] {
  return definitions.flatMap((definition) => {
    const lines = definition.lines.flatMap(({ label, names }) => {
      const column = columnOf(all, names);
      return column ? [{ label, ...column }] : [];
    });
    return lines.length === 0 ? [] : [{ definition, x: axisOf(all), lines }];
  });
}

/** What dragging does, for those who do not drag. */
function RangeFields(props: {
  range: readonly [number, number] | undefined;
  first: number | undefined;
  last: number | undefined;
  onRange(range: readonly [number, number] | undefined): void;
}) {
  const { range, first, last, onRange } = props;
  const [from, setFrom] = useState(range ? String(range[0]) : "");
  const [to, setTo] = useState(range ? String(range[1]) : "");
  useEffect(() => {
    setFrom(range ? String(range[0]) : "");
    setTo(range ? String(range[1]) : "");
  }, [range?.[0], range?.[1]]);
  return (
    <form
      className="flex items-center gap-1.5 text-table text-subtle"
      onSubmit={(event) => {
        event.preventDefault();
        const low = Number(from || first);
        const high = Number(to || last);
        if (Number.isInteger(low) && Number.isInteger(high) && low < high) onRange([low, high]);
      }}
    >
      <span>Steps</span>
      <input
        className="control w-16 text-table"
        inputMode="numeric"
        aria-label="From step"
        placeholder={String(first ?? "")}
        value={from}
        onChange={(event) => setFrom(event.target.value)}
      />
      <span>to</span>
      <input
        className="control w-16 text-table"
        inputMode="numeric"
        aria-label="To step"
        placeholder={String(last ?? "")}
        value={to}
        onChange={(event) => setTo(event.target.value)}
      />
      <Button type="submit">Zoom</Button>
      {range ? <Button onClick={() => onRange(undefined)}>Show all</Button> : null}
    </form>
  );
}
