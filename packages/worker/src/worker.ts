import { hostname } from "node:os";
import { join } from "node:path";
import { type ExecutionProvider, executionProviders } from "@muster/policy";
import { readModelConfig } from "@muster/policy/graph";
import { ApiError, fullJitter, pause } from "@muster/sdk";
import { hangBell } from "./bell.ts";
import { type CheckpointLimits, openCheckpoints } from "./checkpoints.ts";
import { createClaims, kindsOfRole, type WorkerRole } from "./claims.ts";
import { openEngines } from "./engines.ts";
import type { Executors } from "./executor.ts";
import { executors } from "./executors.ts";
import { describeHardware } from "./hardware.ts";
import { startHeartbeat } from "./heartbeat.ts";
import { openIdentity } from "./identity.ts";
import { keepLeases } from "./lease.ts";
import { createLog, type Log } from "./log.ts";
import { type Activity, type PerformContext, perform, type Tally } from "./perform.ts";
import { openRelay, type RelayServiceOptions } from "./relay.ts";
import { openSession, type Session } from "./session.ts";

export type WorkerOptions = {
  /** The coordinator, for example `http://127.0.0.1:4000`. */
  url: string;
  /** Folder of this node alone: its key and its checkpoints. */
  stateDir: string;
  /** What it offers to do; each role is claimed for by itself. */
  roles: readonly WorkerRole[];
  /**
   * TypeIDs of the runs and organizations it works for, and then for nobody else. Granted roles and closed runs are worked for only when
   * named. None: it generates for any open run.
   */
  worksFor?: readonly string[];
  /** Execution providers in the order they are tried: cuda, webgpu, dml, coreml, cpu. */
  providers?: readonly ExecutionProvider[];
  /** Threads inside one operator; 1. */
  threads?: number;
  /** Shown to people; the host's name. */
  name?: string;
  /** Where it tells what it does; JSON lines on standard output. */
  log?: Log;
  /** Hears the TypeID of the node once it is registered. */
  onRegistered?: (node: string) => void;
  /** Aborting it drains: no new task, the current one is finished or handed back, then the worker returns. */
  signal?: AbortSignal;
  /** Seconds a draining worker lets the current task go on; 25. */
  drainSeconds?: number;
  /** Return after this many tasks were submitted. */
  maxTasks?: number;
  /** Replaces what is done with some kinds of tasks. */
  executors?: Partial<Executors>;
  checkpoints?: CheckpointLimits;
  /** Relays besides, for the runs that granted it, and gets its own checkpoints through that relay. */
  relay?: RelayServiceOptions;
};

export type WorkerSummary = Tally & {
  /** TypeID of the node; absent when it was stopped before it could register. */
  node: string | undefined;
};

const software = "muster-worker/0.1.0";
const FAILURE_PAUSE = { first: 1_000, most: 60_000 };

/**
 * A node at work: registers, hears offers, claims, executes while renewing, submits, and repeats until it is told to stop.
 * A coordinator that is away for a while is waited for.
 * @returns how its tasks ended, after a drain or `maxTasks`.
 * @throws ApiError when the coordinator refuses the node for good, for example `UPGRADE_REQUIRED`, whose message is the command to run.
 */
export async function runWorker(options: WorkerOptions): Promise<WorkerSummary> {
  if (options.roles.length === 0) throw new TypeError("Give the worker at least one role.");
  const log: Log = options.log ?? createLog();
  const draining = options.signal ?? new AbortController().signal;
  const tally: Tally = { submitted: 0, refused: 0, lost: 0, failed: 0 };

  await using session = await register(options, log, draining);
  if (session === undefined) return { node: undefined, ...tally };
  options.onRegistered?.(session.node);
  const { client } = session;
  await using relay =
    options.relay &&
    (await openRelay({ session, coordinatorUrl: options.url, options: options.relay, log, wait: true }));
  await using engines = openEngines({
    threads: options.threads ?? 1,
    ...(options.providers ? { providers: options.providers } : {}),
  });
  const leases = keepLeases({ client, log });
  const activity: Activity = new Map();
  using patience = patienceOf(draining, (options.drainSeconds ?? 25) * 1_000);
  const ctx: PerformContext = {
    client,
    identity: session.identity,
    checkpoints: openCheckpoints({
      ...options.checkpoints,
      client,
      cacheDir: join(options.stateDir, "checkpoints"),
      readModelConfig,
      log,
      ...(relay ? { ownRelay: relay } : {}),
    }),
    engines,
    log,
    executors: { ...executors, ...options.executors },
    leases,
    tally,
    activity,
    enough: patience.over,
  };
  const claims = createClaims({
    client,
    roles: options.roles,
    batchOf: (kind) => ctx.executors[kind].batch,
    log,
  });
  await using _heartbeat = startHeartbeat({
    client,
    leases,
    draining,
    log,
    progress: () => ({
      provider: engines.provider() ?? null,
      memoryMiB: Math.round(process.memoryUsage.rss() / 2 ** 20),
      ...tally,
      tasks: [...activity].map(([task, at]) => ({ task, ...at })),
      checkpoint: ctx.checkpoints.progress(),
    }),
  });
  await using bell = hangBell({
    client,
    kinds: options.roles.flatMap((role) => [...kindsOfRole[role]]),
    log,
  });

  let failures = 0;
  while (!draining.aborted && tally.submitted < (options.maxTasks ?? Number.POSITIVE_INFINITY)) {
    // a claim under way is not cut off: its tasks would be leased to nobody who knows
    const claimed = await claims.next(ctx.enough);
    if (claimed.length === 0) {
      if (await bell.wait(claims.due(), draining)) claims.nudge();
      continue;
    }
    const { submitted, lost } = tally;
    await perform(ctx, claimed);
    const useful = tally.submitted > submitted || tally.lost > lost;
    failures = useful ? 0 : failures + 1;
    // whatever keeps this node from doing its work must not eat up the attempts of every task
    if (!useful) await pause(fullJitter(failures, FAILURE_PAUSE), draining);
  }
  log.info(tally, "stopped");
  return { node: session.node, ...tally };
}

async function register(options: WorkerOptions, log: Log, signal: AbortSignal): Promise<Session | undefined> {
  const identity = await openIdentity(options.stateDir);
  try {
    return await openSession({
      url: options.url,
      identity,
      name: options.name ?? hostname(),
      software,
      hardware: describeHardware({
        providers: options.providers ?? executionProviders,
        threads: options.threads ?? 1,
      }),
      ...(options.worksFor ? { worksFor: options.worksFor } : {}),
      log,
      signal,
    });
  } catch (error) {
    if (signal.aborted) return undefined;
    if (error instanceof ApiError) log.error({ code: error.code }, error.message);
    throw error;
  }
}

/** `over` aborts some time after draining began: what is not finished then is handed back. */
function patienceOf(draining: AbortSignal, ms: number): Disposable & { over: AbortSignal } {
  const over = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const begin = () => {
    timer = setTimeout(() => over.abort(new Error("the node stops")), ms);
  };
  if (draining.aborted) begin();
  else draining.addEventListener("abort", begin, { once: true });
  return {
    over: over.signal,
    [Symbol.dispose]() {
      clearTimeout(timer);
      draining.removeEventListener("abort", begin);
    },
  };
}
