"use client";

import { ArrowDown, ArrowUp, Minus, Plus } from "lucide-react";
import { type ReactElement, useState } from "react";
import { Button, buttonClass, iconButton } from "../button.tsx";
import { formatCount, formatExact } from "../format.ts";
import { Popover } from "../popover.tsx";
import { type DataColumn, type Facet, facetOptions } from "./columns.ts";
import { moveColumn, resizeColumn, type ShownColumn, toggleColumn } from "./columns-state.ts";
import { download, toCsv, toNdjson } from "./table-export.ts";
import type { ExportLink } from "./toolbar.tsx";

// What opens from a table's toolbar: code that a page need not wait for.

/** Values of a filter with how many rows have each. */
export function FacetMenu({ facet, trigger }: { facet: Facet; trigger: ReactElement }) {
  const [search, setSearch] = useState("");
  const options = facetOptions(facet, search);
  function toggle(value: string, on: boolean): void {
    if (facet.single) facet.onChange(on ? [value] : []);
    else facet.onChange(on ? [...facet.value, value] : facet.value.filter((each) => each !== value));
  }
  return (
    <Popover title={facet.label} trigger={trigger}>
      {facet.options.length > 8 ? (
        <input
          type="search"
          className="control mt-2 w-full text-table"
          aria-label={`Search ${facet.label.toLowerCase()}`}
          placeholder="Search"
          value={search}
          onChange={(event) => setSearch(event.target.value)}
        />
      ) : null}
      <ul className="mt-1 max-h-72 overflow-y-auto">
        {options.map(({ value, label, count }) => (
          <li key={value}>
            <label className="flex min-h-7 cursor-pointer items-center gap-2 rounded-control px-1 hover:bg-raised">
              <input
                type="checkbox"
                checked={facet.value.includes(value)}
                onChange={(event) => toggle(value, event.target.checked)}
              />
              <span className="min-w-0 flex-1 truncate">{label}</span>
              {count === undefined ? null : (
                <span className="text-table text-subtle" title={formatExact(count)}>
                  {formatCount(count)}
                </span>
              )}
            </label>
          </li>
        ))}
        {options.length === 0 ? (
          <li className="px-1 py-2 text-subtle">Nothing here is called that.</li>
        ) : null}
      </ul>
    </Popover>
  );
}

/** Which columns are shown, in which order and how wide: everything that dragging does, for those who do not drag. */
export function ColumnMenu<Row>(props: {
  trigger: ReactElement;
  columns: readonly DataColumn<Row>[];
  shown: readonly ShownColumn[];
  onChange(next: readonly ShownColumn[] | null): void;
  dense: boolean;
  onDense(dense: boolean): void;
}) {
  const { trigger, columns, shown, onChange, dense, onDense } = props;
  const hidden = columns.filter(({ id }) => !shown.some((column) => column.id === id));
  const listed = [...shown.map(({ id }) => id), ...hidden.map(({ id }) => id)];
  return (
    <Popover title="Columns" trigger={trigger}>
      <ul className="mt-1 max-h-80 overflow-y-auto">
        {listed.map((id, i) => {
          const column = columns.find((each) => each.id === id);
          if (column === undefined) return null;
          const on = i < shown.length;
          const name = column.head.toLowerCase();
          const width = shown[i]?.width ?? column.width ?? 120;
          return (
            <li key={id} className="flex min-h-7 items-center gap-0.5">
              <label className="flex min-w-0 flex-1 items-center gap-2">
                <input
                  type="checkbox"
                  checked={on}
                  disabled={i === 0}
                  onChange={() => onChange(toggleColumn(shown, id))}
                />
                <span className="truncate">{column.head}</span>
              </label>
              {on ? (
                <>
                  <IconAction
                    label={`${name} narrower`}
                    onClick={() => onChange(resizeColumn(shown, id, width - 24))}
                  >
                    <Minus size={12} aria-hidden />
                  </IconAction>
                  <IconAction
                    label={`${name} wider`}
                    onClick={() => onChange(resizeColumn(shown, id, width + 24))}
                  >
                    <Plus size={12} aria-hidden />
                  </IconAction>
                  <IconAction
                    label={`${name} further left`}
                    disabled={i < 2}
                    onClick={() => onChange(moveColumn(shown, id, -1))}
                  >
                    <ArrowUp size={12} aria-hidden />
                  </IconAction>
                  <IconAction
                    label={`${name} further right`}
                    disabled={i === 0 || i === shown.length - 1}
                    onClick={() => onChange(moveColumn(shown, id, 1))}
                  >
                    <ArrowDown size={12} aria-hidden />
                  </IconAction>
                </>
              ) : null}
            </li>
          );
        })}
      </ul>
      <div className="mt-2 flex items-center justify-between border-t border-line pt-2">
        <label className="flex items-center gap-2">
          <input type="checkbox" checked={dense} onChange={(event) => onDense(event.target.checked)} />
          Compact rows
        </label>
        <Button tone="quiet" onClick={() => onChange(null)}>
          Reset
        </Button>
      </div>
    </Popover>
  );
}

function IconAction(props: { label: string; disabled?: boolean; onClick(): void; children: ReactElement }) {
  return (
    <button
      type="button"
      className={`${iconButton} size-6 disabled:opacity-30`}
      aria-label={props.label}
      disabled={props.disabled}
      onClick={props.onClick}
    >
      {props.children}
    </button>
  );
}

/** Files of the table: all that match from the coordinator, where it makes them, or the rows that are loaded. */
export function ExportMenu(props: {
  trigger: ReactElement;
  label: string;
  links: readonly ExportLink[] | undefined;
  columns: readonly DataColumn<unknown>[];
  rows: readonly unknown[];
}) {
  const { trigger, label, links = [], columns, rows } = props;
  const name = `${label.toLowerCase().replaceAll(" ", "-")}-${new Date().toISOString().slice(0, 10)}`;
  return (
    <Popover title="Export" trigger={trigger}>
      {links.length > 0 ? (
        <>
          <p className="mt-1 text-table text-subtle">All that match</p>
          <div className="mt-1 flex flex-wrap gap-2">
            {links.map((link) => (
              <a key={link.href} className={buttonClass()} href={link.href} download>
                {link.label}
              </a>
            ))}
          </div>
        </>
      ) : null}
      <p className="mt-2 text-table text-subtle">The {formatExact(rows.length)} loaded rows, shown columns</p>
      <div className="mt-1 flex gap-2">
        <Button onClick={() => download(`${name}.csv`, "text/csv", toCsv(columns, rows))}>CSV</Button>
        <Button onClick={() => download(`${name}.ndjson`, "application/x-ndjson", toNdjson(columns, rows))}>
          NDJSON
        </Button>
      </div>
    </Popover>
  );
}
