import { createHash } from "node:crypto";
import type { Agent as HttpAgent } from "node:http";
import type { Agent as HttpsAgent } from "node:https";
import { blobUrl } from "./blob-url.ts";
import { createHttpClient, type Head, type HttpGet, throughNode } from "./http-get.ts";

/** Who may have a checkpoint's bytes. Nothing it sends is believed before it was hashed. */
export type Source = {
  /** The relay's TypeID. */
  id: string;
  /** See {@link blobUrl}. */
  url: string;
  /** Sent as `Authorization: Bearer …`. */
  token?: string;
};

/**
 * What was wrong with a source: it completed other bytes than the ones asked for, let a connection starve, could not be reached or
 * broke off, or answered anything but the bytes.
 */
export type RelayFault = "CORRUPT" | "STALLED" | "UNREACHABLE" | "REFUSED";

/** How one request for a blob ended. */
export type Fetched =
  /** Its hash was checked. */
  | { kind: "whole"; bytes: Uint8Array<ArrayBuffer> }
  /** Asked to come back after so many milliseconds (429 and 503). */
  | { kind: "busy"; waitMs: number }
  /** The source does not have it, or not yet (404). */
  | { kind: "absent" }
  | { kind: "fault"; fault: RelayFault; detail: string; unauthorized: boolean }
  | { kind: "aborted" };

export type FetchShard = {
  source: Source;
  sha256: string;
  /** Bytes it must have; a source that says or sends another number is CORRUPT. Unknown for a manifest. */
  size?: number | undefined;
  /** Most bytes accepted when `size` is not known. */
  maxBytes: number;
  /** Milliseconds without a byte, or with less than 8 KiB/s, after which the connection is given up. */
  stallMs: number;
  signal: AbortSignal;
  /** Where the bytes are put when `size` is known, of at least that length; new memory when left out. */
  memory?: Uint8Array<ArrayBuffer>;
  /** Hears the length of each piece as it arrives. */
  onBytes?: (length: number) => void;
  /** What every connection is made by, for whoever may not connect to just anywhere. */
  agents?: { http: HttpAgent; https: HttpsAgent };
};

// One for the process: idle connections are kept for the next shard.
const shared = createHttpClient();

const LEAST_BYTES_PER_SECOND = 8 * 1024;
const MOST_WAIT_MS = 30_000;

/**
 * Asks one source for one blob, with one GET: no redirect is followed and nothing is asked for twice. It is hashed while it arrives and
 * held in memory whole, once. Never throws.
 */
export async function fetchShard(input: FetchShard): Promise<Fetched> {
  const first = await ask(input);
  // the source closed an idle connection just when it was used again: that says nothing about the source
  return first === "again" ? ((await ask(input, true)) as Fetched) : first;
}

function ask(input: FetchShard, fresh = false): Promise<Fetched | "again"> {
  return new Promise((resolve) => {
    const { signal, source, sha256, stallMs } = input;
    if (signal.aborted) return resolve({ kind: "aborted" });
    const address = blobUrl(source.url, sha256);
    const url = URL.canParse(address) ? new URL(address) : undefined;
    if (url?.protocol !== "http:" && url?.protocol !== "https:")
      return resolve(fault("UNREACHABLE", `${source.url} is no URL of http or https`));

    let request: { destroy(): void } | undefined;
    let ended = false;
    const watch = watchFlow(stallMs, () => {
      end(fault("STALLED", `hardly a byte within ${stallMs / 1000} s`));
    });
    const abort = () => end({ kind: "aborted" });
    const end = (outcome: Fetched | "again") => {
      if (ended) return;
      ended = true;
      watch.stop();
      signal.removeEventListener("abort", abort);
      // after a whole answer the connection is kept for the next one
      request?.destroy();
      resolve(outcome);
    };
    signal.addEventListener("abort", abort, { once: true });

    const { agents } = input;
    const get = (options: HttpGet) =>
      agents ? throughNode(options, agents) : shared.get({ ...options, fresh });
    const hash = createHash("sha256");
    const body = gather(input);
    try {
      request = get({
        url,
        headers: {
          accept: "application/octet-stream, */*",
          "accept-encoding": "identity",
          ...(source.token === undefined ? {} : { authorization: `Bearer ${source.token}` }),
        },
        onHead(head) {
          const refusal = refusalOf(head) ?? unexpected(head, input);
          if (refusal) end(refusal);
        },
        onBytes(piece) {
          // the memory may be somebody else's already
          if (ended) return false;
          watch.flowed(piece.length);
          input.onBytes?.(piece.length);
          if (body.add(piece)) hash.update(piece);
          else end(fault("CORRUPT", "it sent more bytes than the blob has"));
          return !ended;
        },
        onEnd(how) {
          if (how.kind === "failed" && how.stale && !fresh) return end("again");
          if (how.kind === "failed") return end(fault("UNREACHABLE", how.error.message || how.error.name));
          const bytes = body.bytes();
          // without a length the end of the connection is all there is, and that may have been cut
          if (bytes.length < (input.size ?? 0) && !how.framed)
            return end(fault("UNREACHABLE", "it broke off"));
          const right = bytes.length === (input.size ?? bytes.length) && hash.digest("hex") === sha256;
          end(right ? { kind: "whole", bytes } : fault("CORRUPT", "what it sent has another hash"));
        },
      });
    } catch (cause) {
      end(fault("UNREACHABLE", cause instanceof Error ? cause.message : String(cause)));
    }
  });
}

