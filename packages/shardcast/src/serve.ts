import { open } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

/** Bytes of a blob, both ends included. */
export type ByteRange = { start: number; end: number };

/** The bytes of a range one piece after the other, for a reader that brings its own buffer. */
export type BlobReader = {
  /**
   * Puts the range's next bytes at the start of `into`, waiting for them when they have not arrived here yet.
   * @returns how many, at least one.
   * @throws when they will never come, or the reader was closed.
   */
  read(into: Uint8Array): Promise<number>;
  /** May be called while a `read` waits, which then throws. */
  close(): Promise<void>;
};

export type ServedBlob = {
  sha256: string;
  /** Bytes of the whole blob. */
  size: number;
  /** The bytes of a range. A `BlobReader` costs half the processor time of a `Readable`: its buffers are used again. */
  open(range: ByteRange): BlobReader | Readable | Promise<BlobReader | Readable>;
  /** For example `public, max-age=31536000, immutable`: the bytes of a hash never change. */
  cacheControl: string;
  /** Milliseconds after which a client that takes nothing of what is offered is cut off; without limit when left out. */
  slowReaderMs?: number;
};

export type Answer = {
  status: 200 | 206 | 304 | 416;
  /** Bytes of the body that were handed to the system. */
  sent: number;
  /** Why the body was not sent to its end; a client that went away is one reason. The connection is closed then. */
  failure?: unknown;
};

/** Bytes that are read or written at once. Of 64 KiB each costs twice the processor time, of 1 MiB no less and more memory. */
export const PIECE_BYTES = 256 * 1024;
const MOST_SPARE_PIECES = 32;
const spare: Buffer[] = [];

/**
 * Answers `GET` or `HEAD` for a blob that is there, as RFC 9110 has it: ETag, `If-None-Match`, one range with `If-Range`; several ranges,
 * or what cannot be read, are answered with everything. Back-pressure reaches the reader. It does not throw: what went wrong while the
 * body was sent is in the answer.
 */
export async function answerBlob(
  req: IncomingMessage,
  res: ServerResponse,
  blob: ServedBlob,
): Promise<Answer> {
  const { size } = blob;
  const etag = `"${blob.sha256}"`;
  res.setHeader("ETag", etag);
  res.setHeader("Accept-Ranges", "bytes");
  res.setHeader("Cache-Control", blob.cacheControl);
  res.setHeader("Content-Type", "application/octet-stream");
  if (matchesNone(req.headers["if-none-match"], etag)) {
    res.writeHead(304).end();
    return { status: 304, sent: 0 };
  }
  const ifRange = req.headers["if-range"];
  // RFC 9110 §14.2: ranges are defined for GET only
  const whole = req.method === "HEAD" || (ifRange !== undefined && ifRange !== etag);
  const range = whole ? "all" : parseRange(req.headers.range, size);
  if (range === "unsatisfiable") {
    res.removeHeader("Content-Disposition");
    res.writeHead(416, { "Content-Range": `bytes */${size}`, "Content-Length": 0 }).end();
    return { status: 416, sent: 0 };
  }
  const { start, end } = range === "all" ? { start: 0, end: size - 1 } : range;
  const length = end - start + 1;
  const status = range === "all" ? 200 : 206;
  res.writeHead(status, {
    "Content-Length": length,
    ...(range === "all" ? {} : { "Content-Range": `bytes ${start}-${end}/${size}` }),
  });
  if (req.method === "HEAD" || size === 0) {
    res.end();
    return { status, sent: 0 };
  }
  let sent = 0;
  try {
    const source = await blob.open({ start, end });
    if (source instanceof Readable) {
      await pipeline(source, res);
      sent = length;
    } else await pump(source);
    return { status, sent };
  } catch (failure) {
    res.destroy();
    return { status, sent, failure };
  }

  /** Reads into one buffer while the other is being written. */
  async function pump(reader: BlobReader): Promise<void> {
    const gone = () => void reader.close();
    res.once("close", gone);
    const buffers = [takePiece(), takePiece()] as const;
    let writing: Promise<void> = Promise.resolve();
    let clean = false;
    try {
      if (res.destroyed) throw new Error("The client went away.");
      // the headers before the first byte: a client that waits for a shard under way learns its size
      res.flushHeaders();
      for (let turn = 0, read = 0; read < length; turn++) {
        const buffer = buffers[turn % 2 === 0 ? 0 : 1];
        const count = await reader.read(buffer.subarray(0, Math.min(PIECE_BYTES, length - read)));
        await writing;
        writing = write(res, buffer.subarray(0, count), blob.slowReaderMs).then(() => {
          sent += count;
        });
        // awaited in the next turn; until then a failure must not count as unhandled
        writing.catch(() => {});
        read += count;
      }
      await writing;
      clean = true;
    } finally {
      res.off("close", gone);
      await reader.close();
      // after a failure the system may still be reading from them
      if (clean) givePieces(buffers);
    }
    res.end();
  }
}

/** Reads a range of a file. @throws what opening throws, for example ENOENT */
export async function readRange(path: string, { start, end }: ByteRange): Promise<BlobReader> {
  const file = await open(path);
  let position = start;
  let closing: Promise<void> | undefined;
  return {
    async read(into) {
      const { bytesRead } = await file.read(into, 0, Math.min(into.length, end + 1 - position), position);
      if (bytesRead === 0) throw new Error(`${path} is shorter than it was.`);
      position += bytesRead;
      return bytesRead;
    },
    async close() {
      closing ??= file.close();
      await closing;
    },
  };
}

/** One range of RFC 9110; several at once, or what cannot be read, is answered with everything, as it allows. */
export function parseRange(header: string | undefined, size: number): "all" | "unsatisfiable" | ByteRange {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/i.exec(header ?? "");
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

/** Weak comparison, as RFC 9110 §13.1.2 wants it here. */
function matchesNone(header: string | undefined, etag: string): boolean {
  return header?.split(",").some((tag) => ["*", etag, `W/${etag}`].includes(tag.trim())) === true;
}

/** Resolves when the system has taken the bytes, so that their buffer is free. */
function write(res: ServerResponse, bytes: Uint8Array, stallMs: number | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error | null) => {
      clearTimeout(timer);
      res.off("close", gone);
      if (error) reject(error);
      else resolve();
    };
    const gone = () => settle(new Error("The client went away."));
    const timer =
      stallMs === undefined
        ? undefined
        : setTimeout(() => {
            settle(new Error(`The client took nothing for ${stallMs} ms.`));
            res.destroy();
          }, stallMs);
    res.once("close", gone);
    res.write(bytes, settle);
  });
}

/** A buffer of `PIECE_BYTES` that nobody else uses. */
export function takePiece(): Buffer {
  return spare.pop() ?? Buffer.allocUnsafeSlow(PIECE_BYTES);
}

/** Gives back what nothing reads or writes any more. */
export function givePieces(buffers: readonly Buffer[]): void {
  if (spare.length < MOST_SPARE_PIECES) spare.push(...buffers);
}
