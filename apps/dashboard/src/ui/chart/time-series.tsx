"use client";

import clsx from "clsx";
import { Ellipsis, Table2 } from "lucide-react";
import { useTheme } from "next-themes";
import {
  type KeyboardEvent,
  lazy,
  type MouseEvent,
  type ReactElement,
  useEffect,
  useId,
  useMemo,
  useRef,
  useState,
} from "react";
import type UPlot from "uplot";
import { iconButton } from "../button.tsx";
import { formatClock, formatDuration, formatMetric } from "../format.ts";
import { OnDemand } from "../on-demand.tsx";
import { Help } from "../page.tsx";
import { cursorAfterKey } from "./chart-data.ts";
import { type Axis, useChartGroup } from "./chart-group.tsx";
import type { Ends } from "./chart-range.ts";
import { ChartTable } from "./chart-table.tsx";
import { EventRail } from "./event-rail.tsx";
import type { ChartEvent, Line } from "./lines.ts";
import { createPlot, type Drawing, drawData, lineStride } from "./plot.ts";
import { smooth } from "./smoothing.ts";
import { useBuckets } from "./use-buckets.ts";
import { useInView } from "./use-in-view.ts";

const loadExport = () => import("./chart-export.tsx");
const ExportMenu = lazy(async () => ({ default: (await loadExport()).ChartExportMenu }));

/** Points of a chart: lines over one x. Times are seconds since the epoch. */
export type ChartData = {
  readonly x: readonly number[];
  readonly lines: readonly Line[];
  /** How many values a point stands for, where it is a bucket. */
  readonly n?: readonly number[];
};

export type TimeSeriesProps = {
  /** The metric in words. */
  title: string;
  /** What it is, its raw key and its formula, in a sentence or two. */
  help: string;
  /** Of y; stands once beside the title. */
  unit?: string;
  format?: (value: number | null | undefined) => string;
  /** Limits of y where the metric has natural ones, as a reward has 0 and 1. */
  bounds?: Ends;
  /** Lines across the chart: limits that mean something. */
  thresholds?: readonly { readonly y: number; readonly label: string }[];
  events?: readonly ChartEvent[];
  /** Lines are drawn as areas on top of each other. */
  stacked?: boolean;
  /** Draws over holes, as where several runs share an axis. */
  spanGaps?: boolean;
  /** What is behind a point: a click on it, or Enter. */
  onOpen?(x: number): void;
  height?: number;
} & (
  | ChartData
  | {
      /**
       * Reads points for a part of x, at most about `pixels` of them; called again when the reader zooms, with what was drawn left in
       * place meanwhile. Keep it the same function while it reads the same thing.
       */
      fetchBuckets(range: Ends | undefined, pixels: number, signal: AbortSignal): Promise<ChartData>;
    }
);

const nothing: ChartData = { x: [], lines: [] };

/**
 * A metric over steps, time or tokens. Pointer, keyboard and table all reach every point: drag to zoom, shift-drag to move, alt-wheel to
 * zoom in place, double click to go back. Data is replaced in place, so a live chart never re-mounts.
 */
