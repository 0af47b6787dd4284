import { type Client, createClient } from "graphql-ws";
import type { SocketState } from "./connection-status.ts";
import { createFrameStore, type FrameStore } from "./frame-store.ts";

/** What arrives for one subscription. `ended` comes once, with the code of the refusal or nothing. */
export type Sink<T> = { next(value: T): void; ended(refusal: Refusal | undefined): void };

/** The coordinator will not serve this subscription, however often it is asked. */
export type Refusal = { readonly code: string; readonly message: string };

/** One socket for the whole page. It stays open, repairs itself, and says what it is doing. */
export type LiveSocket = {
  readonly state: FrameStore<SocketState>;
  /**
   * Runs a subscription until it is left, over however many connections that takes. The same `variables` object is read anew for each
   * connection, so keep its cursor current.
   */
  subscribe<T>(request: { query: string; variables: Record<string, unknown> }, sink: Sink<T>): () => void;
  /** Tries to connect now instead of at the end of the wait. */
  retryNow(): void;
  close(): void;
};

const pongWithin = 5_000;
const signedOut: ReadonlySet<number> = new Set([4401, 4403]);

/** Opens the socket at `url` (`ws:` or `wss:`). The session cookie goes with the upgrade. */
export function openLiveSocket(url: string): LiveSocket {
  const state = createFrameStore<SocketState>({ phase: "connecting", failures: 0, latency: undefined });
  let now: SocketState = state.get();
  let closed = false;
  const waits = new Set<() => void>();
  let overdue: ReturnType<typeof setTimeout> | undefined;
  let pingedAt = 0;
  let client = connect();

  function become(change: Partial<SocketState>): void {
    now = { ...now, ...change };
    state.set(now);
  }

  /** Full jitter between 0.5 and 15 s, so that a thousand open pages do not come back in one wave. */
  function backOff(failures: number): Promise<void> {
    const most = Math.min(15_000, 500 * 2 ** Math.min(failures, 6));
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        waits.delete(done);
        resolve();
      };
      const timer = setTimeout(done, Math.random() * most);
      waits.add(done);
    });
  }

  function connect(): Client {
    return createClient({
      url,
      connectionParams: { protocol: 1 },
      lazy: false,
      keepAlive: 10_000,
      connectionAckWaitTimeout: 10_000,
      retryAttempts: Number.POSITIVE_INFINITY,
      shouldRetry: () => true,
      retryWait: backOff,
      // close codes that the library never retries: a refusal is final until somebody signs in, anything else is a server in trouble
      onNonLazyError(cause) {
        if (closed) return;
        const code = closeCode(cause);
        if (code !== undefined && signedOut.has(code)) return become({ phase: "refused" });
        void backOff(now.failures).then(() => {
          if (closed) return;
          void client.dispose();
          client = connect();
        });
      },
      on: {
        connecting: (retrying) => become({ phase: retrying ? "waiting" : "connecting" }),
        connected: () => become({ phase: "open", failures: 0 }),
        closed() {
          clearTimeout(overdue);
          become({ phase: "waiting", failures: now.failures + 1, latency: undefined });
        },
        ping(received) {
          if (received) return;
          pingedAt = performance.now();
          // a machine that fell asleep leaves a socket that never closes by itself
          overdue = setTimeout(() => client.terminate(), pongWithin);
        },
        pong(received) {
          if (!received) return;
          clearTimeout(overdue);
          become({ latency: performance.now() - pingedAt });
        },
      },
    });
  }

  const wake = () => {
    for (const done of [...waits]) done();
  };
  window.addEventListener("online", wake);

  return {
    state,
    subscribe(request, sink) {
      let left = false;
      let leave = () => {};
      let failures = 0;
      const start = () => {
        if (left || closed) return;
        leave = client.subscribe(request, {
          next(message) {
            failures = 0;
            const refusal = message.errors ? refusalOf(message.errors) : undefined;
            if (refusal) return finish(refusal);
            if (message.data) sink.next(message.data as never); // the document says what the data is
          },
          error(cause) {
            const refusal = refusalOf(cause);
            if (refusal) return finish(refusal);
            again();
          },
          complete: () => again(),
        });
      };
      const again = () => {
        if (!left) void backOff(failures++).then(start);
      };
      const finish = (refusal: Refusal) => {
        if (left) return;
        left = true;
        leave();
        sink.ended(refusal);
      };
      start();
      return () => {
        left = true;
        leave();
      };
    },
    retryNow: wake,
    close() {
      closed = true;
      window.removeEventListener("online", wake);
      clearTimeout(overdue);
      wake();
      void client.dispose();
    },
  };
}

/** An error that asking again does not change, as its `retryable` says; everything else is worth another try. */
function refusalOf(cause: unknown): Refusal | undefined {
  const first: unknown = Array.isArray(cause) ? cause[0] : undefined;
  if (!isRecord(first)) return undefined;
  const extensions = isRecord(first.extensions) ? first.extensions : {};
  const code = typeof extensions.code === "string" ? extensions.code : "";
  const message =
    typeof first.message === "string" ? first.message : "The coordinator refused the subscription.";
  return extensions.retryable === true ? undefined : { code, message };
}

function closeCode(cause: unknown): number | undefined {
  return isRecord(cause) && typeof cause.code === "number" ? cause.code : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
