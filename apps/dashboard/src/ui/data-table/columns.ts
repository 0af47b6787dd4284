import type { ReactNode } from "react";
import type { SortValue } from "./sort.ts";

/** A column of a table. Make the list once, outside of the component or in `useMemo`: a new list is a new table. */
export type DataColumn<Row> = {
  /** Letters, digits and `_`: it stands in the address. */
  readonly id: string;
  readonly head: string;
  /** What the figure is, in a sentence; on the head's hover. */
  readonly help?: string;
  cell(row: Row): ReactNode;
  /** The cell as plain text: what `c` copies and exports hold; strangers' text stays as it is. */
  text?(row: Row): string;
  /** Right-aligned. */
  readonly number?: boolean;
  /** In pixels; 120 without. */
  readonly width?: number;
  /** Takes what is left of the width. */
  readonly grow?: boolean;
  /** What the rows are ordered by; with an order of the server its presence only says that the column can be ordered by. */
  sort?(row: Row): SortValue;
  /** The direction of a first click; numbers and times begin with the largest unless told otherwise. */
  readonly first?: "up" | "down";
  /** Shown only to whoever asks for it. */
  readonly hidden?: boolean;
  /** Where it stands in the two lines of a narrow screen; by default the first two columns are the first line, the next three the second. */
  readonly narrow?: "first" | "second" | "none";
};

/** A filter with its values. Which are chosen belongs in the address: see `useFacet`. */
export type Facet = {
  readonly field: string;
  readonly label: string;
  readonly options: readonly FacetOption[];
  readonly value: readonly string[];
  onChange(value: readonly string[]): void;
  /** One value at a time, where the coordinator takes no more. */
  readonly single?: boolean;
};

export type FacetOption = { readonly value: string; readonly label: string; readonly count?: number };

/** Values by how many rows have them, then by name; what is chosen is never hidden by a search. */
export function facetOptions(facet: Facet, search: string): FacetOption[] {
  const wanted = search.trim().toLowerCase();
  return facet.options
    .filter(
      ({ value, label }) =>
        wanted === "" || facet.value.includes(value) || label.toLowerCase().includes(wanted),
    )
    .toSorted((a, b) => (b.count ?? 0) - (a.count ?? 0) || a.label.localeCompare(b.label));
}

/** Rows of a page that has all of them: how many have each value. */
export function countValues<Row>(
  rows: readonly Row[],
  read: (row: Row) => string,
): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const row of rows) {
    const value = read(row);
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  return counts;
}

/** How many there are: shown, matching the filter, and altogether; undefined is not known. */
export type Totals = {
  readonly matching?: number;
  readonly total?: number;
  /** The figures are estimates of the database. */
  readonly estimated?: boolean;
};

/** `200 shown of 1,904 matching, ≈ 5.1 M in all`; `12 in all` when nothing is left out. */
export function totalsInWords(
  shown: number,
  totals: Totals,
  more: boolean,
  format: (n: number) => string,
): string {
  const { matching, total } = totals;
  const all = (matching ?? shown) === shown && (total ?? shown) === shown;
  if (all && !more && !totals.estimated) return `${format(shown)} in all`;
  const about = totals.estimated ? "≈ " : "";
  const parts = [
    ...(matching === undefined ? [] : [`${about}${format(matching)} matching`]),
    ...(total === undefined || total === matching ? [] : [`${about}${format(total)} in all`]),
  ];
  if (parts.length === 0) return `${format(shown)} shown${more ? " so far" : ""}`;
  return `${format(shown)} shown of ${parts.join(", ")}`;
}
