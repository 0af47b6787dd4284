import type { ChildProcess } from "node:child_process";
import { createPublicKey, generateKeyPairSync, type KeyObject, randomFillSync, sign } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { encodeRelayTicket, relayTicketBytes } from "@muster/protocol";
import { buildManifest, signManifest } from "@muster/shardcast";
import { type FromHost, type Order, PORT, type Role, type ToHost } from "./broadcast-host.ts";
import { busyShare, machineTime, type Network } from "./broadcast-net.ts";
import type { Spread } from "./broadcast-peers.ts";

const RUN = "run_01h455vb4pex5vsknk084sn02q";
const READY_MS = 120_000;

/** A checkpoint in the origin's store. */
export type Stored = { dir: string; manifest: string; bytes: number };

/** What a tree of relays took, beside when everyone was done. */
export type TreeSpread = Spread & {
  /** Bytes of the checkpoint. */
  size: number;
  /** Part of the machine's processors that was busy meanwhile, with whatever. */
  busy: number;
  /** Bytes of bodies that the origin handed out. */
  originPayload: number;
  /** User and system time of all processes. */
  cpuSeconds: number;
  deliveredBytes: number;
  wastedBytes: number;
  /** What hosts complained of. */
  faults: string[];
  /** By host: seconds until it was done and its depth below the origin. */
  hosts: { seconds: number; depth: number }[];
};

/** Builds a checkpoint of random weights, signed, and puts its shards where the origin serves them. */
export async function storeCheckpoint(dir: string, size: number): Promise<Stored> {
  const trainer = generateKeyPairSync("ed25519");
  const weights = new Uint8Array(size);
  for (let at = 0; at < size; at += 2 ** 26) randomFillSync(weights, at, Math.min(2 ** 26, size - at));
  const { manifest, shards } = buildManifest({
    run: RUN,
    version: 0,
    parent: null,
    created: "2026-01-01T00:00:00.000Z",
    tensors: [{ name: "weights", dtype: "BF16", shape: [size / 2], offset: 0, size }],
    trainer: rawHex(trainer.publicKey),
    files: [{ name: "model.safetensors", bytes: weights }],
  });
  const checkpoint = await signManifest(manifest, (bytes) => sign(null, bytes, trainer.privateKey));
  for (const { sha256, bytes } of [...shards, { sha256: checkpoint.hash, bytes: checkpoint.bytes }]) {
    await mkdir(join(dir, "blobs", sha256.slice(0, 2)), { recursive: true });
    await writeFile(join(dir, "blobs", sha256.slice(0, 2), sha256), bytes);
  }
  return { dir, manifest: checkpoint.hash, bytes: size };
}

/** The host above, 1 being the origin, in the fullest tree in which nobody has more than `fanOut` below. */
export const parentOf = (host: number, fanOut: number): number => Math.floor((host - 2) / fanOut) + 1;

/**
 * Sends the checkpoint from host 1 to all the others: those with others below them are relays, and receivers as well. Everything else
 * (connections, limits, waits) is what the programs do by themselves.
 */
export async function spreadByTree(input: {
  network: Network;
  stored: Stored;
  dir: string;
  fanOut: number;
}): Promise<TreeSpread> {
  const { network, stored, dir, fanOut } = input;
  const coordinator = generateKeyPairSync("ed25519");
  const hosts = Array.from({ length: network.hosts }, (_, i) => i + 1);
  const receivers = hosts.slice(1);
  const inner = new Set(receivers.map((host) => parentOf(host, fanOut)));
  const url = (host: number) => `http://${network.address(host)}:${PORT}`;
  const roleOf = (host: number): Role => {
    if (host === 1) return { kind: "origin", dir: stored.dir };
    const origin = url(1);
    return inner.has(host)
      ? { kind: "relay", dir: join(dir, `relay-${host}`), origin }
      : { kind: "receiver", origin };
  };
  const orderFor = (host: number): Order => {
    const parent = parentOf(host, fanOut);
    return {
      run: RUN,
      manifest: stored.manifest,
      relay: relayId(host),
      parent: parent === 1 ? null : relayId(parent),
      parentUrl: url(parent),
      ticket: ticketFor(host, relayId(parent), coordinator.privateKey),
      ticketKey: rawHex(coordinator.publicKey),
    };
  };

  const processes: HostProcess[] = [];
  try {
    // the first one fills the cache of compiled modules for the others
    for (const batch of [hosts.slice(0, 1), hosts.slice(1, 2), hosts.slice(2)]) {
      const started = batch.map((host) => startHost(network, host, roleOf(host), dir));
      processes.push(...started);
      await within(READY_MS, Promise.all(started.map(({ ready }) => ready)), "the processes were not ready");
    }
    const bound = boundSeconds({ bytes: stored.bytes, rate: network.rate, fanOut });
    const cpu = process.cpuUsage();
    const machine = machineTime();
    const sentBefore = network.sent(1);
    const start = Number(process.hrtime.bigint()) / 1e9;
    for (const host of hosts) processes[host - 1]!.send({ order: orderFor(host) });
    const done = await within(
      Math.max(4000 * bound, 30_000),
      Promise.all(receivers.map((host) => processes[host - 1]!.done)),
      "not everybody had the checkpoint",
    );
    const busy = busyShare(machine, machineTime());
    const originBytes = network.sent(1) - sentBefore;
    const usage = await Promise.all(processes.map((host) => host.usage()));
    const { user, system } = process.cpuUsage(cpu);
    const seconds = done.map(({ doneAt }) => doneAt - start);
    return {
      seconds,
      size: stored.bytes,
      busy,
      originBytes,
      originPayload: usage[0]!.sentBytes,
      cpuSeconds: usage.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, (user + system) / 1e6),
      deliveredBytes: stored.bytes * receivers.length,
      wastedBytes: done.reduce((sum, { wastedBytes }) => sum + wastedBytes, 0),
      faults: processes.flatMap(({ faults }, i) => faults.map((fault) => `host ${i + 1}: ${fault}`)),
      hosts: receivers.map((host, i) => ({ seconds: seconds[i]!, depth: depthOf(host, fanOut) })),
    };
  } finally {
    for (const { child } of processes) child.kill("SIGKILL");
  }
}

