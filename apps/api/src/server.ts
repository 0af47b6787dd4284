import { timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { openDatabase } from "@muster/db";
import { toNodeHandler } from "better-auth/node";
import type { Logger } from "pino";
import { clientAddressHeader, createAuth, isLoopback } from "./auth/auth.ts";
import { createAuthenticate, credentialsOf, type Identity, sameActor } from "./auth/authenticate.ts";
import { openBlobStore } from "./blobs/open.ts";
import { serveBlob } from "./blobs/routes.ts";
import { createEgress } from "./broadcast/egress.ts";
import { registerRelayMetrics } from "./broadcast/metrics.ts";
import type { Config } from "./config.ts";
import type { Ctx, Services } from "./context.ts";
import { CodedError } from "./errors.ts";
import { type Bus, createBus } from "./events/bus.ts";
import { createEventHub } from "./events/hub.ts";
import { serveGraphiql } from "./graphql/graphiql.ts";
import { serveSockets } from "./graphql/sockets.ts";
import { createGraph, type Operation } from "./graphql/yoga.ts";
import { createReadiness } from "./health.ts";
import {
  assertPrivate,
  type Exchange,
  openExchange,
  originOf,
  readBody,
  readJsonObject,
  sendError,
  sendJson,
} from "./http/exchange.ts";
import { answerCors, createOrigins } from "./http/origins.ts";
import { createLogger } from "./log.ts";
import { type Loop, startLoops } from "./loops.ts";
import { createMetrics } from "./metrics.ts";
import { createPresence } from "./nodes/presence.ts";
import { bootstrap } from "./organizations/bootstrap.ts";
import { createRateLimit } from "./rate-limit.ts";
import { schema } from "./schema.ts";
import { registerAuditMetrics } from "./verification/audit-metrics.ts";
import { serveEvidence } from "./verification/evidence.ts";

export type RunningServer = {
  /** Where it listens, without a slash at the end. */
  readonly url: string;
  readonly services: Services;
  /** Lets requests under way end, sends sockets away (1001), stops loops, closes the database. Calling it again waits for the same end. */
  stop(): Promise<void>;
};

export type ServerOptions = {
  readonly startedAt?: Date;
  /** What runs beside the requests. Default: nothing. */
  readonly loops?: readonly Loop[];
  /** Default: standard output, at the configuration's level. */
  readonly log?: Logger;
};

/** Starts a coordinator. Any number of them may share a database (and then a blob folder or bucket). */
export async function startServer(
  config: Config,
  { startedAt = new Date(), loops = [], log = createLogger(config.logLevel) }: ServerOptions = {},
): Promise<RunningServer> {
  const db = openDatabase(config.databaseUrl, {
    max: config.poolSize,
    applicationName: "muster api",
    log: (message) => log.warn(message),
  });
  // A connection that breaks while it is used fails its query as well; unheard, the event would end the process.
  db.pool.on("connect", (client) =>
    client.on("error", (error) => log.warn({ err: error }, "a database connection broke")),
  );
  const server = createServer();
  let bus: Bus | undefined;
  try {
    const blobs = await openBlobStore(config, log);
    bus = await createBus({ databaseUrl: config.databaseUrl, pool: db.pool, log });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(config.port, config.host, 4096, resolve);
    });
    // A TCP server has an address with a port.
    const { port } = server.address() as AddressInfo;
    const url = `http://${config.host.includes(":") ? `[${config.host}]` : config.host}:${port}`;
    const publicUrl = (config.publicUrl ?? url).replace(/\/+$/, "");
    const metrics = createMetrics();
    const services: Services = {
      config,
      db,
      prisma: db.prisma,
      blobs,
      bus,
      hub: createEventHub({ pool: db.pool, bus, log }),
      presence: createPresence(),
      egress: createEgress(),
      auth: createAuth({ config, prisma: db.prisma, log, publicUrl }),
      metrics,
      rateLimit: createRateLimit({ config, metrics }),
      log,
      startedAt,
      publicUrl,
    };
    registerAuditMetrics(services);
    registerRelayMetrics(services);
    const stopServing = serve(server, services);
    const running = startLoops(services, loops);
    log.info({ url, publicUrl, loops: loops.length }, "the coordinator listens");
    if (!isLoopback(publicUrl) && !config.trustProxy && !config.plainHttp)
      log.warn(
        { publicUrl },
        "clients come from beyond this machine, but MUSTER_TRUST_PROXY is off: behind a proxy on this machine all of them share one limit, from elsewhere none gets in",
      );
    let stopped: Promise<void> | undefined;
    const stop = async () => {
      await stopServing();
      await running.stop();
      await services.presence
        .flush(db.prisma)
        .catch((error: unknown) => log.warn({ err: error }, "the last heartbeats were not written"));
      await services.egress
        .flush(db)
        .catch((error: unknown) => log.warn({ err: error }, "the last bytes sent were not counted"));
      services.hub.close();
      await services.bus.close();
      await db.close();
      log.info("the coordinator has stopped");
    };
    return { url, services, stop: () => (stopped ??= stop()) };
  } catch (error) {
    server.close();
    await bus?.close();
    await db.close();
    throw error;
  }
}

