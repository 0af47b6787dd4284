import { createPublicKey, verify } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { parseRelayTicket, relayTicketBytes, toTypeId } from "@muster/protocol";
import type { RelayAssignment } from "../src/broadcast/assignments.ts";
import { probeRelays } from "../src/broadcast/probe.ts";
import { announceRelay } from "../src/broadcast/relays.ts";
import { coordinatorPublicKey } from "../src/verification/coordinator-key.ts";
import { grant, type TestRun } from "./runkit.ts";
import type { TestNode, TestServer } from "./testkit.ts";

// Relays that serve over real HTTP what the coordinator's store has, honestly or not. What an honest one checks is written here anew.

export type Behaviour =
  | "honest"
  /** One bit of each shard is another. */
  | "corrupt"
  /** It breaks off in the middle. */
  | "dying"
  /** It has nothing. */
  | "empty"
  | "busy"
  /** It serves whoever asks, as a mirror does. */
  | "open";

export type TestRelay = {
  readonly node: TestNode;
  readonly url: string;
  /** Set by the first announcement. */
  id: string;
  behaviour: Behaviour;
  /** Requests so far, with what they showed. */
  readonly requests: { path: string; headers: IncomingMessage["headers"]; raw: string[]; status: number }[];
  announce(over?: {
    newestVersion?: number | null;
    uplinkMbps?: number;
    region?: string;
    url?: string;
    through?: TestServer;
  }): Promise<RelayAssignment[]>;
  close(): Promise<void>;
};

const open = new Set<Server>();

/** Ends all of them. */
export async function closeRelays(): Promise<void> {
  for (const server of open) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  open.clear();
}

export async function startRelay(
  server: TestServer,
  run: TestRun,
  { behaviour = "honest", node: given }: { behaviour?: Behaviour; node?: TestNode } = {},
): Promise<TestRelay> {
  const node = given ?? (await server.node({ name: "relay", worksFor: [run.typeId] }));
  await grant(server, run.id, node, "RELAY");
  const requests: TestRelay["requests"] = [];
  const { url, close } = await serve(async (req, res) => {
    const status = await answer(server, relay, req, res);
    requests.push({ path: req.url ?? "", headers: req.headers, raw: req.rawHeaders, status });
  });
  const relay: TestRelay = {
    node,
    url,
    id: "",
    behaviour,
    requests,
    async announce({ newestVersion = 0, uplinkMbps = 100, region, url: other, through = server } = {}) {
      const assignments = await announceRelay(through.ctx(node), {
        url: other ?? url,
        uplinkMbps,
        region,
        health: { newestVersion, heldBytes: 1_000n, sentBytes: 2_000n, clients: 0 },
      });
      const row = await server.prisma.relay.findUniqueOrThrow({
        where: { runId_nodeId: { runId: run.id, nodeId: node.id } },
      });
      relay.id = row.id;
      return assignments;
    },
    close,
  };
  return relay;
}

/** Announces one and has it probed: LIVE. */
export async function liveRelay(
  server: TestServer,
  run: TestRun,
  over: Parameters<TestRelay["announce"]>[0] = {},
): Promise<TestRelay> {
  const [relay] = await liveRelays(server, run, 1, over);
  if (relay === undefined) throw new Error("no relay was started");
  return relay;
}

/** The same for several. */
export async function liveRelays(
  server: TestServer,
  run: TestRun,
  count: number,
  over: Parameters<TestRelay["announce"]>[0] = {},
): Promise<TestRelay[]> {
  const relays = await Promise.all(Array.from({ length: count }, () => startRelay(server, run)));
  for (const relay of relays) await relay.announce(over);
  await probeRelays(server.ctx());
  for (const relay of relays) {
    const { state, reason } = await relayRow(server, relay);
    if (state !== "LIVE") throw new Error(`the relay is ${state}: ${reason}`);
  }
  return relays;
}

/** A static server in front of the store. */
export async function startMirror(server: TestServer): Promise<{ url: string; close(): Promise<void> }> {
  return await serve(async (req, res) => {
    const sha256 = (req.url ?? "").split("/").at(-1) ?? "";
    const bytes = await server.services.blobs.read(sha256).catch(() => undefined);
    res.writeHead(bytes === undefined ? 404 : 200).end(bytes);
  });
}

export const relayRow = (server: TestServer, { id }: { id: string }) =>
  server.prisma.relay.findUniqueOrThrow({ where: { id } });

/** Makes the coordinator look at this relay now, however often it was there, and at no other. */
export async function probeNow(server: TestServer, { id }: { id: string }): Promise<void> {
  await server.prisma.relay.updateMany({ data: { nextProbeAt: new Date(Date.now() + 3_600_000) } });
  await server.prisma.relay.update({ where: { id }, data: { nextProbeAt: new Date(Date.now() - 1000) } });
  await probeRelays(server.ctx());
}

/** As if nothing had been heard of it for a minute. */
export async function fallSilent(server: TestServer, { id }: { id: string }): Promise<void> {
  await server.prisma.relay.update({ where: { id }, data: { lastSeenAt: new Date(Date.now() - 60_000) } });
}

async function answer(
  server: TestServer,
  relay: TestRelay,
  req: IncomingMessage,
  res: ServerResponse,
): Promise<number> {
  const end = (status: number, body?: Uint8Array) => {
    res.writeHead(status, body === undefined ? {} : { "content-length": body.length }).end(body);
    return status;
  };
  const [, folder, sha256 = ""] = (req.url ?? "").split("/");
  if (folder !== "blobs") return end(404);
  if (relay.behaviour === "busy") return end(503);
  if (relay.behaviour !== "open" && !admits(server, relay, req.headers.authorization)) return end(401);
  if (relay.behaviour === "empty") return end(404);
  const bytes = Buffer.from(await server.services.blobs.read(sha256));
  if (relay.behaviour === "corrupt") bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  if (relay.behaviour !== "dying") return end(200, bytes);
  res.writeHead(200, { "content-length": bytes.length });
  res.write(bytes.subarray(0, bytes.length >> 1), () => res.destroy());
  return 200;
}

/** Whether an honest relay serves whoever shows this. */
export function admits(
  server: TestServer,
  relay: { id: string },
  authorization: string | undefined,
  now = Date.now(),
): boolean {
  try {
    const { ticket, signature } = parseRelayTicket(authorization?.replace(/^Bearer /, "") ?? "");
    const der = `302a300506032b6570032100${coordinatorPublicKey(server.services)}`;
    const key = createPublicKey({ key: Buffer.from(der, "hex"), format: "der", type: "spki" });
    return (
      verify(null, relayTicketBytes(ticket), key, signature) &&
      ticket.relay === toTypeId("relay", relay.id) &&
      ticket.expires > now / 1000
    );
  } catch {
    return false;
  }
}

async function serve(
  listener: (req: IncomingMessage, res: ServerResponse) => Promise<void>,
): Promise<{ url: string; close(): Promise<void> }> {
  const server = createServer((req, res) => {
    listener(req, res).catch((error: unknown) => res.destroy(error instanceof Error ? error : undefined));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  open.add(server);
  // A TCP server has an address with a port.
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    async close() {
      open.delete(server);
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
