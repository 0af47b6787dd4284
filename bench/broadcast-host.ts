// One host of the broadcast: the origin, a relay, or a receiver that verifies and throws away. It does what it is told over its IPC channel
// and ends with it.

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import {
  answerBlob,
  type Fault,
  fetchShard,
  openManifest,
  openTransfer,
  startRelay,
  type Traffic,
} from "@muster/shardcast";

/** What a host is. */
export type Role =
  | { kind: "origin"; dir: string }
  | { kind: "relay"; dir: string; origin: string }
  | { kind: "receiver"; origin: string };
/** What it is told to have. */
export type Order = {
  run: string;
  manifest: string;
  /** TypeID of this host as a relay. */
  relay: string;
  /** TypeID of the relay above; null: the origin. */
  parent: string | null;
  parentUrl: string;
  ticket: string;
  ticketKey: string;
};
export type ToHost = { role: Role } | { order: Order } | { ask: "usage" };
export type FromHost =
  | { ready: true }
  /** The clock that all processes of a machine share, in seconds. */
  | { doneAt: number; bytes: number; wastedBytes: number; origin: number }
  | { cpuSeconds: number; sentBytes: number }
  | { fault: string }
  | { failed: string };

export const PORT = 4010;

const tell = (message: FromHost) => void process.send?.(message);
const clock = () => Number(process.hrtime.bigint()) / 1e9;

let order: (order: Order) => void = () => {};
let sentBytes = () => 0;
let usage = process.cpuUsage();

process.on("disconnect", () => process.exit(0));
process.on("uncaughtException", (cause) => {
  tell({ failed: cause.stack ?? String(cause) });
  process.exitCode = 1;
});
process.on("message", (message: ToHost) => {
  if ("role" in message) {
    void become(message.role).then(() => tell({ ready: true }));
  } else if ("order" in message) {
    usage = process.cpuUsage();
    order(message.order);
  } else {
    const { user, system } = process.cpuUsage(usage);
    tell({ cpuSeconds: (user + system) / 1e6, sentBytes: sentBytes() });
  }
});

async function become(role: Role): Promise<void> {
  switch (role.kind) {
    case "origin":
      return await beOrigin(role.dir);
    case "relay":
      return await beRelay(role);
    case "receiver":
      return beReceiver(role);
  }
}

/** The store behind the HTTP answer that the coordinator gives. */
async function beOrigin(dir: string): Promise<void> {
  let sent = 0;
  sentBytes = () => sent;
  const server = createServer((req, res) => {
    const sha256 = /^\/blobs\/([0-9a-f]{64})$/.exec(req.url ?? "")?.[1] ?? "";
    const path = join(dir, "blobs", sha256.slice(0, 2), sha256);
    if (!existsSync(path)) return res.writeHead(404).end();
    void answerBlob(req, res, {
      sha256,
      size: statSync(path).size,
      cacheControl: "private, max-age=31536000, immutable",
      open: ({ start, end }) => createReadStream(path, { start, end, highWaterMark: 256 * 1024 }),
    }).then((answer) => {
      sent += answer.sent;
    });
  });
  await new Promise<void>((resolve) => server.listen(PORT, "0.0.0.0", resolve));
}

async function beRelay(role: Extract<Role, { kind: "relay" }>): Promise<void> {
  const relay = await startRelay({
    dir: role.dir,
    port: PORT,
    host: "0.0.0.0",
    origin: { url: role.origin },
    onEvent(event) {
      if (event.type === "held") tell({ doneAt: clock(), ...bytesOf(relay.metrics()) });
      else tell({ fault: JSON.stringify(event) });
    },
  });
  sentBytes = () => relay.health().sentBytes;
  order = ({ run, manifest, relay: id, parent, parentUrl, ticket, ticketKey }) =>
    relay.assign({
      run,
      relay: id,
      parent,
      parentUrl,
      ticket: parent === null ? null : ticket,
      ticketKey,
      versions: [{ version: 0, manifest }],
    });
}

/** The production client up to where it would write: every byte fetched, hashed and thrown away. */
function beReceiver(role: Extract<Role, { kind: "receiver" }>): void {
  order = ({ manifest, parent, parentUrl, ticket }) => {
    const traffic: Traffic = { bytes: new Map(), wastedBytes: 0 };
    const transfer = openTransfer({
      manifest,
      relays: async () => (parent === null ? [] : [{ id: parent, url: parentUrl, token: ticket }]),
      origin: async ({ sha256, maxBytes, signal }) => {
        const found = await fetchShard({
          source: { id: "origin", url: role.origin },
          sha256,
          maxBytes,
          stallMs: 10_000,
          signal: signal ?? new AbortController().signal,
        });
        if (found.kind === "whole") return found.bytes;
        throw new Error(`The origin: ${JSON.stringify(found)}`);
      },
      standings: new Map(),
      traffic,
      connections: 4,
      stallMs: 10_000,
      onFault: (fault: Fault) => tell({ fault: JSON.stringify(fault) }),
    });
    const take = async () => {
      let manifestBytes: Uint8Array | undefined;
      await transfer.fetch([{ sha256: manifest, size: undefined }], async (_, bytes) => {
        manifestBytes = bytes;
      });
      if (manifestBytes === undefined) throw new Error("A transfer ended without its manifest.");
      const { files } = await openManifest({ bytes: manifestBytes, hash: manifest });
      let bytes = 0;
      await transfer.fetch(
        files.flatMap((file) => file.shards),
        async (_, shard) => {
          bytes += shard.length;
        },
      );
      tell({
        doneAt: clock(),
        bytes,
        wastedBytes: traffic.wastedBytes,
        origin: traffic.bytes.get(null) ?? 0,
      });
    };
    take().catch((cause: Error) => tell({ failed: cause.stack ?? cause.message }));
  };
}

function bytesOf(metrics: string): { bytes: number; wastedBytes: number; origin: number } {
  const value = (pattern: RegExp) => Number(pattern.exec(metrics)?.[1] ?? 0);
  const parent = value(/^muster_relay_received_bytes_total\{source="parent"\} (\d+)/m);
  const origin = value(/^muster_relay_received_bytes_total\{source="origin"\} (\d+)/m);
  return { bytes: parent + origin, wastedBytes: value(/^muster_relay_wasted_bytes_total (\d+)/m), origin };
}
