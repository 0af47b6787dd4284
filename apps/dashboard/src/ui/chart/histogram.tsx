"use client";

import clsx from "clsx";
import { formatExact, formatMetric } from "../format.ts";
import { Help } from "../page.tsx";

/** A class of values. With `onSelect` of the histogram it is a button. */
export type Bin = { readonly from: number; readonly to: number; readonly count: number };

/** How often which values occur. Bars stand on zero; the picture is its own list of numbers for those who do not see it. */
export function Histogram(props: {
  title: string;
  help: string;
  bins: readonly Bin[];
  format?: (value: number) => string;
  /** A limit among the values, such as a check's threshold. */
  threshold?: { readonly at: number; readonly label: string };
  chosen?: { readonly from: number; readonly to: number };
  onSelect?(bin: Bin): void;
  height?: number;
}) {
  const { title, help, bins, format = formatMetric, threshold, chosen, onSelect, height = 96 } = props;
  const most = Math.max(1, ...bins.map(({ count }) => count));
  const first = bins[0];
  const last = bins.at(-1);
  return (
    <figure className="min-w-0">
      <figcaption className="flex min-h-7 items-center">
        <h3 className="text-body font-medium">{title}</h3>
        <Help text={help} />
      </figcaption>
      <ul
        className="relative flex items-end gap-px border-b border-line"
        style={{ height }}
        aria-label={title}
      >
        {bins.map((bin) => {
          const name = `${format(bin.from)} to ${format(bin.to)}: ${formatExact(bin.count)}`;
          const on = chosen !== undefined && bin.from >= chosen.from && bin.to <= chosen.to;
          const bar = (
            <span
              className={clsx(
                "block w-full",
                on ? "bg-accent" : "bg-series-1 opacity-80 group-hover:opacity-100",
              )}
              style={{ height: bin.count === 0 ? 0 : `max(2px, ${(bin.count / most) * 100}%)` }}
            />
          );
          return (
            <li key={bin.from} className="group flex h-full min-w-0 flex-1 items-end" title={name}>
              {onSelect ? (
                <button
                  type="button"
                  className="flex h-full w-full items-end"
                  aria-label={name}
                  aria-pressed={on}
                  onClick={() => onSelect(bin)}
                >
                  {bar}
                </button>
              ) : (
                <>
                  {bar}
                  <span className="sr-only">{name}</span>
                </>
              )}
            </li>
          );
        })}
        {threshold && first && last && threshold.at >= first.from && threshold.at <= last.to ? (
          <li
            className="pointer-events-none absolute inset-y-0 border-l border-dashed border-line-strong"
            style={{ left: `${((threshold.at - first.from) / (last.to - first.from)) * 100}%` }}
          >
            <span className="absolute top-0 left-1 whitespace-nowrap text-label text-subtle">
              {threshold.label}
            </span>
          </li>
        ) : null}
      </ul>
      <div className="flex justify-between text-table text-subtle" aria-hidden>
        <span>{first ? format(first.from) : ""}</span>
        <span>{last ? format(last.to) : ""}</span>
      </div>
    </figure>
  );
}
