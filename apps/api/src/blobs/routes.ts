import { PackKind } from "@muster/db";
import { fromTypeId } from "@muster/protocol";
import { answerBlob } from "@muster/shardcast";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import { type Exchange, sendJson } from "../http/exchange.ts";
import { assertMayRead } from "./access.ts";
import { storeUpload, type Upload } from "./upload.ts";

/** `PUT`, `GET` and `HEAD /blobs/<sha256>`. @throws CodedError for the server to answer */
export async function serveBlob(ctx: Ctx, exchange: Exchange): Promise<void> {
  const sha256 = exchange.url.pathname.slice("/blobs/".length);
  if (!/^[0-9a-f]{64}$/.test(sha256))
    throw new CodedError("INPUT_INVALID", "The path is /blobs/<SHA-256 in lower-case hexadecimal>.");
  switch (exchange.req.method) {
    case "PUT":
      return await put(ctx, exchange, sha256);
    case "GET":
    case "HEAD":
      return await get(ctx, exchange, sha256);
    default:
      exchange.res.setHeader("Allow", "GET, HEAD, PUT");
      sendJson(exchange, 405, {
        error: {
          code: "INPUT_INVALID",
          message: "Blobs are read with GET and stored with PUT.",
          retryable: false,
          requestId: exchange.requestId,
        },
      });
  }
}

async function put(ctx: Ctx, exchange: Exchange, sha256: string): Promise<void> {
  const { req, res, url } = exchange;
  const size = Number(req.headers["content-length"]);
  if (!Number.isSafeInteger(size))
    throw new CodedError("INPUT_INVALID", "A blob is sent with its Content-Length.");
  const abort = new AbortController();
  res.once("close", () => abort.abort(new Error("the client went away")));
  // A client that sends nothing for a minute has gone.
  req.setTimeout(60_000, () => req.destroy());
  // To bring what has all arrived into a store elsewhere may take longer.
  req.once("end", () => req.setTimeout(0));
  const stored = await storeUpload(ctx, {
    sha256,
    size,
    source: req,
    signal: abort.signal,
    by: permissionOf(url),
  });
  sendJson(exchange, 201, { sha256, size: stored.size });
}

function permissionOf({ searchParams }: URL): Upload["by"] {
  const grant = searchParams.get("grant");
  if (grant !== null) return { grantId: fromTypeId(grant, "grant") };
  const kind = Object.values(PackKind).find((known) => known === searchParams.get("kind"));
  const attempt = Number(searchParams.get("attempt"));
  if (kind === undefined || !Number.isInteger(attempt) || attempt < 1) {
    throw new CodedError(
      "INPUT_INVALID",
      "Say what the blob is for: ?task=<task id>&attempt=<number>&kind=<pack kind>, or ?grant=<grant id>.",
    );
  }
  return { taskId: fromTypeId(searchParams.get("task") ?? "", "task"), attempt, kind };
}

async function get(ctx: Ctx, exchange: Exchange, sha256: string): Promise<void> {
  const { req, res } = exchange;
  await assertMayRead(ctx, sha256);
  const size = await ctx.blobs.size(sha256);
  if (size === undefined)
    throw new CodedError("BLOB_NOT_FOUND", `The blob ${sha256} is gone: retention deleted it.`);
  const elsewhere = follows(req) ? await ctx.blobs.signedUrl?.(sha256) : undefined;
  if (elsewhere !== undefined) {
    if (ctx.actor.kind === "node") ctx.egress.sent(sha256, size);
    res.writeHead(307, { Location: elsewhere, "Cache-Control": "no-store", "Content-Length": 0 }).end();
    return;
  }
  res.setHeader("Content-Disposition", `attachment; filename="${sha256}"`);
  res.setHeader("Content-Security-Policy", "sandbox; default-src 'none'");
  const { sent, failure } = await answerBlob(req, res, {
    sha256,
    size,
    // The bytes of a hash never change; who may read them is asked again by every shared cache.
    cacheControl: "private, max-age=31536000, immutable",
    open: async (range) => (await ctx.blobs.open(sha256, range)).stream,
  });
  ctx.metrics.blobBytes.inc({ direction: "out" }, sent);
  if (ctx.actor.kind === "node") ctx.egress.sent(sha256, sent);
  // A client that went away is no failure of ours.
  if (failure !== undefined) exchange.log.debug({ err: failure }, "a blob was not sent to its end");
}

/**
 * Whether this request may be sent to another host. Clients drop `Authorization` and cookies on the way, but not `X-Api-Key`, and a page's
 * script could not read the answer: these get their bytes here, as does whoever may have them already.
 */
function follows({ method, headers }: Exchange["req"]): boolean {
  if (method !== "GET" || headers["if-none-match"] !== undefined || headers["x-api-key"] !== undefined)
    return false;
  return headers.authorization !== undefined || headers["sec-fetch-mode"] === "navigate";
}
