"use client";

import {
  columnOrderingFeature,
  columnResizingFeature,
  columnSizingFeature,
  columnVisibilityFeature,
  tableFeatures,
  useTable,
} from "@tanstack/react-table";
import { defaultRangeExtractor, useVirtualizer } from "@tanstack/react-virtual";
import clsx from "clsx";
import { useRouter } from "next/navigation";
import {
  type KeyboardEvent,
  type MouseEvent,
  type ReactNode,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "react";
import type { Steady } from "../../graphql/use-steady-query.ts";
import { copyText } from "../clipboard.ts";
import { formatCount } from "../format.ts";
import { useShortcuts } from "../shortcuts.tsx";
import { QueryState } from "../states.tsx";
import { toast } from "../toast.tsx";
import { useColumns, useSelected, useSort } from "../view-state.ts";
import { type DataColumn, type Facet, type Totals, totalsInWords } from "./columns.ts";
import { shownColumns } from "./columns-state.ts";
import { type GridPosition, gridAfterKey, selectIds } from "./grid-focus.ts";
import { HeadRow } from "./head-row.tsx";
import { Peek } from "./peek.tsx";
import { BodyRow } from "./row.tsx";
import { nextSort, type SortKey } from "./sort.ts";
import { useSteadyOrder } from "./steady-order.ts";
import { textOf } from "./table-export.ts";
import { type ExportLink, Toolbar } from "./toolbar.tsx";
import { useDense, useNarrow } from "./use-density.ts";

export type DataTableProps<Row> = {
  /** What it lists: its name for assistive technology and tests. */
  label: string;
  /** The first one identifies a row: it stays in sight, always stands first and leads to `href`. */
  columns: readonly DataColumn<Row>[];
  rows: readonly Row[];
  getRowId(row: Row): string;
  /** Where Enter leads; the first column becomes a link there. */
  href?(row: Row): string;
  /** Name of that link, where its content is not enough: `Rollout rollout_7qk3f`. */
  linkLabel?(row: Row): string;
  /** With it the table shows loading and failure by itself. */
  query?: Steady<unknown>;
  retry?(): void;
  /** What stands there when there are no rows. */
  empty?: ReactNode;
  /** The rows are of another filter: they are dimmed until the new ones are there. */
  old?: boolean;
  /** More rows come when the end is near. */
  page?: { readonly hasNext: boolean; readonly loading: boolean; loadMore(): void };
  total?: Totals;
  /** `client` orders the rows here; an object hands the order to whoever reads them; nothing: no order to choose. */
  sort?: "client" | { value: readonly SortKey[]; onChange(keys: readonly SortKey[]): void };
  /** The order while the address names none. */
  defaultSort?: readonly SortKey[];
  facets?: readonly Facet[];
  search?: { value: string; onChange(text: string): void; label: string };
  /** Rows that came since these were read; they are shown when the reader says so. */
  fresh?: { readonly count: number; show(): void; noun: string };
  /** A switch between showing new rows as they come and holding still. */
  follow?: { readonly on: boolean; onChange(on: boolean): void };
  selection?: { max?: number; actions(ids: readonly string[], clear: () => void): ReactNode };
  peek?(row: Row): ReactNode;
  peekTitle?(row: Row): string;
  /** Files of the whole filter, made by the coordinator. Without any, the loaded rows can be saved. */
  exports?: readonly ExportLink[];
  /** Beside the facets. */
  tools?: ReactNode;
  /** Before the names of this table's parameters in the address, when a page has two tables. */
  prefix?: string;
  /** Height of the box; `fill` leaves room for what stands above. */
  height?: "fill" | number;
  /** Skeleton rows. */
  skeleton?: number;
};

const features = tableFeatures({
  columnVisibilityFeature,
  columnOrderingFeature,
  columnSizingFeature,
  columnResizingFeature,
});
// rows never pass through the table model, which would make an object of each of a million
const noRows: never[] = [];
const noKeys: readonly SortKey[] = [];
const selectWidth = 32;
const mostSorted = 10_000;

/**
 * The table of every list: rows on demand, an order of several columns, columns to choose, filters, a selection, a look into a row, and
 * all of it from the keyboard. Rows never move or change under the reader by themselves.
 */
export function DataTable<Row>(props: DataTableProps<Row>) {
  const { label, columns, rows: given, getRowId, href, query, retry, page, prefix, selection } = props;
  const router = useRouter();
  const narrow = useNarrow();
  const [dense, setDense] = useDense();
  const [chosenColumns, setColumns] = useColumns(prefix);
  const [urlSort, setUrlSort] = useSort(prefix);
  const [peeked, setPeeked] = useSelected(prefix);
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [active, setActive] = useState<GridPosition>({ row: 0, column: 0 });
  const [busy, setBusy] = useState(false);
  const anchor = useRef(0);
  const refocus = useRef(false);
  const grid = useRef<HTMLDivElement>(null);

  // columns: what the address says, held by the table model
  const shown = useMemo(() => shownColumns(columns, chosenColumns), [columns, chosenColumns]);
  const definitions = useMemo(
    () =>
      columns.map(({ id, head, width }) => ({
        id,
        header: head,
        size: width ?? 120,
        minSize: 48,
        maxSize: 900,
      })),
    [columns],
  );
  const model = useTable({
    features,
    columns: definitions,
    data: noRows,
    columnResizeMode: "onChange",
    state: {
      columnOrder: shown.map(({ id }) => id),
      columnVisibility: Object.fromEntries(
        columns.map(({ id }) => [id, shown.some((column) => column.id === id)]),
      ),
      columnSizing: Object.fromEntries(
        shown.flatMap(({ id, width }) => (width === undefined ? [] : [[id, width] as const])),
      ),
    },
    onColumnSizingChange: (update) => {
      const before = Object.fromEntries(
        shown.flatMap(({ id, width }) => (width === undefined ? [] : [[id, width] as const])),
      );
      const sizes = typeof update === "function" ? update(before) : update;
      void setColumns(
        shown.map(({ id, width }) => {
          const size = sizes[id] ?? width;
          return size === undefined ? { id } : { id, width: Math.round(size) };
        }),
      );
    },
  });
  const byId = useMemo(() => new Map(columns.map((column) => [column.id, column])), [columns]);
  const headers = model.getHeaderGroups()[0]?.headers ?? [];
  const visible = headers.flatMap(({ column }) => byId.get(column.id) ?? []);
  const sizes = headers.map(({ column }) => column.getSize());
  const template = [
    ...(selection ? [`${selectWidth}px`] : []),
    ...visible.map((column, i) => (column.grow ? `minmax(${sizes[i]}px, 1fr)` : `${sizes[i]}px`)),
    // without a column that grows the rest of the width stays empty
    ...(visible.some((column) => column.grow) ? [] : ["minmax(0, 1fr)"]),
  ].join(" ");
  const width = sizes.reduce((sum, size) => sum + size, selection ? selectWidth : 0);

  // order
  const server = typeof props.sort === "object" ? props.sort : undefined;
  const keys = server?.value ?? (urlSort.length > 0 ? urlSort : (props.defaultSort ?? noKeys));
  const order = useSteadyOrder({
    rows: given,
    columns,
    keys: props.sort === "client" ? keys : noKeys,
    getRowId,
    busy,
  });
  const count = given.length;
  const rowAt = (index: number): Row | undefined => given[order ? (order[index] ?? -1) : index];
  function sortBy(id: string, add: boolean): void {
    const column = byId.get(id);
    if (column?.sort === undefined || props.sort === undefined) return;
    const next = nextSort(keys, id, { add, first: column.first ?? (column.number ? "down" : "up") });
    if (server) server.onChange(next);
    else void setUrlSort(next.length === 0 ? null : next);
  }

  // rows in sight
  const rowHeight = narrow ? 56 : dense ? 28 : 32;
  const at: GridPosition = {
    row: Math.min(active.row, count - 1),
    column: Math.min(active.column, visible.length - 1),
  };
  const virtual = useVirtualizer({
    count,
    getScrollElement: () => grid.current,
    estimateSize: () => rowHeight,
    overscan: 8,
    // the row that has the focus is never taken away
    rangeExtractor: (range) => {
      const wanted = defaultRangeExtractor(range);
      return at.row < 0 || wanted.includes(at.row) ? wanted : [...wanted, at.row].sort((a, b) => a - b);
    },
  });
  useEffect(() => virtual.measure(), [rowHeight, virtual]);
  const items = virtual.getVirtualItems();
  const lastSeen = items.at(-1)?.index ?? 0;
  // an order of part of the rows would be a lie: the rest is fetched too, as far as a page can hold it
  const incomplete = props.sort === "client" && keys.length > 0 && count < mostSorted;
  useEffect(() => {
    if (page?.hasNext && !page.loading && (lastSeen >= count - 20 || incomplete)) page.loadMore();
  }, [page, lastSeen, count, incomplete]);

  // focus
  useLayoutEffect(() => {
    if (!refocus.current) return;
    refocus.current = false;
    const cell = grid.current?.querySelector<HTMLElement>(`[data-cell="${at.row}:${at.column}"]`);
    cell?.focus({ preventScroll: true });
    cell?.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  function moveTo(next: GridPosition): void {
    refocus.current = true;
    if (next.row >= 0) virtual.scrollToIndex(next.row, { align: "auto" });
    setActive(next);
    const row = rowAt(next.row);
    if (peeked !== null && row !== undefined) void setPeeked(getRowId(row), { history: "replace" });
  }

  // what can be done with a row
  const selectable = selection !== undefined;
  function select(index: number, range: boolean): void {
    if (!selectable) return;
    const from = range ? Math.min(anchor.current, index) : index;
    const to = range ? Math.max(anchor.current, index) : index;
    anchor.current = index;
    const ids: string[] = [];
    for (let i = from; i <= to; i++) {
      const row = rowAt(i);
      if (row !== undefined) ids.push(getRowId(row));
    }
    setSelected((before) => selectIds(before, ids, selection?.max ?? Number.POSITIVE_INFINITY));
  }
  function open(index: number): void {
    const row = rowAt(index);
    if (row === undefined) return;
    if (href) router.push(href(row));
    else peekAt(index);
  }
  function peekAt(index: number): void {
    const row = rowAt(index);
    if (row === undefined || props.peek === undefined) return;
    const id = getRowId(row);
    void setPeeked(peeked === id ? null : id);
  }
  function copyCell(position: GridPosition): void {
    const row = rowAt(position.row);
    const column = visible[position.column];
    if (row === undefined || column === undefined) return;
    const text = textOf(column, row);
    void copyText(text === "" ? getRowId(row) : text).then((copied) =>
      toast(copied ? `Copied ${column.head.toLowerCase()}` : "This browser did not let it be copied"),
    );
  }

  function onKeyDown(event: KeyboardEvent<HTMLDivElement>): void {
    const target = event.target as HTMLElement;
    if (event.altKey || (target instanceof HTMLInputElement && target.type !== "checkbox")) return;
    if (event.metaKey || event.ctrlKey) {
      if (event.key !== "Home" && event.key !== "End") return;
    }
    const next = gridAfterKey(
      event.key,
      at,
      {
        rows: count,
        columns: visible.length,
        page: Math.floor((grid.current?.clientHeight ?? 0) / rowHeight),
      },
      { ctrl: event.ctrlKey || event.metaKey },
    );
    if (next !== undefined) {
      event.preventDefault();
      moveTo(next);
      return;
    }
    const within = target.closest("a, button, input") !== null;
    if (!handleKey(event.key, { within, shift: event.shiftKey })) return;
    event.preventDefault();
  }

  /** @returns whether the key meant something here. */
  function handleKey(key: string, pressed: { within: boolean; shift: boolean }): boolean {
    const { within, shift } = pressed;
    const native = within && (key === "Enter" || key === " ");
    if (native) return false;
    if (at.row < 0) {
      const column = visible[at.column];
      if (key !== "Enter" && key !== " ") return false;
      if (column) sortBy(column.id, shift);
      return true;
    }
    switch (key) {
      case "Enter":
      case "o":
        open(at.row);
        return true;
      case " ":
        if (props.peek) peekAt(at.row);
        else select(at.row, shift);
        return true;
      case "x":
      case "X":
        select(at.row, shift);
        return selectable;
      case "c":
        copyCell(at);
        return true;
      case "Escape":
        if (peeked === null) return false;
        void setPeeked(null);
        return true;
      default:
        return false;
    }
  }

  const step = (by: number) => () => {
    if (count === 0) return false;
    // the first press from elsewhere only takes the focus to where it was
    const here = grid.current?.contains(document.activeElement) || peeked !== null;
    moveTo({ row: Math.max(0, Math.min(count - 1, at.row + (here ? by : 0))), column: at.column });
    return true;
  };
  const group = `Table: ${label}`;
  useShortcuts([
    { keys: "j", label: "Next row", group, run: step(1), quiet: true },
    { keys: "k", label: "Previous row", group, run: step(-1), quiet: true },
    { keys: "o", label: "Open the row", group, run: () => open(at.row), quiet: true },
    ...(props.peek
      ? [{ keys: "Space", label: "Look into the row", group, run: () => peekAt(at.row), quiet: true }]
      : []),
    ...(selectable
      ? [{ keys: "x", label: "Select the row", group, run: () => select(at.row, false), quiet: true }]
      : []),
    { keys: "c", label: "Copy the cell", group, run: () => copyCell(at), quiet: true },
    ...(peeked !== null
      ? [{ keys: "Escape", label: "Close the look", group, run: () => void setPeeked(null), quiet: true }]
      : []),
  ]);

  function onClick(event: MouseEvent<HTMLDivElement>): void {
    const target = event.target as HTMLElement;
    const place = target.closest<HTMLElement>("[data-cell]")?.dataset.cell;
    if (place === undefined) return;
    const [row = 0, column = 0] = place.split(":").map(Number);
    setActive({ row, column });
    if (row < 0 || target.closest("a, button, input, label") !== null) return;
    // whoever marks text does not want anything opened
    if (props.peek && window.getSelection()?.isCollapsed !== false) peekAt(row);
  }

  const peekedIndex = useMemo(() => {
    if (peeked === null || props.peek === undefined) return -1;
    return given.findIndex((row) => getRowId(row) === peeked);
  }, [given, peeked, props.peek === undefined]);
  const peekedRow = given[peekedIndex];
  const ids = useMemo(() => [...selected], [selected]);
  const clear = () => setSelected(new Set());
  const { matching } = props.total ?? {};
  return (
    <div className="min-w-0">
      <Toolbar
        label={label}
        columns={columns}
        shown={shown}
        onColumns={(next) => void setColumns(next === null ? null : [...next])}
        dense={dense}
        onDense={setDense}
        rows={given}
        visible={visible}
        facets={props.facets ?? []}
        search={props.search}
        exports={props.exports}
        fresh={props.fresh}
        follow={props.follow}
        tools={props.tools}
      />
      {selection && ids.length > 0 ? (
        <div
          role="toolbar"
          aria-label={`${label}, selected`}
          className="flex min-h-9 flex-wrap items-center gap-2 border-t border-line py-1"
        >
          <span className="font-medium">{formatCount(ids.length)} selected</span>
          {selection.max !== undefined && ids.length >= selection.max ? (
            <span className="text-table text-subtle">{selection.max} at most</span>
          ) : null}
          {selection.actions(ids, clear)}
          <button
            type="button"
            className="min-h-6 px-1 text-table text-muted underline underline-offset-2"
            onClick={clear}
          >
            Clear
          </button>
        </div>
      ) : null}
      {query ? (
        <QueryState
          query={query}
          retry={retry ?? (() => {})}
          what={`the ${label.toLowerCase()}`}
          rows={props.skeleton ?? 8}
        />
      ) : null}
      {count === 0 ? (
        query && !query.data ? null : (
          props.empty
        )
      ) : (
        <>
          {/* biome-ignore lint/a11y/useSemanticElements: a table element cannot hold rows that are only partly there */}
          <div
            ref={grid}
            role="grid"
            aria-label={label}
            aria-rowcount={(matching ?? (page?.hasNext ? -2 : count)) + 1}
            aria-colcount={visible.length + (selection ? 1 : 0)}
            aria-multiselectable={selection ? true : undefined}
            aria-busy={props.old || undefined}
            className={clsx("data-grid", props.old && "data-grid-old")}
            style={{
              maxHeight:
                props.height === undefined || props.height === "fill"
                  ? "max(360px, calc(100dvh - 220px))"
                  : props.height,
              ["--first" as string]: `${(sizes[0] ?? 0) + (selection ? selectWidth : 0)}px`,
              ["--select" as string]: selection ? `${selectWidth}px` : "0px",
              ["--row" as string]: `${rowHeight}px`,
              ["--columns" as string]: template,
            }}
            onKeyDown={onKeyDown}
            onClick={onClick}
            onScroll={(event) => {
              // whoever scrolls down is reading: what is read must not move
              if (props.follow?.on && event.currentTarget.scrollTop > 8) props.follow.onChange(false);
            }}
            onPointerEnter={() => setBusy(true)}
            onPointerLeave={() => setBusy(false)}
          >
            <div style={narrow ? undefined : { minWidth: width }}>
              <HeadRow
                headers={headers}
                columns={visible}
                keys={keys}
                active={at.row < 0 ? at.column : undefined}
                sortable={props.sort !== undefined}
                onSort={sortBy}
                narrow={narrow}
                selection={
                  selection && selection.max === undefined
                    ? {
                        all: count > 0 && ids.length >= count,
                        onAll: () =>
                          setSelected((before) =>
                            before.size >= count ? new Set() : new Set(given.map(getRowId)),
                          ),
                      }
                    : selection
                      ? "none"
                      : undefined
                }
              />
              {/* biome-ignore lint/a11y/useSemanticElements: a tbody cannot be as tall as rows that are not there */}
              <div role="rowgroup" className="relative" style={{ height: virtual.getTotalSize() }}>
                {items.map((item) => {
                  const row = rowAt(item.index);
                  if (row === undefined) return null;
                  const id = getRowId(row);
                  return (
                    <BodyRow
                      key={id}
                      row={row}
                      index={item.index}
                      start={item.start}
                      columns={visible}
                      href={href?.(row)}
                      linkLabel={props.linkLabel?.(row)}
                      name={nameOf(columns, row, id)}
                      active={item.index === at.row ? at.column : undefined}
                      peeked={peeked === id}
                      selected={selection ? selected.has(id) : undefined}
                      onSelect={(range) => select(item.index, range)}
                      narrow={narrow}
                    />
                  );
                })}
              </div>
            </div>
          </div>
          <p role="status" className="flex min-h-7 flex-wrap items-center gap-x-3 text-table text-subtle">
            <span>{totalsInWords(count, props.total ?? {}, page?.hasNext ?? false, formatCount)}</span>
            {page?.loading && page.hasNext ? <span>Loading more …</span> : null}
          </p>
        </>
      )}
      {props.peek && peekedRow !== undefined ? (
        <Peek
          title={props.peekTitle?.(peekedRow) ?? getRowId(peekedRow)}
          href={href?.(peekedRow)}
          onClose={() => void setPeeked(null)}
          onStep={(by) => step(by)()}
        >
          {props.peek(peekedRow)}
        </Peek>
      ) : null}
    </div>
  );
}

/** What a row is called when it is spoken of. */
function nameOf<Row>(columns: readonly DataColumn<Row>[], row: Row, id: string): string {
  const [first] = columns;
  return (first && textOf(first, row)) || id;
}
