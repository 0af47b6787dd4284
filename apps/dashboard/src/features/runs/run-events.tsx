"use client";

import { useVirtualizer } from "@tanstack/react-virtual";
import { ChevronRight } from "lucide-react";
import { useMemo, useRef, useState } from "react";
import type { LoggedEvent } from "../../live/event-log.ts";
import type { EventStream } from "../../live/event-stream.ts";
import { useFrameStore } from "../../live/use-frame-store.ts";
import { Button } from "../../ui/button.tsx";
import { CopyButton, Id } from "../../ui/copy.tsx";
import { formatClock, formatCount, formatExact, formatMoment } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Select } from "../../ui/select.tsx";
import { Empty, Loading } from "../../ui/states.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import type { RunLive } from "./run-live.ts";

/** What happened, newest first, beginning a little before the page was opened. Following shows each event as it comes; holding keeps what is read in place. */
export function RunEvents({ stream }: { stream: EventStream<RunLive> | undefined }) {
  return stream ? <Feed stream={stream} /> : <Loading what="the events" rows={6} />;
}

const kinds = [
  "all",
  "run",
  "task",
  "group",
  "case",
  "validator",
  "batch",
  "step",
  "checkpoint",
  "evaluation",
  "node",
  "grant",
  "budget",
] as const;
type Kind = (typeof kinds)[number];

function Feed({ stream }: { stream: EventStream<RunLive> }) {
  const { log } = useFrameStore(stream.store);
  const [kind, setKind] = useState<Kind>("all");
  const [heldAt, setHeldAt] = useState<bigint>();
  const [open, setOpen] = useState<bigint>();
  const scroller = useRef<HTMLDivElement>(null);

  const matching = useMemo(
    () => log.events.filter((event) => kind === "all" || event.type.startsWith(`${kind}.`)).toReversed(),
    [log.events, kind],
  );
  const shown = heldAt === undefined ? matching : matching.filter((event) => event.seq <= heldAt);
  const waiting = matching.length - shown.length;
  const rows = useVirtualizer({
    count: shown.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => 28,
    getItemKey: (index) => String(shown[index]?.seq ?? index),
    overscan: 12,
  });

  function follow(): void {
    setHeldAt(undefined);
    scroller.current?.scrollTo({ top: 0 });
  }

  return (
    <Section
      title="Events"
      note={`Newest first, the last ${formatCount(log.events.length)} kept here; event ${formatExact(log.cursor)} of ${formatExact(log.head)}.`}
      actions={
        <>
          <Select<Kind>
            label="Kind"
            value={kind}
            options={kinds.map((value) => ({ value, label: value }))}
            onChange={setKind}
          />
          {heldAt === undefined ? (
            <Button onClick={() => setHeldAt(log.cursor)}>Hold</Button>
          ) : (
            <Button tone="primary" onClick={follow}>
              {waiting > 0 ? `↑ ${formatCount(waiting)} new` : "Follow"}
            </Button>
          )}
        </>
      }
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
      {shown.length === 0 ? (
        <Empty title="Nothing has happened yet">Events appear here the moment they are committed.</Empty>
      ) : (
        <div
          ref={scroller}
          role="log"
          aria-label="Events of the run"
          aria-live="off"
          // biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard
          tabIndex={0}
          className="h-[60vh] overflow-y-auto border-y border-line"
          onScroll={(event) => {
            // whoever scrolls down is reading: what is read must not move
            if (event.currentTarget.scrollTop > 8 && heldAt === undefined) setHeldAt(log.cursor);
          }}
        >
          <div className="relative w-full" style={{ height: rows.getTotalSize() }}>
            {rows.getVirtualItems().map((item) => {
              const event = shown[item.index];
              if (event === undefined) return null;
              return (
                <div
                  key={item.key}
                  ref={rows.measureElement}
                  data-index={item.index}
                  className="absolute inset-x-0 top-0 border-b border-line"
                  style={{ transform: `translateY(${item.start}px)` }}
                >
                  <EventRow
                    event={event}
                    open={open === event.seq}
                    onToggle={() => setOpen(open === event.seq ? undefined : event.seq)}
                  />
                </div>
              );
            })}
          </div>
        </div>
      )}
    </Section>
  );
}

function EventRow({ event, open, onToggle }: { event: LoggedEvent; open: boolean; onToggle(): void }) {
  const at = new Date(event.at);
  const json = JSON.stringify(event.data, null, 2) ?? "null";
  return (
    <>
      <div className="flex h-7 items-center gap-3 text-table">
        <button
          type="button"
          className="inline-flex h-7 items-center gap-1 text-subtle hover:text-fg"
          aria-expanded={open}
          aria-label={`Event ${event.seq}, ${event.type}`}
          onClick={onToggle}
        >
          <ChevronRight size={12} aria-hidden className={open ? "rotate-90" : ""} />
          <span className="w-14 text-right font-mono">{String(event.seq)}</span>
        </button>
        <time dateTime={event.at} title={formatMoment(at)} className="w-16 text-subtle">
          {formatClock(at)}
        </time>
        <span className="w-32 shrink-0 truncate sm:w-40 font-medium">{event.type}</span>
        <span className="hidden w-28 shrink-0 sm:block">
          <Id id={event.subject} />
        </span>
        <span className="min-w-0 flex-1 text-muted">
          <UntrustedText line text={summary(event.data)} />
        </span>
      </div>
      {open ? (
        <div className="flex items-start gap-3 pb-2 pl-6 text-table">
          <pre className="min-w-0 flex-1 overflow-x-auto">
            <UntrustedText text={json} />
          </pre>
          <CopyButton label="Copy event" text={JSON.stringify({ ...event, seq: String(event.seq) })} />
        </div>
      ) : null}
    </>
  );
}

/** `step 12, version 12`: the plain values of an event's data on one line. */
function summary(data: unknown): string {
  if (typeof data !== "object" || data === null) return "";
  return Object.entries(data)
    .filter(([, value]) => value !== null && typeof value !== "object")
    .map(
      ([name, value]) =>
        `${name} ${typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : String(value)}`,
    )
    .join(", ");
}
