import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Logger } from "pino";
import { isLoopback } from "../auth/auth.ts";
import type { Config } from "../config.ts";
import type { Origin } from "../context.ts";
import { CodedError } from "../errors.ts";
import { asCoded } from "../graphql/errors.ts";

/** One HTTP request with what every route needs to know of it. */
export type Exchange = {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly url: URL;
  readonly requestId: string;
  readonly log: Logger;
  /** The client's address; a proxy's word is taken only when configured. */
  readonly address: string;
};

/** @throws CodedError `INPUT_INVALID` when the target is no path */
export function openExchange(
  req: IncomingMessage,
  res: ServerResponse,
  config: Config,
  log: Logger,
): Exchange {
  const given = req.headers["x-request-id"];
  const requestId = typeof given === "string" && /^[\w-]{8,64}$/.test(given) ? given : randomUUID();
  res.setHeader("X-Request-Id", requestId);
  res.setHeader("X-Content-Type-Options", "nosniff");
  res.setHeader("Referrer-Policy", "no-referrer");
  res.setHeader("X-Frame-Options", "DENY");
  const url = URL.parse(req.url ?? "/", "http://localhost");
  if (url === null) throw new CodedError("INPUT_INVALID", "The request's target is not a path.");
  return { req, res, url, requestId, log: log.child({ requestId }), address: clientAddress(req, config) };
}

/** The address that is limited and logged. */
export function clientAddress(req: IncomingMessage, { trustProxy }: Config): string {
  const forwarded = trustProxy ? req.headers["x-forwarded-for"] : undefined;
  const nearest = typeof forwarded === "string" ? forwarded.split(",").at(-1)?.trim() : undefined;
  return nearest || (req.socket.remoteAddress ?? "unknown");
}

/**
 * Where a request came from. A Host header is believed from this machine, where whoever can send one could read our memory as well, and
 * in a network where everyone may read everything.
 */
export function originOf(req: IncomingMessage, config: Config): Origin {
  const { host } = req.headers;
  const local = isLoopback(req.socket.remoteAddress ?? "") && isLoopback(`http://${host}`);
  const dialled =
    host !== undefined && (local || config.plainHttp) && URL.canParse(`http://${host}`)
      ? new URL(`http://${host}`).origin
      : undefined;
  return { address: clientAddress(req, config), dialled };
}

/**
 * Tokens and cookies must not cross a network in the clear: beyond loopback a client needs TLS, ended here by a proxy that says so
 * (X-Forwarded-Proto, when proxies are trusted) or that runs on this machine.
 * @throws CodedError `TLS_REQUIRED`
 */
export function assertPrivate(req: IncomingMessage, config: Config): void {
  if (config.plainHttp || isLoopback(req.socket.remoteAddress ?? "")) return;
  if (config.trustProxy && req.headers["x-forwarded-proto"] === "https") return;
  throw new CodedError(
    "TLS_REQUIRED",
    "Beyond this machine the coordinator is reached over TLS only. Put a TLS proxy before it that sets X-Forwarded-Proto and X-Forwarded-For, set MUSTER_PUBLIC_URL to its https URL and MUSTER_TRUST_PROXY=1.",
  );
}

/** @throws CodedError `REQUEST_TOO_LARGE`, as soon as the limit is passed */
export async function readBody(req: IncomingMessage, maxBytes: number): Promise<Buffer> {
  if (Number(req.headers["content-length"] ?? 0) > maxBytes) throw tooLarge(maxBytes);
  const chunks: Buffer[] = [];
  let size = 0;
  // A body that trickles would hold its connection and its memory for ever.
  const late = setTimeout(() => req.destroy(), bodyMs);
  try {
    for await (const chunk of req) {
      // An IncomingMessage without an encoding yields buffers.
      const bytes = chunk as Buffer;
      size += bytes.length;
      if (size > maxBytes) throw tooLarge(maxBytes);
      chunks.push(bytes);
    }
  } finally {
    clearTimeout(late);
  }
  return Buffer.concat(chunks);
}

/** A megabyte over a slow line takes less. */
const bodyMs = 30_000;

/** @throws CodedError `INPUT_INVALID` or `REQUEST_TOO_LARGE` */
export async function readJsonObject(
  req: IncomingMessage,
  maxBytes: number,
): Promise<Record<string, unknown>> {
  if (!/^application\/json\s*(;|$)/i.test(req.headers["content-type"] ?? "")) {
    throw new CodedError("INPUT_INVALID", "Send the request as JSON, with Content-Type: application/json.");
  }
  const body = await readBody(req, maxBytes);
  let parsed: unknown;
  try {
    parsed = JSON.parse(body.toString("utf8"));
  } catch (error) {
    throw new CodedError("INPUT_INVALID", "The request's body is not JSON.", { cause: error });
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new CodedError("INPUT_INVALID", "The request's body must be one JSON object.");
  }
  // A JSON object that is neither null nor an array.
  return parsed as Record<string, unknown>;
}

export function sendJson({ res }: Pick<Exchange, "res">, status: number, body: unknown): void {
  const text = `${JSON.stringify(body)}\n`;
  res.writeHead(status, {
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": Buffer.byteLength(text),
    "Cache-Control": "no-store",
  });
  res.end(text);
}

/**
 * Answers an error as JSON: `{ error: { code, message, retryable, requestId } }`, or on `/graphql` as GraphQL clients read it,
 * `{ errors: [{ message, extensions: { code, retryable, requestId } }] }`.
 */
export function sendError(exchange: Exchange, error: unknown): string {
  const { req, res, requestId, log } = exchange;
  const coded = asCoded(error);
  if (coded === undefined) log.error({ err: error }, "a request failed");
  else if (coded.code === "NOT_READY") log.warn({ err: error }, "a request could not be served now");
  if (res.headersSent) {
    res.destroy();
    return coded?.code ?? "INTERNAL";
  }
  // What the client is still sending is not read; the connection cannot be used again.
  if (!req.complete) res.setHeader("Connection", "close");
  if (coded?.code === "RATE_LIMITED")
    res.setHeader("Retry-After", String(coded.details.retryAfterSeconds ?? 10));
  const message =
    coded?.message ?? `Something failed here. Try again; if it stays, report the request id ${requestId}.`;
  const code = coded?.code ?? "INTERNAL";
  const rest = { ...coded?.details, code, retryable: coded?.retryable ?? true, requestId };
  const isGraphql = exchange.url.pathname.split("/")[1] === "graphql";
  sendJson(
    exchange,
    coded?.status ?? 500,
    isGraphql ? { errors: [{ message, extensions: rest }] } : { error: { ...rest, message } },
  );
  return code;
}

function tooLarge(maxBytes: number): CodedError {
  return new CodedError(
    "REQUEST_TOO_LARGE",
    `The request is larger than the ${maxBytes} bytes allowed. Large data goes to /blobs.`,
  );
}
