import { expect, test } from "vitest";
import { connectionStatus, type SocketState, type StreamState } from "../src/live/connection-status.ts";

const open: SocketState = { phase: "open", failures: 0, latency: 84.4 };
const fresh: StreamState = { heardAt: 1_000, behind: 0, backfilling: false, paused: false, waiting: 0 };
const say = (change: Partial<Parameters<typeof connectionStatus>[0]>) =>
  connectionStatus({ online: true, socket: open, stream: fresh, now: 2_000, ...change }).label;

test("every condition of the connection has its own words", () => {
  expect(say({})).toBe("Live · 84 ms");
  expect(say({ socket: { ...open, phase: "connecting" } })).toBe("Connecting");
  expect(say({ socket: { phase: "waiting", failures: 3, latency: undefined } })).toBe("Reconnecting (3)");
  expect(say({ stream: { ...fresh, behind: 1204, backfilling: true } })).toBe("Catching up 1,204");
  expect(say({ now: 15_400 })).toBe("Stale 14 s");
  expect(say({ stream: { ...fresh, paused: true, waiting: 412 } })).toBe("Paused · 412 new");
  expect(say({ socket: { ...open, phase: "refused" } })).toBe("Signed out");
});

test("no network is only offline when the socket is closed too: a coordinator on this machine needs none", () => {
  expect(say({ online: false })).toBe("Live · 84 ms");
  expect(say({ online: false, socket: { phase: "waiting", failures: 2, latency: undefined } })).toBe(
    "Offline",
  );
});

test("a page without a stream is live when its socket is", () => {
  expect(say({ stream: undefined })).toBe("Live · 84 ms");
});

test("what a screen reader hears does not change by the second", () => {
  const spoken = (now: number) => connectionStatus({ online: true, socket: open, stream: fresh, now }).spoken;
  expect(spoken(15_000)).toBe("Stale");
  expect(spoken(16_000)).toBe("Stale");
});
