import type UPlot from "uplot";
import { formatDuration, formatMetric } from "../format.ts";
import { nearest } from "./chart-data.ts";
import type { ChartGroupState } from "./chart-group.tsx";
import { type Ends, panned, steadyLimits, zoomedAt } from "./chart-range.ts";
import { type Line, stacked } from "./lines.ts";

/** What a plot draws; it reads the newest one each time. */
export type Drawing = {
  readonly x: readonly number[];
  readonly lines: readonly (Line & { readonly smooth?: readonly (number | null)[] })[];
  /** What the numbers of x are. */
  readonly unit: "number" | "moment" | "duration";
  readonly range: Ends | undefined;
  readonly bounds: Ends | undefined;
  readonly thresholds: readonly { readonly y: number; readonly label: string }[];
  readonly stacked: boolean;
  readonly spanGaps: boolean;
  readonly logX: boolean;
  readonly logY: boolean;
  readonly height: number;
  format(value: number | null | undefined): string;
};

type Latest = {
  readonly current: {
    readonly drawing: Drawing;
    readonly group: ChartGroupState;
    readonly onOpen: ((x: number) => void) | undefined;
    setIndex(index: number | null): void;
  };
};

/** Series of the plot that make one line: the line, the edges of its band (not drawn), and the raw values behind a smoothed line. */
export const lineStride = 4;

/** Where the plot begins and ends inside its element, for what is drawn beside it. */
export const plotLeft = 52;
export const plotRight = 10;

export function drawData({ x, lines, stacked: onTop, logY }: Drawing): UPlot.AlignedData {
  const none = new Array<null>(x.length).fill(null);
  // a logarithm has no place for the rest
  const shown = (values: readonly (number | null)[]) =>
    logY ? values.map((value) => (value !== null && value > 0 ? value : null)) : values;
  const columns = (onTop ? stacked(lines) : lines).flatMap((line) => {
    const smoothed = "smooth" in line ? line.smooth : undefined;
    return [
      shown(smoothed ?? line.values),
      line.low && !onTop ? shown(line.low) : none,
      line.high && !onTop ? shown(line.high) : none,
      smoothed ? shown(line.values) : none,
    ];
  });
  // its type wants arrays that may be written to; it only reads them, and copies of a million points would be waste
  return [x, ...columns] as unknown as UPlot.AlignedData;
}

/** Makes the plot; its code is fetched with the first one. */
export async function createPlot(element: HTMLElement, latest: Latest, sync: string): Promise<UPlot> {
  const { default: Plot } = await import("uplot");
  const chart = new Plot(
    optionsOf(Plot, latest, element.clientWidth || 320, sync),
    drawData(latest.current.drawing),
    element,
  );
  chart.over.addEventListener(
    "wheel",
    (event) => {
      if (!event.altKey) return;
      event.preventDefault();
      const { group } = latest.current;
      const ends = shownEnds(chart);
      if (ends === undefined || group.extent === undefined) return;
      const at = chart.posToVal(event.offsetX, "x");
      const next = zoomedAt(ends, at, event.deltaY < 0 ? 0.8 : 1.25, group.extent);
      if (next) group.zoom(next, { aside: true });
      else group.fit();
    },
    { passive: false },
  );
  return chart;
}

