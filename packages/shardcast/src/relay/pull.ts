import type { Manifest } from "@muster/protocol";
import { ShardcastError } from "../error.ts";
import type { HttpClient } from "../http-get.ts";
import type { RelayAssignment, RelayEvent } from "./assignment.ts";
import { type Brought, createHoldings, type Missing, openManifestOf } from "./holdings.ts";
import type { Incoming } from "./incoming.ts";
import { type Received, receiveBlob } from "./source.ts";
import type { Store } from "./store.ts";
import {
  createUpstreams,
  type Failed,
  freshTries,
  type Standing,
  type Tries,
  type UpstreamOptions,
} from "./upstreams.ts";

// How a relay gets what it should hold: the blobs that are missing, a few at once, those that somebody asks for first.

export type PullOptions = UpstreamOptions & {
  store: Store;
  client: HttpClient;
  budgetBytes: number;
  maxVersions: number;
  connections: number;
  stallMs: number;
  /** Milliseconds after which a disk that failed is tried again. */
  diskAgainMs: number;
  onEvent: (event: RelayEvent) => void;
};

type Job = Missing & {
  tries: Tries;
  incoming: Incoming | undefined;
  /** Bytes of `incoming` by who sent them; null is the origin. */
  brought: Map<string | null, number>;
  abort: AbortController | undefined;
  waiters: Set<() => void>;
};

const MOST_MANIFEST_BYTES = 16 * 2 ** 20;
const LEAST_ANSWER_MS = 10_000;

type Wait = { ms: number; signal: AbortSignal };

export type Pull = {
  assign(assignment: RelayAssignment): void;
  unassign(run: string): void;
  /** Whether the run's kept versions include the blob; its size when that is known. */
  knows(run: string, sha256: string): { size: number | undefined } | undefined;
  /** Waits until every kept version's manifest is here; whether that is so. */
  knowsAll(run: string, limit: Wait): Promise<boolean>;
  /**
   * Moves a blob to the front.
   * @returns `"held"`, or the shard that is arriving; undefined when neither within the time.
   */
  demand(sha256: string, limit: Wait): Promise<"held" | Incoming | undefined>;
  /** Who sent what of a checkpoint; undefined when it is not one of those kept. */
  broughtBy(manifest: string): Brought | undefined;
  runs(): string[];
  assignment(run: string): RelayAssignment | undefined;
  status(): PullStatus;
  close(): Promise<void>;
};

export type PullStatus = {
  runs: number;
  /** That are here whole. */
  versionsHeld: number;
  newestVersion: number | null;
  underWay: number;
  waiting: number;
  receivedBytes: { parent: number; origin: number };
  /** Bytes that had to be thrown away. */
  wastedBytes: number;
  /** By `source fault`, for example `relay_… CORRUPT`. */
  faults: ReadonlyMap<string, number>;
};

