import type { StreamState } from "./connection-status.ts";
import {
  behind,
  type EventLog,
  emptyLog,
  type IncomingBatch,
  type LoggedEvent,
  takeBatch,
} from "./event-log.ts";
import { createFrameStore, type FrameStore } from "./frame-store.ts";
import type { LiveSocket, Refusal } from "./socket.ts";

/** What a page keeps of a stream: the log, and a view folded from its events. */
export type StreamView<View> = {
  readonly log: EventLog;
  readonly view: View;
  readonly refusal: Refusal | undefined;
};

/** A stream that a page follows. */
export type EventStream<View> = {
  /** What the page shows: frozen while paused. */
  readonly store: FrameStore<StreamView<View>>;
  /** Freezes the page without losing anything, or shows at once all that came since. */
  setPaused(options: { paused: boolean }): void;
  state(): StreamState;
  /** Stops hearing, as while nobody sees the page; `wake` goes on where it stopped. Both may be called twice. */
  rest(): void;
  wake(): void;
  close(): void;
};

/** Events a page keeps; older ones are in the database. */
const capacity = 2_000;

const query = `subscription DashboardEvents($stream: ID!, $after: BigInt) {
  events(stream: $stream, after: $after) {
    head resync backfill serverTime
    events { seq type subject data at }
  }
}`;

/** Events before the snapshot that a page shows as history. */
const historyLength = 300n;

/**
 * Follows a stream, each event once and in order, however often the connection breaks.
 * @param after cursor of the snapshot: the view is folded from what comes later, the log begins a little earlier.
 * @param fold adds events to the view; it sees every event exactly once.
 * @param onResync events were skipped, because the cursor was older than what is kept: read the snapshot again.
 */
export function openEventStream<View>(options: {
  socket: LiveSocket;
  stream: string;
  after: string;
  initial: View;
  fold(view: View, events: readonly LoggedEvent[]): View;
  onResync(): void;
}): EventStream<View> {
  const { socket, stream, fold, onResync } = options;
  const snapshot = BigInt(options.after);
  const start = snapshot > historyLength ? snapshot - historyLength : 0n;
  let latest: StreamView<View> = {
    log: emptyLog(start),
    view: options.initial,
    refusal: undefined,
  };
  let paused = false;
  let seen = latest.log.cursor;
  const store = createFrameStore(latest);
  // graphql-ws sends this same object again on every reconnect, so its cursor is where the stream goes on
  const variables = { stream, after: String(start) };

  function show(next: StreamView<View>): void {
    latest = next;
    if (paused) return;
    seen = next.log.cursor;
    store.set(next);
  }

  const listen = () =>
    socket.subscribe<{ events: IncomingBatch }>(
      { query, variables },
      {
        next({ events: batch }) {
          const taken = takeBatch(latest.log, batch, { now: Date.now(), capacity });
          variables.after = String(taken.log.cursor);
          const later = taken.fresh.filter((event) => event.seq > snapshot);
          show({
            log: taken.log,
            view: later.length === 0 ? latest.view : fold(latest.view, later),
            refusal: undefined,
          });
          // history that is no longer kept is no loss: the snapshot is newer
          if (taken.resync && taken.log.cursor > snapshot) onResync();
        },
        ended: (refusal) => show({ ...latest, refusal }),
      },
    );
  let leave: (() => void) | undefined = listen();

  return {
    store,
    setPaused({ paused: wanted }) {
      paused = wanted;
      if (!paused) show(latest);
    },
    state: () => ({
      heardAt: latest.log.heardAt,
      behind: behind(latest.log),
      backfilling: latest.log.backfilling,
      paused,
      waiting: Number(latest.log.cursor - seen),
    }),
    rest() {
      leave?.();
      leave = undefined;
    },
    wake() {
      // what was refused stays refused
      if (latest.refusal === undefined) leave ??= listen();
    },
    close: () => leave?.(),
  };
}
