"use client";

import { createContext, type ReactNode, useContext, useId, useMemo, useRef, useState } from "react";
import { Button } from "../button.tsx";
import { formatCount } from "../format.ts";
import { Select } from "../select.tsx";
import { useChartView, type XKind, type XRange } from "../view-state.ts";
import { type Ends, endsOf, newerThan } from "./chart-range.ts";

/** An x axis that the charts of a page can have. */
export type Axis = {
  readonly kind: XKind;
  /** In the singular: `step`. */
  readonly label: string;
  /** A time that counts seconds from a beginning, not a moment. */
  readonly elapsed?: boolean;
};

/** What the charts of a group share. */
export type ChartGroupState = {
  readonly name: string;
  readonly axis: Axis;
  /** What is drawn of x; all of it when undefined. */
  readonly range: Ends | undefined;
  /** What the reader fixed, to ask the coordinator for: a window that follows the end asks for everything. */
  readonly fixed: Ends | undefined;
  readonly extent: Ends | undefined;
  /** From 0 to 0.99. */
  readonly smoothing: number;
  readonly logX: boolean;
  readonly logY: boolean;
  /** Shows a part of x. `aside` is no step to come back to, as while a wheel turns. */
  zoom(ends: Ends, options?: { aside: boolean }): void;
  /** Goes back to what was shown before the last zoom. */
  back(): void;
  fit(): void;
  toggleFollow(): void;
  toggleLogX(): void;
  toggleLogY(): void;
  /** Takes the focus to the smoothing slider. */
  focusSmoothing(): void;
};

const GroupContext = createContext<ChartGroupState | undefined>(undefined);

export function useChartGroup(): ChartGroupState {
  const group = useContext(GroupContext);
  if (group === undefined) throw new Error("A chart needs a ChartGroup above it.");
  return group;
}

/**
 * Charts that share an x axis: one crosshair, one range, one toolbar; all of it in the address.
 * @param props.x points of the charts, to say what there is and how many came; `extent` where no chart has them all.
 */
export function ChartGroup(props: {
  name: string;
  axes: readonly [Axis, ...Axis[]];
  x?: readonly number[];
  extent?: Ends;
  /** Left in the toolbar. */
  tools?: ReactNode;
  /** Without a toolbar for a single small chart. */
  bare?: boolean;
  children: ReactNode;
}) {
  const { name, axes, x, tools, bare = false, children } = props;
  const [view, setView] = useChartView();
  const stack = useRef<(XRange | null)[]>([]);
  const slider = useRef<HTMLInputElement>(null);
  const [held, setHeld] = useState<number>();
  const first = x?.[0];
  const last = x?.at(-1);
  const extent: Ends | undefined =
    props.extent ?? (first === undefined || last === undefined ? undefined : [first, last]);
  const axis = axes.find(({ kind }) => kind === view.x) ?? axes[0];
  const log = view.log ?? "";
  const from = extent?.[0];
  const to = extent?.[1];

  const state = useMemo((): ChartGroupState => {
    const range = endsOf(view.range, extent);
    const show = (wanted: XRange | null) => {
      // a part without width cannot be drawn
      const empty =
        wanted?.kind === "fixed" ? !(wanted.from < wanted.to) : wanted !== null && !(wanted.span > 0);
      const next = empty ? null : wanted;
      setHeld(next?.kind === "fixed" ? extent?.[1] : undefined);
      void setView({ range: next });
    };
    const toggleLog = (letter: "x" | "y") => {
      const letters = ["x", "y"].filter((each) => log.includes(each) !== (each === letter)).join("");
      void setView({ log: letters === "" ? null : (letters as "x" | "y" | "xy") });
    };
    return {
      name,
      axis,
      range,
      fixed: view.range?.kind === "fixed" ? [view.range.from, view.range.to] : undefined,
      extent,
      smoothing: Math.min(0.99, Math.max(0, view.sm)),
      logX: log.includes("x"),
      logY: log.includes("y"),
      zoom(ends, options) {
        if (!options?.aside) stack.current = [...stack.current.slice(-49), view.range];
        show({ kind: "fixed", from: rounded(ends[0], ends), to: rounded(ends[1], ends) });
      },
      back: () => show(stack.current.pop() ?? null),
      fit() {
        stack.current = [];
        show(null);
      },
      toggleFollow() {
        if (extent === undefined) return;
        if (view.range?.kind !== "fixed" && range)
          return show({ kind: "fixed", from: range[0], to: range[1] });
        if (view.range === null) return show({ kind: "fixed", from: extent[0], to: extent[1] });
        show(range ? { kind: "last", span: range[1] - range[0] } : null);
      },
      toggleLogX: () => toggleLog("x"),
      toggleLogY: () => toggleLog("y"),
      focusSmoothing: () => slider.current?.focus(),
    };
  }, [name, axis, view.range, view.sm, log, from, to, setView]);

  const holding = view.range?.kind === "fixed";
  const fresh = holding && x ? newerThan(x, held) : 0;
  return (
    <GroupContext value={state}>
      {bare ? null : (
        <div
          role="toolbar"
          aria-label="Charts"
          className="mb-3 flex flex-wrap items-center gap-x-4 gap-y-1.5"
        >
          {axes.length > 1 ? (
            <Select
              label="X axis"
              value={axis.kind}
              options={axes.map(({ kind, label }) => ({ value: kind, label }))}
              onChange={(kind) => {
                stack.current = [];
                void setView({ x: kind === axes[0].kind ? null : kind, range: null });
              }}
            />
          ) : null}
          <RangeFields state={state} />
          <Smoothing
            state={state}
            slider={slider}
            onChange={(sm) => void setView({ sm: sm === 0 ? null : sm })}
          />
          <span className="inline-flex items-center gap-1 text-table text-subtle">
            Log
            <Button
              tone="quiet"
              aria-pressed={state.logX}
              aria-label="Log x"
              className="px-1.5 aria-pressed:bg-raised aria-pressed:text-fg"
              onClick={state.toggleLogX}
            >
              x
            </Button>
            <Button
              tone="quiet"
              aria-pressed={state.logY}
              aria-label="Log y"
              className="px-1.5 aria-pressed:bg-raised aria-pressed:text-fg"
              onClick={state.toggleLogY}
            >
              y
            </Button>
          </span>
          {holding ? (
            <Button tone={fresh > 0 ? "primary" : "plain"} onClick={state.toggleFollow}>
              {fresh > 0 ? `+${formatCount(fresh)} new →` : "Follow"}
            </Button>
          ) : (
            <Button tone="quiet" onClick={state.toggleFollow} title="Keep what is shown in place (f)">
              Hold
            </Button>
          )}
          {tools}
        </div>
      )}
      {children}
    </GroupContext>
  );
}

