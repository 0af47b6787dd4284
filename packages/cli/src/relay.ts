import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { ApiError } from "@muster/sdk";
import type { RelayEvent } from "@muster/shardcast";
import {
  describeHardware,
  openIdentity,
  openRelay,
  openSession,
  type RelayServiceOptions,
} from "@muster/worker";
import type { Exit } from "./exit-codes.ts";
import { Failure, systemCode } from "./failure.ts";
import type { Terminal } from "./terminal.ts";
import { workerLog } from "./worker.ts";

export type RelayCommand = {
  url: string;
  /** Holds the node's key besides what the relay keeps. */
  dir: string;
  /** TypeIDs of runs and organizations. */
  worksFor: readonly string[];
  name: string;
  relay: RelayServiceOptions;
};

const software = "muster-relay/0.1.0";
const STATUS_EVERY_MS = 1_000;

/**
 * Relays until a signal, then takes leave of the coordinator and ends the answers under way.
 * @throws Failure `ROLE_NOT_GRANTED` with the command that grants, `PORT_TAKEN`; ApiError as the coordinator refuses.
 */
export async function relay(command: RelayCommand, terminal: Terminal): Promise<Exit> {
  terminal.outlive();
  const stop = new AbortController();
  let exit: Exit = "ok";
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(1);
      exit = name === "SIGINT" ? "interrupted" : "ok";
      terminal.status("");
      terminal.note("Taking leave: answers under way are ended …");
      stop.abort();
    });
  }
  const log = workerLog(terminal, { quiet: true });
  const session = await openSession({
    url: command.url,
    identity: await openIdentity(command.dir),
    name: command.name,
    software,
    hardware: describeHardware({ providers: [], threads: 1 }),
    worksFor: command.worksFor,
    log,
    signal: stop.signal,
  }).catch((error: unknown) => {
    if (stop.signal.aborted) return undefined;
    throw error;
  });
  if (session === undefined) return exit;
  await using _session = session;
  terminal.value({ type: "node", node: session.node, name: command.name, url: command.url });
  terminal.say(`Node ${session.node} (${command.name}) relays for ${command.url}.`);
  const service = await openRelay({
    session,
    coordinatorUrl: command.url,
    options: { ...command.relay, onEvent: (event) => tell(event, terminal) },
    log,
    wait: false,
  }).catch((error: unknown) => {
    throw portTaken(error, command) ?? error;
  });
  terminal.value({ type: "relay", url: service.url, dir: command.dir });
  terminal.say(`Others reach it at ${service.url}; what it keeps lies in ${command.dir}.`);
  const status = setInterval(() => {
    const { newestVersion, heldBytes, sentBytes, clients } = service.health();
    const newest = newestVersion === null ? "nothing whole yet" : `version ${newestVersion}`;
    terminal.status(`${newest} · ${size(heldBytes)} here · ${size(sentBytes)} sent · ${clients} clients`);
  }, STATUS_EVERY_MS);
  try {
    await Promise.race([service.ended, once(stop.signal)]);
  } catch (error) {
    throw notGranted(error, command, session.node) ?? error;
  } finally {
    clearInterval(status);
    terminal.status("");
    await service[Symbol.asyncDispose]();
  }
  const { newestVersion, heldBytes, sentBytes } = service.health();
  terminal.value({ type: "summary", newestVersion, heldBytes, sentBytes });
  terminal.say(`Stopped: ${size(sentBytes)} sent.`);
  return exit;
}

function once(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** What the command line says of a relay. @throws Failure when it cannot be reached as it says. */
export function relayOptions(
  flags: {
    port: number;
    host: string;
    publicUrl?: string;
    uplink: number;
    region?: string;
    budget: number;
  },
  dir: string,
  parentUrl?: string,
): RelayServiceOptions {
  const { host, port, publicUrl, uplink, region, budget } = flags;
  if (publicUrl === undefined && ["0.0.0.0", "::", "[::]"].includes(host))
    throw new Failure({
      exit: "usage",
      code: "USAGE",
      what: `Nobody can dial ${host}; say where others reach the relay.`,
      fix: ["--public-url https://relay.example"],
    });
  return {
    dir: isAbsolute(dir) ? dir : resolve(dir),
    host,
    port,
    uplinkMbps: uplink,
    budgetBytes: budget * 2 ** 30,
    ...(publicUrl === undefined ? {} : { publicUrl }),
    ...(region === undefined ? {} : { region }),
    ...(parentUrl === undefined ? {} : { parentUrl }),
  };
}

/** The folder of a relay that nobody chose one for: in the installation's, else in the user's own. */
export function relayFolder(stateDir: string): string {
  const installation = resolve(stateDir);
  return existsSync(installation) ? join(installation, "relay") : join(homedir(), ".muster", "relay");
}

function tell(event: RelayEvent, terminal: Terminal): void {
  terminal.value(event);
  switch (event.type) {
    case "held":
      terminal.say(
        `Version ${event.version} is here: ${size(event.bytes)} in ${event.seconds.toFixed(1)} s.`,
      );
      break;
    case "dropped":
      terminal.say(`Version ${event.version} made room for newer ones.`);
      break;
    case "too-large":
      terminal.note(
        `Version ${event.version} has ${size(event.bytes)} and is not relayed: the budget is ${size(event.budgetBytes)} (--budget).`,
      );
      break;
    case "fault":
      terminal.note(`${event.source} failed (${event.fault}: ${event.detail}); the blob is fetched again.`);
      break;
    case "disk":
      terminal.note(`The disk failed: ${event.message}. Trying again.`);
      break;
  }
}

function notGranted(error: unknown, command: RelayCommand, node: string): Failure | undefined {
  if (!(error instanceof ApiError) || error.code !== "ROLE_NOT_GRANTED") return undefined;
  const run = command.worksFor.find((id) => id.startsWith("run_")) ?? "<run>";
  return new Failure({
    exit: "refused",
    code: error.code,
    what: error.message,
    why: "Nodes fetch from a relay what they work with, so the run's organizer says who may be one, with the command below. Then start the relay again.",
    fix: [`npm run muster -- runs grant ${run} ${node} relay`],
    requestId: error.requestId,
    cause: error,
  });
}

function portTaken(error: unknown, { relay: { port = 0 } }: RelayCommand): Failure | undefined {
  if (systemCode(error) !== "EADDRINUSE") return undefined;
  return new Failure({
    exit: "failed",
    code: "PORT_TAKEN",
    what: `Something else listens on port ${port}.`,
    fix: [`--port ${port + 1}`],
    cause: error,
  });
}

function size(bytes: number): string {
  const [unit, name] = bytes < 2 ** 30 ? [2 ** 20, "MiB"] : [2 ** 30, "GiB"];
  return `${(bytes / unit).toFixed(1)} ${name}`;
}