/** @see Pull */
export function createPull(options: PullOptions): Pull {
  const { store, connections } = options;
  const upstreams = createUpstreams(options);
  const holdings = createHoldings({ ...options, onChange: plan });
  const jobs = new Map<string, Job>();
  const demanded = new Set<string>();
  const active = new Set<Promise<void>>();
  const busy = new Set<Job>();
  /** Those who wait for a manifest. */
  const readers = new Set<() => void>();
  const received = { parent: 0, origin: 0 };
  const faults = new Map<string, number>();
  let wastedBytes = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let closed = false;

  /** Decides anew what is missing. */
  function plan(): void {
    if (closed) return;
    const known = new Map(jobs);
    jobs.clear();
    for (const next of holdings.review()) {
      const { run, manifest } = next;
      const same = known.get(next.sha256);
      jobs.set(next.sha256, same ? Object.assign(same, { run, manifest }) : jobFor(next));
      known.delete(next.sha256);
    }
    for (const stale of known.values()) {
      demanded.delete(stale.sha256);
      abandon(stale, new Error(`Blob ${stale.sha256} is not wanted any more.`));
    }
    wake(readers);
    work();
  }

  /** Starts what may be started. */
  function work(): void {
    if (closed) return;
    clearTimeout(timer);
    let due = Number.POSITIVE_INFINITY;
    const now = performance.now();
    for (const next of inOrder()) {
      if (busy.size >= connections) return;
      if (busy.has(next)) continue;
      const from = upstreams.choose(next.run, next.tries, now);
      if (from === undefined) continue;
      if (typeof from === "number") {
        due = Math.min(due, from);
        continue;
      }
      busy.add(next);
      const task = perform(next, from).finally(() => {
        busy.delete(next);
        active.delete(task);
        next.abort = undefined;
        work();
      });
      active.add(task);
    }
    if (due < Number.POSITIVE_INFINITY) timer = setTimeout(work, Math.max(1, due - now));
  }

  function* inOrder(): Generator<Job> {
    for (const sha256 of demanded) {
      const first = jobs.get(sha256);
      if (first) yield first;
    }
    for (const next of jobs.values()) if (!demanded.has(next.sha256)) yield next;
  }

  async function perform(next: Job, from: Standing): Promise<void> {
    const startedAt = performance.now();
    const abort = new AbortController();
    next.abort = abort;
    try {
      const outcome = await (next.size === undefined
        ? fetchManifest(next, from, abort.signal)
        : fetchShard(next, next.size, from, abort.signal));
      if (!current(next)) return;
      if (outcome === "done") done(next, from);
      else failed(next, from, outcome, startedAt);
    } catch (cause) {
      if (!current(next)) return;
      // a disk that is full, or a folder that is gone: no upstream can help
      next.tries.notBefore = performance.now() + options.diskAgainMs;
      options.onEvent({ type: "disk", message: messageOf(cause) });
      await lose(next, cause);
    } finally {
      if (!current(next)) await lose(next, new Error(`Blob ${next.sha256} is not wanted any more.`));
    }
  }

  /** Whether it is still wanted; `done` takes it off the list. */
  function current(next: Job): boolean {
    return !closed && jobs.get(next.sha256) === next;
  }

  async function fetchManifest(next: Job, from: Standing, signal: AbortSignal): Promise<"done" | Failed> {
    const pieces: Uint8Array[] = [];
    const outcome = await receive(next, from, signal, 0, (piece) => {
      pieces.push(Uint8Array.from(piece));
      return undefined;
    });
    if (outcome.kind !== "ended") return outcome;
    const bytes = Buffer.concat(pieces);
    let manifest: Manifest;
    try {
      manifest = await openManifestOf(next.run, next.sha256, bytes);
    } catch (cause) {
      if (!(cause instanceof ShardcastError)) throw cause;
      wastedBytes += bytes.length;
      return { kind: "fault", fault: "CORRUPT", detail: cause.message };
    }
    await store.put(next.sha256, bytes);
    holdings.learn(next.sha256, manifest);
    return "done";
  }

  async function fetchShard(
    next: Job,
    size: number,
    from: Standing,
    signal: AbortSignal,
  ): Promise<"done" | Failed> {
    if (!next.incoming) {
      next.incoming = await store.begin({ sha256: next.sha256, size });
      next.brought.clear();
    }
    const { incoming, brought } = next;
    const source = nameOf(from);
    let counted = false;
    const outcome: Received =
      incoming.received === size && size > 0
        ? { kind: "ended" }
        : await receive(next, from, signal, incoming.received, (piece) => {
            if (!counted) incoming.answers++;
            counted = true;
            brought.set(source, (brought.get(source) ?? 0) + piece.length);
            const full = incoming.append(piece);
            // from the first bytes on it can be followed
            wake(next.waiters);
            return full;
          });
    if (outcome.kind !== "ended") {
      // its length was wrong, so nothing of it is worth keeping
      if (outcome.kind === "fault" && outcome.fault === "CORRUPT")
        await lose(next, new Error(outcome.detail));
      return outcome;
    }
    if (await incoming.finish()) {
      store.keep(incoming);
      holdings.credit(next.manifest, brought);
      next.incoming = undefined;
      return "done";
    }
    wastedBytes += incoming.received;
    next.incoming = undefined;
    if (incoming.answers > 1) return { kind: "mixed" };
    return { kind: "fault", fault: "CORRUPT", detail: "what it sent has another hash" };
  }

  async function receive(
    next: Job,
    from: Standing,
    signal: AbortSignal,
    at: number,
    sink: (piece: Uint8Array) => Promise<void> | undefined,
  ): Promise<Exclude<Received, { kind: "sink" }>> {
    const outcome = await receiveBlob(options.client, {
      upstream: from.upstream,
      sha256: next.sha256,
      from: at,
      size: next.size,
      maxBytes: MOST_MANIFEST_BYTES,
      answerMs: Math.max(LEAST_ANSWER_MS, options.stallMs),
      stallMs: options.stallMs,
      signal,
      sink(piece) {
        received[nameOf(from) === null ? "origin" : "parent"] += piece.length;
        return sink(piece);
      },
    });
    if (outcome.kind === "sink") throw outcome.cause;
    return outcome;
  }

  function done(next: Job, from: Standing): void {
    upstreams.succeeded(from);
    jobs.delete(next.sha256);
    demanded.delete(next.sha256);
    wake(next.waiters);
    if (next.size === undefined) plan();
    else holdings.arrived(next.sha256);
  }

  function failed(next: Job, from: Standing, outcome: Failed, startedAt: number): void {
    const wrong = upstreams.failed(from, next.tries, outcome, startedAt);
    if (!wrong) return;
    const { id } = from.upstream;
    const key = `${id} ${wrong.fault}`;
    faults.set(key, (faults.get(key) ?? 0) + 1);
    const { run, manifest, sha256 } = next;
    options.onEvent({ type: "fault", run, source: id, manifest, sha256, ...wrong });
  }

  async function lose(next: Job, cause: unknown): Promise<void> {
    const { incoming } = next;
    next.incoming = undefined;
    if (!incoming) return;
    wastedBytes += incoming.received;
    await incoming.fail(cause);
  }

  function abandon(stale: Job, cause: Error): void {
    stale.abort?.abort(cause);
    void lose(stale, cause).catch(() => {});
    wake(stale.waiters);
  }

  return {
    assign(assignment) {
      upstreams.assign(assignment);
      holdings.assign(assignment);
      plan();
    },
    unassign(run) {
      upstreams.unassign(run);
      if (holdings.unassign(run)) plan();
    },
    knows: holdings.knows,
    async knowsAll(run, { ms, signal }) {
      const until = performance.now() + ms;
      for (;;) {
        if (holdings.knowsAll(run)) return true;
        const left = until - performance.now();
        if (left <= 0 || signal.aborted || closed) return false;
        await woken(readers, { ms: left, signal });
      }
    },
    async demand(sha256, { ms, signal }) {
      const until = performance.now() + ms;
      for (;;) {
        if (store.size(sha256) !== undefined) return "held";
        const wait = jobs.get(sha256);
        if (!wait || closed) return undefined;
        if (wait.incoming && wait.incoming.received > 0) return wait.incoming;
        const left = until - performance.now();
        if (left <= 0 || signal.aborted) return undefined;
        demanded.add(sha256);
        work();
        await woken(wait.waiters, { ms: left, signal });
      }
    },
    broughtBy: holdings.broughtBy,
    runs: holdings.runs,
    assignment: holdings.assignment,
    status: () => ({
      ...holdings.status(),
      underWay: busy.size,
      waiting: jobs.size - busy.size,
      receivedBytes: received,
      wastedBytes,
      faults,
    }),
    async close() {
      closed = true;
      clearTimeout(timer);
      holdings.close();
      const cause = new Error("The relay stops.");
      for (const job of jobs.values()) abandon(job, cause);
      await Promise.all(active);
    },
  };
}

function jobFor(missing: Missing): Job {
  return {
    ...missing,
    tries: freshTries(),
    incoming: undefined,
    brought: new Map(),
    abort: undefined,
    waiters: new Set(),
  };
}

/** The relay's TypeID; null for the origin. */
function nameOf({ upstream: { id } }: Standing): string | null {
  return id === "origin" ? null : id;
}

function wake(waiters: ReadonlySet<() => void>): void {
  for (const waiter of [...waiters]) waiter();
}

/** Resolves when the waiters are woken, the time is up or the signal aborts. */
function woken(waiters: Set<() => void>, { ms, signal }: Wait): Promise<void> {
  return new Promise((resolve) => {
    const stop = () => {
      clearTimeout(enough);
      signal.removeEventListener("abort", stop);
      waiters.delete(stop);
      resolve();
    };
    const enough = setTimeout(stop, ms);
    signal.addEventListener("abort", stop, { once: true });
    waiters.add(stop);
  });
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
