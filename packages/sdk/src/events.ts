import { graphql, type ResultOf } from "./graphql.ts";
import type { Live } from "./live.ts";

const EventsDocument = graphql(`
  subscription Events($stream: ID!, $after: BigInt) {
    events(stream: $stream, after: $after) {
      stream
      events { seq type subject data at }
      head
      resync
      backfill
      serverTime
    }
  }
`);

/**
 * Some events of a stream, oldest first, perhaps none (a heartbeat). `head` is the newest sequence number there is; with `resync` the
 * cursor was older than what is kept: read a snapshot again (`run.asOf` is its cursor) and go on from here.
 */
export type EventBatch = ResultOf<typeof EventsDocument>["events"];
/** One thing that happened. Its values are absolute, so applying it twice is harmless. */
export type StreamEvent = EventBatch["events"][number];

export type Events = {
  /**
   * The events of a stream after a cursor, then live, each exactly once and in order, however often the connection breaks.
   * It goes on until the signal aborts or the loop is left.
   * @param input.stream TypeID, for example a run's.
   * @param input.after sequence number to go on from; `"0"`, the beginning, when left out.
   * @throws ApiError when the coordinator refuses the stream.
   */
  stream(input: {
    stream: string;
    after?: string;
    signal?: AbortSignal;
  }): AsyncGenerator<EventBatch, void, undefined>;
};

export function createEvents(live: Live): Events {
  return {
    async *stream({ stream, after = "0", signal }) {
      let cursor = after;
      let told = BigInt(after);
      const batches = live.stream(EventsDocument, () => ({ stream, after: cursor }), {
        signal,
        received: ({ events: batch }) => {
          cursor = cursorAfter(cursor, batch);
        },
      });
      for await (const { events: batch } of batches) {
        const fresh = batch.events.filter((event) => BigInt(event.seq) > told);
        told = BigInt(cursorAfter(String(told), batch));
        // a batch of nothing but repetitions says nothing new
        if (fresh.length > 0 || batch.events.length === 0) yield { ...batch, events: fresh };
      }
    },
  };
}

function cursorAfter(cursor: string, batch: EventBatch): string {
  const last = batch.events.at(-1)?.seq ?? "0";
  const reached =
    batch.resync && BigInt(batch.head) > BigInt(last) && batch.events.length === 0 ? batch.head : last;
  return BigInt(reached) > BigInt(cursor) ? reached : cursor;
}
