import { createHash, randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { newId, toTypeId } from "@muster/protocol";
import type { Lease, TaskKind } from "@muster/sdk";

// The coordinator's side of a worker's life in a few lines: operations by their name, blobs by their hash, on a real port. It has no
// WebSocket, so every worker here also shows that polling alone is enough.

export const run = toTypeId("run", newId("run"));

export type Task = {
  kind: TaskKind;
  task: string;
  manifest: string | null;
  policyVersion: number | null;
  payload: unknown;
  renewAfterSeconds?: number;
};

export type Submission = { name: string; token: string; input: Record<string, unknown> & { task: string } };

export class Refusal extends Error {
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfterSeconds: number | undefined;
  constructor(code: string, options: { retryable?: boolean; retryAfterSeconds?: number } = {}) {
    super(`refused with ${code}`);
    this.code = code;
    this.retryable = options.retryable ?? false;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

export type MiniCoordinator = AsyncDisposable & {
  url: string;
  blobs: Map<string, Uint8Array>;
  /** Blobs asked for, oldest first. */
  fetched: string[];
  stored: { sha256: string; kind: string | null; task: string | null }[];
  open: Task[];
  submissions: Submission[];
  released: { task: string; reason: string }[];
  heartbeats: Record<string, unknown>[];
  registrations: Record<string, unknown>[];
  tokens: Set<string>;
  /** The run's versions, newest first. */
  checkpoints: { version: number; manifestHash: string }[];
  /** Who has every checkpoint, and what was said of them. */
  relays: { relay: string; url: string; ticket: string | null; expiresAt: string | null }[];
  reports: Record<string, unknown>[];
  receipts: Record<string, unknown>[];
  /** While true, connections are cut before a request is answered. */
  away: boolean;
  /** Called before an operation is answered; throwing refuses it. */
  before: (name: string, input: Record<string, unknown>) => void | Promise<void>;
  /** Adds a task; returns its id. */
  add(kind: TaskKind, payload: object, more?: Partial<Task>): string;
  /** What the named submission carried, once there is one. */
  result(task: string): Record<string, unknown>;
};

export async function startCoordinator(): Promise<MiniCoordinator> {
  const self: Omit<MiniCoordinator, "url" | typeof Symbol.asyncDispose> = {
    blobs: new Map(),
    fetched: [],
    stored: [],
    open: [],
    submissions: [],
    released: [],
    heartbeats: [],
    registrations: [],
    tokens: new Set(),
    checkpoints: [],
    relays: [],
    reports: [],
    receipts: [],
    away: false,
    before: () => {},
    add(kind, payload, more = {}) {
      const task = toTypeId("task", newId("task"));
      self.open.push({
        kind,
        task,
        manifest: null,
        policyVersion: null,
        payload: { kind, ...payload },
        ...more,
      });
      return task;
    },
    result(task) {
      const found = self.submissions.find(({ input }) => input.task === task);
      if (!found) throw new Error(`${task} was not submitted`);
      return found.input;
    },
  };
  const leased = new Map<string, number>();
  const later = (ms: number) => new Date(Date.now() + ms).toISOString();

  function answer(name: string, input: Record<string, unknown>, token: string): Record<string, unknown> {
    switch (name) {
      case "CreateNodeChallenge":
        return { createNodeChallenge: { challenge: "abc", expiresAt: later(60_000) } };
      case "RegisterNode": {
        self.registrations.push(input);
        const fresh = randomUUID();
        self.tokens.add(fresh);
        const node = { id: toTypeId("node", newId("node")), name: input.name };
        return { registerNode: { node, token: fresh, expiresAt: later(3_600_000) } };
      }
      case "Heartbeat":
        self.heartbeats.push(input);
        return {
          heartbeat: {
            serverTime: later(0),
            leases: [...leased].map(([task, attempt]) => ({ task, attempt, leaseUntil: later(60_000) })),
          },
        };
      case "ClaimTasks": {
        const kinds = input.kinds as TaskKind[];
        const mine = self.open.filter(({ kind }) => kinds.includes(kind)).slice(0, Number(input.max));
        self.open = self.open.filter((task) => !mine.includes(task));
        const claimTasks = mine.map((task): Lease => {
          const attempt = (leased.get(task.task) ?? 0) + 1;
          leased.set(task.task, attempt);
          return { run, attempt, leaseUntil: later(60_000), renewAfterSeconds: 20, ...task };
        });
        return { claimTasks };
      }
      case "RenewLease":
        return { renewLease: { leaseUntil: later(60_000) } };
      case "RunCheckpoints": {
        const edges = self.checkpoints.map((node) => ({ node }));
        return {
          run: { id: run, checkpoints: { edges, pageInfo: { hasNextPage: false, endCursor: null } } },
        };
      }
      case "CheckpointSources":
        return { checkpointSources: self.relays };
      case "ReportRelay":
        self.reports.push(input);
        return { reportRelay: { probing: true } };
      case "ReceiptCheckpoint":
        self.receipts.push(input);
        return { receiptCheckpoint: { received: true } };
      case "ReleaseTask":
        self.released.push({ task: String(input.task), reason: String(input.reason) });
        return { releaseTask: true };
      case "SubmitMeasurements": {
        const submissions = input.submissions as { task: string }[];
        for (const each of submissions)
          self.submissions.push({ name: "SubmitMeasurement", token, input: each });
        const submitMeasurements = submissions.map(({ task }) => ({
          __typename: "Submitted",
          task,
          state: "DONE",
          duplicate: false,
        }));
        return { submitMeasurements };
      }
      case "SubmitRollouts":
      case "SubmitEvaluation":
      case "SubmitStep": {
        self.submissions.push({ name, token, input: { ...input, task: String(input.task) } });
        const field = name[0]?.toLowerCase() + name.slice(1);
        return { [field]: { __typename: "Submitted", task: input.task, state: "DONE", duplicate: false } };
      }
      default:
        throw new Refusal("BAD_REQUEST");
    }
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    if (self.away) return void request.socket.destroy();
    const token = request.headers.authorization?.replace("Bearer ", "") ?? "";
    const url = new URL(request.url ?? "", "http://x");
    const sha256 = url.pathname.split("/")[2] ?? "";
    if (request.method === "PUT") {
      if (createHash("sha256").update(body).digest("hex") !== sha256)
        return void response.writeHead(422).end();
      self.blobs.set(sha256, new Uint8Array(body));
      self.stored.push({ sha256, kind: url.searchParams.get("kind"), task: url.searchParams.get("task") });
      return void response.writeHead(201).end();
    }
    if (request.method === "GET") {
      const bytes = self.blobs.get(sha256);
      self.fetched.push(sha256);
      return void (bytes ? response.end(bytes) : response.writeHead(404).end());
    }
    const { operationName: name, variables } = JSON.parse(body.toString()) as {
      operationName: string;
      variables: { input?: Record<string, unknown> };
    };
    const input = variables.input ?? {};
    response.setHeader("content-type", "application/json");
    try {
      const known = self.tokens.has(token) || name === "CreateNodeChallenge" || name === "RegisterNode";
      if (!known) throw new Refusal("UNAUTHENTICATED");
      await self.before(name, input);
      response.end(JSON.stringify({ data: answer(name, input, token) }));
    } catch (error) {
      const { code, retryable, retryAfterSeconds } =
        error instanceof Refusal ? error : new Refusal("INTERNAL");
      const errors = [{ message: String(error), extensions: { code, retryable, retryAfterSeconds } }];
      response.writeHead(code === "UNAUTHENTICATED" ? 401 : 200).end(JSON.stringify({ errors }));
    }
  }

  const server = createServer(
    (request, response) => void handle(request, response).catch(() => response.destroy()),
  );
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => sockets.add(socket.once("close", () => sockets.delete(socket))));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return Object.assign(self, {
    url,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}
