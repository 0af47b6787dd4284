import type pg from "pg";
import type { Logger } from "pino";
import type { Bus } from "./bus.ts";

// Invariant: a subscriber sees every event after its cursor exactly once, in order, whatever happens in between.
// It holds because a subscriber has one cursor and two ways to move it: reading rows after it, or taking a live batch that begins
// right after it. Whoever falls behind, by a slow line or by coming late, reads rows; the switch to live compares with what the
// stream's tail has handed out in the same tick, so nothing fits in between. Nothing is ever buffered without bound.

export type StoredEvent = {
  readonly seq: bigint;
  readonly type: string;
  /** TypeID of what it happened to. */
  readonly subject: string;
  readonly data: unknown;
  readonly at: Date;
};

export type EventBatch = {
  readonly stream: string;
  readonly events: readonly StoredEvent[];
  /** The newest number given in the stream. */
  readonly head: bigint;
  /** The cursor cannot be served: read the snapshot again. What follows starts after `head`. */
  readonly resync: boolean;
  /** Whether these events were read from before the subscription was live. */
  readonly backfill: boolean;
  readonly serverTime: Date;
};

/** Follows streams for everyone in this process: one read of the database for a stream, however many follow it. */
export type EventHub = {
  /**
   * Events after `after` (exclusive), then live; without a cursor only what happens from now on. The first batch comes at once, an empty
   * one that is not `backfill` says that the subscriber is live, and an empty one comes at least every five seconds.
   */
  follow(stream: string, after: bigint | undefined): AsyncIterableIterator<EventBatch>;
  /** Ends every iterator. */
  close(): void;
};

export type HubOptions = {
  readonly pool: pg.Pool;
  readonly bus: Bus;
  readonly log: Logger;
  /** Least milliseconds between two live batches of a stream. */
  readonly batchMs?: number;
  readonly heartbeatMs?: number;
  /** Most events replayed to one subscriber; beyond it, the snapshot is cheaper. */
  readonly replayLimit?: number;
};

const chunkSize = 500;
/** Live batches a slow subscriber may owe before it is sent to read rows again. */
const queueLimit = 32;

export function createEventHub(options: HubOptions): EventHub {
  const { replayLimit = 50_000 } = options;
  const tails = new Map<string, Tail>();
  const open = new Set<() => void>();

  return {
    follow(stream, after) {
      let tail = tails.get(stream);
      if (tail === undefined) {
        tail = startTail(stream, options);
        tails.set(stream, tail);
      }
      const followed = tail;
      const leave = () => {
        open.delete(end);
        followed.subscribers.delete(subscriber);
        if (followed.subscribers.size > 0 || tails.get(stream) !== followed) return;
        tails.delete(stream);
        followed.stop();
      };
      const subscriber = createSubscriber(followed, { pool: options.pool, after, replayLimit, leave });
      const end = () => subscriber.end();
      followed.subscribers.add(subscriber);
      open.add(end);
      return subscriber.iterator;
    },
    close() {
      for (const end of [...open]) end();
    },
  };
}

type Subscriber = {
  /** Takes a live batch, if it is live. */
  push(batch: EventBatch): void;
  end(): void;
  readonly iterator: AsyncIterableIterator<EventBatch>;
};

type SubscriberOptions = {
  pool: pg.Pool;
  after: bigint | undefined;
  replayLimit: number;
  leave(): void;
};

function createSubscriber(tail: Tail, { pool, after, replayLimit, leave }: SubscriberOptions): Subscriber {
  let cursor = after;
  let state: "new" | "reading" | "live" | "ended" = "new";
  let queue: EventBatch[] = [];
  let wake: (() => void) | undefined;

  const batch = (
    events: readonly StoredEvent[],
    flags: { resync?: boolean; backfill?: boolean },
  ): EventBatch => ({
    stream: tail.stream,
    events,
    head: max(tail.head, cursor ?? 0n),
    resync: flags.resync ?? false,
    backfill: flags.backfill ?? false,
    serverTime: new Date(),
  });
  const goLive = (flags: { resync?: boolean } = {}): EventBatch => {
    state = "live";
    return batch([], flags);
  };
  const restart = (): EventBatch => {
    cursor = max(tail.head, cursor ?? 0n);
    return goLive({ resync: true });
  };

  const begin = async (): Promise<EventBatch> => {
    await tail.ready;
    const { head, floor } = await readBounds(pool, tail.stream);
    if (cursor === undefined) {
      cursor = head;
      state = "reading";
      return await read();
    }
    // Ahead of the head: a cursor from another database, or from before a restore.
    const served = cursor <= head && cursor >= floor - 1n && head - cursor <= BigInt(replayLimit);
    if (!served) {
      cursor = head;
      state = "reading";
      return cursor >= tail.head ? restart() : batch([], { resync: true });
    }
    state = "reading";
    return await read();
  };

  const read = async (): Promise<EventBatch> => {
    const from = cursor ?? 0n;
    if (from >= tail.head) return goLive();
    const rows = await readEvents(pool, tail.stream, from);
    const first = rows[0];
    if (first === undefined) return goLive();
    // Streams are dense: a hole means that retention has passed the cursor by.
    if (first.seq !== from + 1n) return restart();
    cursor = rows.at(-1)?.seq ?? from;
    return batch(rows, { backfill: true });
  };

  const take = (): EventBatch | undefined => {
    const next = queue.shift();
    if (next === undefined) return undefined;
    const at = cursor ?? 0n;
    const last = next.events.at(-1);
    if (last === undefined) return next;
    if (last.seq <= at) return take();
    cursor = last.seq;
    // The very object the tail made, so that what is computed from it once serves everyone.
    if (next.events[0]?.seq === at + 1n) return next;
    return { ...next, events: next.events.filter(({ seq }) => seq > at) };
  };

  const end = () => {
    if (state === "ended") return;
    state = "ended";
    queue = [];
    leave();
    wake?.();
  };

  const next = async (): Promise<IteratorResult<EventBatch>> => {
    for (;;) {
      let value: EventBatch | undefined;
      if (state === "new") value = await begin();
      else if (state === "reading") value = await read();
      else if (state === "live") value = take();
      // `end` may have been called while a read was under way.
      if ((state as string) === "ended") return { value: undefined, done: true };
      if (value !== undefined) return { value, done: false };
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      wake = undefined;
    }
  };

  // One `next` after the other, whatever the consumer does.
  let turn: Promise<unknown> | undefined;
  return {
    push(live) {
      if (state !== "live") return;
      if (queue.length >= queueLimit) {
        queue = [];
        state = "reading";
      } else {
        queue.push(live);
      }
      wake?.();
    },
    end,
    iterator: {
      [Symbol.asyncIterator]() {
        return this;
      },
      next() {
        const result = (turn === undefined ? next() : turn.then(next)).catch((error: unknown) => {
          end();
          throw error;
        });
        const settled = () => {
          if (turn === mine) turn = undefined;
        };
        const mine: Promise<unknown> = result.then(settled, settled);
        turn = mine;
        return result;
      },
      return() {
        end();
        return Promise.resolve({ value: undefined, done: true });
      },
    },
  };
}

