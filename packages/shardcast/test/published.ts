// Checkpoints that a trainer published, and servers that have them.
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { newId, toTypeId } from "@muster/protocol";
import { buildManifest, type Checkpoint, type Parent, type Shard, signManifest } from "../src/index.ts";

export const run = toTypeId("run", newId("run"));
export const keys = generateKeyPairSync("ed25519");
export const rawHex = (key: KeyObject) =>
  key.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");
export const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

export type Store = Map<string, Uint8Array>;
export type Published = {
  checkpoint: Checkpoint;
  weights: Uint8Array<ArrayBuffer>;
  shards: Shard[];
  /** What a version made from this one starts from. */
  asParent: Parent;
};

/** Signs a checkpoint and puts its blobs into the store. */
export async function publish(
  store: Store,
  options: {
    version?: number;
    size?: number;
    shardBytes?: number;
    weights?: Uint8Array<ArrayBuffer>;
    from?: Parent;
    key?: typeof keys;
  } = {},
): Promise<Published> {
  const version = options.version ?? 0;
  const weights = options.weights ?? new Uint8Array(randomBytes(options.size ?? 1_000_000));
  const { manifest, shards } = buildManifest({
    run,
    version,
    parent: version === 0 ? null : version - 1,
    created: "2026-01-01T00:00:00.000Z",
    tensors: [{ name: "w", dtype: "F32", shape: [weights.length / 4], offset: 0, size: weights.length }],
    trainer: rawHex(keys.publicKey),
    files: [
      { name: "model.safetensors", bytes: weights },
      { name: "config.json", bytes: new TextEncoder().encode('{"layers":1}') },
    ],
    shardBytes: options.shardBytes ?? 100_000,
    ...(options.from ? { from: options.from } : {}),
  });
  const checkpoint = await signManifest(manifest, (bytes) =>
    sign(null, bytes, (options.key ?? keys).privateKey),
  );
  for (const shard of shards) store.set(shard.sha256, shard.bytes);
  store.set(checkpoint.hash, checkpoint.bytes);
  return {
    checkpoint,
    weights,
    shards,
    asParent: { manifest: checkpoint.manifest, manifestHash: checkpoint.hash, weights },
  };
}

export type TestSource = AsyncDisposable & {
  url: string;
  /** Hashes asked for, oldest first. */
  asked: string[];
  requests: IncomingMessage[];
  sentBytes: number;
  /** Answers in its own way when it returns true. */
  meddle: (request: IncomingMessage, response: ServerResponse, hash: string) => boolean;
};

/** A server of the store at `/blobs/<hash>`, whatever comes before it. @param bytesPerSecond over all its connections together. */
export async function startSource(
  store: Store,
  bytesPerSecond = Number.POSITIVE_INFINITY,
): Promise<TestSource> {
  const pace = paced(bytesPerSecond);
  const server = createServer((request, response) => {
    const hash = request.url?.split("/").at(-1) ?? "";
    self.asked.push(hash);
    self.requests.push(request);
    if (self.meddle(request, response, hash)) return;
    const bytes = store.get(hash);
    if (!bytes) return void response.writeHead(404).end();
    response.writeHead(200, { "content-length": bytes.length });
    pace.send(response, bytes, (sent) => {
      self.sentBytes += sent;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const self: TestSource = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: [],
    requests: [],
    sentBytes: 0,
    meddle: () => false,
    async [Symbol.asyncDispose]() {
      pace.stop();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return self;
}

/** Shares a rate fairly among the answers under way. */
function paced(bytesPerSecond: number) {
  type Sending = { response: ServerResponse; bytes: Uint8Array; at: number; sent: (bytes: number) => void };
  let sending: Sending[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    const budget = Math.floor((Math.min(100, now - last) / 1000) * bytesPerSecond);
    last = now;
    sending = sending.filter(({ response }) => !response.destroyed);
    const share = Math.ceil(budget / Math.max(1, sending.length));
    for (const each of sending) {
      const piece = each.bytes.subarray(each.at, each.at + share);
      each.at += piece.length;
      each.sent(piece.length);
      if (each.at < each.bytes.length) each.response.write(piece);
      else each.response.end(piece);
    }
    sending = sending.filter(({ at, bytes }) => at < bytes.length);
  }, 5);
  return {
    send(response: ServerResponse, bytes: Uint8Array, sent: (bytes: number) => void) {
      if (bytesPerSecond === Number.POSITIVE_INFINITY) {
        sent(bytes.length);
        response.end(bytes);
      } else sending.push({ response, bytes, at: 0, sent });
    },
    stop: () => clearInterval(timer),
  };
}
