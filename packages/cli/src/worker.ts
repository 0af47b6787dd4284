import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { type ExecutionProvider, executionProviders } from "@muster/policy";
import { type Log, type RelayServiceOptions, runWorker, type WorkerRole } from "@muster/worker";
import type { Exit } from "./exit-codes.ts";
import { Failure } from "./failure.ts";
import { printable, type Terminal } from "./terminal.ts";

export type WorkerCommand = {
  url: string;
  state: string;
  /** TypeIDs of runs and organizations. */
  worksFor: readonly string[];
  roles: readonly WorkerRole[];
  providers: readonly ExecutionProvider[];
  threads: number;
  name: string;
  drainSeconds: number;
  dashboardUrl: string | undefined;
  /** How it relays besides. */
  relay: RelayServiceOptions | undefined;
};

/** Works until a signal, then drains. @throws ApiError when the coordinator refuses the node for good. */
export async function work(command: WorkerCommand, terminal: Terminal): Promise<Exit> {
  terminal.outlive();
  const stop = new AbortController();
  let exit: Exit = "ok";
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(1);
      exit = name === "SIGINT" ? "interrupted" : "ok";
      terminal.note("Draining: the task in hand is finished or handed back …");
      stop.abort();
    });
  }
  const { url, state, worksFor, roles, providers, threads, name, drainSeconds, dashboardUrl, relay } =
    command;
  const summary = await runWorker({
    url,
    stateDir: state,
    worksFor,
    roles,
    providers,
    threads,
    name,
    drainSeconds,
    ...(relay === undefined ? {} : { relay }),
    log: workerLog(terminal),
    signal: stop.signal,
    onRegistered(node) {
      terminal.value({ type: "node", node, name, url, dashboardUrl });
      terminal.say(`Node ${node} (${name}) works for ${url} as ${roles.join(", ").toLowerCase()}.`);
      terminal.say(`Its key and checkpoints lie in ${state}.`);
      if (dashboardUrl !== undefined) terminal.say(`Dashboard: ${dashboardUrl}`);
      terminal.say("Waiting for work. Each task that is submitted is a line here; Ctrl-C stops in order.");
    },
  });
  terminal.value({ type: "summary", ...summary });
  terminal.say(
    `Stopped: ${summary.submitted} tasks submitted, ${summary.refused} refused, ${summary.lost} lost, ${summary.failed} failed.`,
  );
  return exit;
}

/**
 * The folder of a node that nobody chose one for: in the installation's, which version control ignores, else in the user's own.
 * @param stateDir folder of a local installation, whether it is there or not.
 */
export function nodeFolder(stateDir: string): string {
  const installation = resolve(stateDir);
  return existsSync(installation) ? join(installation, "node") : join(homedir(), ".muster", "node");
}

/** @throws Failure naming what may be given. */
export function parseRoles(text: string): WorkerRole[] {
  return parseList(text, ["WORKER", "VALIDATOR", "TRAINER", "EVALUATOR"] as const, "role", (word) =>
    word.toUpperCase(),
  );
}

/** @throws Failure naming what may be given. */
export function parseProviders(text: string): ExecutionProvider[] {
  return parseList(text, [...executionProviders, "wasm"] as const, "execution provider", (word) =>
    word.toLowerCase(),
  );
}

function parseList<T extends string>(
  text: string,
  known: readonly T[],
  what: string,
  normal: (word: string) => string,
): T[] {
  const words = text.split(",").map((word) => normal(word.trim()));
  return words.map((word) => {
    const found = known.find((one) => one === word);
    if (found !== undefined) return found;
    throw new Failure({
      exit: "usage",
      code: "USAGE",
      what: `"${word.toLowerCase()}" is no ${what}. Known are ${known.map((one) => one.toLowerCase()).join(", ")}.`,
    });
  });
}

/**
 * The worker's log as lines on standard error; debug lines only with MUSTER_LOG_LEVEL=debug, and without those of the others that a
 * `quiet` command tells in its own words.
 */
export function workerLog(terminal: Terminal, { quiet = false }: { quiet?: boolean } = {}): Log {
  const shown = process.env.MUSTER_LOG_LEVEL === "debug" || process.env.MUSTER_LOG_LEVEL === "trace";
  const at =
    (level: string, bound: object): Log["info"] =>
    (first: object | string, second?: string) => {
      const [fields, message] = typeof first === "string" ? [{}, first] : [first, second ?? ""];
      const all = { ...bound, ...fields };
      const time = new Date().toISOString();
      if (terminal.json) return terminal.note(JSON.stringify({ time, level, message, ...all }));
      const rest = Object.entries(all).flatMap(([key, value]) =>
        value === undefined ? [] : `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
      );
      // reasons and messages are the coordinator's own words
      terminal.note(printable([time.slice(11, 19), level.padEnd(5), message, ...rest].join(" ")));
    };
  const make = (bound: object): Log => ({
    debug: shown ? at("debug", bound) : () => {},
    info: quiet && !shown ? () => {} : at("info", bound),
    warn: at("warn", bound),
    error: at("error", bound),
    child: (fields) => make({ ...bound, ...fields }),
  });
  return make({});
}
