import { formatReward } from "./format.ts";

const width = 120;
const height = 24;

/** The course of a reward between 0 and 1 in the size of a word. */
export function Sparkline({ values, label }: { values: readonly number[]; label: string }) {
  if (values.length === 0) return <span className="text-subtle">no steps yet</span>;
  const step = values.length > 1 ? (width - 4) / (values.length - 1) : 0;
  const point = (value: number, i: number) =>
    `${(2 + i * step).toFixed(1)},${(height - 2 - Math.min(1, Math.max(0, value)) * (height - 4)).toFixed(1)}`;
  const last = values.at(-1) ?? 0;
  return (
    <svg
      width={width}
      height={height}
      role="img"
      aria-label={`${label}: from ${formatReward(values[0])} to ${formatReward(last)}`}
    >
      <line x1="0" x2={width} y1={height - 0.5} y2={height - 0.5} stroke="var(--line)" />
      {values.length > 1 ? (
        <polyline
          points={values.map(point).join(" ")}
          fill="none"
          stroke="var(--series-1)"
          strokeWidth="1.5"
        />
      ) : null}
      <circle
        cx={2 + (values.length - 1) * step}
        cy={point(last, 0).split(",")[1]}
        r="2"
        fill="var(--series-1)"
      />
    </svg>
  );
}
