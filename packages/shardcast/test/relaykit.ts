// What the tests of relays need around them: a coordinator's key and tickets, checkpoints, and an origin that does as it is told.
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeRelayTicket, newId, type RelayTicket, relayTicketBytes, toTypeId } from "@muster/protocol";
import {
  answerBlob,
  buildManifest,
  type Checkpoint,
  type Relay,
  type RelayAssignment,
  type RelayEvent,
  type RelayOptions,
  type Shard,
  signManifest,
  startRelay,
} from "../src/index.ts";

export const run = toTypeId("run", newId("run"));
/** What every relay of these tests is called, where it does not matter. */
export const relay = toTypeId("relay", newId("relay"));
export const relayId = () => toTypeId("relay", newId("relay"));
export const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
export const rawHex = (key: KeyObject) =>
  key.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");

const coordinator = generateKeyPairSync("ed25519");
export const ticketKey = rawHex(coordinator.publicKey);

export function ticketFor(
  options: { run?: string; relay?: string; subject?: string; inSeconds?: number; key?: KeyObject } = {},
): string {
  const ticket: RelayTicket = {
    schema: "muster/relay-ticket/v1",
    run: options.run ?? run,
    relay: options.relay ?? relay,
    subject: options.subject ?? randomBytes(16).toString("hex"),
    expires: Math.floor(Date.now() / 1000) + (options.inSeconds ?? 600),
  };
  return encodeRelayTicket(
    ticket,
    sign(null, relayTicketBytes(ticket), options.key ?? coordinator.privateKey),
  );
}

export type Published = { checkpoint: Checkpoint; weights: Uint8Array<ArrayBuffer>; shards: Shard[] };
const trainer = generateKeyPairSync("ed25519");
export const trainerKey = rawHex(trainer.publicKey);

/** A signed checkpoint of random weights; `like` shares all but the last shard with an earlier one. */
export async function checkpointOf(
  version: number,
  options: { size?: number; shardBytes?: number; like?: Published; key?: KeyObject; run?: string } = {},
): Promise<Published> {
  const size = options.size ?? 1_200_000;
  const shardBytes = options.shardBytes ?? 200_000;
  const weights = new Uint8Array(options.like ? options.like.weights : randomBytes(size));
  if (options.like) weights.set(randomBytes(100), size - 100);
  const { manifest, shards } = buildManifest({
    run: options.run ?? run,
    version,
    parent: version === 0 ? null : version - 1,
    created: "2026-01-01T00:00:00.000Z",
    tensors: [{ name: "w", dtype: "F32", shape: [size / 4], offset: 0, size }],
    trainer: trainerKey,
    files: [
      { name: "model.safetensors", bytes: weights },
      { name: "config.json", bytes: new TextEncoder().encode("{}") },
    ],
    shardBytes,
  });
  const checkpoint = await signManifest(manifest, (bytes) =>
    sign(null, bytes, options.key ?? trainer.privateKey),
  );
  return { checkpoint, weights, shards };
}

export function blobsOf(...published: Published[]): Map<string, Uint8Array> {
  return new Map(
    published.flatMap(({ checkpoint, shards }) => [
      [checkpoint.hash, checkpoint.bytes] as const,
      ...shards.map(({ sha256, bytes }) => [sha256, bytes] as const),
    ]),
  );
}

export type Asked = { sha256: string; range: string | undefined; authorization: string | undefined };
export type Handler = (req: IncomingMessage, res: ServerResponse, sha256: string) => unknown;
export type TestSource = {
  url: string;
  blobs: Map<string, Uint8Array>;
  asked: Asked[];
  /** What it does with a request instead of answering it; false: it answers. */
  instead: Handler;
  /** Answers as one should. */
  honestly: Handler;
  close(): Promise<void>;
};

