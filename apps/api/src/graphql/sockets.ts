import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { type ExecutionArgs, type ExecutionResult, GraphQLError } from "graphql";
import { handleProtocols, makeServer, type ServerOptions, type Context as SocketContext } from "graphql-ws";
import { isAsyncIterable } from "graphql-yoga";
import { type WebSocket, WebSocketServer } from "ws";
import { z } from "zod";
import {
  type Authenticate,
  type Credentials,
  credentialsOf,
  type Identity,
  sameActor,
} from "../auth/authenticate.ts";
import type { Services } from "../context.ts";
import { CodedError } from "../errors.ts";
import { assertPrivate, clientAddress, originOf } from "../http/exchange.ts";
import type { Origins } from "../http/origins.ts";
import { publicError } from "./errors.ts";
import type { Graph, Operation } from "./yoga.ts";

export type SocketOptions = {
  readonly server: Server;
  readonly graph: Graph;
  readonly services: Services;
  readonly authenticate: Authenticate;
  readonly origins: Origins;
};

export type Sockets = {
  readonly count: number;
  /** Tells every client that we are going away, and cuts those that do not go. */
  close(): Promise<void>;
};

/**
 * GraphQL over WebSocket: the protocol graphql-transport-ws on `/graphql`. Who connects is told by `connectionParams`
 * (`{ authorization: "Bearer …" }` or `{ apiKey }`, and `protocol: 1`) or by the session cookie of a page of a trusted origin.
 * Close codes: 4401 not (or no longer) valid credentials, 4403 refused, 4426 upgrade the worker, 4429 slow down, 1012 the session has ended,
 * connect again with the newest token, 1001 going away.
 */
