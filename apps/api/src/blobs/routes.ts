import { pipeline } from "node:stream/promises";
import { PackKind } from "@muster/db";
import { fromTypeId } from "@muster/protocol";
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
  const etag = `"${sha256}"`;
  res.setHeader("ETag", etag);
  res.setHeader("Accept-Ranges", "bytes");
  // The bytes of a hash never change; who may read them is asked again by every shared cache.
  res.setHeader("Cache-Control", "private, max-age=31536000, immutable");
  res.setHeader("Content-Type", "application/octet-stream");
  res.setHeader("Content-Disposition", `attachment; filename="${sha256}"`);
  res.setHeader("Content-Security-Policy", "sandbox; default-src 'none'");
  if (req.headers["if-none-match"]?.split(",").some((tag) => tag.trim() === etag || tag.trim() === "*")) {
    res.writeHead(304).end();
    return;
  }
  const size = await ctx.blobs.size(sha256);
  if (size === undefined)
    throw new CodedError("BLOB_NOT_FOUND", `The blob ${sha256} is gone: retention deleted it.`);
  const ifRange = req.headers["if-range"];
  const range = ifRange !== undefined && ifRange !== etag ? "all" : parseRange(req.headers.range, size);
  if (range === "unsatisfiable") {
    res.removeHeader("Content-Disposition");
    res.writeHead(416, { "Content-Range": `bytes */${size}`, "Content-Length": 0 }).end();
    return;
  }
  const { start, end } = range === "all" ? { start: 0, end: size - 1 } : range;
  res.writeHead(range === "all" ? 200 : 206, {
    "Content-Length": end - start + 1,
    ...(range === "all" ? {} : { "Content-Range": `bytes ${start}-${end}/${size}` }),
  });
  if (req.method === "HEAD" || size === 0) {
    res.end();
    return;
  }
  const { stream } = await ctx.blobs.open(sha256, { start, end });
  try {
    await pipeline(stream, res);
    ctx.metrics.blobBytes.inc({ direction: "out" }, end - start + 1);
  } catch (error) {
    // A client that went away is no failure of ours.
    exchange.log.debug({ err: error }, "a blob was not sent to its end");
    res.destroy();
  }
}

/** One range of RFC 9110; several at once, or what cannot be read, is answered with everything, as it allows. */
export function parseRange(
  header: string | undefined,
  size: number,
): "all" | "unsatisfiable" | { start: number; end: number } {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? "");
  if (match === null) return "all";
  const [, from = "", to = ""] = match;
  if (from === "" && to === "") return "all";
  if (from === "") {
    const last = Number(to);
    return last === 0 || size === 0 ? "unsatisfiable" : { start: Math.max(0, size - last), end: size - 1 };
  }
  const start = Number(from);
  if (to !== "" && Number(to) < start) return "all";
  if (start >= size) return "unsatisfiable";
  return { start, end: to === "" ? size - 1 : Math.min(Number(to), size - 1) };
}
