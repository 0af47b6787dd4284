"use client";

import { useMemo, useState } from "react";
import type { LoggedEvent } from "../../live/event-log.ts";
import type { EventStream } from "../../live/event-stream.ts";
import { useFrameStore } from "../../live/use-frame-store.ts";
import { Button } from "../../ui/button.tsx";
import { type Bin, Histogram } from "../../ui/chart/histogram.tsx";
import { CopyButton, Id } from "../../ui/copy.tsx";
import { countValues, type DataColumn, type Facet } from "../../ui/data-table/columns.ts";
import { DataTable } from "../../ui/data-table/data-table.tsx";
import { formatClock, formatCount, formatExact, formatMoment, shortId } from "../../ui/format.ts";
import { Panel } from "../../ui/page.tsx";
import { Empty, Loading } from "../../ui/states.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { useChartView, useOpenFacet, useSearch } from "../../ui/view-state.ts";
import { densityOf, eventInWords, kindOf } from "./event-density.ts";
import type { RunLive } from "./run-live.ts";

const columns: readonly DataColumn<LoggedEvent>[] = [
  {
    id: "seq",
    head: "Event",
    width: 84,
    cell: (event) => <span className="font-mono text-subtle">{String(event.seq)}</span>,
    text: (event) => String(event.seq),
  },
  {
    id: "at",
    head: "Time",
    width: 84,
    cell: (event) => (
      <time className="text-subtle" dateTime={event.at} title={formatMoment(new Date(event.at))}>
        {formatClock(new Date(event.at))}
      </time>
    ),
    text: (event) => event.at,
    narrow: "second",
  },
  {
    id: "type",
    head: "Type",
    width: 176,
    cell: (event) => <span className="font-medium">{event.type}</span>,
    text: (event) => event.type,
    narrow: "first",
  },
  {
    id: "subject",
    head: "About",
    width: 128,
    cell: (event) => <Id id={event.subject} />,
    text: (event) => event.subject,
    narrow: "none",
  },
  {
    id: "data",
    head: "What",
    width: 320,
    grow: true,
    cell: (event) => (
      <span className="text-muted">
        <UntrustedText line text={eventInWords(event.data)} />
      </span>
    ),
    text: (event) => JSON.stringify(event.data),
    narrow: "second",
  },
];

/** What happened, newest first, beginning a little before the page was opened. Following shows each event as it comes; holding keeps what is read in place. */
export function RunEvents({ stream }: { stream: EventStream<RunLive> | undefined }) {
  return stream ? <Feed stream={stream} /> : <Loading what="the events" rows={6} />;
}

