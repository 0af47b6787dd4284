import { Agent as HttpAgent, request as overHttp } from "node:http";
import { Agent as HttpsAgent, request as overHttps } from "node:https";
import { connect, type Socket } from "node:net";

// GET over HTTP/1.1 for bodies of megabytes. `node:http` allocates 64 KiB for whatever arrives, and at some MB/s on many connections
// collecting that garbage costs more than hashing the bytes. Over plain TCP everything is read into one buffer a connection instead: 0.4
// CPU-seconds a GiB in place of 1.3. TLS, and answers in chunks, go through `node:http(s)`.

/** What an answer begins with; header names are in lower case. */
export type Head = { status: number; headers: Readonly<Record<string, string>> };

export type HttpGet = {
  /** http: or https: */
  url: URL;
  headers: Readonly<Record<string, string>>;
  /** On a connection of its own. */
  fresh?: boolean;
  /** May call `destroy`. */
  onHead(head: Head): void;
  /** Takes bytes of the body, which are only valid during the call; with false no more come until `resume`. */
  onBytes(bytes: Uint8Array): boolean;
  /** Called once, unless `destroy` was: the body is complete, or why not. */
  onEnd(end: HttpEnd): void;
};

export type HttpEnd =
  | {
      kind: "ended";
      /** Whether the answer said how long it is; else the end of the connection ended it, which may have been cut. */
      framed: boolean;
    }
  | {
      kind: "failed";
      error: Error;
      /** An idle connection was used again and broke before it answered: that says nothing about the server. */
      stale: boolean;
    };

export type HttpClient = {
  get(options: HttpGet): { resume(): void; destroy(): void };
  /** Closes idle connections. */
  close(): void;
};

const READ_BYTES = 256 * 1024;
const MOST_HEAD_BYTES = 32 * 1024;
const MOST_INTERIM_HEADS = 16;
/** Servers close idle connections, some after five seconds; one that has just been closed only costs another try. */
const IDLE_MS = 20_000;

/** A client with connections of its own, which are kept for the next request and do not keep the process alive meanwhile. */
export function createHttpClient(): HttpClient {
  const idle = new Map<string, Set<Connection>>();
  const agents = { http: new HttpAgent({ keepAlive: true }), https: new HttpsAgent({ keepAlive: true }) };

  function rest(connection: Connection): void {
    const waiting = idle.get(connection.key) ?? new Set();
    idle.set(connection.key, waiting.add(connection));
  }
  function forget(connection: Connection): void {
    const waiting = idle.get(connection.key);
    waiting?.delete(connection);
    if (waiting?.size === 0) idle.delete(connection.key);
  }
  function connectionTo(url: URL, fresh: boolean): Connection {
    // the one used last is the least likely to have been closed
    const known = fresh ? undefined : [...(idle.get(url.host) ?? [])].at(-1);
    if (known) forget(known);
    return known ?? new Connection(url, { rest, forget });
  }

  return {
    get(options) {
      if (options.url.protocol === "https:") return throughNode(options, agents);
      let request: { resume(): void; destroy(): void };
      const chunked = () => {
        request = throughNode(options, agents);
      };
      request = connectionTo(options.url, options.fresh === true).send(options, chunked);
      return { resume: () => request.resume(), destroy: () => request.destroy() };
    },
    close() {
      for (const connection of [...idle.values()].flatMap((waiting) => [...waiting])) connection.destroy();
      agents.http.destroy();
      agents.https.destroy();
    },
  };
}

type Pool = { rest(connection: Connection): void; forget(connection: Connection): void };
type Exchange = {
  options: HttpGet;
  chunked: () => void;
  reused: boolean;
  /** What has arrived of the head; undefined once it is complete. */
  head: Buffer | undefined;
  /** Heads with a status below 200 that came before it. */
  interim: number;
  /** Bytes of the body still to come; undefined: until the connection ends. */
  left: number | undefined;
  keep: boolean;
};

/** One TCP connection, with one request at a time. */
class Connection {
  readonly key: string;
  readonly #socket: Socket;
  readonly #pool: Pool;
  #exchange: Exchange | undefined;
  #error: Error | undefined;
  #used = false;