function optionsOf(Plot: typeof UPlot, latest: Latest, width: number, sync: string): UPlot.Options {
  const { lines, unit, logX, logY, height, stacked: onTop, spanGaps } = latest.current.drawing;
  const axis: UPlot.Axis = {
    stroke: () => token("--subtle"),
    font: `12px ${token("--font-geist-sans") || "sans-serif"}`,
    ticks: { show: false },
    grid: { stroke: () => token("--line"), width: 1 },
  };
  let limits: Ends | undefined;
  let limitsOf = "";
  let pan: { from: number; ends: Ends; moved: Ends } | undefined;
  let pressed = 0;
  return {
    width,
    height,
    padding: [6, plotRight, 0, 0],
    legend: { show: false },
    scales: {
      x: {
        time: unit === "moment",
        distr: logX ? 3 : 1,
        range: (_, min, max) =>
          (pan?.moved.slice(0, 2) as UPlot.Range.MinMax) ?? xRange(latest.current.drawing, min, max),
      },
      y: {
        distr: logY ? 3 : 1,
        range: (_, min, max) => {
          const { drawing } = latest.current;
          if (logY) {
            const low = min !== null && min > 0 ? min : 1e-3;
            return Plot.rangeLog(low, max !== null && max > low ? max : low * 10, 10, false);
          }
          const wanted = yRange(drawing, min, max);
          // another part of x has limits of its own
          const of = `${drawing.range}`;
          limits = steadyLimits(wanted, of === limitsOf ? limits : undefined);
          limitsOf = of;
          return [limits[0], limits[1]];
        },
      },
    },
    axes: [
      {
        ...axis,
        size: 24,
        gap: 4,
        space: 56,
        grid: { show: false },
        values: (chart, splits) =>
          unit === "moment"
            ? timeLabels(splits, shownEnds(chart))
            : splits.map((v) => (v === null ? "" : unit === "duration" ? formatDuration(v) : numberLabel(v))),
      },
      {
        ...axis,
        size: plotLeft,
        gap: 4,
        space: 32,
        values: (_, splits) => splits.map((v) => (v === null ? "" : formatMetric(v))),
      },
    ],
    series: [
      {},
      ...lines.flatMap((line, i): UPlot.Series[] => {
        const slot = line.slot ?? i;
        const colour = () => token(`--series-${(slot % 6) + 1}`);
        return [
          {
            label: line.label,
            stroke: colour,
            width: 1.5,
            spanGaps,
            ...(slot >= 6 ? { dash: [6, 3] } : {}),
            ...(onTop && i === 0 ? { fill: () => `${colour()}1f` } : {}),
            points: { show: (_, __, first, last) => last - first < 3, size: 5, fill: colour },
          },
          { label: `${line.label} low`, points: { show: false } },
          { label: `${line.label} high`, points: { show: false } },
          {
            label: `${line.label} raw`,
            stroke: () => `${colour()}40`,
            width: 1,
            spanGaps,
            points: { show: false },
          },
        ];
      }),
    ],
    bands: lines.flatMap((line, i): UPlot.Band[] => {
      const first = 1 + i * lineStride;
      const slot = line.slot ?? i;
      const fill = (alpha: string) => () => `${token(`--series-${(slot % 6) + 1}`)}${alpha}`;
      if (onTop) return i === 0 ? [] : [{ series: [first, first - lineStride], fill: fill("1f") }];
      return line.low ? [{ series: [first + 2, first + 1], fill: fill("24") }] : [];
    }),
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      sync: { key: sync, setSeries: false },
      points: {
        size: 7,
        width: 0,
        fill: (_, series) => {
          const i = Math.floor((series - 1) / lineStride);
          return token(`--series-${((lines[i]?.slot ?? i) % 6) + 1}`);
        },
        show: pointElement,
      },
      bind: {
        mousedown: (chart, _, handler) => (event) => {
          pressed = event.clientX;
          const ends = shownEnds(chart);
          if (!event.shiftKey || event.button !== 0 || ends === undefined) return handler(event);
          pan = { from: event.clientX, ends, moved: ends };
          const perPixel = (ends[1] - ends[0]) / (chart.over.clientWidth || 1);
          const onMove = (moved: globalThis.MouseEvent) => {
            const { extent } = latest.current.group;
            if (pan === undefined || extent === undefined) return;
            pan.moved = panned(pan.ends, (pan.from - moved.clientX) * perPixel, extent);
            chart.setScale("x", { min: pan.moved[0], max: pan.moved[1] });
          };
          const onUp = () => {
            document.removeEventListener("mousemove", onMove);
            const moved = pan?.moved;
            pan = undefined;
            if (moved && moved !== ends) latest.current.group.zoom(moved);
          };
          document.addEventListener("mousemove", onMove);
          document.addEventListener("mouseup", onUp, { once: true });
          return null;
        },
        dblclick: () => () => {
          latest.current.group.back();
          return null;
        },
        click: (chart) => (event) => {
          const { onOpen, drawing } = latest.current;
          const at = drawing.x[chart.cursor.idx ?? -1];
          if (onOpen && at !== undefined && event.detail === 1 && Math.abs(event.clientX - pressed) < 3)
            onOpen(at);
          return null;
        },
      },
    },
    hooks: {
      setCursor: [
        (chart) =>
          latest.current.setIndex(
            chart.cursor.left === undefined || chart.cursor.left < 0 ? null : (chart.cursor.idx ?? null),
          ),
      ],
      setSelect: [
        (chart) => {
          const { left, width: wide } = chart.select;
          if (wide < 6) return;
          const { drawing, group } = latest.current;
          const ends = [left, left + wide].map((at) => chart.posToVal(at, "x")) as [number, number];
          chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          // whole steps where there are any: a range between two points shows nothing
          const from = drawing.x[nearest(drawing.x, ends[0])];
          const to = drawing.x[nearest(drawing.x, ends[1])];
          if (from !== undefined && to !== undefined && to > from) group.zoom([from, to]);
        },
      ],
      draw: [(chart) => drawThresholds(chart, latest.current.drawing)],
    },
  };
}

