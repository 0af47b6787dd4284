"use client";

import { Columns3, Download, ListFilter, Search, X } from "lucide-react";
import { lazy, type ReactNode, useRef } from "react";
import { Button, buttonClass, iconButton } from "../button.tsx";
import { formatCount } from "../format.ts";
import { OnDemand } from "../on-demand.tsx";
import { useShortcuts } from "../shortcuts.tsx";
import type { DataColumn, Facet } from "./columns.ts";
import type { ShownColumn } from "./columns-state.ts";

/** A file of all rows that match, made by the coordinator. */
export type ExportLink = { readonly label: string; readonly href: string };

const load = () => import("./menus.tsx");
const FacetMenu = lazy(async () => ({ default: (await load()).FacetMenu }));
const ColumnMenu = lazy(async () => ({ default: (await load()).ColumnMenu }));
const ExportMenu = lazy(async () => ({ default: (await load()).ExportMenu }));

/** What stands over a table: search, filters with what is chosen, and what can be done with all of it. */
export function Toolbar<Row>(props: {
  label: string;
  columns: readonly DataColumn<Row>[];
  visible: readonly DataColumn<Row>[];
  shown: readonly ShownColumn[];
  onColumns(next: readonly ShownColumn[] | null): void;
  dense: boolean;
  onDense(dense: boolean): void;
  rows: readonly Row[];
  facets: readonly Facet[];
  search: { value: string; onChange(text: string): void; label: string } | undefined;
  exports: readonly ExportLink[] | undefined;
  fresh: { readonly count: number; show(): void; noun: string } | undefined;
  follow: { readonly on: boolean; onChange(on: boolean): void } | undefined;
  tools: ReactNode;
}) {
  const { label, facets, search, fresh, follow, tools } = props;
  const field = useRef<HTMLInputElement>(null);
  const exporter = useRef<HTMLDivElement>(null);
  useShortcuts([
    ...(search
      ? [{ keys: "/", label: search.label, group: `Table: ${label}`, run: () => field.current?.focus() }]
      : []),
    {
      keys: "e",
      label: `Export ${label.toLowerCase()}`,
      group: `Table: ${label}`,
      run: () => exporter.current?.querySelector("button")?.click(),
    },
  ]);
  return (
    <div className="mb-2 flex min-h-7 flex-wrap items-center gap-2">
      {search ? (
        <span className="relative">
          <Search size={13} aria-hidden className="absolute top-[7px] left-2 text-subtle" />
          <input
            ref={field}
            type="search"
            className="control w-52 pl-7 text-table"
            aria-label={search.label}
            placeholder={search.label}
            value={search.value}
            onChange={(event) => search.onChange(event.target.value)}
            onKeyDown={(event) => {
              if (event.key === "Escape") event.currentTarget.blur();
            }}
          />
        </span>
      ) : null}
      {facets.map((facet) => (
        <FacetButton key={facet.field} facet={facet} />
      ))}
      {facets.some(({ value }) => value.length > 0) ? (
        <Button
          tone="quiet"
          onClick={() => {
            for (const facet of facets) facet.onChange([]);
          }}
        >
          Clear filters
        </Button>
      ) : null}
      {tools}
      <div className="ml-auto flex items-center gap-1">
        {fresh && fresh.count > 0 ? (
          <Button tone="primary" onClick={fresh.show}>
            ↑ {formatCount(fresh.count)} new {fresh.count === 1 ? fresh.noun : `${fresh.noun}s`}
          </Button>
        ) : null}
        {follow ? (
          <Button aria-pressed={follow.on} onClick={() => follow.onChange(!follow.on)}>
            {follow.on ? "Hold" : "Follow"}
          </Button>
        ) : null}
        <OnDemand popup="dialog" load={load} trigger={columnsTrigger(label)}>
          <ColumnMenu
            trigger={columnsTrigger(label)}
            columns={props.columns}
            shown={props.shown}
            onChange={props.onColumns}
            dense={props.dense}
            onDense={props.onDense}
          />
        </OnDemand>
        <div ref={exporter}>
          <OnDemand popup="dialog" load={load} trigger={exportTrigger(label)}>
            <ExportMenu
              trigger={exportTrigger(label)}
              label={label}
              links={props.exports}
              columns={props.visible as readonly DataColumn<unknown>[]}
              rows={props.rows}
            />
          </OnDemand>
        </div>
      </div>
    </div>
  );
}

function columnsTrigger(label: string) {
  return (
    <button
      type="button"
      className={iconButton}
      aria-label={`Columns of ${label.toLowerCase()}`}
      title="Columns"
    >
      <Columns3 size={14} aria-hidden />
    </button>
  );
}

function exportTrigger(label: string) {
  return (
    <button type="button" className={iconButton} aria-label={`Export ${label.toLowerCase()}`} title="Export">
      <Download size={14} aria-hidden />
    </button>
  );
}

function FacetButton({ facet }: { facet: Facet }) {
  const chosen = facet.options.filter(({ value }) => facet.value.includes(value));
  const trigger = (
    <button type="button" className={buttonClass()}>
      <ListFilter size={13} aria-hidden className="text-subtle" />
      <span className="text-table">
        {facet.label}
        {facet.value.length > 0 ? (
          <span className="font-semibold">
            {": "}
            {chosen.length > 0 && chosen.length < 3
              ? chosen.map(({ label }) => label).join(", ")
              : `${facet.value.length} chosen`}
          </span>
        ) : null}
      </span>
    </button>
  );
  return (
    <span className="inline-flex">
      <OnDemand popup="dialog" load={load} trigger={trigger}>
        <FacetMenu facet={facet} trigger={trigger} />
      </OnDemand>
      {facet.value.length > 0 ? (
        <button
          type="button"
          className={iconButton}
          aria-label={`Any ${facet.label.toLowerCase()}`}
          title={`Any ${facet.label.toLowerCase()}`}
          onClick={() => facet.onChange([])}
        >
          <X size={13} aria-hidden />
        </button>
      ) : null}
    </span>
  );
}
