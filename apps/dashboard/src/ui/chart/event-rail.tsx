import type { Ends } from "./chart-range.ts";
import type { ChartEvent } from "./lines.ts";
import { plotLeft, plotRight } from "./plot.ts";

/** What happened along the axis, on a thin rail under it and never across the lines. */
export function EventRail(props: {
  title: string;
  events: readonly ChartEvent[];
  ends: Ends | undefined;
  logX: boolean;
}) {
  const { title, events, ends, logX } = props;
  if (ends === undefined) return null;
  const scale = logX ? (value: number) => Math.log(Math.max(value, 1e-9)) : (value: number) => value;
  const [from, to] = [scale(ends[0]), scale(ends[1])];
  const shown = events.filter(({ x }) => x >= ends[0] && x <= ends[1]).slice(-200);
  if (shown.length === 0) return null;
  return (
    <ul
      className="relative h-3 border-t border-line"
      aria-label={`What happened, under ${title}`}
      style={{ marginLeft: plotLeft, marginRight: plotRight }}
    >
      {shown.map(({ x, label }, i) => (
        <li
          key={`${x} ${i}`}
          className="absolute top-0 h-3 w-3 -translate-x-1/2"
          style={{ left: `${to === from ? 50 : ((scale(x) - from) / (to - from)) * 100}%` }}
          title={label}
        >
          <span className="mx-auto block h-2 w-px bg-line-strong" />
          <span className="sr-only">{label}</span>
        </li>
      ))}
    </ul>
  );
}
