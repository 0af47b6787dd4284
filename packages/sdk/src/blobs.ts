import { hashHex } from "@muster/protocol";
import { ApiError, aborted, errorOfFetch, errorOfResponse } from "./api-error.ts";
import type { CallOptions, Transport } from "./transport.ts";

export type PutBlob = CallOptions & {
  /** A `Blob` may be backed by a file (`fs.openAsBlob`) and is then never held in memory. */
  body: Uint8Array<ArrayBuffer> | Blob;
  /** SHA-256 in hexadecimal; computed when left out. */
  sha256?: string;
  /** The lease under whose quota the bytes are stored … */
  lease?: { task: string; attempt: number };
  /** … or the URL of an upload grant (`createUpload`). */
  grant?: string;
  /** What the bytes are: `ROLLOUTS`, `MEASUREMENT`, `SAMPLES`, `STATE`, `MANIFEST`, `SHARD`. */
  kind?: string;
};

export type GetBlob = CallOptions & {
  sha256: string;
  /** Bytes after which the download is refused; 100 MiB. */
  maxBytes?: number;
  /** Bytes received so far and, when known, in all. */
  onProgress?: (received: number, total: number | undefined) => void;
};

export type Blobs = {
  /**
   * Stores bytes under their hash; storing the same bytes again is harmless. Repeated after failures that may pass.
   * @returns the SHA-256.
   * @throws ApiError as the coordinator refuses, for example `LEASE_LOST` or `QUOTA_EXCEEDED`.
   */
  put(input: PutBlob): Promise<string>;
  /**
   * The bytes with this hash, checked. A download that breaks off goes on where it stopped.
   * @throws ApiError `HASH_MISMATCH` when the bytes are not those named, `TOO_LARGE` above `maxBytes`.
   */
  get(input: GetBlob): Promise<Uint8Array<ArrayBuffer>>;
};

const MOST_BYTES = 100 * 2 ** 20;
// Time without a single byte after which a transfer counts as broken.
const STALL = 30_000;
const TRANSFER_TIMEOUT = 15 * 60_000;

export function createBlobs(transport: Transport, url: string): Blobs {
  return {
    async put({ body, lease, grant, kind, signal, ...input }) {
      const sha256 = input.sha256 ?? (await sha256Of(body instanceof Blob ? await body.arrayBuffer() : body));
      const query = new URLSearchParams();
      if (lease) {
        query.set("task", lease.task);
        query.set("attempt", String(lease.attempt));
      }
      if (kind !== undefined) query.set("kind", kind);
      const path = grant === undefined ? `/blobs/${sha256}?${query}` : ownPath(grant, url);
      await transport.repeat(signal, async () => {
        const response = await transport.request(path, {
          method: "PUT",
          headers: { "content-type": "application/octet-stream" },
          body,
          timeout: TRANSFER_TIMEOUT,
          ...(signal ? { signal } : {}),
        });
        if (!response.ok) throw await errorOfResponse(response);
        await response.body?.cancel();
      });
      return sha256;
    },

    async get({ sha256, signal, maxBytes = MOST_BYTES, onProgress }) {
      const whole = new Download(sha256, maxBytes);
      await transport.repeat(signal, () => advance(whole, transport, signal, onProgress), 8);
      const bytes = whole.bytes();
      const found = await sha256Of(bytes);
      if (found !== sha256) {
        throw new ApiError({
          code: "HASH_MISMATCH",
          message: `Blob ${sha256} arrived as ${found} (${bytes.length} bytes); it was not used.`,
        });
      }
      return bytes;
    },
  };
}

/** What has arrived of a blob; kept between attempts. */
class Download {
  readonly sha256: string;
  readonly maxBytes: number;
  received = 0;
  #parts: Uint8Array[] = [];

  constructor(sha256: string, maxBytes: number) {
    this.sha256 = sha256;
    this.maxBytes = maxBytes;
  }

  add(part: Uint8Array): void {
    this.received += part.length;
    if (this.received > this.maxBytes) throw tooLarge(this.sha256, this.maxBytes);
    this.#parts.push(part);
  }

  restart(): void {
    this.received = 0;
    this.#parts = [];
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.received);
    let offset = 0;
    for (const part of this.#parts) {
      bytes.set(part, offset);
      offset += part.length;
    }
    this.#parts = [];
    return bytes;
  }
}

async function advance(
  download: Download,
  transport: Transport,
  signal: AbortSignal | undefined,
  onProgress: GetBlob["onProgress"],
): Promise<void> {
  const from = download.received;
  const stalled = new AbortController();
  const response = await transport.request(`/blobs/${download.sha256}`, {
    ...(from > 0 ? { headers: { range: `bytes=${from}-` } } : {}),
    timeout: TRANSFER_TIMEOUT,
    signal: signal ? AbortSignal.any([signal, stalled.signal]) : stalled.signal,
  });
  // 416: the last byte had arrived and only the end of the body had not
  if (response.status === 416 && from > 0) return void (await response.body?.cancel());
  if (!response.ok || !response.body) throw await errorOfResponse(response);
  if (response.status !== 206) download.restart();
  const total = totalOf(response, download.received);
  if (total !== undefined && total > download.maxBytes) {
    await response.body.cancel();
    throw tooLarge(download.sha256, download.maxBytes);
  }
  const reader = response.body.getReader();
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    for (;;) {
      timer = setTimeout(() => stalled.abort(new DOMException("no bytes for 30 s", "TimeoutError")), STALL);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) break;
      download.add(value);
      onProgress?.(download.received, total);
    }
  } catch (cause) {
    await reader.cancel().catch(() => {});
    if (signal?.aborted === true) throw aborted(signal);
    throw errorOfFetch(cause, signal);
  } finally {
    clearTimeout(timer);
  }
  if (total !== undefined && download.received < total) {
    throw new ApiError({
      code: "NETWORK",
      message: `Blob ${download.sha256} broke off at ${download.received} of ${total} bytes.`,
    });
  }
}

function totalOf(response: Response, received: number): number | undefined {
  // with content-encoding the length is that of the encoded body
  if (response.headers.has("content-encoding")) return undefined;
  const length = Number(response.headers.get("content-length") ?? Number.NaN);
  return Number.isSafeInteger(length) ? received + length : undefined;
}

function tooLarge(sha256: string, maxBytes: number): ApiError {
  return new ApiError({
    code: "TOO_LARGE",
    message: `Blob ${sha256} is larger than the ${maxBytes} bytes allowed here.`,
  });
}

/** Where a grant's URL points into the coordinator, its path, so that the same host gets our protocol header; else the URL as it is. */
function ownPath(grant: string, url: string): string {
  return grant.startsWith(`${url}/`) ? grant.slice(url.length) : grant;
}

async function sha256Of(bytes: ArrayBuffer | Uint8Array<ArrayBuffer>): Promise<string> {
  // Web Crypto is native and some twelve times faster, but a page served over plain HTTP does not have it
  if (globalThis.crypto?.subtle === undefined)
    return hashHex(bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
