import { setTimeout as sleep } from "node:timers/promises";
import { type ExecutionProvider, executionProviders } from "@muster/policy";
import { ApiError, createClient } from "@muster/sdk";
import { openIdentity, runWorker, type WorkerOptions, type WorkerRole } from "@muster/worker";
import type { Exit } from "./exit-codes.ts";
import { Failure } from "./failure.ts";
import { registerNode } from "./register-node.ts";
import type { Terminal } from "./terminal.ts";

export type WorkerCommand = {
  url: string;
  state: string;
  roles: readonly WorkerRole[];
  providers: readonly ExecutionProvider[];
  threads: number;
  name: string;
  drainSeconds: number;
  dashboardUrl: string | undefined;
};

/** Works until a signal, then drains. @throws ApiError when the coordinator refuses the node for good. */
export async function work(command: WorkerCommand, terminal: Terminal): Promise<Exit> {
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
  const { url, state, roles, providers, threads, name, drainSeconds, dashboardUrl } = command;
  const node = await introduce(command, terminal, stop.signal);
  if (node !== undefined) {
    terminal.value({ type: "node", node, name, url, dashboardUrl });
    terminal.say(`Node ${node} (${name}) works for ${url} as ${roles.join(", ").toLowerCase()}.`);
    if (dashboardUrl !== undefined) terminal.say(`Dashboard: ${dashboardUrl}`);
  }
  const log = workerLog(terminal);
  const summary = await runWorker({
    url,
    stateDir: state,
    roles,
    providers,
    threads,
    name,
    drainSeconds,
    log,
    signal: stop.signal,
  });
  terminal.value({ type: "summary", ...summary });
  terminal.say(
    `Stopped: ${summary.submitted} tasks submitted, ${summary.refused} refused, ${summary.lost} lost, ${summary.failed} failed.`,
  );
  return exit;
}

/** Learns the node's id, for as long as the coordinator is away. Undefined when stopped before. */
async function introduce(
  command: WorkerCommand,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<string | undefined> {
  const identity = await openIdentity(command.state);
  await using client = createClient({ url: command.url });
  for (let told = false; !signal.aborted; ) {
    try {
      return await registerNode(client, { identity, name: command.name, signal });
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof ApiError && (error.retryable || error.code === "CHALLENGE_INVALID")))
        throw error;
      if (!told) terminal.note(`${error.message} Waiting for ${command.url} …`);
      told = true;
      await sleep(2_000, undefined, { signal }).catch(() => {});
    }
  }
  return undefined;
}

/** @throws Failure naming what may be given. */
export function parseRoles(text: string): WorkerRole[] {
  return parseList(text, ["WORKER", "VALIDATOR", "TRAINER", "EVALUATOR"] as const, "role", (word) =>
    word.toUpperCase(),
  );
}

/** @throws Failure naming what may be given. */
export function parseProviders(text: string): ExecutionProvider[] {
  return parseList(text, executionProviders, "execution provider", (word) => word.toLowerCase());
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

type Log = NonNullable<WorkerOptions["log"]>;

/** The worker's log as lines on standard error; debug lines only with MUSTER_LOG_LEVEL=debug. */
function workerLog(terminal: Terminal): Log {
  const shown = process.env.MUSTER_LOG_LEVEL === "debug" || process.env.MUSTER_LOG_LEVEL === "trace";
  const at = (level: string, bound: object) => (first: unknown, second?: unknown) => {
    const [fields, message] = typeof first === "object" && first !== null ? [first, second] : [{}, first];
    const all = { ...bound, ...fields };
    const time = new Date().toISOString();
    if (terminal.json) return terminal.note(JSON.stringify({ time, level, message, ...all }));
    const rest = Object.entries(all).map(
      ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
    );
    terminal.note([time.slice(11, 19), level.padEnd(5), String(message ?? ""), ...rest].join(" "));
  };
  const make = (bound: object): object => ({
    trace: () => {},
    debug: shown ? at("debug", bound) : () => {},
    info: at("info", bound),
    warn: at("warn", bound),
    error: at("error", bound),
    fatal: at("fatal", bound),
    child: (more: object) => make({ ...bound, ...more }),
  });
  // The worker calls these six methods and `child` of the logger, nothing else of pino's.
  return make({}) as Log;
}