/** A server of blobs, as honest as its `instead` lets it be. */
export async function startSource(blobs = new Map<string, Uint8Array>()): Promise<TestSource> {
  const source: TestSource = {
    url: "",
    blobs,
    asked: [],
    instead: () => false,
    honestly: async (req, res, sha256) => {
      const bytes = source.blobs.get(sha256);
      if (!bytes) return res.writeHead(404).end();
      return await answerBlob(req, res, {
        sha256,
        size: bytes.length,
        cacheControl: "no-store",
        open: ({ start, end }) => readerOf(bytes.subarray(start, end + 1)),
      });
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  const server = createServer(async (req, res) => {
    const sha256 = req.url?.split("/").at(-1) ?? "";
    source.asked.push({
      sha256,
      range: req.headers.range,
      authorization: req.headers.authorization,
    });
    if (source.instead(req, res, sha256) === false) await source.honestly(req, res, sha256);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  source.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return source;
}

function readerOf(bytes: Uint8Array) {
  let at = 0;
  return {
    read: async (into: Uint8Array) => {
      const piece = bytes.subarray(at, at + into.length);
      into.set(piece);
      at += piece.length;
      return piece.length;
    },
    close: async () => {},
  };
}

/** Everything a test starts, ended in the reverse order. */
export function createStage() {
  const endings: (() => Promise<unknown>)[] = [];
  const stage = {
    onEnd: (end: () => Promise<unknown>) => endings.push(end),
    async folder(): Promise<string> {
      const dir = await mkdtemp(join(tmpdir(), "muster-relay-"));
      endings.push(() => rm(dir, { recursive: true, force: true }));
      return dir;
    },
    async source(...published: Published[]): Promise<TestSource> {
      const source = await startSource(blobsOf(...published));
      endings.push(source.close);
      return source;
    },
    async relay(options: Partial<RelayOptions> = {}): Promise<Relay & { events: RelayEvent[] }> {
      const events: RelayEvent[] = [];
      const dir = options.dir ?? (await stage.folder());
      const relay = await startRelay({
        port: 0,
        ...options,
        dir,
        onEvent: (event) => events.push(event),
      });
      endings.push(() => relay.close());
      return Object.assign(relay, { events });
    },
    async end() {
      for (const end of endings.splice(0).toReversed()) await end();
    },
  };
  return stage;
}

/** An assignment under a parent, or under the origin that the relay knows. */
export function assignmentOf(
  versions: readonly Published[],
  parent?: { id?: string; url: string },
  more: Partial<RelayAssignment> = {},
): RelayAssignment {
  return {
    relay,
    run,
    parent: parent ? (parent.id ?? relayId()) : null,
    parentUrl: parent?.url ?? "",
    ticket: parent
      ? ticketFor({ subject: "f".repeat(32), ...(parent.id === undefined ? {} : { relay: parent.id }) })
      : null,
    ticketKey,
    versions: versions.map(({ checkpoint }) => ({
      version: checkpoint.manifest.version,
      manifest: checkpoint.hash,
    })),
    ...more,
  };
}

export type Got = {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  bytes: Buffer;
  /** Whether the body came to its end. */
  complete: boolean;
};

/** One request, on a connection of its own. `arrived` grows while it is under way. */
export function ask(
  url: string,
  options: { headers?: Record<string, string>; method?: string; onBytes?: (bytes: Buffer) => void } = {},
): Promise<Got> {
  return new Promise((resolve, reject) => {
    const asking = request(
      url,
      { agent: false, method: options.method ?? "GET", headers: options.headers ?? {} },
      (response) => {
        const pieces: Buffer[] = [];
        response.on("data", (piece: Buffer) => {
          pieces.push(piece);
          options.onBytes?.(piece);
        });
        response.on("error", () => {});
        response.on("close", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            bytes: Buffer.concat(pieces),
            complete: response.complete,
          }),
        );
      },
    );
    asking.on("error", reject);
    asking.end();
  });
}

/** Asks a relay for a blob, with a ticket. */
export function askBlob(
  relay: { url: string },
  sha256: string,
  options: Parameters<typeof ask>[1] & { ticket?: string } = {},
): Promise<Got> {
  const { ticket = ticketFor(), headers, ...rest } = options;
  return ask(`${relay.url}/blobs/${sha256}`, {
    ...rest,
    headers: { authorization: `Bearer ${ticket}`, ...headers },
  });
}

export async function until(
  what: () => boolean | Promise<boolean>,
  ms = 10_000,
  describe?: () => unknown,
): Promise<void> {
  const end = performance.now() + ms;
  while (!(await what())) {
    if (performance.now() > end)
      throw new Error(`It did not happen within ${ms} ms: ${what} ${JSON.stringify(describe?.())}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const held = (relay: { events: RelayEvent[] }, { checkpoint }: Published) =>
  until(
    () => relay.events.some((event) => event.type === "held" && event.manifest === checkpoint.hash),
    10_000,
    () => relay.events,
  );

/** A promise to be kept from elsewhere. */
export function gate(): { open(): void; opened: Promise<void> } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}
