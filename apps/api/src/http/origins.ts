import type { IncomingMessage } from "node:http";
import type { Config } from "../config.ts";
import type { Exchange } from "./exchange.ts";

export type Origins = {
  /** Whether a page of this origin may act with a person's cookie: the dashboard's and our own. */
  trusts(origin: string | undefined): boolean;
  /** Whether the request names an origin, and one that is not trusted. */
  isForeign(req: IncomingMessage): boolean;
};

export function createOrigins({ dashboardUrl }: Config, publicUrl: string): Origins {
  const trusted = new Set([new URL(dashboardUrl).origin, new URL(publicUrl).origin]);
  const trusts = (origin: string | undefined) => origin !== undefined && trusted.has(origin);
  return { trusts, isForeign: (req) => req.headers.origin !== undefined && !trusts(req.headers.origin) };
}

/** Sets CORS headers for the dashboard's origin and answers a preflight. Returns whether the request is answered. */
export function answerCors({ req, res }: Exchange, origins: Origins): boolean {
  const { origin } = req.headers;
  res.setHeader("Vary", "Origin");
  if (origin !== undefined && origins.trusts(origin)) {
    res.setHeader("Access-Control-Allow-Origin", origin);
    res.setHeader("Access-Control-Allow-Credentials", "true");
    res.setHeader("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, ETag, Content-Range");
  }
  if (req.method !== "OPTIONS") return false;
  if (origin !== undefined && origins.trusts(origin)) {
    res.setHeader("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, OPTIONS");
    res.setHeader(
      "Access-Control-Allow-Headers",
      "Authorization, Content-Type, X-Api-Key, X-Request-Id, Range, If-None-Match, Accept",
    );
    res.setHeader("Access-Control-Max-Age", "600");
  }
  res.writeHead(204).end();
  return true;
}
