// The order of what happened. One log per stream: numbers are dense, so a jump is an error that is reported, a number already seen is
// dropped, and memory is bounded whatever arrives.

/** An event as it came over the wire; `seq` is a decimal string there and a bigint here. */
export type LoggedEvent = {
  readonly seq: bigint;
  readonly type: string;
  readonly subject: string;
  readonly data: unknown;
  readonly at: string;
};

/** What arrives of a stream: some events, perhaps none (a heartbeat), and where the head is. */
export type IncomingBatch = {
  readonly events: readonly { seq: string; type: string; subject: string; data: unknown; at: string }[];
  readonly head: string;
  readonly resync: boolean;
  readonly backfill: boolean;
  readonly serverTime: string;
};

/** A range of numbers that never arrived. */
export type Gap = { readonly after: bigint; readonly before: bigint };

export type EventLog = {
  /** Newest last, at most `capacity`. */
  readonly events: readonly LoggedEvent[];
  /** Number of the last event taken in: where to go on after a reconnect. */
  readonly cursor: bigint;
  /** The newest number there is, as the server says. */
  readonly head: bigint;
  readonly gaps: readonly Gap[];
  readonly backfilling: boolean;
  /** Server's clock minus ours at the last batch, in milliseconds. */
  readonly clockOffset: number | undefined;
  /** When the last batch arrived, by our clock. */
  readonly heardAt: number | undefined;
  readonly duplicates: number;
};

/** What a batch changed. `fresh` is in order and new; with `resync` events were skipped: read a snapshot again and go on. */
export type Taken = {
  readonly log: EventLog;
  readonly fresh: readonly LoggedEvent[];
  readonly resync: boolean;
};

export function emptyLog(after: bigint): EventLog {
  return {
    events: [],
    cursor: after,
    head: after,
    gaps: [],
    backfilling: false,
    clockOffset: undefined,
    heardAt: undefined,
    duplicates: 0,
  };
}

/** Takes a batch in. Pure: the same batch twice changes nothing but the count of duplicates. */
export function takeBatch(
  log: EventLog,
  batch: IncomingBatch,
  options: { now: number; capacity: number },
): Taken {
  const head = larger(BigInt(batch.head), log.head);
  const heard = {
    head,
    backfilling: batch.backfill,
    heardAt: options.now,
    clockOffset: Date.parse(batch.serverTime) - options.now,
  };
  const incoming = batch.events.map(numbered).sort((a, b) => (a.seq < b.seq ? -1 : 1));
  const fresh: LoggedEvent[] = [];
  const gaps: Gap[] = [];
  let { cursor, duplicates } = log;
  // what was skipped is known only as a snapshot; the stream goes on after it
  if (batch.resync) cursor = larger(cursor, incoming[0] ? incoming[0].seq - 1n : head);
  for (const event of incoming) {
    if (event.seq <= cursor) {
      duplicates++;
      continue;
    }
    if (event.seq !== cursor + 1n) gaps.push({ after: cursor, before: event.seq });
    cursor = event.seq;
    fresh.push(event);
  }
  const kept = batch.resync ? [] : log.events;
  const events = fresh.length === 0 ? kept : [...kept, ...fresh].slice(-options.capacity);
  return {
    log: {
      ...heard,
      events,
      cursor,
      head: larger(head, cursor),
      gaps: gaps.length === 0 ? log.gaps : [...log.gaps, ...gaps].slice(-50),
      duplicates,
    },
    fresh,
    resync: batch.resync,
  };
}

/** How many events the head is ahead of what was taken in. */
export function behind(log: EventLog): number {
  return Number(log.head - log.cursor);
}

function numbered(event: IncomingBatch["events"][number]): LoggedEvent {
  return { ...event, seq: BigInt(event.seq) };
}

function larger(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