  constructor({ host, hostname, port }: URL, pool: Pool) {
    this.key = host;
    this.#pool = pool;
    this.#socket = connect({
      host: hostname.replace(/^\[|\]$/g, ""),
      port: port === "" ? 80 : Number(port),
      noDelay: true,
      onread: {
        buffer: Buffer.allocUnsafeSlow(READ_BYTES),
        callback: (count, buffer) => this.#take(Buffer.from(buffer.buffer, buffer.byteOffset, count)),
      },
    });
    this.#socket.on("error", (error) => {
      this.#error = error;
    });
    this.#socket.on("timeout", () => this.destroy());
    this.#socket.once("end", () => this.#over(true));
    this.#socket.once("close", () => this.#over(false));
  }

  send(options: HttpGet, chunked: () => void): { resume(): void; destroy(): void } {
    const { url, headers } = options;
    const exchange: Exchange = {
      options,
      chunked,
      reused: this.#used,
      head: Buffer.alloc(0),
      interim: 0,
      left: undefined,
      keep: false,
    };
    this.#used = true;
    this.#exchange = exchange;
    this.#socket.setTimeout(0);
    this.#socket.ref();
    const lines = Object.entries({ host: url.host, ...headers, connection: "keep-alive" }).map(
      ([name, value]) => `${name}: ${value}\r\n`,
    );
    if (lines.some((line) => !/^[\x21-\x7e]+: [\t\x20-\x7e]*\r\n$/.test(line))) {
      this.#exchange = undefined;
      this.destroy();
      throw new TypeError("A header has characters that headers cannot have.");
    }
    this.#socket.write(`GET ${url.pathname}${url.search} HTTP/1.1\r\n${lines.join("")}\r\n`);
    const own = () => this.#exchange === exchange;
    return {
      resume: () => {
        if (own()) this.#socket.resume();
      },
      destroy: () => {
        if (!own()) return;
        this.#exchange = undefined;
        this.destroy();
      },
    };
  }

  destroy(): void {
    this.#pool.forget(this);
    this.#socket.destroy();
  }

  /** Whether to go on reading. */
  #take(bytes: Buffer): boolean {
    const exchange = this.#exchange;
    // nobody asked for it
    if (!exchange) {
      this.destroy();
      return false;
    }
    if (exchange.head === undefined) return this.#takeBody(exchange, bytes);
    const found = this.#takeHead(exchange, Buffer.concat([exchange.head, bytes]));
    if (!found) return this.#exchange === exchange;
    const { parsed, rest } = found;
    if (parsed.headers["transfer-encoding"] !== undefined) {
      // only for its body would it be worth asking again
      const refused = parsed.status >= 300;
      if (refused) exchange.options.onHead(parsed);
      if (this.#exchange !== exchange) return false;
      this.#exchange = undefined;
      this.destroy();
      if (refused) exchange.options.onEnd({ kind: "ended", framed: true });
      else exchange.chunked();
      return false;
    }
    exchange.head = undefined;
    exchange.left = bodyLength(parsed);
    exchange.keep = !/\bclose\b/i.test(parsed.headers.connection ?? "");
    exchange.options.onHead(parsed);
    if (this.#exchange !== exchange) return false;
    return this.#takeBody(exchange, rest);
  }

  /** The final head in `bytes` and what follows it; undefined when it is not whole yet, or after a failure. */
  #takeHead(exchange: Exchange, bytes: Buffer): { parsed: Head; rest: Buffer } | undefined {
    let head = bytes;
    for (;;) {
      const end = head.indexOf("\r\n\r\n");
      if (end < 0 && head.length <= MOST_HEAD_BYTES) {
        exchange.head = head;
        return undefined;
      }
      const parsed = end < 0 ? undefined : parseHead(head.subarray(0, end).toString("latin1"));
      const rest = head.subarray(end + 4);
      if (parsed && parsed.status >= 200) return { parsed, rest };
      if (!parsed || exchange.interim++ === MOST_INTERIM_HEADS) {
        this.#fail(new Error("It does not speak HTTP/1.1."));
        return undefined;
      }
      head = rest;
    }
  }

  #takeBody(exchange: Exchange, bytes: Buffer): boolean {
    const body = bytes.subarray(0, exchange.left ?? bytes.length);
    if (exchange.left !== undefined) exchange.left -= body.length;
    const more = body.length === 0 || exchange.options.onBytes(body);
    if (this.#exchange !== exchange) return false;
    if (exchange.left !== 0) return more;
    this.#exchange = undefined;
    // bytes after the end are the beginning of no answer to us
    if (exchange.keep && body.length === bytes.length) {
      this.#socket.setTimeout(IDLE_MS);
      this.#socket.unref();
      this.#pool.rest(this);
    } else this.destroy();
    exchange.options.onEnd({ kind: "ended", framed: true });
    return true;
  }

  /** The other side has nothing more to say, or the connection is gone. */
  #over(inOrder: boolean): void {
    this.#pool.forget(this);
    const exchange = this.#exchange;
    if (!exchange) return;
    if (inOrder && exchange.head === undefined && exchange.left === undefined) {
      this.#exchange = undefined;
      exchange.options.onEnd({ kind: "ended", framed: false });
    } else this.#fail(this.#error ?? new Error("The connection broke off."));
  }

  #fail(error: Error): void {
    const exchange = this.#exchange;
    this.#exchange = undefined;
    this.destroy();
    const stale = exchange?.reused === true && exchange.head?.length === 0;
    exchange?.options.onEnd({ kind: "failed", error, stale });
  }
}

