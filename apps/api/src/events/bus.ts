import { randomUUID } from "node:crypto";
import pg from "pg";
import type { Logger } from "pino";

/**
 * Nudges between everything that waits and everything that changes, across processes. A message only says "look":
 * whoever missed one reads the rows and ends in the same state.
 */
export type Bus = {
  /** Tells every process that a topic changed. Joined into one NOTIFY a tick. */
  publish(topic: Topic): void;
  /**
   * Calls `listener` for each nudge on `topic`, also after a reconnect, when messages may have been missed; attached when this returns.
   * A pattern such as `run:*` hears every topic that begins so; after a reconnect it hears the pattern itself.
   * Returns the way to stop.
   */
  listen(topic: Topic | TopicPattern, listener: (topic: Topic | TopicPattern) => void): () => void;
  close(): Promise<void>;
};

/** `events` asks the sequencer to look, `stream:<name>` says that numbered events arrived, `offers:<kind>` that tasks opened, `run:<uuid>` that a run's planner should look, `relays:<uuid>` that its relays should, `probes` that one is to be probed, `webhooks` that something is to be sent. */
export type Topic =
  | "events"
  | `stream:${string}`
  | `offers:${string}`
  | `run:${string}`
  | `relays:${string}`
  | "probes"
  | "webhooks";
export type TopicPattern = "stream:*" | "offers:*" | "run:*" | "relays:*";

export type BusOptions = {
  /** For the one connection that listens. */
  readonly databaseUrl: string;
  /** Sends what is published. */
  readonly pool: pg.Pool;
  readonly log: Logger;
};

/** A bus over Postgres LISTEN/NOTIFY. Inside the process a nudge arrives without the database. */
export async function createBus({ databaseUrl, pool, log }: BusOptions): Promise<Bus> {
  const origin = randomUUID();
  const listeners = new Map<string, Set<(topic: Topic | TopicPattern) => void>>();
  const pending = new Set<Topic>();
  let scheduled: NodeJS.Immediate | undefined;
  let retry: NodeJS.Timeout | undefined;
  const unsent = new Set<Topic>();
  let sending: Promise<void> | undefined;
  let closed = false;

  const call = (key: string, topic: Topic | TopicPattern) => {
    for (const listener of listeners.get(key) ?? []) {
      try {
        listener(topic);
      } catch (error) {
        log.error({ err: error, topic }, "a listener of the bus failed");
      }
    }
  };
  const deliver = (topic: Topic) => {
    call(topic, topic);
    const colon = topic.indexOf(":");
    if (colon > 0) call(`${topic.slice(0, colon)}:*`, topic);
  };

  const connection = keepListening(databaseUrl, log, {
    message(payload) {
      const [from, ...topics] = payload.split("\n");
      if (from === origin) return;
      // Only our own processes write to the channel, and an unknown topic has no listeners.
      for (const topic of topics) deliver(topic as Topic);
    },
    reconnected() {
      for (const key of listeners.keys()) call(key, key as Topic | TopicPattern);
    },
  });

  const send = async (topics: Topic[]) => {
    try {
      await pool.query({ name: "bus-notify", text: notifySql, values: [channel, payloads(origin, topics)] });
    } catch (error) {
      if (closed) return;
      log.warn({ err: error }, "a nudge to other processes was not sent; trying again");
      for (const topic of topics) unsent.add(topic);
      retry ??= setTimeout(() => {
        retry = undefined;
        const again = [...unsent];
        unsent.clear();
        sending = Promise.all([sending, send(again)]).then(() => {});
      }, 1_000);
    }
  };
  const flush = () => {
    scheduled = undefined;
    const topics = [...pending];
    pending.clear();
    for (const topic of topics) deliver(topic);
    sending = Promise.all([sending, send(topics)]).then(() => {});
  };

  await connection.ready;
  return {
    publish(topic) {
      if (closed) return;
      pending.add(topic);
      scheduled ??= setImmediate(flush);
    },
    listen(topic, listener) {
      let set = listeners.get(topic);
      if (set === undefined) {
        set = new Set();
        listeners.set(topic, set);
      }
      // Its own object, so that one function given twice is two listeners.
      const own = (heard: Topic | TopicPattern) => listener(heard);
      set.add(own);
      return () => {
        set.delete(own);
        if (set.size === 0 && listeners.get(topic) === set) listeners.delete(topic);
      };
    },
    async close() {
      if (closed) return;
      if (scheduled !== undefined) {
        clearImmediate(scheduled);
        flush();
      }
      closed = true;
      clearTimeout(retry);
      listeners.clear();
      await sending?.catch(() => {});
      await connection.close();
    },
  };
}

/**
 * Nudges as an async iterator, attached when this returns (an iterator that attached at the first `next()` would lose what came before).
 * Yields the topics heard since the last turn, at once when there are some, and an empty set every `everyMs` when there are none.
 */
export function nudges(
  bus: Bus,
  topics: readonly (Topic | TopicPattern)[],
  { everyMs }: { everyMs: number },
): AsyncIterableIterator<ReadonlySet<Topic | TopicPattern>> {
  let heard = new Set<Topic | TopicPattern>();
  let wake: (() => void) | undefined;
  let done = false;
  const stops = topics.map((topic) =>
    bus.listen(topic, (which) => {
      heard.add(which);
      wake?.();
    }),
  );
  const stop = () => {
    done = true;
    for (const off of stops) off();
    wake?.();
  };
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      if (!done && heard.size === 0) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, everyMs);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        wake = undefined;
      }
      if (done) return { value: undefined, done: true };
      const value = heard;
      heard = new Set();
      return { value, done: false };
    },
    return() {
      stop();
      return Promise.resolve({ value: undefined, done: true });
    },
  };
}

const channel = "muster";
const notifySql = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/** A NOTIFY carries less than 8,000 bytes. */
function payloads(origin: string, topics: readonly Topic[]): string[] {
  const all: string[] = [];
  let current = origin;
  for (const topic of topics) {
    if (current.length + topic.length > 7_000) {
      all.push(current);
      current = origin;
    }
    current += `\n${topic}`;
  }
  all.push(current);
  return all;
}

type Ears = { message(payload: string): void; reconnected(): void };

/** One connection of its own that listens, and comes back when it breaks. */
function keepListening(
  url: string,
  log: Logger,
  ears: Ears,
): { ready: Promise<void>; close(): Promise<void> } {
  let client: pg.Client | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  let delay = 100;

  const lost = (from: pg.Client, error: unknown) => {
    if (closed || client !== from) return;
    client = undefined;
    log.warn({ err: error }, "the connection that hears nudges broke; connecting again");
    from.end().catch(() => {});
    again();
  };
  const again = () => {
    // Jitter, so that many replicas do not knock at once when a database returns.
    timer = setTimeout(
      () => {
        connect().then(ears.reconnected, () => {
          delay = Math.min(delay * 2, 5_000);
          if (!closed) again();
        });
      },
      delay * (0.5 + Math.random()),
    );
  };
  const connect = async () => {
    const fresh = new pg.Client({
      connectionString: url,
      application_name: "muster bus",
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
    });
    fresh.on("error", (error) => lost(fresh, error));
    fresh.on("end", () => lost(fresh, new Error("the server ended it")));
    fresh.on("notification", (message) => ears.message(message.payload ?? ""));
    await fresh.connect();
    await fresh.query(`LISTEN ${channel}`);
    if (closed) return await fresh.end();
    client = fresh;
    delay = 100;
  };

  return {
    ready: connect(),
    async close() {
      closed = true;
      clearTimeout(timer);
      await client?.end().catch(() => {});
    },
  };
}