export function TimeSeries(props: TimeSeriesProps) {
  const { title, help, unit = "", format = formatMetric, events, height = 168, onOpen } = props;
  const group = useChartGroup();
  const { axis, smoothing, logX, logY, range } = group;
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(undefined);
  const inView = useInView(host);
  const [width, setWidth] = useState(0);
  const [index, setIndex] = useState<number | null>(null);
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set());
  const [asTable, setAsTable] = useState(false);
  const { resolvedTheme } = useTheme();
  const id = useId();

  const fetched = useBuckets(
    "fetchBuckets" in props ? props.fetchBuckets : undefined,
    inView ? group.fixed : undefined,
    inView ? width : 0,
  );
  const own = "x" in props ? props : undefined;
  const x = own ? own.x : (fetched.data ?? nothing).x;
  const lines = own ? own.lines : (fetched.data ?? nothing).lines;
  const counts = own ? own.n : (fetched.data ?? nothing).n;

  const drawn = useMemo(
    () =>
      smoothing > 0 ? lines.map((line) => ({ ...line, smooth: smooth(x, line.values, smoothing) })) : lines,
    [x, lines, smoothing],
  );
  const drawing: Drawing = {
    x,
    lines: drawn,
    unit: axis.kind !== "time" ? "number" : axis.elapsed ? "duration" : "moment",
    range,
    bounds: props.bounds,
    thresholds: props.thresholds ?? [],
    stacked: props.stacked ?? false,
    spanGaps: props.spanGaps ?? false,
    logX,
    logY,
    height,
    format,
  };
  const latest = useRef({ drawing, group, onOpen, setIndex });
  latest.current = { drawing, group, onOpen, setIndex };

  // uPlot fixes its series and the kind of its scales when it is made: others are another plot
  const shape = `${lines.map((line) => `${line.label}${line.low ? "±" : ""}${line.slot ?? ""}`).join("|")} ${axis.kind} ${logX} ${logY} ${drawing.stacked}`;
  // the plot reads everything else from `latest`
  useEffect(() => {
    const element = host.current;
    if (element === null || asTable || !inView) return;
    let over = false;
    let made: UPlot | undefined;
    const observer = new ResizeObserver(([entry]) => {
      const wide = Math.floor(entry?.contentRect.width ?? 0);
      if (wide === 0) return;
      setWidth(wide);
      if (made && wide !== made.width) made.setSize({ width: wide, height });
    });
    observer.observe(element);
    void createPlot(element, latest, `${group.name} ${axis.kind}`).then((created) => {
      if (over) return created.destroy();
      made = created;
      plot.current = created;
    });
    return () => {
      over = true;
      observer.disconnect();
      made?.destroy();
      plot.current = undefined;
    };
  }, [shape, asTable, inView, height, group.name]);

  // every render may bring new points
  useEffect(() => {
    plot.current?.setData(drawData(latest.current.drawing));
  }, [x, drawn, range]);

  // the colours are read from the page when it is drawn
  useEffect(() => {
    plot.current?.redraw(false, true);
  }, [resolvedTheme]);

  useEffect(() => {
    lines.forEach((line, i) => {
      for (let part = 0; part < lineStride; part++) {
        plot.current?.setSeries(1 + i * lineStride + part, { show: !hidden.has(line.label) });
      }
    });
  }, [hidden, lines]);

  function onKeyDown(event: KeyboardEvent): void {
    const chart = plot.current;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (!handleKey(event.key)) {
      const next = cursorAfterKey(event.key, index, x.length);
      if (next === undefined || chart === undefined) return;
      // the third argument, left out of the library's types, moves the crosshair of the whole group
      const move: (at: { left: number; top: number }, fireHook: boolean, publish: boolean) => void =
        chart.setCursor;
      move({ left: chart.valToPos(x[next] ?? 0, "x"), top: 10 }, true, true);
      setIndex(next);
    }
    event.preventDefault();
  }

  /** @returns whether the key meant something to the chart besides moving along it. */
  function handleKey(key: string): boolean {
    switch (key) {
      case "Backspace":
        group.back();
        return true;
      case "0":
        group.fit();
        return true;
      case "l":
        group.toggleLogY();
        return true;
      case "k":
        group.toggleLogX();
        return true;
      case "s":
        group.focusSmoothing();
        return true;
      case "f":
        group.toggleFollow();
        return true;
      case "Enter": {
        const at = x[index ?? x.length - 1];
        if (at === undefined || onOpen === undefined) return false;
        onOpen(at);
        return true;
      }
      default:
        return false;
    }
  }

  function toggle(label: string, event: MouseEvent): void {
    if (!event.altKey) {
      setHidden(toggled(hidden, label));
      return;
    }
    const others = lines.filter((line) => line.label !== label).map((line) => line.label);
    const isolated = others.every((other) => hidden.has(other)) && !hidden.has(label);
    setHidden(new Set(isolated ? [] : others));
  }

  const at = index !== null && index < x.length ? index : x.length - 1;
  const atText = x[at] === undefined ? "" : axisText(axis, x[at]);
  const values = lines.map((line) => `${line.label} ${format(line.values[at])}`).join(", ");
  const bucket = counts?.[at] ?? 1;
  const dropped = logY
    ? lines.reduce((sum, line) => sum + line.values.filter((v) => v !== null && v <= 0).length, 0)
    : 0;
  return (
    <figure className="min-w-0" aria-labelledby={`${id}-title`}>
      <figcaption className="mb-1 flex min-h-7 items-start gap-x-3">
        <span className="inline-flex min-h-7 shrink-0 items-center">
          <h3 id={`${id}-title`} className="text-body font-medium">
            {title}
            {unit === "" ? null : <span className="font-normal text-subtle"> {unit}</span>}
          </h3>
          <Help text={help} />
        </span>
        <div className="flex min-w-0 flex-1 flex-wrap gap-x-3 pt-0.5">
          {lines.map((line, i) => (
            <button
              key={line.label}
              type="button"
              className={clsx(
                "inline-flex min-h-6 items-center gap-1.5 text-table",
                hidden.has(line.label) ? "text-subtle line-through" : "text-muted",
              )}
              aria-pressed={!hidden.has(line.label)}
              title={`${hidden.has(line.label) ? "Show" : "Hide"} ${line.label}; with Alt show it alone`}
              onClick={(event) => toggle(line.label, event)}
            >
              <Swatch index={line.slot ?? i} />
              <span className={lines.length > 1 ? "" : "sr-only"}>{line.label}</span>
              <span className="text-fg">{format(line.values[at])}</span>
            </button>
          ))}
          {lines.some(({ low }) => low) && !drawing.stacked ? (
            <span className="inline-flex min-h-6 items-center gap-1.5 text-table text-subtle">
              <span aria-hidden className="h-2 w-3 bg-series-1 opacity-15" />
              least to most of a bucket
            </span>
          ) : null}
          {smoothing > 0 ? (
            <span className="inline-flex min-h-6 items-center text-table text-subtle">
              EMA {smoothing.toFixed(2)}
            </span>
          ) : null}
        </div>
        <span className="inline-flex min-h-7 shrink-0 items-center text-table text-subtle">
          {atText}
          {bucket > 1 ? `, ${bucket} values` : ""}
        </span>
        <span className="inline-flex shrink-0">
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
          <OnDemand popup="dialog" load={loadExport} trigger={exportTrigger(title)}>
            <ExportMenu
              trigger={exportTrigger(title)}
              title={title}
              axis={axis.label}
              x={x}
              lines={lines}
              canvas={() => plot.current?.root.querySelector("canvas") ?? null}
            />
          </OnDemand>
        </span>
      </figcaption>
      {asTable ? (
        <ChartTable title={title} axis={axis.label} x={x} lines={lines} format={format} height={height} />
      ) : (
        <div
          ref={host}
          // biome-ignore lint/a11y/noNoninteractiveTabindex: role application takes keys; without a tab stop the cursor could not be moved by them
          tabIndex={0}
          role="application"
          aria-roledescription="chart"
          aria-label={`${title}. ${help} Arrow keys move along the ${axis.label}s, Home and End go to the ends, Backspace goes back, 0 shows all.`}
          aria-describedby={`${id}-value`}
          aria-busy={fetched.fetching || undefined}
          style={{ height }}
          className="relative"
          onKeyDown={onKeyDown}
        >
          {x.length === 0 && fetched.error === undefined ? (
            <span className="absolute inset-0 flex items-center text-table text-subtle">
              {fetched.fetching ? "Loading …" : "No points yet"}
            </span>
          ) : null}
          {fetched.error === undefined ? null : (
            <span
              role="alert"
              className="absolute inset-0 flex items-center gap-2 text-table text-on-rejected-soft"
            >
              {fetched.error}{" "}
              <button type="button" className="underline underline-offset-2" onClick={fetched.retry}>
                Retry
              </button>
            </span>
          )}
        </div>
      )}
      {events && events.length > 0 && !asTable ? (
        <EventRail title={title} events={events} ends={range ?? endsOfData(x)} logX={logX} />
      ) : null}
      {dropped > 0 ? (
        <p className="text-table text-subtle">
          {dropped} values of zero or less have no place on a logarithmic axis.
        </p>
      ) : null}
      <SpokenValue
        id={`${id}-value`}
        text={x.length === 0 ? "No points yet" : `${atText}: ${values}`}
        moved={index !== null}
      />
    </figure>
  );
}