/** Seconds that nobody can be faster than on such a tree: the whole checkpoint down one line, or `fanOut` times up one. */
export function boundSeconds({
  bytes,
  rate,
  fanOut,
}: {
  bytes: number;
  rate: number;
  fanOut: number;
}): number {
  const seconds = (8 * bytes) / rate;
  return Math.max(seconds, fanOut * seconds);
}

function depthOf(host: number, fanOut: number): number {
  return host === 1 ? 0 : 1 + depthOf(parentOf(host, fanOut), fanOut);
}

type Done = Extract<FromHost, { doneAt: number }>;
type Usage = Extract<FromHost, { cpuSeconds: number }>;
type HostProcess = {
  child: ChildProcess;
  ready: Promise<void>;
  done: Promise<Done>;
  faults: string[];
  send(message: ToHost): void;
  usage(): Promise<Usage>;
};

function startHost(network: Network, host: number, role: Role, dir: string): HostProcess {
  const child = network.start(
    host,
    [process.execPath, fileURLToPath(new URL("broadcast-host.ts", import.meta.url))],
    {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      env: { ...process.env, NODE_COMPILE_CACHE: join(dir, "compiled") },
    },
  );
  const ready = deferred<void>();
  const done = deferred<Done>();
  const usage = deferred<Usage>();
  const faults: string[] = [];
  const fail = (why: string) => {
    const failure = new Error(`Host ${host} (${role.kind}): ${why}`);
    for (const { reject } of [ready, done, usage]) reject(failure);
  };
  child.on("error", (cause) => fail(cause.message));
  child.on("exit", (code, signal) => fail(`it ended with ${code ?? signal}.`));
  child.on("message", (message: FromHost) => {
    if ("ready" in message) ready.resolve();
    else if ("doneAt" in message) done.resolve(message);
    else if ("cpuSeconds" in message) usage.resolve(message);
    else if ("fault" in message) faults.push(message.fault);
    else fail(message.failed);
  });
  const send = (message: ToHost) => void child.send(message);
  send({ role });
  return {
    child,
    ready: ready.promise,
    done: done.promise,
    faults,
    send,
    usage() {
      send({ ask: "usage" });
      return usage.promise;
    },
  };
}

const relayId = (host: number) => `relay_${String(host).padStart(26, "0")}`;

function ticketFor(host: number, relay: string, key: KeyObject): string {
  const ticket = {
    schema: "muster/relay-ticket/v1" as const,
    run: RUN,
    relay,
    subject: host.toString(16).padStart(32, "0"),
    expires: Math.floor(Date.now() / 1000) + 3600,
  };
  return encodeRelayTicket(ticket, sign(null, relayTicketBytes(ticket), key));
}

function rawHex(key: KeyObject): string {
  const { x = "" } = createPublicKey(key.export({ type: "spki", format: "pem" })).export({ format: "jwk" });
  return Buffer.from(x, "base64url").toString("hex");
}

async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  const { promise, reject } = deferred<never>();
  const timer = setTimeout(() => reject(new Error(`After ${Math.round(ms / 1000)} s ${what}.`)), ms);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** A promise that is settled from outside; nobody needs to await it. */
function deferred<T>() {
  let resolve: (value: T) => void = () => {};
  let reject: (cause: Error) => void = () => {};
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}
