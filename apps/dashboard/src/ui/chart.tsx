"use client";

import clsx from "clsx";
import { Table2 } from "lucide-react";
import { useTheme } from "next-themes";
import { type KeyboardEvent, useEffect, useId, useRef, useState } from "react";
import UPlot from "uplot";
import { iconButton } from "./button.tsx";
import { type Column, cursorAfterKey, nearest } from "./chart-data.ts";
import { ChartTable } from "./chart-table.tsx";
import { absent, formatMetric } from "./format.ts";

/** A line of a chart. */
export type Line = Column & { readonly label: string };

export type ChartProps = {
  /** The metric in words. */
  title: string;
  /** What it is, in a sentence; shown on hover and to screen readers. */
  about: string;
  /** Name of the x axis in the singular: "step". */
  axis: string;
  x: readonly number[];
  lines: readonly Line[];
  format?: (value: number | null | undefined) => string;
  /** Limits of y where the metric has natural ones, as a reward has 0 and 1. */
  bounds?: readonly [number, number];
  /** The part of x that is shown; all of it when undefined. */
  range: readonly [number, number] | undefined;
  /** Called with a chosen part of x, or undefined to show all. */
  onRange(range: readonly [number, number] | undefined): void;
  /** Charts with the same name share their crosshair. */
  group: string;
  height?: number;
};

/** A time series. Pointer, keyboard and table all reach every point; data is replaced in place, so a live chart never re-mounts. */
export function Chart(props: ChartProps) {
  const { title, about, axis, x, lines, range, onRange, group, format = formatMetric, height = 168 } = props;
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(undefined);
  const latest = useRef(props);
  latest.current = props;
  const [index, setIndex] = useState<number | null>(null);
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set());
  const [asTable, setAsTable] = useState(false);
  const { resolvedTheme } = useTheme();
  const id = useId();

  // uPlot fixes its series when it is made: another set of lines is another plot
  const shape = lines.map((line) => `${line.label}${line.low ? "±" : ""}`).join("|");
  // the plot reads everything else from `latest`
  useEffect(() => {
    const element = host.current;
    if (element === null || asTable) return;
    const made = new UPlot(
      optionsOf(latest, { width: element.clientWidth || 320, height, group, setIndex }),
      dataOf(latest.current),
      element,
    );
    plot.current = made;
    const observer = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry?.contentRect.width ?? 0);
      if (width > 0 && width !== made.width) made.setSize({ width, height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = undefined;
    };
  }, [shape, asTable, height, group]);

  // every render may bring new points
  useEffect(() => {
    plot.current?.setData(dataOf(latest.current));
  }, [x, lines, range]);

  // the colours are read from the page when it is drawn
  useEffect(() => {
    plot.current?.redraw(false, true);
  }, [resolvedTheme]);

  useEffect(() => {
    lines.forEach((line, i) => {
      for (const at of line.low ? [1 + i * 3, 2 + i * 3, 3 + i * 3] : [1 + i * 3]) {
        plot.current?.setSeries(at, { show: !hidden.has(line.label) });
      }
    });
  }, [hidden, lines]);

  function onKeyDown(event: KeyboardEvent): void {
    const chart = plot.current;
    if (chart === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Backspace" || event.key === "0") {
      event.preventDefault();
      onRange(undefined);
      return;
    }
    const next = cursorAfterKey(event.key, index, x.length);
    if (next === undefined) return;
    event.preventDefault();
    // the third argument, left out of the library's types, moves the crosshair of the whole group
    const move: (at: { left: number; top: number }, fireHook: boolean, publish: boolean) => void =
      chart.setCursor;
    move({ left: chart.valToPos(x[next] ?? 0, "x"), top: 10 }, true, true);
    setIndex(next);
  }

  const at = index !== null && index < x.length ? index : x.length - 1;
  const values = lines.map((line) => `${line.label} ${format(line.values[at])}`).join(", ");
  return (
    <figure className="min-w-0" aria-labelledby={`${id}-title`}>
      <figcaption className="mb-1 flex min-h-7 flex-wrap items-center gap-x-3">
        <h3 id={`${id}-title`} className="text-body font-medium" title={about}>
          {title}
        </h3>
        <div className="flex min-w-0 flex-wrap gap-x-3">
          {lines.map((line, i) => (
            <button
              key={line.label}
              type="button"
              className={clsx(
                "inline-flex min-h-6 items-center gap-1.5 text-table",
                hidden.has(line.label) ? "text-subtle line-through" : "text-muted",
              )}
              aria-pressed={!hidden.has(line.label)}
              title={`${hidden.has(line.label) ? "Show" : "Hide"} ${line.label}`}
              onClick={() => setHidden(toggled(hidden, line.label))}
            >
              <Swatch index={i} />
              <span className={lines.length > 1 ? "" : "sr-only"}>{line.label}</span>
              <span className="text-fg">{format(line.values[at])}</span>
            </button>
          ))}
        </div>
        <span className="ml-auto text-table text-subtle">
          {x.length > 0 ? `${axis} ${x[at] ?? absent}` : ""}
        </span>
        <button
          type="button"
          className={clsx(iconButton, asTable && "bg-raised text-fg")}
          aria-pressed={asTable}
          aria-label={`View ${title} as a table`}
          title="View as a table"
          onClick={() => setAsTable(!asTable)}
        >
          <Table2 size={14} aria-hidden />
        </button>
      </figcaption>
      {asTable ? (
        <ChartTable title={title} axis={axis} x={x} lines={lines} format={format} height={height} />
      ) : (
        <div
          ref={host}
          // biome-ignore lint/a11y/noNoninteractiveTabindex: the arrow keys move the cursor
          tabIndex={0}
          role="application"
          aria-roledescription="chart"
          aria-label={`${title}. ${about} Arrow keys move along the ${axis}s, Home and End go to the ends, Backspace shows all.`}
          aria-describedby={`${id}-value`}
          style={{ height }}
          onKeyDown={onKeyDown}
        />
      )}
      <SpokenValue
        id={`${id}-value`}
        text={x.length === 0 ? "No points yet" : `${axis} ${x[at] ?? ""}: ${values}`}
      />
    </figure>
  );
}

