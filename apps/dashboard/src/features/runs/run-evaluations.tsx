"use client";

import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { absent, formatDifference, formatExact, formatReward } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Empty } from "../../ui/states.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";

export const RunEvaluationsFragment = graphql(`
  fragment RunEvaluations_run on Run {
    id
    evaluations {
      id
      version
      suite
      n
      mean
      ciLow
      ciHigh
      gain
      gainLow
      gainHigh
      createdAt
    }
  }
`);

/** Held-out reward of chosen versions. A difference never stands without the baseline, n and its interval. */
export function RunEvaluations({ run: masked }: { run: FragmentOf<typeof RunEvaluationsFragment> }) {
  const { evaluations } = readFragment(RunEvaluationsFragment, masked);
  const sorted = evaluations.toSorted((a, b) => a.suite.localeCompare(b.suite) || a.version - b.version);
  return (
    <Section
      title="Evaluations"
      note="Held-out examples the run never trains on. Gains are paired: the same examples and seeds as version 0."
    >
      {sorted.length === 0 ? (
        <Empty title="Nothing evaluated yet">
          The spec names the versions to evaluate; the base, version 0, comes first.
        </Empty>
      ) : (
        <Table
          label="Evaluations"
          head={
            <>
              <Head>Version</Head>
              <Head>Suite</Head>
              <Head number>Examples (n)</Head>
              <Head number>Mean reward</Head>
              <Head number>95 % interval</Head>
              <Head className="w-[24%] min-w-40">0 to 1</Head>
              <Head number>Gain over version 0</Head>
              <Head number>95 % interval of the gain</Head>
              <Head>Measured</Head>
            </>
          }
        >
          {sorted.map((evaluation) => (
            <Row key={evaluation.id}>
              <Cell className="whitespace-nowrap font-medium">
                {evaluation.version === 0 ? "v0, the base" : `v${evaluation.version}`}
              </Cell>
              <Cell className="font-mono text-muted">{evaluation.suite}</Cell>
              <Cell number>{formatExact(evaluation.n)}</Cell>
              <Cell number className="font-medium">
                {formatReward(evaluation.mean)}
              </Cell>
              <Cell number className="text-muted">
                {interval(formatReward, evaluation.ciLow, evaluation.ciHigh)}
              </Cell>
              <Cell>
                <Interval mean={evaluation.mean} low={evaluation.ciLow} high={evaluation.ciHigh} />
              </Cell>
              <Cell number className="font-medium">
                {evaluation.gain === null ? (
                  <span className="font-normal text-subtle">baseline</span>
                ) : (
                  formatDifference(evaluation.gain)
                )}
              </Cell>
              <Cell number className="text-muted">
                {evaluation.gainLow === null || evaluation.gainHigh === null
                  ? absent
                  : interval(formatDifference, evaluation.gainLow, evaluation.gainHigh)}
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                <Age at={evaluation.createdAt} />
              </Cell>
            </Row>
          ))}
        </Table>
      )}
    </Section>
  );
}

function interval(format: (value: number) => string, low: number, high: number): string {
  return `${format(low)} to ${format(high)}`;
}

/** Mean and interval on a scale from 0 to 1; the columns beside it say the same in numbers. */
function Interval({ mean, low, high }: { mean: number; low: number; high: number }) {
  const x = (value: number) => Math.min(1, Math.max(0, value)) * 100;
  return (
    <svg viewBox="0 0 100 12" preserveAspectRatio="none" className="block h-3 w-full" aria-hidden="true">
      <line x1="0" x2="100" y1="6" y2="6" stroke="var(--line)" vectorEffect="non-scaling-stroke" />
      <line
        x1={x(low)}
        x2={x(high)}
        y1="6"
        y2="6"
        stroke="var(--series-1)"
        strokeWidth="2"
        vectorEffect="non-scaling-stroke"
      />
      <line
        x1={x(mean)}
        x2={x(mean)}
        y1="1"
        y2="11"
        stroke="var(--series-1)"
        strokeWidth="2"
        vectorEffect="non-scaling-stroke"
      />
    </svg>
  );
}
