import { blobUrl } from "../blob-url.ts";
import { type RelayFault, waitOf, watchFlow } from "../fetch-shard.ts";
import type { Head, HttpClient, HttpGet } from "../http-get.ts";

/** Where a relay gets its bytes: the relay above it, or the origin. */
export type Upstream = {
  /** The parent's TypeID, or `origin`. */
  id: string;
  /** See `blobUrl`. */
  url: string;
  /**
   * What is sent as `Authorization: Bearer …`. Asked again, with the one that was refused, after a 401; the same one again gives up.
   */
  token?: (refused?: string) => string | undefined | Promise<string | undefined>;
  /** Further headers of each request. */
  headers?: Readonly<Record<string, string>>;
  /** Whether it may send us elsewhere, as an origin does whose blobs lie in a bucket. */
  redirects: boolean;
};

/** How a request for the bytes of a blob ended. */
export type Received =
  /** Everything that was asked for arrived; nobody has looked at it yet. */
  | { kind: "ended" }
  | { kind: "busy"; waitMs: number }
  | { kind: "absent" }
  | { kind: "fault"; fault: RelayFault; detail: string }
  /** The sink threw. */
  | { kind: "sink"; cause: unknown }
  | { kind: "aborted" };

export type Receive = {
  upstream: Upstream;
  sha256: string;
  /** First byte wanted. */
  from: number;
  /** Bytes of the whole blob; unknown for a manifest. */
  size: number | undefined;
  maxBytes: number;
  /** Milliseconds until the answer begins, … */
  answerMs: number;
  /** … and without a byte, or with hardly one, after which the connection is given up. */
  stallMs: number;
  signal: AbortSignal;
  /** Takes the bytes in order; they are only valid during the call. What it returns is waited for before the next ones. */
  sink: (bytes: Uint8Array) => Promise<void> | undefined;
};

const MOST_REDIRECTS = 3;

/** Fetches from those above a relay. */
export async function receiveBlob(client: HttpClient, input: Receive): Promise<Received> {
  let token = await input.upstream.token?.();
  let url = URL.parse(blobUrl(input.upstream.url, input.sha256));
  let foreign = false;
  for (let redirects = 0, renewed = false, fresh = false; ; ) {
    if (url === null || (url.protocol !== "http:" && url.protocol !== "https:"))
      return fault("UNREACHABLE", "it has no URL that is spoken here");
    const headers = {
      accept: "application/octet-stream, */*",
      "accept-encoding": "identity",
      ...(input.from === 0 ? {} : { range: `bytes=${input.from}-` }),
      ...(foreign ? {} : input.upstream.headers),
      ...(token === undefined || foreign ? {} : { authorization: `Bearer ${token}` }),
    };
    const outcome = await ask(client, { url, headers, fresh }, input);
    switch (outcome.kind) {
      case "stale":
        fresh = true;
        break;
      case "unauthorized": {
        const other: string | undefined = renewed ? token : await input.upstream.token?.(token);
        if (other === token) return fault("REFUSED", "it answered 401");
        renewed = true;
        token = other;
        break;
      }
      case "moved": {
        if (!input.upstream.redirects || redirects++ === MOST_REDIRECTS)
          return fault("REFUSED", "it sends us elsewhere");
        const next: URL | null = URL.parse(outcome.location, url);
        // the token is for nobody else
        foreign ||= next?.origin !== url.origin;
        url = next;
        break;
      }
      default:
        return outcome;
    }
  }
}

type Asked =
  | Received
  /** An idle connection that was closed just when it was used again. */
  | { kind: "stale" }
  | { kind: "unauthorized" }
  | { kind: "moved"; location: string };