/** A line's colour; from the seventh on it is dashed, as colours repeat. */
export function Swatch({ index }: { index: number }) {
  return (
    <svg width="12" height="8" aria-hidden="true">
      <line
        x1="0"
        x2="12"
        y1="4"
        y2="4"
        stroke={`var(--series-${(index % 6) + 1})`}
        strokeWidth="2"
        strokeDasharray={index >= 6 ? "3 2" : undefined}
      />
    </svg>
  );
}

function exportTrigger(title: string): ReactElement<React.ComponentProps<"button">> {
  return (
    <button type="button" className={iconButton} aria-label={`Export ${title}`} title="Export">
      <Ellipsis size={14} aria-hidden />
    </button>
  );
}

/** Says the value under the cursor when it has rested, so that holding a key is not a flood; a live chart does not speak by itself. */
function SpokenValue({ id, text, moved }: { id: string; text: string; moved: boolean }) {
  const [said, setSaid] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => setSaid(text), 400);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <span id={id} className="sr-only" aria-live={moved ? "polite" : "off"}>
      {said}
    </span>
  );
}

function axisText({ kind, label, elapsed }: Axis, x: number): string {
  if (kind === "time") return elapsed ? formatDuration(x) : formatClock(new Date(x * 1000));
  return `${label} ${Number.isInteger(x) ? x : formatMetric(x)}`;
}

function endsOfData(x: readonly number[]): Ends | undefined {
  const first = x[0];
  const last = x.at(-1);
  return first === undefined || last === undefined ? undefined : [first, last];
}

function toggled(set: ReadonlySet<string>, item: string): ReadonlySet<string> {
  const next = new Set(set);
  if (!next.delete(item)) next.add(item);
  return next;
}
