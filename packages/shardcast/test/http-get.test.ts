import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer as createHttpServer, type RequestListener } from "node:http";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { createHttpClient, type HttpEnd } from "../src/http-get.ts";

let stack = new AsyncDisposableStack();
afterEach(async () => {
  await stack.disposeAsync();
  stack = new AsyncDisposableStack();
});

const client = () => stack.adopt(createHttpClient(), (one) => one.close());

async function server(answer: RequestListener): Promise<{ url: URL; connections: () => number }> {
  let connections = 0;
  const http = createHttpServer(answer).on("connection", () => connections++);
  await once(http.listen(0, "127.0.0.1"), "listening");
  stack.defer(() => {
    http.closeAllConnections();
    http.close();
  });
  const { port } = http.address() as AddressInfo;
  return { url: new URL(`http://127.0.0.1:${port}/some/path?q=1`), connections: () => connections };
}

/** A server that answers each connection's first bytes as they are given, piece by piece. */
async function raw(...pieces: (string | Buffer)[]): Promise<URL> {
  const sockets = new Set<Socket>();
  const tcp = createServer((socket) => {
    sockets.add(socket.on("error", () => {}));
    socket.once("data", async () => {
      for (const piece of pieces) {
        socket.write(piece);
        // apart in time, so that the reader gets them as so many packets; merged, the test would be easier and pass as well
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      socket.end();
    });
  });
  await once(tcp.listen(0, "127.0.0.1"), "listening");
  stack.defer(() => {
    for (const socket of sockets) socket.destroy();
    tcp.close();
  });
  return new URL(`http://127.0.0.1:${(tcp.address() as AddressInfo).port}/`);
}

type Outcome = { status: number; headers: Readonly<Record<string, string>>; body: Buffer; end: HttpEnd };

function get(
  one: ReturnType<typeof createHttpClient>,
  url: URL,
  options: { headers?: Record<string, string>; slow?: boolean } = {},
): Promise<Outcome> {
  return new Promise((resolve) => {
    const pieces: Buffer[] = [];
    let head: { status: number; headers: Readonly<Record<string, string>> } = { status: 0, headers: {} };
    const request = one.get({
      url,
      headers: options.headers ?? {},
      onHead: (found) => {
        head = found;
      },
      onBytes: (bytes) => {
        pieces.push(Buffer.from(bytes));
        if (!options.slow) return true;
        // later than this turn, as a disk would be
        setImmediate(() => request.resume());
        return false;
      },
      onEnd: (end) => resolve({ ...head, body: Buffer.concat(pieces), end }),
    });
  });
}

test("bodies arrive whole, one after the other over one connection, also to a slow reader", async () => {
  const bytes = randomBytes(3_000_000);
  const seen: unknown[] = [];
  const { url, connections } = await server((req, res) => {
    seen.push([req.method, req.url, req.headers.host, req.headers.range]);
    res.writeHead(200, { "content-length": bytes.length }).end(bytes);
  });
  const one = client();
  for (const slow of [false, true, false]) {
    const { status, body, end } = await get(one, url, { slow, headers: { range: "bytes=0-" } });
    expect([status, body.equals(bytes), end]).toEqual([200, true, { kind: "ended", framed: true }]);
  }
  expect(seen).toEqual([1, 2, 3].map(() => ["GET", "/some/path?q=1", url.host, "bytes=0-"]));
  expect(connections()).toBe(1);
});

test("answers in chunks, without a body, after 1xx and up to the end of the connection are understood", async () => {
  const chunked = await server((_req, res) => res.write("one ", () => res.end("two")));
  expect(await get(client(), chunked.url)).toMatchObject({
    status: 200,
    body: Buffer.from("one two"),
    end: { kind: "ended", framed: true },
  });
  const empty = await server((_req, res) => res.writeHead(304, { etag: '"x"' }).end());
  expect(await get(client(), empty.url)).toMatchObject({ status: 304, headers: { etag: '"x"' } });
  const hints = await raw(
    "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
  );
  expect(await get(client(), hints)).toMatchObject({ status: 200, body: Buffer.from("ab") });
  const unframed = await raw("HTTP/1.1 200 OK\r\nX-", "A: 1\r\nX-a: 2\r\n\r", "\nabc", "def");
  expect(await get(client(), unframed)).toMatchObject({
    headers: { "x-a": "1, 2" },
    body: Buffer.from("abcdef"),
    end: { kind: "ended", framed: false },
  });
});

test.each([
  ["broke off", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"],
  ["is no HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n"],
  ["has two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
  ["has a header without end", `HTTP/1.1 200 OK\r\nx: ${"y".repeat(40_000)}`],
  ["has a folded header", "HTTP/1.1 200 OK\r\nx: 1\r\n y\r\nContent-Length: 0\r\n\r\n"],
  ["said nothing", ""],
  ["never comes to the point", "HTTP/1.1 100\r\n\r\n".repeat(40_000)],
])("an answer that %s fails", async (_what, text) => {
  const { end } = await get(client(), await raw(text));
  expect(end).toMatchObject({ kind: "failed", stale: false });
});

test("bytes behind a body are no answer to the next request", async () => {
  const answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb";
  const url = await raw(answer);
  const one = client();
  expect((await get(one, url)).body.toString()).toBe("a");
  expect((await get(one, url)).body.toString()).toBe("a");
});

test("a connection that was closed while it was idle is told apart from a server that fails", async () => {
  const { url } = await server((_req, res) => res.end("x"));
  const one = client();
  let first: Socket | undefined;
  const tcp = createServer((socket) => {
    if (first) return void socket.destroy();
    first = socket;
    let asked = 0;
    socket.on("data", () => {
      asked++;
      if (asked === 1) socket.write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
      else socket.resetAndDestroy();
    });
  });
  await once(tcp.listen(0, "127.0.0.1"), "listening");
  stack.defer(() => void tcp.close());
  const there = new URL(`http://127.0.0.1:${(tcp.address() as AddressInfo).port}/`);
  expect((await get(one, there)).end.kind).toBe("ended");
  expect((await get(one, there)).end).toMatchObject({ kind: "failed", stale: true });
  expect((await get(one, there)).end).toMatchObject({ kind: "failed", stale: false });
  expect((await get(one, url)).body.toString()).toBe("x");
});

test("a header cannot bring another one with it", () => {
  const url = new URL("http://127.0.0.1:9/");
  expect(() => void get2(url, { authorization: "Bearer x\r\nx-evil: 1" })).toThrow(TypeError);
});

function get2(url: URL, headers: Record<string, string>) {
  return client().get({ url, headers, onHead() {}, onBytes: () => true, onEnd() {} });
}
