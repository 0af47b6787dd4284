import { createHash } from "node:crypto";
import pg from "pg";
import { type Ctx, type Services, systemCtx } from "./context.ts";
import type { Topic, TopicPattern } from "./events/bus.ts";

/** Work that nobody asks for: a domain function called again and again, and when a topic is nudged. */
export type Loop = {
  readonly name: string;
  /** Longest time between the end of a turn and the next one. Jittered by a tenth. */
  readonly everyMs: number;
  /** A nudge on one of these starts a turn at once. */
  readonly topics?: readonly (Topic | TopicPattern)[];
  /** Least time between the starts of two turns, however many nudges arrive. Default 0. */
  readonly atLeastMs?: number;
  /** Whether only one process at a time runs it. */
  readonly leader: boolean;
  /** Seconds after the process started before the first turn. Default 0. */
  readonly startAfterSeconds?: number;
  run(ctx: Ctx, turn: Turn): Promise<unknown>;
};

/** Why a turn happens: the topics nudged since the last one; none when its time has come. */
export type Turn = { readonly topics: ReadonlySet<Topic | TopicPattern>; readonly signal: AbortSignal };

export type RunningLoops = {
  /** Waits for turns under way, then gives leadership up. */
  stop(): Promise<void>;
};

/**
 * Runs the loops. A turn that fails is logged and tried again after its interval: a loop never ends by itself.
 * Leadership is an advisory lock held by one connection of this process; when that breaks, another process takes over.
 * Two leaders may overlap for a moment, so what a loop calls must be safe to run twice.
 */
export function startLoops(services: Services, loops: readonly Loop[]): RunningLoops {
  const abort = new AbortController();
  const election = loops.some((loop) => loop.leader) ? startElection(services) : undefined;
  const running = loops.map((loop) =>
    runLoop(services, loop, abort.signal, () => !loop.leader || election?.leads(loop.name)),
  );
  return {
    async stop() {
      abort.abort();
      await Promise.all(running);
      await election?.stop();
    },
  };
}

async function runLoop(
  services: Services,
  loop: Loop,
  signal: AbortSignal,
  mayRun: () => boolean | undefined | Promise<boolean>,
): Promise<void> {
  const ctx = systemCtx({ ...services, log: services.log.child({ loop: loop.name }) }, loop.name);
  let topics = new Set<Topic | TopicPattern>();
  let wake: (() => void) | undefined;
  const offs = (loop.topics ?? []).map((topic) =>
    services.bus.listen(topic, (which) => {
      topics.add(which);
      wake?.();
    }),
  );
  const sleep = (ms: number, { nudged }: { nudged: boolean }) =>
    new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", end);
        wake = undefined;
        resolve();
      };
      const timer = setTimeout(end, ms);
      signal.addEventListener("abort", end);
      if (nudged) wake = end;
      if (signal.aborted) end();
    });

  if (loop.startAfterSeconds) await sleep(loop.startAfterSeconds * 1000, { nudged: false });
  while (!signal.aborted) {
    const started = performance.now();
    let failed = false;
    try {
      if (await mayRun()) {
        const turn = { topics, signal };
        topics = new Set();
        const begun = performance.now();
        let outcome = "failed";
        try {
          await loop.run(ctx, turn);
          outcome = "ok";
        } finally {
          services.metrics.turns.observe({ loop: loop.name, outcome }, (performance.now() - begun) / 1000);
        }
      } else {
        topics.clear();
      }
    } catch (error) {
      failed = true;
      // Stopping cuts connections; what fails then is no news.
      if (!signal.aborted) ctx.log.error({ err: error }, "a turn of a loop failed; it is tried again");
    }
    if (signal.aborted) break;
    const pause = (loop.atLeastMs ?? 0) - (performance.now() - started);
    if (pause > 0) await sleep(pause, { nudged: false });
    if (failed) await sleep(Math.max(loop.everyMs, 500), { nudged: false });
    else if (topics.size === 0) await sleep(loop.everyMs * (0.9 + Math.random() * 0.2), { nudged: true });
  }
  for (const off of offs) off();
}

type Election = { leads(name: string): Promise<boolean>; stop(): Promise<void> };

/** Holds the advisory locks of the loops this process leads, on a connection of its own: when it ends, so do they. */
function startElection(services: Services): Election {
  const held = new Set<string>();
  const asked = new Map<string, number>();
  let client: Promise<pg.Client> | undefined;
  let queue: Promise<unknown> = Promise.resolve();
  let stopped = false;

  const connect = async (): Promise<pg.Client> => {
    const fresh = new pg.Client({
      connectionString: services.config.databaseUrl,
      application_name: "muster loops",
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
    });
    const lost = () => {
      held.clear();
      asked.clear();
      client = undefined;
    };
    fresh.on("error", lost);
    fresh.on("end", lost);
    await fresh.connect();
    return fresh;
  };
  const ask = async (name: string): Promise<boolean> => {
    if (stopped) return false;
    client ??= connect();
    try {
      const connection = await client;
      const { rows } = await connection.query<{ got: boolean }>(
        "SELECT pg_try_advisory_lock($1, $2) AS got",
        lockOf(name),
      );
      if (rows[0]?.got) held.add(name);
      return rows[0]?.got ?? false;
    } catch (error) {
      client = undefined;
      throw error;
    }
  };

  return {
    async leads(name) {
      if (held.has(name)) return true;
      // Others hold it: asking twice a second is soon enough to take over.
      const last = asked.get(name) ?? 0;
      if (Date.now() - last < 500) return false;
      asked.set(name, Date.now());
      // One question at a time: pg queues no queries on one client.
      const answer = queue.then(() => ask(name));
      queue = answer.catch(() => {});
      return await answer;
    },
    async stop() {
      stopped = true;
      await queue;
      await client?.then((connection) => connection.end()).catch(() => {});
      held.clear();
    },
  };
}

/** Any fixed number sets our locks apart from others in the same database. */
const lockSpace = 20_790_417;

/** The advisory lock that stands for a name, as the two integers Postgres takes. */
export function lockOf(name: string): [number, number] {
  return [lockSpace, createHash("sha256").update(name).digest().readInt32BE(0)];
}
