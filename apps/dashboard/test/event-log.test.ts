import { expect, test } from "vitest";
import { behind, emptyLog, type IncomingBatch, takeBatch } from "../src/live/event-log.ts";

const at = "2026-01-01T00:00:00.000Z";
const now = Date.parse(at);
const options = { now, capacity: 4 };

function batch(seqs: readonly number[], rest: Partial<IncomingBatch> = {}): IncomingBatch {
  const events = seqs.map((seq) => ({ seq: String(seq), type: "run.state", subject: "run_1", data: {}, at }));
  return {
    events,
    head: String(Math.max(0, ...seqs)),
    resync: false,
    backfill: false,
    serverTime: at,
    ...rest,
  };
}

const seqs = (events: readonly { seq: bigint }[]) => events.map((event) => Number(event.seq));

test("events arrive in order whatever order a batch has them in", () => {
  const taken = takeBatch(emptyLog(0n), batch([3, 1, 2]), options);
  expect(seqs(taken.fresh)).toEqual([1, 2, 3]);
  expect(taken.log.cursor).toBe(3n);
  expect(taken.log.gaps).toEqual([]);
});

test("an event seen before is dropped and counted", () => {
  const first = takeBatch(emptyLog(0n), batch([1, 2]), options);
  const again = takeBatch(first.log, batch([1, 2, 3]), options);
  expect(seqs(again.fresh)).toEqual([3]);
  expect(seqs(again.log.events)).toEqual([1, 2, 3]);
  expect(again.log.duplicates).toBe(2);
});

test("events before the cursor that the log began at are never taken in", () => {
  const taken = takeBatch(emptyLog(10n), batch([9, 10, 11]), options);
  expect(seqs(taken.fresh)).toEqual([11]);
  expect(taken.log.gaps).toEqual([]);
});

test("a jump in the numbers is reported with its ends and does not stop the stream", () => {
  const first = takeBatch(emptyLog(0n), batch([1]), options);
  const jumped = takeBatch(first.log, batch([5, 6]), options);
  expect(jumped.log.gaps).toEqual([{ after: 1n, before: 5n }]);
  expect(jumped.log.cursor).toBe(6n);
});

test("the log keeps the newest events up to its capacity", () => {
  const taken = takeBatch(emptyLog(0n), batch([1, 2, 3, 4, 5, 6]), options);
  expect(seqs(taken.log.events)).toEqual([3, 4, 5, 6]);
  expect(taken.fresh).toHaveLength(6);
});

test("a heartbeat moves the head and the clock and nothing else", () => {
  const first = takeBatch(emptyLog(0n), batch([1, 2]), options);
  const beat = takeBatch(first.log, batch([], { head: "7", serverTime: "2026-01-01T00:00:02.000Z" }), {
    ...options,
    now: now + 500,
  });
  expect(beat.log.cursor).toBe(2n);
  expect(behind(beat.log)).toBe(5);
  expect(beat.log.clockOffset).toBe(1500);
  expect(beat.log.events).toBe(first.log.events);
});

test("after a resync the stream goes on behind the head without reporting a gap", () => {
  const first = takeBatch(emptyLog(0n), batch([1, 2]), options);
  const resync = takeBatch(first.log, batch([], { head: "90", resync: true }), options);
  expect(resync).toMatchObject({ resync: true, fresh: [], log: { cursor: 90n, events: [], gaps: [] } });
  const next = takeBatch(resync.log, batch([91]), options);
  expect(seqs(next.fresh)).toEqual([91]);
  expect(next.log.gaps).toEqual([]);
});

test("events that come with a resync are taken in", () => {
  const taken = takeBatch(emptyLog(2n), batch([40, 41], { resync: true, head: "41" }), options);
  expect(seqs(taken.fresh)).toEqual([40, 41]);
  expect(taken.log.gaps).toEqual([]);
});

test("numbers beyond 2^53 stay exact", () => {
  const big = "9007199254740993";
  const taken = takeBatch(
    emptyLog(9007199254740992n),
    { ...batch([]), head: big, events: [{ seq: big, type: "t", subject: "s", data: {}, at }] },
    options,
  );
  expect(taken.log.cursor).toBe(9007199254740993n);
  expect(taken.log.gaps).toEqual([]);
});

test("any cut of a stream into batches, with repetitions, ends in the same log", () => {
  const all = Array.from({ length: 30 }, (_, i) => i + 1);
  const whole = takeBatch(emptyLog(0n), batch(all), { now, capacity: 100 }).log;
  for (const size of [1, 2, 7, 30]) {
    let log = emptyLog(0n);
    for (let i = 0; i < all.length; i += size) {
      // each batch repeats the three events before it, as after a reconnect with an old cursor
      log = takeBatch(log, batch(all.slice(Math.max(0, i - 3), i + size)), { now, capacity: 100 }).log;
    }
    expect(seqs(log.events)).toEqual(seqs(whole.events));
    expect(log.gaps).toEqual([]);
  }
});
