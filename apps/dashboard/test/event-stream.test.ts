import { beforeEach, expect, test } from "vitest";
import type { IncomingBatch } from "../src/live/event-log.ts";
import { openEventStream } from "../src/live/event-stream.ts";
import { createFrameStore } from "../src/live/frame-store.ts";
import type { LiveSocket, Sink } from "../src/live/socket.ts";

const at = "2026-01-01T00:00:00.000Z";

// there are no frames outside a browser: a store flushes when the test says so
let frames: (() => void)[] = [];
beforeEach(() => {
  frames = [];
  Object.assign(globalThis, {
    requestAnimationFrame: (callback: () => void) => frames.push(callback),
    cancelAnimationFrame: () => {},
  });
});
function frame(): void {
  for (const callback of frames.splice(0)) callback();
}

function open(after: string) {
  let sink: Sink<{ events: IncomingBatch }> | undefined;
  const sent: { variables?: Record<string, unknown>; count?: number; left?: number } = {};
  const socket: LiveSocket = {
    state: createFrameStore({ phase: "open", failures: 0, latency: undefined }),
    subscribe(request, given) {
      sink = given as Sink<never>;
      sent.variables = request.variables;
      sent.count = (sent.count ?? 0) + 1;
      return () => {
        sent.left = (sent.left ?? 0) + 1;
      };
    },
    retryNow() {},
    close() {},
  };
  let resyncs = 0;
  const stream = openEventStream<readonly string[]>({
    socket,
    stream: "run_1",
    after,
    initial: [],
    fold: (view, events) => [...view, ...events.map((event) => String(event.seq))],
    onResync: () => {
      resyncs++;
    },
  });
  return {
    stream,
    sent,
    resyncs: () => resyncs,
    receive(from: number, to: number, rest: Partial<IncomingBatch> = {}) {
      const events = Array.from({ length: to - from + 1 }, (_, i) => ({
        seq: String(from + i),
        type: "t",
        subject: "s",
        data: {},
        at,
      }));
      sink?.next({
        events: { events, head: String(to), resync: false, backfill: false, serverTime: at, ...rest },
      });
    },
  };
}

test("the log begins before the snapshot and the view after it", () => {
  const { stream, sent, receive } = open("1000");
  expect(sent.variables).toEqual({ stream: "run_1", after: "700" });
  receive(701, 1002);
  frame();
  expect(stream.store.get().log.events).toHaveLength(302);
  expect(stream.store.get().view).toEqual(["1001", "1002"]);
});

test("the cursor in the request is current, so a reconnect goes on where it stopped", () => {
  const { sent, receive } = open("5");
  receive(1, 8);
  expect(sent.variables).toEqual({ stream: "run_1", after: "8" });
});

test("a reader is told once a frame however many batches came", () => {
  const { stream, receive } = open("0");
  let told = 0;
  stream.store.subscribe(() => {
    told++;
  });
  for (let i = 1; i <= 50; i++) receive(i, i);
  expect(stream.store.get().view).toEqual([]);
  frame();
  expect(told).toBe(1);
  expect(stream.store.get().view).toHaveLength(50);
});

test("while paused the page is frozen and nothing is lost", () => {
  const { stream, receive } = open("0");
  receive(1, 2);
  frame();
  stream.setPaused({ paused: true });
  receive(3, 6);
  frame();
  expect(stream.store.get().view).toEqual(["1", "2"]);
  expect(stream.state()).toMatchObject({ paused: true, waiting: 4 });
  stream.setPaused({ paused: false });
  frame();
  expect(stream.store.get().view).toEqual(["1", "2", "3", "4", "5", "6"]);
  expect(stream.state()).toMatchObject({ paused: false, waiting: 0 });
});

test("history that is no longer kept asks for nothing; events that were skipped ask for a new snapshot", () => {
  const old = open("1000");
  old.receive(1, 0, { resync: true, head: "1000" });
  expect(old.resyncs()).toBe(0);
  const behind = open("1000");
  behind.receive(1, 0, { resync: true, head: "60000" });
  expect(behind.resyncs()).toBe(1);
  expect(behind.sent.variables).toEqual({ stream: "run_1", after: "60000" });
});

test("a stream that rested goes on after the last event it heard", () => {
  const { stream, sent, receive } = open("0");
  receive(1, 5);
  stream.rest();
  stream.rest();
  expect(sent).toMatchObject({ count: 1, left: 1 });
  stream.wake();
  stream.wake();
  expect(sent).toMatchObject({ count: 2, left: 1 });
  expect(sent.variables?.after).toBe("5");
  receive(6, 7);
  frame();
  expect(stream.store.get().view).toEqual(["1", "2", "3", "4", "5", "6", "7"]);
});