function parseHead(text: string): Head | undefined {
  const [first = "", ...lines] = text.split("\r\n");
  const status = /^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(first)?.[1];
  if (status === undefined) return undefined;
  const headers: Record<string, string> = Object.create(null);
  for (const line of lines) {
    const match = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*(.*?)[ \t]*$/.exec(line);
    if (!match) return undefined;
    const [, name = "", value = ""] = match;
    const key = name.toLowerCase();
    headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`;
  }
  const length = headers["content-length"];
  if (length !== undefined && !/^\d{1,15}$/.test(length)) return undefined;
  // nobody else ends a connection that is not to be kept
  if (first.startsWith("HTTP/1.0")) headers.connection = "close";
  return { status: Number(status), headers };
}

/** Bytes of the body; undefined when the end of the connection says it. */
function bodyLength({ status, headers }: Head): number | undefined {
  if (status === 204 || status === 304) return 0;
  const length = headers["content-length"];
  return length === undefined ? undefined : Number(length);
}

/** The same by `node:http(s)`. */
export function throughNode(
  { url, headers, fresh, onHead, onBytes, onEnd }: HttpGet,
  agents: { http: HttpAgent; https: HttpsAgent },
): { resume(): void; destroy(): void } {
  const secure = url.protocol === "https:";
  let over = false;
  let resume = () => {};
  const end = (how: HttpEnd) => {
    if (over) return;
    over = true;
    onEnd(how);
  };
  const request = (secure ? overHttps : overHttp)(url, {
    agent: fresh === true ? false : secure ? agents.https : agents.http,
    // as over plain TCP, to the byte: who asks by other means than the rest would stand out
    headers: { host: url.host, ...headers, connection: "keep-alive" },
  });
  const failed = (error: Error) => end({ kind: "failed", error, stale: request.reusedSocket });
  request.on("error", failed);
  request.once("response", (response) => {
    const broken = (error: Error) => end({ kind: "failed", error, stale: false });
    resume = () => void response.resume();
    response.on("error", broken);
    const joined = Object.entries(response.headersDistinct).map(
      ([name, values = []]) => [name, values.join(", ")] as const,
    );
    onHead({ status: response.statusCode ?? 0, headers: Object.fromEntries(joined) });
    response.on("data", (bytes: Buffer) => {
      if (!over && !onBytes(bytes)) response.pause();
    });
    response.once("end", () => {
      const { "content-length": length, "transfer-encoding": coding } = response.headers;
      end({ kind: "ended", framed: length !== undefined || coding !== undefined });
    });
    response.once("close", () => broken(new Error("The connection broke off.")));
  });
  request.end();
  return {
    resume: () => resume(),
    destroy() {
      over = true;
      request.destroy();
    },
  };
}
