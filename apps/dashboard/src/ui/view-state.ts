"use client";

import {
  createParser,
  parseAsArrayOf,
  parseAsFloat,
  parseAsString,
  parseAsStringLiteral,
  useQueryState,
  useQueryStates,
} from "nuqs";
import { parseColumns, printColumns } from "./data-table/columns-state.ts";
import { parseSort, printSort } from "./data-table/sort.ts";

// What a page shows is in its address and nowhere else: who gets the link sees the same. Choices between things are steps of the history,
// zooming and typing are not.

const push = { history: "push" } as const;
const replace = { history: "replace", throttleMs: 200 } as const;

/** A part of an x axis: fixed, or the last of it, which moves on as it grows. */
export type XRange =
  | { readonly kind: "fixed"; readonly from: number; readonly to: number }
  | { readonly kind: "last"; readonly span: number };

/** `300..400` or `last..100`. */
export function printRange(range: XRange): string {
  return range.kind === "last" ? `last..${range.span}` : `${range.from}..${range.to}`;
}

/** @returns null for what is no range. */
export function parseRange(text: string): XRange | null {
  const [left = "", right = "", more] = text.split("..");
  const to = right === "" ? Number.NaN : Number(right);
  if (more !== undefined || !Number.isFinite(to)) return null;
  if (left === "last") return to > 0 ? { kind: "last", span: to } : null;
  const from = left === "" ? Number.NaN : Number(left);
  return Number.isFinite(from) && from < to ? { kind: "fixed", from, to } : null;
}

const range = createParser({
  parse: parseRange,
  serialize: printRange,
  eq: (a, b) => printRange(a) === printRange(b),
});

const sort = createParser({
  parse: parseSort,
  serialize: printSort,
  eq: (a, b) => printSort(a) === printSort(b),
});

const columns = createParser({
  parse: parseColumns,
  serialize: printColumns,
  eq: (a, b) => printColumns(a) === printColumns(b),
});

const cursor = createParser<bigint>({
  parse: (text) => (/^\d{1,19}$/.test(text) ? BigInt(text) : null),
  serialize: String,
});

function named(prefix: string | undefined, name: string): string {
  return prefix === undefined ? name : `${prefix}.${name}`;
}

/** The open tab, `tab=`; the first one when the address names none. */
export function useTab<const Name extends string>(tabs: readonly [Name, ...Name[]]) {
  return useQueryState<Name>(
    "tab",
    parseAsStringLiteral<Name>(tabs)
      .withDefault(tabs[0] as NonNullable<Name>)
      .withOptions(push),
  );
}

/** Chosen values of a facet, `f.<field>=a,b`; values that are not `known` are ignored. */
export function useFacet<const Value extends string>(
  field: string,
  known: readonly Value[],
): [Value[], (values: readonly string[]) => void] {
  const [chosen, set] = useQueryState(
    `f.${field}`,
    parseAsArrayOf(parseAsStringLiteral(known)).withDefault([]).withOptions(push),
  );
  return [
    chosen,
    (values) => {
      const kept = known.filter((value) => values.includes(value));
      void set(kept.length === 0 ? null : kept);
    },
  ];
}

/** Chosen values of a facet whose values are not known before, such as ids. */
export function useOpenFacet(field: string): [string[], (values: readonly string[]) => void] {
  const [chosen, set] = useQueryState(
    `f.${field}`,
    parseAsArrayOf(parseAsString).withDefault([]).withOptions(push),
  );
  return [chosen, (values) => void set(values.length === 0 ? null : [...values])];
}

/** What is searched for, `q=`. */
export function useSearch(prefix?: string): [string, (text: string) => void] {
  const [text, set] = useQueryState(named(prefix, "q"), parseAsString.withDefault("").withOptions(replace));
  return [text, (next) => void set(next === "" ? null : next)];
}

/** Sorted columns, `sort=-reward,name`. */
export function useSort(prefix?: string) {
  return useQueryState(named(prefix, "sort"), sort.withDefault([]).withOptions(push));
}

/** Shown columns with their order and widths, `cols=state,name~240`; null is the table's own choice. */
export function useColumns(prefix?: string) {
  return useQueryState(named(prefix, "cols"), columns.withOptions(replace));
}

/** The row that is looked into, `sel=`. */
export function useSelected(prefix?: string) {
  return useQueryState(named(prefix, "sel"), parseAsString.withOptions(push));
}

/** Ids that are compared, `cmp=run_a,run_b`. */
export function useCompared() {
  return useQueryState("cmp", parseAsArrayOf(parseAsString).withDefault([]).withOptions(push));
}

/**
 * The cursor at which the page stands still, `at=`; undefined for now. A page that has one opens no stream and shows what was known then.
 */
export function useAt(): bigint | undefined {
  return useQueryState("at", cursor.withOptions(push))[0] ?? undefined;
}

/** Kinds of x axes that a chart can have. */
export const xKinds = ["step", "time", "tokens"] as const;
export type XKind = (typeof xKinds)[number];

/** How the charts of a page are drawn: `x=` axis, `range=`, `sm=` smoothing from 0 to 0.99, `log=` x, y or xy. */
export function useChartView() {
  return useQueryStates(
    {
      x: parseAsStringLiteral(xKinds),
      range,
      sm: parseAsFloat.withDefault(0),
      log: parseAsStringLiteral(["x", "y", "xy"] as const),
    },
    replace,
  );
}