/** A dashed line with its name for each limit that is in sight. */
function drawThresholds(chart: UPlot, { thresholds }: Drawing): void {
  const { ctx, bbox } = chart;
  const { min = 0, max = 0 } = chart.scales.y ?? {};
  const pixels = devicePixelRatio;
  for (const { y, label } of thresholds) {
    if (y < min || y > max) continue;
    const at = chart.valToPos(y, "y", true);
    ctx.save();
    ctx.strokeStyle = token("--line-strong");
    ctx.fillStyle = token("--subtle");
    ctx.lineWidth = pixels;
    ctx.setLineDash([4 * pixels, 3 * pixels]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, at);
    ctx.lineTo(bbox.left + bbox.width, at);
    ctx.stroke();
    ctx.font = `${11 * pixels}px ${token("--font-geist-sans") || "sans-serif"}`;
    ctx.textAlign = "right";
    ctx.fillText(label, bbox.left + bbox.width, at - 3 * pixels);
    ctx.restore();
  }
}

/** A dot on the line, none on the edges of its band. */
const pointElement = (_: UPlot, series: number): HTMLElement => {
  const element = document.createElement("div");
  // its type has no way to say so, but what is no element is drawn as none: a dot on each edge of a band would say there is data
  return (series - 1) % lineStride === 0 ? element : (undefined as unknown as HTMLElement);
};

function shownEnds(chart: UPlot): Ends | undefined {
  const { min, max } = chart.scales.x ?? {};
  return min === undefined || max === undefined ? undefined : [min, max];
}

function xRange({ range, logX }: Drawing, min: number | null, max: number | null): UPlot.Range.MinMax {
  if (range && range[0] < range[1]) return [logX ? Math.max(range[0], 1e-9) : range[0], range[1]];
  if (min === null || max === null) return logX ? [1, 10] : [0, 1];
  if (logX) return [Math.max(min, 1e-9), Math.max(max, min + 1)];
  return min === max ? [min - 1, max + 1] : [min, max];
}

function yRange({ bounds, stacked: onTop }: Drawing, min: number | null, max: number | null): Ends {
  if (min === null || max === null) return bounds ?? [0, 1];
  // areas stand on zero
  const least = onTop ? 0 : min;
  // a difference that is only rounding is no range: the library would look for ticks in it for ever
  const size = Math.max(Math.abs(max), Math.abs(least));
  const spread = max - least > size * 1e-9 ? max - least : size || 1;
  const margin = spread * 0.08;
  const low = onTop ? 0 : least - margin;
  const high = max + margin;
  return bounds === undefined ? [low, high] : [Math.max(bounds[0], low), Math.min(bounds[1], high)];
}

function numberLabel(value: number): string {
  return Number.isInteger(value) ? formatMetric(value) : value < 1 ? formatMetric(value) : "";
}

/** Clock or day, as fine as the part in sight needs. */
function timeLabels(splits: readonly number[], ends: Ends | undefined): string[] {
  const span = ends ? ends[1] - ends[0] : 0;
  const options: Intl.DateTimeFormatOptions =
    span > 3 * 86_400
      ? { day: "numeric", month: "short" }
      : span > 2 * 3600
        ? { hour: "2-digit", minute: "2-digit" }
        : { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const format = new Intl.DateTimeFormat("en-GB", options);
  return splits.map((seconds) => format.format(new Date(seconds * 1000)));
}

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