function Feed({ stream }: { stream: EventStream<RunLive> }) {
  const { log } = useFrameStore(stream.store);
  const [kinds, setKinds] = useOpenFacet("kind");
  const [search, setSearch] = useSearch();
  const [view, setView] = useChartView();
  const [heldAt, setHeldAt] = useState<bigint>();
  const held = useMemo(
    () => (heldAt === undefined ? log.events : log.events.filter(({ seq }) => seq <= heldAt)),
    [log.events, heldAt],
  );
  const part = view.range?.kind === "fixed" ? view.range : undefined;
  const wanted = search.trim().toLowerCase();
  const shown = useMemo(
    () =>
      held
        .filter((event) => {
          if (kinds.length > 0 && !kinds.includes(kindOf(event))) return false;
          if (
            wanted !== "" &&
            !`${event.type} ${event.subject} ${eventInWords(event.data)}`.toLowerCase().includes(wanted)
          )
            return false;
          const at = Date.parse(event.at) / 1000;
          return part === undefined || (at >= part.from && at < part.to);
        })
        .toReversed(),
    [held, kinds, wanted, part],
  );
  const density = useMemo(() => densityOf(held), [held]);
  const facets = useMemo((): Facet[] => {
    const counts = countValues(held, kindOf);
    return [
      {
        field: "kind",
        label: "Kind",
        options: [...counts].map(([value, count]) => ({ value, label: value, count })),
        value: kinds,
        onChange: setKinds,
      },
    ];
  }, [held, kinds, setKinds]);
  const choose = (range: { from: number; to: number } | null) =>
    void setView({ range: range === null ? null : { kind: "fixed", from: range.from, to: range.to } });
  return (
    <Panel
      title="Events"
      note={`The last ${formatCount(log.events.length)} are kept here; event ${formatExact(log.cursor)} of ${formatExact(log.head)}.`}
    >
      {log.gaps.length > 0 ? (
        <p
          role="alert"
          className="mb-2 rounded-control bg-rejected-soft px-2 py-1 text-table text-on-rejected-soft"
        >
          {formatExact(log.gaps.length)} range of event numbers never arrived, first after{" "}
          {String(log.gaps[0]?.after)}. Reload the page and report this.
        </p>
      ) : null}
      {density.length > 1 ? (
        <Histogram
          title="When"
          help="Events of the kept ones in each part of the time; choose a bar to see only its events."
          bins={density}
          format={(seconds) => formatClock(new Date(seconds * 1000))}
          {...(part ? { chosen: part } : {})}
          onSelect={(bin: Bin) => choose(part && part.from === bin.from && part.to === bin.to ? null : bin)}
          height={40}
        />
      ) : null}
      <DataTable<LoggedEvent>
        label="Events"
        columns={columns}
        rows={shown}
        getRowId={(event) => String(event.seq)}
        facets={facets}
        search={{ value: search, onChange: setSearch, label: "Search events" }}
        tools={
          part ? (
            <Button tone="quiet" onClick={() => choose(null)}>
              Any time
            </Button>
          ) : null
        }
        total={{ matching: shown.length, total: held.length }}
        fresh={{
          count: heldAt === undefined ? 0 : Number(log.cursor - heldAt),
          noun: "event",
          show: () => setHeldAt(undefined),
        }}
        follow={{ on: heldAt === undefined, onChange: (on) => setHeldAt(on ? undefined : log.cursor) }}
        peek={(event) => (
          <EventLook
            event={event}
            onAround={() => {
              const at = Date.parse(event.at) / 1000;
              setKinds([]);
              choose({ from: Math.floor(at - 30), to: Math.ceil(at + 30) });
            }}
          />
        )}
        peekTitle={(event) => `Event ${event.seq}, ${event.type}`}
        height={560}
        empty={
          held.length > 0 ? (
            <Empty
              title="No event matches"
              action={
                <Button
                  onClick={() => {
                    setKinds([]);
                    setSearch("");
                    choose(null);
                  }}
                >
                  Show all events
                </Button>
              }
            >
              {`None of the ${formatExact(held.length)} kept events is of this kind and time.`}
            </Empty>
          ) : (
            <Empty title="Nothing has happened yet">Events appear here the moment they are committed.</Empty>
          )
        }
      />
    </Panel>
  );
}

function EventLook({ event, onAround }: { event: LoggedEvent; onAround(): void }) {
  return (
    <>
      <dl className="grid grid-cols-[auto_1fr] gap-x-4 gap-y-1 text-table">
        <dt className="text-subtle">At</dt>
        <dd>{formatMoment(new Date(event.at))}</dd>
        <dt className="text-subtle">About</dt>
        <dd>
          <Id id={event.subject} />
        </dd>
      </dl>
      <pre className="my-3 overflow-x-auto border-y border-line py-2 text-table">
        <UntrustedText text={JSON.stringify(event.data, null, 2) ?? "null"} />
      </pre>
      <div className="flex flex-wrap gap-2">
        <CopyButton label="Copy event" text={JSON.stringify({ ...event, seq: String(event.seq) })} />
        <Button
          onClick={onAround}
          title={`Everything half a minute before and after ${shortId(event.subject)}`}
        >
          Around this
        </Button>
      </div>
    </>
  );
}
