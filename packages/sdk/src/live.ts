import type { TadaDocumentNode } from "gql.tada";
import { type Client, createClient } from "graphql-ws";
import { ApiError, errorOfGraphQL, redact } from "./api-error.ts";
import { type BackOff, pause, retryDelay } from "./back-off.ts";
import { type Credentials, PROTOCOL } from "./credentials.ts";
import { printed } from "./transport.ts";

// Subscriptions over one shared socket. A stream lives as long as its reader wants it: a lost connection, a restarted coordinator or an
// expired session is repaired underneath, and `variables` says from where to go on.

export type Live = {
  /**
   * Values of a subscription until the signal aborts or the reader leaves; it does not end by itself.
   * @param variables is asked anew for every connection, so it must name the cursor of what was received last.
   * @param received sees each value as it arrives, before it is queued for the reader: the place to move the cursor.
   * @throws ApiError when the coordinator refuses for good.
   */
  stream<Result, Variables extends Record<string, unknown>>(
    document: TadaDocumentNode<Result, Variables>,
    variables: () => Variables,
    options: { signal?: AbortSignal | undefined; received?: (value: Result) => void },
  ): AsyncGenerator<Result, void, undefined>;
  close(): Promise<void>;
};

export type LiveOptions = {
  url: string;
  credentials: Credentials;
  webSocketImpl: unknown;
};

const RECONNECT: BackOff = { first: 500, most: 15_000 };
const PING_EVERY = 10_000;
const PONG_WITHIN = 5_000;
const CLOSE_WITHIN = 1_000;
// A reader this far behind is cut off and resumes from its cursor, so that memory stays bounded.
const MOST_QUEUED = 1_000;

export function createLive({ url, credentials, webSocketImpl }: LiveOptions): Live {
  let client: Client | undefined;
  let sentToken: string | undefined;

  function connection(): Client {
    client ??= connect({
      url,
      webSocketImpl,
      async connectionParams() {
        const { headers, token } = await credentials.current();
        sentToken = token;
        const apiKey = headers["x-api-key"];
        return { protocol: PROTOCOL, ...(token ? { token } : {}), ...(apiKey ? { apiKey } : {}) };
      },
    });
    return client;
  }

  return {
    async *stream(document, variables, { signal, received }) {
      const unwanted = () => signal?.aborted === true;
      let failures = 0;
      let refreshed = false;
      while (!unwanted()) {
        const subscription = subscribe(connection(), document, variables, received, signal);
        const ended = yield* subscription(() => {
          failures = 0;
          refreshed = false;
        });
        if (unwanted()) return;
        let error = ended === undefined ? undefined : redact(ended, credentials.secrets());
        if (error?.code === "UNAUTHENTICATED" && !refreshed) {
          const fresh = await credentials.refresh(sentToken).catch(errorOfSocket);
          if (fresh === true) {
            refreshed = true;
            continue;
          }
          if (fresh !== false) error = fresh;
        }
        if (error && !error.retryable) throw error;
        await pause(retryDelay(error, failures++, RECONNECT), signal);
      }
    },
    async close() {
      const closing = client;
      client = undefined;
      // it waits for a connection under way, however long, and throws when that one fails
      const closed = Promise.resolve(closing?.dispose()).catch(() => {});
      await Promise.race([closed, pause(CLOSE_WITHIN)]);
    },
  };
}

/** Delivers what arrives on one subscription; returns why it ended, or nothing when the coordinator completed it. */
function subscribe<Result, Variables extends Record<string, unknown>>(
  client: Client,
  document: TadaDocumentNode<Result, Variables>,
  variables: () => Variables,
  received: ((value: Result) => void) | undefined,
  signal: AbortSignal | undefined,
) {
  return async function* (alive: () => void): AsyncGenerator<Result, ApiError | undefined, undefined> {
    const queue: Result[] = [];
    let ended = false;
    let failure: ApiError | undefined;
    let wake = () => {};
    const finish = (error?: ApiError) => {
      failure ??= error;
      ended = true;
      wake();
    };
    const request = { query: printed(document), variables: variables() };
    const leave = client.subscribe<Result>(request, {
      next(message) {
        if (ended) return;
        if (message.errors) return finish(errorOfGraphQL(message.errors, {}));
        if (message.data === undefined || message.data === null) return;
        alive();
        received?.(message.data);
        // graphql-ws sends this same object again when the server closes with 1000
        request.variables = variables();
        queue.push(message.data);
        if (queue.length >= MOST_QUEUED) finish();
        wake();
      },
      error: (cause) => finish(errorOfSocket(cause)),
      complete: () => finish(),
    });
    const onAbort = () => finish();
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      while (signal?.aborted !== true) {
        const value = queue.shift();
        if (value !== undefined) yield value;
        else if (ended) return failure;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
      return undefined;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      leave();
    }
  };
}

function connect(options: {
  url: string;
  webSocketImpl: unknown;
  connectionParams: () => Promise<Record<string, unknown>>;
}): Client {
  let lastTry = Number.NEGATIVE_INFINITY;
  let overdue: ReturnType<typeof setTimeout> | undefined;
  const client = createClient({
    async url() {
      // graphql-ws reconnects at once after a close with 1000; a server that closes each time must not be hammered
      await pause(Math.max(0, lastTry + 250 - performance.now()));
      lastTry = performance.now();
      return options.url;
    },
    connectionParams: options.connectionParams,
    webSocketImpl: options.webSocketImpl ?? undefined,
    retryAttempts: 0,
    lazyCloseTimeout: 1_000,
    connectionAckWaitTimeout: 10_000,
    keepAlive: PING_EVERY,
    on: {
      ping(receivedPing) {
        if (receivedPing) return;
        // a machine that fell asleep leaves a socket that never closes by itself
        overdue = setTimeout(() => client.terminate(), PONG_WITHIN);
      },
      pong(receivedPong) {
        if (receivedPong) clearTimeout(overdue);
      },
      closed: () => clearTimeout(overdue),
    },
  });
  return client;
}

/** Close codes that say more than "disconnected". Whether they pass is the code's own matter. */
const closeCodes = new Map([
  [4004, "BAD_RESPONSE"],
  [4005, "BAD_RESPONSE"],
  [4400, "BAD_REQUEST"],
  [4401, "UNAUTHENTICATED"],
  [4403, "FORBIDDEN"],
  [4406, "UPGRADE_REQUIRED"],
  [4409, "BAD_REQUEST"],
  [4426, "UPGRADE_REQUIRED"],
  [4429, "RATE_LIMITED"],
]);

function errorOfSocket(cause: unknown): ApiError {
  if (cause instanceof ApiError) return cause;
  if (Array.isArray(cause)) return errorOfGraphQL(cause, {});
  if (typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "number") {
    const reason = "reason" in cause && typeof cause.reason === "string" ? cause.reason : "";
    return new ApiError({
      code: closeCodes.get(cause.code) ?? "NETWORK",
      message: `The connection was closed with ${cause.code}${reason === "" ? "" : `: ${reason}`}.`,
    });
  }
  const detail =
    typeof cause === "object" && cause !== null && "message" in cause ? String(cause.message) : "";
  return new ApiError({
    code: "NETWORK",
    message: `No live connection to the coordinator${detail === "" ? "" : `: ${detail}`}.`,
    cause,
  });
}