/** A range is chosen by hand: more digits than it can mean only make the address long. */
function rounded(value: number, [from, to]: Ends): number {
  if (to - from >= 20) return Math.round(value);
  return Number(value.toPrecision(8));
}

/** What dragging does, for those who do not drag. */
function RangeFields({ state }: { state: ChartGroupState }) {
  const { axis, range, extent, zoom, fit } = state;
  if (axis.kind === "time") {
    // nobody types moments
    return range ? <Button onClick={fit}>Show all</Button> : null;
  }
  return (
    <form
      key={`${range?.[0]}-${range?.[1]}`}
      className="flex items-center gap-1.5 text-table text-subtle"
      onSubmit={(event) => {
        event.preventDefault();
        const data = new FormData(event.currentTarget);
        const low = Number(data.get("from") || extent?.[0]);
        const high = Number(data.get("to") || extent?.[1]);
        if (Number.isFinite(low) && Number.isFinite(high) && low < high) zoom([low, high]);
      }}
    >
      <span className="capitalize">{axis.label}s</span>
      <RangeField name="from" label={`From ${axis.label}`} value={range?.[0]} placeholder={extent?.[0]} />
      <span>to</span>
      <RangeField name="to" label={`To ${axis.label}`} value={range?.[1]} placeholder={extent?.[1]} />
      <Button type="submit">Zoom</Button>
      {range ? <Button onClick={fit}>Show all</Button> : null}
    </form>
  );
}

function RangeField(props: {
  name: string;
  label: string;
  value: number | undefined;
  placeholder: number | undefined;
}) {
  return (
    <input
      name={props.name}
      className="control w-16 text-table"
      inputMode="numeric"
      aria-label={props.label}
      placeholder={props.placeholder === undefined ? "" : String(Math.round(props.placeholder))}
      defaultValue={props.value === undefined ? "" : String(Math.round(props.value))}
    />
  );
}

function Smoothing(props: {
  state: ChartGroupState;
  slider: React.RefObject<HTMLInputElement | null>;
  onChange(weight: number): void;
}) {
  const id = useId();
  const { smoothing } = props.state;
  return (
    <span className="inline-flex items-center gap-1.5 text-table text-subtle">
      <label htmlFor={id}>Smoothing</label>
      <input
        ref={props.slider}
        id={id}
        type="range"
        min={0}
        max={0.99}
        step={0.01}
        className="w-24 accent-[var(--fg)]"
        value={smoothing}
        onChange={(event) => props.onChange(Number(event.target.value))}
      />
      <span className="w-8">{smoothing === 0 ? "off" : smoothing.toFixed(2)}</span>
    </span>
  );
}