/** Everything that is not 200 with the bytes as they are. */
function refusalOf({ status, headers }: Head): Fetched | undefined {
  if (status === 429 || status === 503) return { kind: "busy", waitMs: waitOf(headers["retry-after"]) };
  if (status === 404) return { kind: "absent" };
  if (status !== 200) return { ...fault("REFUSED", `it answered ${status}`), unauthorized: status === 401 };
  const encoding = headers["content-encoding"] ?? "identity";
  return encoding === "identity" ? undefined : fault("REFUSED", `it answered in ${encoding}`);
}

function unexpected({ headers }: Head, input: FetchShard): Fetched | undefined {
  if (headers["content-length"] === undefined) return undefined;
  const length = Number(headers["content-length"]);
  const fits = input.size === undefined ? length <= input.maxBytes : length === input.size;
  return fits ? undefined : fault("CORRUPT", `it has ${length} bytes, not ${input.size ?? "so many"}`);
}

/** Joins pieces: into their place when the size is known, else at the end. */
function gather({ size, maxBytes, memory }: FetchShard) {
  let length = 0;
  if (size !== undefined) {
    const whole = memory ?? newMemory(size);
    return {
      add(piece: Uint8Array): boolean {
        if (length + piece.length > size) return false;
        whole.set(piece, length);
        length += piece.length;
        return true;
      },
      bytes: () => whole.subarray(0, length),
    };
  }
  const pieces: Uint8Array[] = [];
  return {
    add(piece: Uint8Array): boolean {
      length += piece.length;
      pieces.push(Uint8Array.from(piece));
      return length <= maxBytes;
    },
    bytes: () => new Uint8Array(Buffer.concat(pieces)),
  };
}

/** Memory that is not zeroed first. */
export function newMemory(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.allocUnsafeSlow(size).buffer);
}

/** Calls `starved` once nothing came for `stallMs`, or less than the least rate over as long. */
export function watchFlow(stallMs: number, starved: () => void) {
  const every = stallMs / 4;
  let now = performance.now();
  let [last, windowFrom, inWindow] = [now, now, 0];
  const timer = setInterval(() => {
    const before = now;
    now = performance.now();
    // this process was held up, so what waits to be read cannot have been seen
    if (now - before > 2 * every + 500) {
      [last, windowFrom, inWindow] = [now, now, 0];
      return;
    }
    const windowOver = now - windowFrom >= stallMs;
    const tooSlow = windowOver && inWindow < (LEAST_BYTES_PER_SECOND * stallMs) / 1000;
    if (tooSlow || now - last >= stallMs) return starved();
    if (windowOver) [windowFrom, inWindow] = [now, 0];
  }, every);
  return {
    flowed(length: number) {
      last = performance.now();
      inWindow += length;
    },
    stop: () => clearInterval(timer),
  };
}

/** `Retry-After`: seconds, or a date; a second when it says nothing. */
export function waitOf(header: string | undefined): number {
  if (header === undefined) return 1_000;
  const ms = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
  return Math.min(MOST_WAIT_MS, Math.max(0, Number.isNaN(ms) ? 1_000 : ms));
}

function fault(kind: RelayFault, detail: string): Extract<Fetched, { kind: "fault" }> {
  return { kind: "fault", fault: kind, detail, unauthorized: false };
}
