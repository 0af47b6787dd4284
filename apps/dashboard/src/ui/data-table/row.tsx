"use client";

import clsx from "clsx";
import Link from "next/link";
import type { ReactNode } from "react";
import type { DataColumn } from "./columns.ts";

/** One row: a line of cells, or on a narrow screen two lines of the same cells. */
export function BodyRow<Row>(props: {
  row: Row;
  index: number;
  start: number;
  columns: readonly DataColumn<Row>[];
  href: string | undefined;
  linkLabel: string | undefined;
  name: string;
  /** Column that has the grid's focus, if it is in this row. */
  active: number | undefined;
  peeked: boolean;
  /** Undefined where nothing can be selected. */
  selected: boolean | undefined;
  onSelect(range: boolean): void;
  narrow: boolean;
}) {
  const { row, index, start, columns, href, linkLabel, active, peeked, selected, onSelect, narrow } = props;
  const offset = selected === undefined ? 1 : 2;
  const cells = columns.map((column, i) => (
    // biome-ignore lint/a11y/useSemanticElements: rows that are only partly there
    <div
      key={column.id}
      role="gridcell"
      aria-colindex={i + offset}
      tabIndex={active === i ? 0 : -1}
      data-cell={`${index}:${i}`}
      className={clsx(
        "data-cell",
        i === 0 && !narrow && "data-first",
        column.number && !narrow && "justify-end text-right",
      )}
    >
      {i === 0 && href !== undefined ? (
        <Link href={href} tabIndex={-1} className="min-w-0 truncate hover:underline" aria-label={linkLabel}>
          {column.cell(row)}
        </Link>
      ) : (
        <Content narrow={narrow} column={column} row={row} />
      )}
    </div>
  ));
  const select =
    selected === undefined ? null : (
      // biome-ignore lint/a11y/useSemanticElements: the same
      // biome-ignore lint/a11y/useFocusableInteractive: `x` selects from any cell
      <div role="gridcell" aria-colindex={1} className="data-cell data-select">
        <label className="data-check">
          <input
            type="checkbox"
            tabIndex={-1}
            checked={selected}
            onChange={() => {}}
            onClick={(event) => onSelect(event.shiftKey)}
          />
          <span className="sr-only">Select {linkLabel ?? props.name}</span>
        </label>
      </div>
    );
  return (
    // biome-ignore lint/a11y/useSemanticElements: the same
    // biome-ignore lint/a11y/useFocusableInteractive: its cells are focused, not the row
    <div
      role="row"
      aria-rowindex={index + 2}
      aria-selected={selected}
      className={clsx("data-row data-body-row", peeked && "data-peeked", narrow && "data-row-narrow")}
      style={{ transform: `translateY(${start}px)` }}
    >
      {narrow ? (
        <>
          {select}
          <div className="flex min-w-0 flex-1 flex-col justify-center">
            <div className="flex min-w-0 items-center gap-3">{linesOf(columns, cells).first}</div>
            <div className="flex min-w-0 items-center gap-3 text-subtle">
              {linesOf(columns, cells).second}
            </div>
          </div>
        </>
      ) : (
        <>
          {select}
          {cells}
        </>
      )}
    </div>
  );
}

/** On a narrow screen there is no head: a figure says what it is. */
function Content<Row>({ narrow, column, row }: { narrow: boolean; column: DataColumn<Row>; row: Row }) {
  const content = column.cell(row);
  if (!narrow) return <div className="min-w-0 truncate">{content}</div>;
  return (
    <div className="min-w-0 truncate">
      {column.number ? <span className="text-subtle">{column.head} </span> : null}
      {content}
    </div>
  );
}

function linesOf<Row>(columns: readonly DataColumn<Row>[], cells: readonly ReactNode[]) {
  const first: ReactNode[] = [];
  const second: ReactNode[] = [];
  columns.forEach((column, i) => {
    const place = column.narrow ?? (i < 2 ? "first" : i < 5 ? "second" : "none");
    if (place === "first") first.push(cells[i]);
    else if (place === "second") second.push(cells[i]);
  });
  return { first, second };
}
