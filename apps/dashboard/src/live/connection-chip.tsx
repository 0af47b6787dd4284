"use client";

import { lazy, useReducer, useSyncExternalStore } from "react";
import { Button } from "../ui/button.tsx";
import { formatDuration, formatExact } from "../ui/format.ts";
import { OnDemand } from "../ui/on-demand.tsx";
import { useShortcuts } from "../ui/shortcuts.tsx";
import { StateIcon, type Tone } from "../ui/state-badge.tsx";
import { useNow } from "../ui/time.tsx";
import { type ConnectionStatus, connectionStatus } from "./connection-status.ts";
import { type Followed, useLive } from "./live-provider.tsx";
import { useFrameStore } from "./use-frame-store.ts";

const load = () => import("../ui/popover.tsx");
const Popover = lazy(async () => ({ default: (await load()).Popover }));

/** What the connection is doing, always in sight; a click tells the rest. */
export function ConnectionChip() {
  const live = useLive();
  return live ? <Chip live={live} /> : <span className="text-table text-subtle">Connecting</span>;
}

/** A thin line over the page when what it shows may be out of date. */
export function ConnectionBanner() {
  const live = useLive();
  return live ? <Banner live={live} /> : null;
}

type Live = NonNullable<ReturnType<typeof useLive>>;

const tones: Record<ConnectionStatus["kind"], Tone> = {
  live: "ok",
  "catching-up": "running",
  connecting: "pending",
  stale: "pending",
  reconnecting: "pending",
  paused: "idle",
  offline: "rejected",
  refused: "rejected",
};

function useStatus(live: Live) {
  const socket = useFrameStore(live.socket.state);
  const followed = useFrameStore(live.followed);
  const now = useNow();
  const online = useSyncExternalStore(
    subscribeOnline,
    () => navigator.onLine,
    () => true,
  );
  return {
    status: connectionStatus({ online, socket, stream: followed?.state(), now: Math.max(now, Date.now()) }),
    followed,
    now,
  };
}

function Chip({ live }: { live: Live }) {
  const { status, followed, now } = useStatus(live);
  // a pause is no event of the stream: without this the chip would say it a second later
  const [, again] = useReducer((n: number) => n + 1, 0);
  useShortcuts([
    {
      keys: "p",
      label: "Pause or resume live updates",
      group: "This page",
      run: () => {
        if (followed === undefined) return false;
        followed.setPaused({ paused: !followed.state().paused });
        again();
      },
    },
  ]);
  const trigger = (
    <button
      type="button"
      aria-label={`Connection: ${status.label}`}
      className="inline-flex h-7 items-center gap-1.5 rounded-control px-2 text-table text-muted hover:bg-raised"
    >
      <span className={iconColour[tones[status.kind]]}>
        <StateIcon tone={tones[status.kind]} />
      </span>
      <span className="whitespace-nowrap">{status.label}</span>
    </button>
  );
  return (
    <>
      <OnDemand trigger={trigger} popup="dialog" load={load}>
        <Popover title="Connection" trigger={trigger}>
          <Details
            status={status}
            followed={followed}
            now={now}
            retry={live.socket.retryNow}
            onPause={again}
          />
        </Popover>
      </OnDemand>
      <span role="status" className="sr-only">
        Connection: {status.spoken}
      </span>
    </>
  );
}

const iconColour: Record<Tone, string> = {
  ok: "text-ok",
  pending: "text-pending",
  running: "text-running",
  rejected: "text-rejected",
  slashed: "text-slashed",
  idle: "text-idle",
};

function Details(props: {
  status: ConnectionStatus;
  followed: Followed | undefined;
  now: number;
  retry(): void;
  onPause(): void;
}) {
  const { status, followed, now, retry, onPause } = props;
  const stream = followed?.state();
  const offset = followed?.clockOffset();
  return (
    <>
      <dl className="mt-2 grid grid-cols-[auto_1fr] gap-x-4 gap-y-1 text-table">
        <Line name="Transport">GraphQL over WebSocket</Line>
        <Line name="State">{status.label}</Line>
        {followed && stream ? (
          <>
            <Line name="Last event">{String(followed.cursor())}</Line>
            <Line name="Behind the head">{formatExact(stream.behind)}</Line>
            <Line name="Last heard">
              {stream.heardAt === undefined
                ? "not yet"
                : `${formatDuration(Math.max(0, (now - stream.heardAt) / 1000))} ago`}
            </Line>
            <Line name="Server clock">
              {offset === undefined
                ? "not yet"
                : `${offset < 0 ? "−" : "+"}${formatDuration(Math.abs(offset) / 1000)}`}
            </Line>
            <Line name="Gaps seen">{formatExact(followed.gaps())}</Line>
          </>
        ) : (
          <Line name="Stream">none on this page</Line>
        )}
      </dl>
      <div className="mt-3 flex gap-2">
        {followed && stream ? (
          <Button
            onClick={() => {
              followed.setPaused({ paused: !stream.paused });
              onPause();
            }}
          >
            {stream.paused ? "Resume live updates" : "Pause live updates"}{" "}
            <kbd className="keycap" aria-hidden>
              P
            </kbd>
          </Button>
        ) : null}
        {status.kind === "reconnecting" || status.kind === "offline" ? (
          <Button onClick={retry}>Reconnect now</Button>
        ) : null}
      </div>
    </>
  );
}

function Line({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <>
      <dt className="text-subtle">{name}</dt>
      <dd className="text-right">{children}</dd>
    </>
  );
}

function Banner({ live }: { live: Live }) {
  const { status } = useStatus(live);
  if (!status.doubtful) return null;
  return (
    <p className="bg-pending-soft px-4 py-1 text-table text-on-pending-soft">
      {status.kind === "refused"
        ? "Your session has ended. Sign in again; until then this page shows what it last knew."
        : `${status.label}. This page shows what it last knew; nothing is lost, it continues where it stopped.`}
    </p>
  );
}

function subscribeOnline(listener: () => void): () => void {
  window.addEventListener("online", listener);
  window.addEventListener("offline", listener);
  return () => {
    window.removeEventListener("online", listener);
    window.removeEventListener("offline", listener);
  };
}
