import { timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { createHttpClient } from "../http-get.ts";
import { answerBlob } from "../serve.ts";
import { createGate, createMeter, defaultLimits, type RelayLimits } from "./admission.ts";
import type { RelayAssignment, RelayEvent } from "./assignment.ts";
import { metricsText } from "./metrics.ts";
import { createPull } from "./pull.ts";
import type { Upstream } from "./source.ts";
import { openStore } from "./store.ts";

export type RelayOptions = {
  /** Folder of this relay alone. */
  dir: string;
  /** 4010; 0 for any. */
  port?: number;
  /** Address it listens on; 127.0.0.1. */
  host?: string;
  /** Bytes of blobs it keeps; 20 GiB. A version that does not fit is not relayed. */
  budgetBytes?: number;
  /** Versions of a run it keeps; 4. */
  maxVersions?: number;
  /** The coordinator's blobs: parent of those without another, and the last resort when a parent fails. */
  origin?: Pick<Upstream, "url" | "token" | "headers">;
  /** Serves whoever asks, without tickets: for networks where everyone may read everything. Limits count by address then. */
  open?: boolean;
  /** A bearer token that opens it like a ticket for all of its runs: for the process it runs in. */
  ownToken?: string;
  /** Shards fetched at once; 4. */
  connections?: number;
  /** Milliseconds without hardly a byte after which a parent has stalled; 5,000. */
  stallMs?: number;
  /** Failures in a row after which the origin takes a parent's place for half a minute; 3. */
  parentAttempts?: number;
  /** Milliseconds after which a disk that failed, for example because it is full, is tried again; 5,000. */
  diskAgainMs?: number;
  limits?: Partial<RelayLimits>;
  /** Hears what people want to know. */
  onEvent?: (event: RelayEvent) => void;
};

/** What is announced to the coordinator. */
export type RelayHealth = {
  /** Newest version that is here whole. */
  newestVersion: number | null;
  heldBytes: number;
  sentBytes: number;
  /** Clients that asked for something within a minute. */
  clients: number;
};

export type Relay = {
  /** Where it listens, for example `http://127.0.0.1:4010`. */
  url: string;
  /** Takes the newest assignment of a run: what to hold and from whom. The same one again changes nothing. */
  assign(assignment: RelayAssignment): void;
  /** Forgets a run and what only it needed. */
  unassign(run: string): void;
  health(): RelayHealth;
  /**
   * Bytes of a checkpoint by who sent them to this process: the TypeID of a relay, or null for the origin. Undefined when the checkpoint
   * is not among those it should hold, or does not fit.
   */
  broughtBy(manifest: string): ReadonlyMap<string | null, number> | undefined;
  /** Prometheus' text format. */
  metrics(): string;
  /** Ends the answers under way after `graceMs` (0), then everything. */
  close(options?: { graceMs?: number }): Promise<void>;
};

const GIB = 2 ** 30;

/**
 * A relay: keeps the newest checkpoints of the runs it is assigned, by their hashes, and serves them to those with a ticket of the
 * coordinator over HTTP/1.1: `GET` and `HEAD /blobs/<sha256>`, besides `/healthz` and `/metrics`. It lists nothing. A shard that is still
 * arriving is passed on as it arrives, but for its last 64 KiB, which wait until its hash was checked.
 * @throws what listening or the folder throws, for example EADDRINUSE.
 */
export async function startRelay(options: RelayOptions): Promise<Relay> {
  const onEvent = options.onEvent ?? (() => {});
  const limits: RelayLimits = { ...defaultLimits, ...options.limits };
  const budgetBytes = options.budgetBytes ?? 20 * GIB;
  const store = await openStore(options.dir);
  const client = createHttpClient();
  const pull = createPull({
    store,
    client,
    origin: options.origin,
    budgetBytes,
    maxVersions: options.maxVersions ?? 4,
    connections: options.connections ?? 4,
    stallMs: options.stallMs ?? 5_000,
    parentAttempts: options.parentAttempts ?? 3,
    diskAgainMs: options.diskAgainMs ?? 5_000,
    onEvent,
  });
  const admit = createGate(pull.assignment);
  const meter = createMeter(limits);
  const sockets = new Set<Socket>();
  /** Requests with a ticket that are under way, by connection. */
  const serving = new Map<Socket, number>();
  const answers = new Map<number, number>();
  let underWay = 0;
  let sentBytes = 0;
  let closing = false;

  const server = createServer(
    {
      // whoever is slow to ask holds a place that somebody else may need
      headersTimeout: 10_000,
      requestTimeout: 15_000,
      connectionsCheckingInterval: 5_000,
      keepAliveTimeout: 30_000,
      maxHeaderSize: 8 * 1024,
    },
    (req, res) => {
      void answer(req, res).catch(() => res.destroy());
    },
  );
  server.maxConnections = 2 * limits.connections;
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    if (sockets.size > limits.connections) makeRoom(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port ?? 4010, options.host ?? "127.0.0.1", resolve);
  });

  /** Ends the oldest connection over which nothing is sent: whoever shows no ticket can take no place from those who do. */
  function makeRoom(newest: Socket): void {
    for (const socket of sockets) {
      if (socket === newest || serving.has(socket)) continue;
      sockets.delete(socket);
      socket.destroy();
      return;
    }
  }

  async function answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    // nothing of a body is read
    if (req.headers["content-length"] !== undefined || req.headers["transfer-encoding"] !== undefined)
      res.setHeader("Connection", "close");
    const path = (req.url ?? "/").split("?", 1)[0] ?? "/";
    const blob = /^\/blobs\/([0-9a-f]{64})$/.exec(path)?.[1];
    if (req.method !== "GET" && req.method !== "HEAD") {
      res.setHeader("Allow", "GET, HEAD");
      res.setHeader("Connection", "close");
      return refuse(res, 405, "Only GET and HEAD are answered here.");
    }
    if (blob !== undefined) {
      await answerForBlob(req, res, blob);
      answers.set(res.statusCode, (answers.get(res.statusCode) ?? 0) + 1);
    } else if (path === "/healthz") {
      const { versionsHeld } = pull.status();
      send(res, 200, "application/json", JSON.stringify({ status: "ok", versionsHeld, ...health() }));
    } else if (path === "/metrics") {
      send(res, 200, "text/plain; version=0.0.4; charset=utf-8", metrics());
    } else refuse(res, 404, "A relay has /blobs/<SHA-256 in lower-case hexadecimal>, /healthz and /metrics.");
  }

  async function answerForBlob(req: IncomingMessage, res: ServerResponse, sha256: string): Promise<void> {
    if (sockets.size > limits.connections || closing) {
      res.setHeader("Connection", "close");
      return busy(
        res,
        503,
        closing ? "This relay stops." : "This relay has all the connections it can serve.",
      );
    }
    const runs = pull.runs();
    if (runs.length === 0) return busy(res, 503, "This relay has no assignment yet.");
    const own =
      options.ownToken !== undefined && sameText(req.headers.authorization, `Bearer ${options.ownToken}`);
    const ticket = own ? undefined : admit(req.headers.authorization);
    if (!ticket && !own && options.open !== true) {
      res.setHeader("WWW-Authenticate", "Bearer");
      res.setHeader("Connection", "close");
      return refuse(res, 401, "Show a ticket of the coordinator for a run that this relay serves.");
    }
    const place = meter.enter(ticket?.subject ?? (own ? "own" : (req.socket.remoteAddress ?? "")));
    if (!place) return busy(res, 429, "You have as many requests under way as this relay allows.");
    underWay++;
    const { socket } = req;
    serving.set(socket, (serving.get(socket) ?? 0) + 1);
    const gone = new AbortController();
    res.once("close", () => gone.abort());
    try {
      await serve(req, res, sha256, { runs: ticket ? [ticket.run] : runs, place, gone: gone.signal });
    } finally {
      underWay--;
      place.leave();
      const others = (serving.get(socket) ?? 1) - 1;
      if (others > 0) serving.set(socket, others);
      else serving.delete(socket);
    }
  }

  async function serve(
    req: IncomingMessage,
    res: ServerResponse,
    sha256: string,
    to: { runs: readonly string[]; place: { add(bytes: number): boolean }; gone: AbortSignal },
  ): Promise<void> {
    const until = performance.now() + limits.waitMs;
    const wait = () => ({ ms: until - performance.now(), signal: to.gone });
    const find = () => to.runs.map((run) => pull.knows(run, sha256)).find((found) => found !== undefined);
    let known = find();
    if (!known) {
      // a version whose manifest is under way may have it
      const all = await Promise.all(to.runs.map((run) => pull.knowsAll(run, wait())));
      known = find();
      if (!known && all.includes(false)) return busy(res, 503, "This relay does not know yet.");
    }
    if (!known) return refuse(res, 404, "This relay does not hold that blob.");
    // its size is known from the manifest, so HEAD does not wait for the bytes
    const source =
      req.method === "HEAD" && known.size !== undefined
        ? ("held" as const)
        : await pull.demand(sha256, wait());
    if (source === undefined) return busy(res, 503, "That blob is not here yet.");
    // what is here has the size it has, whatever a manifest says
    const size = (source === "held" ? store.size(sha256) : source.size) ?? known.size;
    if (size === undefined) return busy(res, 503, "That blob is not here any more.");
    if (!to.place.add(size)) return busy(res, 429, "You have as many bytes under way as this relay allows.");
    const { sent } = await answerBlob(req, res, {
      sha256,
      size,
      // shared caches may keep it, but only those who asked with a ticket may have it
      cacheControl: "private, max-age=31536000, immutable",
      slowReaderMs: limits.slowReaderMs,
      open: (range) => (source === "held" ? store.open(sha256, range) : source.follow(range)),
    });
    sentBytes += sent;
  }

  function health(): RelayHealth {
    const { newestVersion } = pull.status();
    return { newestVersion, heldBytes: store.bytes(), sentBytes, clients: meter.clients() };
  }

  function metrics(): string {
    return metricsText({
      ...pull.status(),
      ...health(),
      budgetBytes,
      connections: sockets.size,
      requestsUnderWay: underWay,
      answers,
    });
  }

  const { address, family, port } = server.address() as AddressInfo;
  return {
    url: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`,
    assign: (assignment) => pull.assign(assignment),
    unassign: (run) => pull.unassign(run),
    health,
    broughtBy: (manifest) => pull.broughtBy(manifest),
    metrics,
    async close({ graceMs = 0 } = {}) {
      closing = true;
      const ended = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const until = performance.now() + graceMs;
      while (underWay > 0 && performance.now() < until)
        await new Promise((resolve) => setTimeout(resolve, 50));
      for (const socket of sockets) socket.destroy();
      await ended;
      await pull.close();
      client.close();
      await store.close();
    },
  };
}

function sameText(given: string | undefined, expected: string): boolean {
  const [a, b] = [Buffer.from(given ?? ""), Buffer.from(expected)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function busy(res: ServerResponse, status: 429 | 503, message: string): void {
  res.setHeader("Retry-After", 1);
  refuse(res, status, message);
}

function refuse(res: ServerResponse, status: number, message: string): void {
  send(res, status, "application/json", JSON.stringify({ error: { message } }));
}

function send(res: ServerResponse, status: number, type: string, body: string): void {
  res.setHeader("Cache-Control", "no-store");
  res.writeHead(status, { "Content-Type": type, "Content-Length": Buffer.byteLength(body) }).end(body);
}