/** Serves every route. Returns the way to stop. */
function serve(server: ReturnType<typeof createServer>, services: Services): () => Promise<void> {
  const { config, log, metrics, rateLimit } = services;
  const authenticate = createAuthenticate(services);
  const readiness = createReadiness(services);
  const origins = createOrigins(config, services.publicUrl);
  const graph = createGraph({ schema, services });
  const auth = toNodeHandler(services.auth);
  const streams = new Set<ServerResponse>();
  let stopping = false;

  const identify = async ({ req, address }: Exchange): Promise<Identity> => {
    assertPrivate(req, config);
    try {
      const identity = await authenticate(credentialsOf(req.headers), () =>
        rateLimit.assertCredible(address),
      );
      // Stale cookies cost a look into the database each.
      if (identity.by === "nothing" && req.headers.cookie !== undefined) await rateLimit.takeRefused(address);
      if (identity.by === "cookie" && origins.isForeign(req)) {
        throw new CodedError(
          "ORIGIN_REFUSED",
          "A session cookie is taken from the dashboard's origin only. Programs send an API key.",
        );
      }
      await rateLimit.take(identity.actor, address);
      return identity;
    } catch (error) {
      // Guessing tokens is counted too.
      if (error instanceof CodedError && error.code === "UNAUTHENTICATED")
        await rateLimit.takeRefused(address);
      throw error;
    }
  };
  const ctxOf = ({ req, requestId, log }: Exchange, { actor }: Identity): Ctx => ({
    ...services,
    log,
    actor,
    requestId,
    origin: originOf(req, config),
  });
  /** Whether a proxy may stand between us and whoever seems to be on this machine. */
  const proxied = config.trustProxy || !isLoopback(services.publicUrl);
  const isLocal = ({ req }: Exchange) => !proxied && isLoopback(req.socket.remoteAddress ?? "");

  /** Ends a stream whose credentials do not hold any more. */
  const watchStream = ({ req, res }: Exchange, { actor }: Identity): void => {
    const watch = setInterval(() => {
      authenticate(credentialsOf(req.headers)).then(
        (now) => {
          if (!sameActor(now.actor, actor)) res.destroy();
        },
        (error: unknown) => {
          if (error instanceof CodedError) res.destroy();
        },
      );
    }, provenEveryMs);
    res.once("close", () => clearInterval(watch));
  };

  const graphql = async (exchange: Exchange) => {
    const { req, res } = exchange;
    if (req.method !== "POST") {
      res.setHeader("Allow", "POST");
      throw new CodedError(
        "INPUT_INVALID",
        "GraphQL is asked with POST and Content-Type: application/json. A person's explorer is at /graphiql.",
      );
    }
    const identity = await identify(exchange);
    const body = await readJsonObject(req, config.maxBodyBytes);
    const operation: Operation = {
      ctx: ctxOf(exchange, identity),
      forgeable: identity.by === "cookie" && !origins.trusts(req.headers.origin),
    };
    if (req.headers.accept?.includes("text/event-stream")) {
      streams.add(res);
      watchStream(exchange, identity);
    }
    // The engine's adapter takes a body that was read before.
    await graph(Object.assign(req, { body }), res, operation);
  };

  const operator = async (exchange: Exchange) => {
    if (config.operatorToken === undefined) throw nothingHere(exchange.url);
    assertOperator(exchange, config.operatorToken);
    sendJson(
      exchange,
      200,
      await bootstrap(services, await readJsonObject(exchange.req, config.maxBodyBytes)),
    );
  };

  const authRoute = async (exchange: Exchange) => {
    assertPrivate(exchange.req, config);
    await rateLimit.take({ kind: "anonymous" }, exchange.address);
    exchange.req.headers[clientAddressHeader] = exchange.address;
    const { req } = exchange;
    if (req.method !== "GET" && req.method !== "HEAD") {
      const body = await readBody(req, 64 * 1024);
      Object.assign(req, { rawBody: body, body: body.length === 0 ? undefined : body.toString("utf8") });
    }
    await auth(req, exchange.res);
  };

  const route = async (exchange: Exchange): Promise<void> => {
    const { url, req } = exchange;
    const [, first] = url.pathname.split("/");
    switch (first) {
      case "healthz":
        return sendJson(exchange, 200, { ok: true });
      case "readyz": {
        await rateLimit.take({ kind: "anonymous" }, exchange.address);
        const { ready, checks } = await readiness();
        // Why is the operator's to know.
        const why = isLocal(exchange) ? { checks } : {};
        return sendJson(exchange, ready && !stopping ? 200 : 503, { ready: ready && !stopping, ...why });
      }
      case "metrics": {
        if (!isLocal(exchange)) assertOperator(exchange, config.operatorToken);
        exchange.res.writeHead(200, { "Content-Type": metrics.registry.contentType });
        exchange.res.end(await metrics.registry.metrics());
        return;
      }
      case "graphql":
        return await graphql(exchange);
      case "blobs":
        return await serveBlob(ctxOf(exchange, await identify(exchange)), exchange);
      case "evidence":
        return await serveEvidence(ctxOf(exchange, await identify(exchange)), exchange);
      case "auth":
        return await authRoute(exchange);
      case "operator":
        if (url.pathname === "/operator/bootstrap" && req.method === "POST") return await operator(exchange);
        break;
      case "graphiql":
        await rateLimit.take({ kind: "anonymous" }, exchange.address);
        if (config.graphiql && (await serveGraphiql(exchange))) return;
        break;
    }
    throw nothingHere(url);
  };

  const handle = async (req: IncomingMessage, res: ServerResponse) => {
    const started = performance.now();
    const exchange = openExchange(req, res, config, log);
    res.once("close", () => {
      streams.delete(res);
      const [, first = ""] = exchange.url.pathname.split("/");
      const seconds = (performance.now() - started) / 1000;
      metrics.requests.observe(
        { route: routes.has(first) ? `/${first}` : "other", status: res.statusCode },
        seconds,
      );
      exchange.log.debug(
        { method: req.method, path: exchange.url.pathname, status: res.statusCode, seconds },
        "answered",
      );
    });
    try {
      if (answerCors(exchange, origins)) return;
      if (stopping)
        throw new CodedError("NOT_READY", "The coordinator is going away. Try again in a moment.");
      await route(exchange);
    } catch (error) {
      metrics.refused.inc({ code: sendError(exchange, error) });
    }
  };
  server.on("request", (req, res) => {
    handle(req, res).catch((error: unknown) => {
      log.error({ err: error }, "a request could not be answered");
      res.destroy();
    });
  });
  // A checkpoint over a slow line takes long; a line that stands still is cut by its own timeout.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  server.keepAliveTimeout = 65_000;
  const sockets = serveSockets({ server, graph, services, authenticate, origins });

  return async () => {
    stopping = true;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    for (const stream of streams) stream.destroy();
    await sockets.close();
    server.closeIdleConnections();
    const cut = setTimeout(() => server.closeAllConnections(), 5_000);
    const idle = setInterval(() => server.closeIdleConnections(), 100);
    await closed;
    clearTimeout(cut);
    clearInterval(idle);
  };
}

/** Milliseconds between two proofs of whoever follows a stream over HTTP. */
const provenEveryMs = 60_000;

const routes = new Set([
  "healthz",
  "readyz",
  "metrics",
  "graphql",
  "blobs",
  "evidence",
  "auth",
  "operator",
  "graphiql",
]);

/** @throws CodedError `FORBIDDEN` */
function assertOperator({ req }: Exchange, token: string | undefined): void {
  const given = Buffer.from(req.headers.authorization?.replace(/^Bearer /, "") ?? "");
  const expected = Buffer.from(token ?? "");
  const local = isLoopback(req.socket.remoteAddress ?? "");
  if (token !== undefined && local && given.length === expected.length && timingSafeEqual(given, expected))
    return;
  throw new CodedError(
    "FORBIDDEN",
    "This is for the operator of this machine: from loopback, with the operator token.",
  );
}

function nothingHere({ pathname }: URL): CodedError {
  return new CodedError(
    "NOT_FOUND",
    `There is nothing at ${pathname.slice(0, 100)}. The API is at /graphql, its explorer at /graphiql.`,
  );
}