/** One request. */
function ask(
  client: HttpClient,
  { url, headers, fresh }: { url: URL; headers: Record<string, string>; fresh: boolean },
  input: Receive,
): Promise<Asked> {
  return new Promise((resolve) => {
    const { signal, size, stallMs } = input;
    if (signal.aborted) return resolve({ kind: "aborted" });
    let request: ReturnType<HttpClient["get"]> | undefined;
    let at = input.from;
    let skip = 0;
    let over = false;
    let watch: { flowed(length: number): void; stop(): void } | undefined;
    const end = (outcome: Asked) => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      watch?.stop();
      signal.removeEventListener("abort", abort);
      // after a whole answer the connection is kept by itself
      if (outcome.kind !== "ended") request?.destroy();
      resolve(outcome);
    };
    const look = () => {
      watch?.stop();
      watch = watchFlow(stallMs, () => end(fault("STALLED", `hardly a byte within ${stallMs / 1000} s`)));
    };
    const abort = () => end({ kind: "aborted" });
    const timer = setTimeout(
      () => end(fault("STALLED", `no answer within ${input.answerMs / 1000} s`)),
      input.answerMs,
    );
    signal.addEventListener("abort", abort, { once: true });

    const asking: HttpGet = {
      url,
      headers,
      fresh,
      onHead(head) {
        clearTimeout(timer);
        const refusal = refusalOf(head, input);
        if (refusal) return end(refusal);
        if (head.status === 200) {
          // who knows no ranges sends everything
          skip = input.from;
          at = 0;
        }
        look();
      },
      onBytes(bytes) {
        watch?.flowed(bytes.length);
        at += bytes.length;
        if (at > (size ?? input.maxBytes)) {
          end(fault("CORRUPT", "it sent more bytes than the blob has"));
          return false;
        }
        const known = Math.min(skip, bytes.length);
        skip -= known;
        if (known === bytes.length) return true;
        try {
          const full = input.sink(bytes.subarray(known));
          if (!full) return true;
          // we keep it waiting, not it us
          watch?.stop();
          full.then(
            () => {
              if (over) return;
              look();
              request?.resume();
            },
            (cause: unknown) => end({ kind: "sink", cause }),
          );
        } catch (cause) {
          end({ kind: "sink", cause });
        }
        return false;
      },
      onEnd(how) {
        if (how.kind === "failed")
          return end(how.stale && !fresh ? { kind: "stale" } : fault("UNREACHABLE", messageOf(how.error)));
        end(size !== undefined && at < size ? fault("UNREACHABLE", "it broke off") : { kind: "ended" });
      },
    };
    try {
      request = client.get(asking);
    } catch (cause) {
      end(fault("UNREACHABLE", cause instanceof Error ? cause.message : String(cause)));
    }
  });
}

function refusalOf({ status, headers }: Head, { from, size, maxBytes }: Receive): Asked | undefined {
  if (status === 429 || status === 503) return { kind: "busy", waitMs: waitOf(headers["retry-after"]) };
  if (status === 404) return { kind: "absent" };
  if (status === 401) return { kind: "unauthorized" };
  if (status >= 301 && status <= 308 && status !== 304 && headers.location !== undefined)
    return { kind: "moved", location: headers.location };
  const whole = status === 200;
  if (!whole && !(status === 206 && from > 0)) return fault("REFUSED", `it answered ${status}`);
  const encoding = headers["content-encoding"] ?? "identity";
  if (encoding !== "identity") return fault("REFUSED", `it answered in ${encoding}`);
  if (!whole && headers["content-range"] !== `bytes ${from}-${(size ?? 0) - 1}/${size}`)
    return fault("REFUSED", `it sent ${headers["content-range"]} when asked from byte ${from}`);
  const length = headers["content-length"];
  if (length === undefined) return undefined;
  const fits = size === undefined ? Number(length) <= maxBytes : Number(length) === size - (whole ? 0 : from);
  return fits ? undefined : fault("CORRUPT", `it has ${length} bytes, not ${size ?? "so many"}`);
}

function fault(kind: RelayFault, detail: string): Extract<Received, { kind: "fault" }> {
  return { kind: "fault", fault: kind, detail };
}

function messageOf(error: Error): string {
  return error.message || error.name;
}