type Tail = {
  readonly stream: string;
  /** The newest event handed out to live subscribers. */
  readonly head: bigint;
  readonly ready: Promise<void>;
  readonly subscribers: Set<Subscriber>;
  stop(): void;
};

function startTail(stream: string, { pool, bus, log, batchMs = 100, heartbeatMs = 5_000 }: HubOptions): Tail {
  let head = 0n;
  let timer: NodeJS.Timeout | undefined;
  let pulling = false;
  let again = false;
  let stopped = false;
  let lastPull = 0;
  const subscribers = new Set<Subscriber>();

  const hand = (events: readonly StoredEvent[]) => {
    head = events.at(-1)?.seq ?? head;
    const batch: EventBatch = {
      stream,
      events,
      head,
      resync: false,
      backfill: false,
      serverTime: new Date(),
    };
    for (const subscriber of subscribers) subscriber.push(batch);
  };
  const pull = async () => {
    pulling = true;
    lastPull = Date.now();
    try {
      await ready;
      for (;;) {
        again = false;
        const rows = await readEvents(pool, stream, head);
        if (stopped) return;
        if (rows.length > 0) hand(rows);
        if (rows.length < chunkSize) break;
      }
    } catch (error) {
      // The next heartbeat looks again.
      if (!stopped) log.warn({ err: error, stream }, "events could not be read; trying again");
    } finally {
      pulling = false;
      if (again && !stopped) look();
    }
  };
  const look = () => {
    again = true;
    if (pulling || timer !== undefined) return;
    timer = setTimeout(
      () => {
        timer = undefined;
        void pull();
      },
      Math.max(0, lastPull + batchMs - Date.now()),
    );
  };
  // Attached before the first read, so nothing falls in between.
  const off = bus.listen(`stream:${stream}`, look);
  const ready = readBounds(pool, stream).then((bounds) => {
    head = bounds.head;
  });
  // Who follows the tail waits for `ready` and hears of the failure there.
  ready.catch(() => {});
  const heartbeat = setInterval(() => {
    hand([]);
    // Also the remedy for a nudge that was lost.
    look();
  }, heartbeatMs);

  return {
    stream,
    get head() {
      return head;
    },
    ready,
    subscribers,
    stop() {
      stopped = true;
      off();
      clearInterval(heartbeat);
      clearTimeout(timer);
    },
  };
}

type Row = { seq: string; type: string; subject: string; data: unknown; at: Date };

async function readEvents(pool: pg.Pool, stream: string, after: bigint): Promise<StoredEvent[]> {
  const { rows } = await pool.query<Row>({
    name: "events-after",
    text: 'SELECT "seq", "type", "subject", "data", "at" FROM "Event" WHERE "stream" = $1 AND "seq" > $2 ORDER BY "seq" LIMIT $3',
    values: [stream, after.toString(), chunkSize],
  });
  return rows.map((row) => ({ ...row, seq: BigInt(row.seq) }));
}

/** The newest number given, and the oldest that is still kept (the next one, when none is). */
async function readBounds(pool: pg.Pool, stream: string): Promise<{ head: bigint; floor: bigint }> {
  const { rows } = await pool.query<{ head: string; floor: string }>({
    name: "stream-bounds",
    text: `SELECT s."head", coalesce((SELECT min(e."seq") FROM "Event" e WHERE e."stream" = s."stream" AND e."seq" IS NOT NULL), s."head" + 1) AS floor
           FROM "EventStream" s WHERE s."stream" = $1`,
    values: [stream],
  });
  return { head: BigInt(rows[0]?.head ?? 0), floor: BigInt(rows[0]?.floor ?? 1) };
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