/** Dashes tell the seventh line from the first, as colours repeat. */
export function Swatch({ index }: { index: number }) {
  return (
    <svg width="12" height="8" aria-hidden="true">
      <line x1="0" x2="12" y1="4" y2="4" stroke={`var(--series-${(index % 6) + 1})`} strokeWidth="2" />
    </svg>
  );
}

/** Says the value under the cursor when it has rested, so that holding a key is not a flood. */
function SpokenValue({ id, text }: { id: string; text: string }) {
  const [said, setSaid] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => setSaid(text), 400);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <span id={id} className="sr-only">
      {said}
    </span>
  );
}

type Latest = { readonly current: ChartProps };

/** Three series a line: its low and high edge (not drawn, they bound the band) and the line itself come as [line, low, high]. */
function dataOf({ x, lines }: ChartProps): UPlot.AlignedData {
  const none = x.map(() => null);
  const columns = lines.flatMap((line) => [line.values, line.low ?? none, line.high ?? none]);
  return [x, ...columns] as unknown as UPlot.AlignedData; // uPlot only reads the arrays
}

function optionsOf(
  latest: Latest,
  given: { width: number; height: number; group: string; setIndex(index: number | null): void },
): UPlot.Options {
  const { lines } = latest.current;
  const axis: UPlot.Axis = {
    stroke: () => token("--subtle"),
    font: `12px ${token("--font-geist-sans") || "sans-serif"}`,
    ticks: { show: false },
    grid: { stroke: () => token("--line"), width: 1 },
  };
  return {
    width: given.width,
    height: given.height,
    padding: [6, 10, 0, 0],
    legend: { show: false },
    scales: {
      x: { time: false, range: (_, min, max) => xRange(latest.current, min, max) },
      y: { range: (_, min, max) => yRange(latest.current.bounds, min, max) },
    },
    axes: [
      {
        ...axis,
        size: 24,
        gap: 4,
        space: 56,
        grid: { show: false },
        values: (_, splits) => splits.map((v) => (Number.isInteger(v) ? String(v) : "")),
      },
      { ...axis, size: 52, gap: 4, space: 32, values: (_, splits) => splits.map((v) => formatMetric(v)) },
    ],
    series: [
      {},
      ...lines.flatMap((line, i): UPlot.Series[] => [
        {
          label: line.label,
          stroke: () => token(`--series-${(i % 6) + 1}`),
          width: 1.5,
          ...(i >= 6 ? { dash: [6, 3] } : {}),
          points: {
            show: (_, __, first, last) => last - first < 3,
            size: 5,
            fill: () => token(`--series-${(i % 6) + 1}`),
          },
        },
        { label: `${line.label} low`, points: { show: false } },
        { label: `${line.label} high`, points: { show: false } },
      ]),
    ],
    bands: lines.flatMap((line, i): UPlot.Band[] =>
      line.low
        ? [{ series: [3 + i * 3, 2 + i * 3], fill: () => `${token(`--series-${(i % 6) + 1}`)}24` }]
        : [],
    ),
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      sync: { key: given.group, setSeries: false },
      points: {
        size: 7,
        width: 0,
        fill: (_, series) => token(`--series-${(Math.floor((series - 1) / 3) % 6) + 1}`),
        show: pointElement,
      },
    },
    hooks: {
      setCursor: [
        (chart) =>
          given.setIndex(
            chart.cursor.left === undefined || chart.cursor.left < 0 ? null : (chart.cursor.idx ?? null),
          ),
      ],
      setSelect: [
        (chart) => {
          const { left, width } = chart.select;
          if (width < 6) return;
          const { x, onRange } = latest.current;
          const from = x[nearest(x, chart.posToVal(left, "x"))];
          const to = x[nearest(x, chart.posToVal(left + width, "x"))];
          chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          if (from !== undefined && to !== undefined && to > from) onRange([from, to]);
        },
      ],
      ready: [(chart) => chart.over.addEventListener("dblclick", () => latest.current.onRange(undefined))],
    },
  };
}

/** A dot on the line, none on the edges of its band. */
const pointElement = (_: UPlot, series: number): HTMLElement => {
  const element = document.createElement("div");
  return (series - 1) % 3 === 0 ? element : (undefined as unknown as HTMLElement); // uPlot takes what is no element as none
};

function xRange({ range }: ChartProps, min: number | null, max: number | null): UPlot.Range.MinMax {
  if (range) return [range[0], range[1]];
  if (min === null || max === null) return [0, 1];
  return min === max ? [min - 1, max + 1] : [min, max];
}

function yRange(
  bounds: readonly [number, number] | undefined,
  min: number | null,
  max: number | null,
): UPlot.Range.MinMax {
  if (min === null || max === null) return bounds ? [bounds[0], bounds[1]] : [0, 1];
  const margin = (max - min || Math.abs(max) || 1) * 0.08;
  const low = min - margin;
  const high = max + margin;
  if (bounds === undefined) return [low, high];
  return [Math.max(bounds[0], low), Math.min(bounds[1], high)];
}

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function toggled(set: ReadonlySet<string>, item: string): ReadonlySet<string> {
  const next = new Set(set);
  if (!next.delete(item)) next.add(item);
  return next;
}
