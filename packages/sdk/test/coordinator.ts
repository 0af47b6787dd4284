import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { fileURLToPath } from "node:url";
import { buildSchema, GraphQLError, type GraphQLSchema, graphql } from "graphql";
import { useServer } from "graphql-ws/use/ws";
import { type WebSocket, WebSocketServer } from "ws";

// A coordinator of a few lines on real sockets: the committed schema, resolvers chosen by the test, and ways to misbehave.

const schema: GraphQLSchema = buildSchema(
  readFileSync(fileURLToPath(new URL("../../../apps/api/schema.graphql", import.meta.url)), "utf8"),
);

const documents = JSON.parse(
  readFileSync(fileURLToPath(new URL("../../../apps/api/persisted-documents.json", import.meta.url)), "utf8"),
) as Record<string, string>;

export type Resolvers = Record<string, (args: never, context: { token: string | undefined }) => unknown>;

export type Coordinator = AsyncDisposable & {
  url: string;
  /** Every request and connection, in order: method and path, or "ws". */
  seen: string[];
  connections: Set<WebSocket>;
};

export async function startCoordinator(options: {
  root?: Resolvers;
  /** Takes over an HTTP request by returning true. */
  http?: (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>;
  port?: number;
  /** Tokens that are refused, by HTTP 401 and by closing the socket with 4401. */
  refuse?: (token: string | undefined) => boolean;
}): Promise<Coordinator> {
  const seen: string[] = [];
  const connections = new Set<WebSocket>();
  const refuses = options.refuse ?? (() => false);

  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    void answer(request, response);
  });
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (await options.http?.(request, response)) return;
    const token = request.headers.authorization?.replace("Bearer ", "");
    response.setHeader("content-type", "application/json");
    if (refuses(token)) {
      response.statusCode = 401;
      response.end(
        JSON.stringify({ errors: [{ message: "expired", extensions: { code: "UNAUTHENTICATED" } }] }),
      );
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { query, variables, extensions } = JSON.parse(Buffer.concat(chunks).toString()) as {
      query?: string;
      variables: Record<string, unknown>;
      extensions?: { persistedQuery: { sha256Hash: string } };
    };
    const source = query ?? documents[extensions?.persistedQuery.sha256Hash ?? ""];
    if (source === undefined) {
      response.statusCode = 404;
      const error = { message: "unknown", extensions: { code: "DOCUMENT_UNKNOWN", retryable: false } };
      response.end(JSON.stringify({ errors: [error] }));
      return;
    }
    const result = await graphql({
      schema,
      source,
      variableValues: variables,
      rootValue: options.root,
      contextValue: { token },
    });
    response.setHeader("x-request-id", "req-1");
    response.end(JSON.stringify(result));
  }

  const wss = new WebSocketServer({ server, path: "/graphql" });
  wss.on("connection", (socket) => {
    seen.push("ws");
    connections.add(socket);
    socket.on("close", () => connections.delete(socket));
  });
  const disposable = useServer(
    {
      schema,
      roots: { subscription: options.root as never },
      onConnect({ connectionParams, extra }) {
        const token = connectionParams?.token as string | undefined;
        if (!refuses(token)) return;
        (extra as { socket: WebSocket }).socket.close(4401, "expired");
      },
    },
    wss,
  );
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(options.port ?? 0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    seen,
    connections,
    async [Symbol.asyncDispose]() {
      await disposable.dispose();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** An event log with a head that grows; reading it replays after a cursor and then waits for more. */
export function eventLog() {
  const events: { seq: string; type: string; subject: string; data: unknown; at: string }[] = [];
  const waiting = new Set<() => void>();
  const at = new Date(0).toISOString();
  return {
    append(count: number) {
      for (let i = 0; i < count; i++) {
        events.push({
          seq: String(events.length + 1),
          type: "test",
          subject: "run_x",
          data: { n: events.length + 1 },
          at,
        });
      }
      for (const wake of waiting) wake();
    },
    async *read({ stream, after }: { stream: string; after: string }, size = 3) {
      let next = Number(after);
      const batch = (chunk: typeof events) => ({
        events: {
          stream,
          events: chunk,
          head: String(events.length),
          resync: false,
          backfill: false,
          serverTime: at,
        },
      });
      for (;;) {
        const chunk = events.slice(next, next + size);
        next += chunk.length;
        if (chunk.length > 0) yield batch(chunk);
        else
          await new Promise<void>((resolve) => {
            const wake = () => {
              waiting.delete(wake);
              resolve();
            };
            waiting.add(wake);
          });
      }
    },
  };
}

export function refusal(code: string, extensions: Record<string, unknown> = {}): GraphQLError {
  return new GraphQLError(`refused with ${code}`, { extensions: { code, ...extensions } });
}
