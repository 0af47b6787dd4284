"use client";

import { ArrowDown, ArrowUp } from "lucide-react";
import type { MouseEvent, TouchEvent } from "react";
import type { DataColumn } from "./columns.ts";
import type { SortKey } from "./sort.ts";

/** What the table model knows of a head that a head needs. */
type Header = {
  readonly id: string;
  readonly column: { getIsResizing(): boolean };
  getResizeHandler(): (event: unknown) => void;
};

/** The head of a table: what the columns are called, how they are ordered, how wide they are. */
export function HeadRow<Row>(props: {
  headers: readonly Header[];
  columns: readonly DataColumn<Row>[];
  keys: readonly SortKey[];
  active: number | undefined;
  sortable: boolean;
  onSort(id: string, add: boolean): void;
  narrow: boolean;
  /** Every row at once; `none` where a selection has a limit. */
  selection: { readonly all: boolean; onAll(): void } | "none" | undefined;
}) {
  const { headers, columns, keys, active, sortable, onSort, narrow, selection } = props;
  return (
    // biome-ignore lint/a11y/useSemanticElements: a thead needs a table, which cannot hold rows that are only partly there
    <div role="rowgroup" className={narrow ? "sr-only" : "data-head"}>
      {/* biome-ignore lint/a11y/useSemanticElements: the same; its cells are focused, not the row */}
      {/* biome-ignore lint/a11y/useFocusableInteractive: the same */}
      <div role="row" aria-rowindex={1} className="data-row text-label text-subtle">
        {selection === undefined ? null : (
          // biome-ignore lint/a11y/useSemanticElements: the same
          // biome-ignore lint/a11y/useFocusableInteractive: the same
          <div role="columnheader" className="data-cell data-select">
            {selection === "none" ? (
              <span className="sr-only">Selected</span>
            ) : (
              <label className="data-check">
                <input type="checkbox" tabIndex={-1} checked={selection.all} onChange={selection.onAll} />
                <span className="sr-only">Select all loaded rows</span>
              </label>
            )}
          </div>
        )}
        {columns.map((column, i) => {
          const header = headers[i];
          const at = keys.findIndex(({ id }) => id === column.id);
          const key = keys[at];
          const ordered = sortable && column.sort !== undefined;
          const Arrow = key?.down ? ArrowDown : ArrowUp;
          return (
            // biome-ignore lint/a11y/useSemanticElements: the same
            <div
              key={column.id}
              role="columnheader"
              aria-colindex={i + 1 + (selection === undefined ? 0 : 1)}
              aria-sort={key === undefined ? undefined : key.down ? "descending" : "ascending"}
              tabIndex={active === i ? 0 : -1}
              data-cell={`-1:${i}`}
              title={column.help}
              className={`data-cell group/head ${i === 0 ? "data-first" : ""} ${column.number ? "justify-end" : ""} ${ordered ? "cursor-pointer hover:text-fg" : ""}`}
              onClick={ordered ? (event) => onSort(column.id, event.shiftKey) : undefined}
              onKeyDown={undefined}
            >
              <span className="truncate">{column.head}</span>
              {key === undefined ? null : (
                <span className="ml-0.5 inline-flex shrink-0 items-center text-fg">
                  <Arrow size={11} aria-hidden />
                  {keys.length > 1 ? <span className="text-[11px]">{at + 1}</span> : null}
                </span>
              )}
              {header === undefined ? null : (
                <span
                  aria-hidden
                  className={`data-resize ${header.column.getIsResizing() ? "data-resizing" : ""}`}
                  onMouseDown={(event: MouseEvent) => header.getResizeHandler()(event)}
                  onTouchStart={(event: TouchEvent) => header.getResizeHandler()(event)}
                  onClick={(event) => event.stopPropagation()}
                />
              )}
            </div>
          );
        })}
      </div>
    </div>
  );
}