export function serveSockets(options: SocketOptions): Sockets {
  const { server, services } = options;
  const wss = new WebSocketServer({
    noServer: true,
    handleProtocols,
    maxPayload: services.config.maxBodyBytes,
    // Deflating for thousands of sockets costs more than the bytes it saves.
    perMessageDeflate: false,
  });
  const protocol = makeServer(protocolOptions(options));
  const ofAddress = new Map<string, number>();
  const onUpgrade = (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const address = clientAddress(req, services.config);
    const open = ofAddress.get(address) ?? 0;
    const refusal =
      refuseUpgrade(req, options) ??
      (open >= services.config.socketsPerAddress ? "429 Too Many Requests" : undefined);
    if (refusal !== undefined) {
      socket.end(`HTTP/1.1 ${refusal}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    // Counted as long as the connection lives, whatever becomes of the handshake.
    ofAddress.set(address, open + 1);
    socket.once("close", () => {
      const left = (ofAddress.get(address) ?? 1) - 1;
      if (left > 0) ofAddress.set(address, left);
      else ofAddress.delete(address);
    });
    wss.handleUpgrade(req, socket, head, (ws) => openSocket(ws, req, protocol, services));
  };
  server.on("upgrade", onUpgrade);

  return {
    get count() {
      return wss.clients.size;
    },
    async close() {
      server.off("upgrade", onUpgrade);
      const gone = [...wss.clients].map(
        (ws) => new Promise<void>((resolve) => ws.once("close", () => resolve())),
      );
      for (const ws of wss.clients) ws.close(1001, "Going away");
      const cut = setTimeout(() => {
        for (const ws of wss.clients) ws.terminate();
      }, 1_000);
      await Promise.all(gone);
      clearTimeout(cut);
      wss.close();
    },
  };
}

/** What belongs to one socket. */
type Extra = {
  readonly socket: WebSocket;
  readonly request: IncomingMessage;
  credentials?: Credentials;
  identity?: Identity;
  expiry?: NodeJS.Timeout;
  watch?: NodeJS.Timeout;
};

const paramsSchema = z
  .looseObject({
    authorization: z.string().optional(),
    token: z.string().optional(),
    apiKey: z.string().optional(),
    protocol: z.number().optional(),
  })
  .optional();

function protocolOptions({
  graph,
  services,
  authenticate,
}: SocketOptions): ServerOptions<Record<string, unknown>, Extra> {
  const { rateLimit } = services;
  const ofNode = new Map<string, Set<WebSocket>>();
  const addressOf = (ctx: SocketContext<Record<string, unknown>, Extra>) =>
    clientAddress(ctx.extra.request, services.config);
  // A code that clients answer by connecting again, with the newest token they have; who has none is told 4401 then.
  const proveAgain = ({ socket }: Extra) => socket.close(1012, "Prove yourself again");
  /** Whether whoever opened the socket may still do what they could then. */
  const holds = async ({ credentials, identity }: Extra): Promise<boolean> => {
    if (credentials === undefined || identity === undefined) return false;
    try {
      return sameActor((await authenticate(credentials)).actor, identity.actor);
    } catch (error) {
      // The database may be away for a moment: that is no news about anybody's rights.
      return !(error instanceof CodedError);
    }
  };
  return {
    connectionInitWaitTimeout: 10_000,
    async onConnect(ctx) {
      const { extra } = ctx;
      const params = paramsSchema.safeParse(ctx.connectionParams);
      if (!params.success) return false;
      const { authorization, token, apiKey, protocol } = params.data ?? {};
      if (protocol !== undefined && protocol < 1) {
        extra.socket.close(4426, "Upgrade required: npm install -g muster@latest");
        return false;
      }
      const headers = credentialsOf(extra.request.headers);
      try {
        await rateLimit.take({ kind: "anonymous" }, `socket ${addressOf(ctx)}`);
        extra.credentials = {
          authorization: authorization ?? (token === undefined ? headers.authorization : `Bearer ${token}`),
          apiKey: apiKey ?? headers.apiKey,
          cookie: headers.cookie,
        };
        extra.identity = await authenticate(extra.credentials, () =>
          rateLimit.assertCredible(addressOf(ctx)),
        );
        // Gone while we looked: nothing would tell us a second time.
        if (extra.socket.readyState !== extra.socket.OPEN) return false;
        const { actor } = extra.identity;
        if (actor.kind === "node") countSocket(ofNode, actor.nodeId, extra.socket);
      } catch (error) {
        if (!(error instanceof CodedError)) throw error;
        if (error.code === "UNAUTHENTICATED") await rateLimit.takeRefused(addressOf(ctx)).catch(() => {});
        extra.socket.close(error.code === "RATE_LIMITED" ? 4429 : 4401, error.message.slice(0, 120));
        return false;
      }
      const left = Math.min(extra.identity.until.getTime() - Date.now(), 2 ** 31 - 1);
      extra.expiry = setTimeout(() => proveAgain(extra), Math.max(left, 0));
      extra.watch = setInterval(() => {
        holds(extra).then(
          (still) => still || proveAgain(extra),
          () => {},
        );
      }, provenEveryMs);
      return true;
    },
    async onSubscribe(ctx, id, payload) {
      const { extra } = ctx;
      const identity = extra.identity;
      if (id.length > 64) {
        // Echoed with every result.
        extra.socket.close(4400, "Ids of operations have at most 64 characters");
        return [new GraphQLError("The operation's id is too long.")];
      }
      const requestId = `${services.log.bindings().pid ?? ""}ws-${id}`;
      if (identity === undefined) return [new GraphQLError("Connect first.")];
      if (!(await holds(extra))) {
        proveAgain(extra);
        return [new GraphQLError("The credentials of this socket do not hold any more.")];
      }
      if (Object.keys(ctx.subscriptions).length > operationsPerSocket) {
        const error = new CodedError(
          "RATE_LIMITED",
          `A socket carries at most ${operationsPerSocket} operations at once.`,
        );
        return [publicError(error, { requestId, log: services.log })];
      }
      const log = services.log.child({ requestId });
      try {
        await rateLimit.take(identity.actor, addressOf(ctx));
      } catch (error) {
        return [publicError(error, { requestId, log })];
      }
      // The upgrade was refused unless a cookie came from a trusted origin.
      const operation: Operation = {
        ctx: {
          ...services,
          log,
          actor: identity.actor,
          requestId,
          origin: originOf(extra.request, services.config),
        },
        forgeable: false,
      };
      const { schema, execute, subscribe, contextFactory, parse, validate } = graph.getEnveloped({
        ...operation,
        params: payload,
      });
      try {
        const document = parse(payload.query);
        const errors = validate(schema, document);
        if (errors.length > 0) return errors.map((error: unknown) => publicError(error, { requestId, log }));
        const args: ExecutionArgs = {
          schema,
          document,
          operationName: payload.operationName,
          variableValues: payload.variables,
          contextValue: await contextFactory(),
          rootValue: { execute, subscribe, send: sender(extra.socket, id, services) },
        };
        return args;
      } catch (error) {
        return [publicError(error, { requestId, log })];
      }
    },
    execute: (args) => rootOf(args).execute({ ...args, rootValue: undefined }),
    async subscribe(args) {
      const { subscribe, send } = rootOf(args);
      const result = await subscribe({ ...args, rootValue: undefined });
      return isAsyncIterable(result) ? sendDirectly(result as AsyncGenerator<ExecutionResult>, send) : result;
    },
  };
}

type Root = {
  execute(args: ExecutionArgs): Promise<ExecutionResult>;
  subscribe(args: ExecutionArgs): Promise<AsyncIterable<unknown> | ExecutionResult>;
  send: Send;
};

/** `onSubscribe` put it there. */
const rootOf = (args: ExecutionArgs): Root => args.rootValue as Root;

type Send = (result: ExecutionResult) => Promise<void> | undefined;

const operationsPerSocket = 200;
const socketsPerNode = 8;
/** Milliseconds between two proofs of whoever holds a socket open. */
const provenEveryMs = 60_000;

/** @throws CodedError `RATE_LIMITED` when the node holds too many sockets. */
function countSocket(ofNode: Map<string, Set<WebSocket>>, nodeId: string, socket: WebSocket): void {
  const open = ofNode.get(nodeId) ?? new Set();
  if (open.size >= socketsPerNode)
    throw new CodedError("RATE_LIMITED", `A node holds at most ${socketsPerNode} sockets at once.`);
  ofNode.set(nodeId, open.add(socket));
  socket.once("close", () => {
    open.delete(socket);
    if (open.size === 0 && ofNode.get(nodeId) === open) ofNode.delete(nodeId);
  });
}

/** Bytes that may wait in one socket before its subscriptions wait too; each then holds one batch and the event hub's bounded queue. */
const highWater = 256 * 1024;
/** Longer texts are encoded once and sent as a frame of their own behind each subscriber's head. */
const longText = 2_048;
type Written = { readonly text: string; bytes?: Buffer };
const written = new WeakMap<ExecutionResult, Written>();

/** Writes a result as the protocol's `next`. Equal results are one object, written out once, whoever they go to. */
function sender(socket: WebSocket, id: string, { metrics }: Services): Send {
  const head = `{"id":${JSON.stringify(id)},"type":"next","payload":`;
  return (result) => {
    let made = written.get(result);
    if (made === undefined) {
      made = { text: `${JSON.stringify(result)}}` };
      written.set(result, made);
    }
    if (socket.readyState !== socket.OPEN) return undefined;
    metrics.sent.inc();
    const waits = socket.bufferedAmount >= highWater;
    let sent: (() => void) | undefined;
    const waiting = waits ? new Promise<void>((resolve) => (sent = resolve)) : undefined;
    if (made.text.length < longText) {
      socket.send(head + made.text, sent);
    } else {
      made.bytes ??= Buffer.from(made.text);
      socket.send(head, { fin: false });
      socket.send(made.bytes, { binary: false }, sent);
    }
    return waiting;
  };
}

/**
 * Sends every result itself and yields none, so that the text made once for all is not parsed into a message per subscriber again.
 * The protocol library still sees the end and the failure of the stream, and ends it when the client completes.
 * Not an async generator: its `return` would wait for the `next` under way, which ends only with the next event.
 */
function sendDirectly(results: AsyncGenerator<ExecutionResult>, send: Send): AsyncIterableIterator<never> {
  const over = { value: undefined, done: true } as const;
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      for (;;) {
        const { value, done } = await results.next();
        if (done) return over;
        const waiting = send(value);
        if (waiting !== undefined) await waiting;
      }
    },
    async return() {
      await results.return(undefined);
      return over;
    },
  };
}

/** The status line of a refusal, or undefined. */
function refuseUpgrade(req: IncomingMessage, { services, origins }: SocketOptions): string | undefined {
  if (URL.parse(req.url ?? "", "http://localhost")?.pathname !== "/graphql") return "404 Not Found";
  // A cookie rides along with any page's socket; only the dashboard's may use it.
  if (req.headers.cookie !== undefined && origins.isForeign(req)) return "403 Forbidden";
  try {
    assertPrivate(req, services.config);
  } catch {
    return "403 TLS Required";
  }
  return undefined;
}

/** Milliseconds between pings; a client that misses one is gone. */
const pingMs = 12_000;

function openSocket(
  socket: WebSocket,
  request: IncomingMessage,
  protocol: ReturnType<typeof makeServer<Record<string, unknown>, Extra>>,
  { log, metrics }: Services,
): void {
  metrics.sockets.inc();
  const extra: Extra = { socket, request };
  const fail = (error: unknown) => {
    log.error({ err: error }, "a message on a socket failed");
    socket.close(1011, "Internal error");
  };
  socket.on("error", (error) => {
    log.debug({ err: error }, "a socket broke");
    socket.terminate();
  });
  const closed = protocol.opened(
    {
      protocol: socket.protocol,
      send: (data) =>
        new Promise((resolve) => {
          // What cannot be sent any more is told by the close event.
          if (socket.readyState !== socket.OPEN) resolve();
          else socket.send(data, () => resolve());
        }),
      close: (code, reason) => socket.close(code, reason),
      onMessage: (handle) => {
        socket.on("message", (data) => {
          handle(String(data)).catch(fail);
        });
      },
    },
    extra,
  );
  let alive = true;
  socket.on("pong", () => {
    alive = true;
  });
  const ping = setInterval(() => {
    if (!alive) return socket.terminate();
    alive = false;
    socket.ping();
  }, pingMs);
  socket.once("close", (code, reason) => {
    metrics.sockets.dec();
    clearInterval(ping);
    clearTimeout(extra.expiry);
    clearInterval(extra.watch);
    closed(code, String(reason)).catch((error: unknown) =>
      log.error({ err: error }, "closing a socket failed"),
    );
  });
}
