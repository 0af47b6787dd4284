import type { Manifest } from "@muster/protocol";
import { ShardcastError } from "../error.ts";
import type { RelayFault } from "../fetch-shard.ts";
import type { HttpClient } from "../http-get.ts";
import { openManifest } from "../verify.ts";
import type { Incoming } from "./incoming.ts";
import { byRank, chooseKept } from "./retention.ts";
import { type Received, receiveBlob, type Upstream } from "./source.ts";
import type { Store } from "./store.ts";

// What a relay should hold, and how it gets it. Everything is decided from the assignments and the store whenever something happens:
// which versions are kept, which of their blobs are missing, from whom the next one is asked.

/** What the coordinator wants a relay to hold of one run, and from whom it gets it. */
export type RelayAssignment = {
  /** TypeID of this relay in the run: tickets name the one they are for. */
  relay: string;
  /** TypeID of the run. */
  run: string;
  /** TypeID of the relay above; null: the origin. */
  parent: string | null;
  parentUrl: string;
  /** Opens the parent; null at the origin. */
  ticket: string | null;
  /** The coordinator's public key in hexadecimal: who shows a ticket signed with it is served. */
  ticketKey: string;
  /** What to hold, newest first, by the manifests' hashes. */
  versions: readonly { version: number; manifest: string }[];
};

/** What happens in a relay that people want to hear of. */
export type RelayEvent =
  | { type: "held"; run: string; version: number; manifest: string; bytes: number; seconds: number }
  | { type: "dropped"; run: string; version: number; manifest: string }
  /** It does not fit the budget. */
  | { type: "too-large"; run: string; version: number; manifest: string; bytes: number; budgetBytes: number }
  | {
      type: "fault";
      run: string;
      /** TypeID of the parent, or `origin`. */
      source: string;
      /** Hash of the manifest the blob was fetched for. */
      manifest: string;
      sha256: string;
      fault: RelayFault;
      detail: string;
    }
  /** What is here could not be read or written. */
  | { type: "disk"; message: string };

export type PullOptions = {
  store: Store;
  client: HttpClient;
  /** The last resort of every run, and the parent of those without another. */
  origin: Omit<Upstream, "id" | "redirects"> | undefined;
  budgetBytes: number;
  maxVersions: number;
  connections: number;
  stallMs: number;
  /** Failures in a row after which the origin takes the place of a parent for a while. */
  parentAttempts: number;
  /** Milliseconds after which a disk that failed is tried again. */
  diskAgainMs: number;
  onEvent: (event: RelayEvent) => void;
};

type Version = {
  run: string;
  version: number;
  manifest: string;
  /** Every distinct blob with its bytes, once the manifest is here. */
  blobs: ReadonlyMap<string, number> | undefined;
  /** The manifest is being read off the disk. */
  reading: boolean;
  /** In the budget. */
  kept: boolean;
  /** Every blob is here. */
  held: boolean;
  since: number;
};
type Run = { assignment: RelayAssignment; versions: Version[]; parent: Standing | undefined };
/** What may be expected of an upstream. Times are of `performance.now()`. */
type Standing = {
  upstream: Upstream;
  failures: number;
  lastAt: number;
  notBefore: number;
  avoidUntil: number;
};
type Job = {
  sha256: string;
  run: string;
  manifest: string;
  /** Unknown for a manifest. */
  size: number | undefined;
  notBefore: number;
  /** Times it was not to be had from the parent. */
  refusals: number;
  preferOrigin: boolean;
  incoming: Incoming | undefined;
  abort: AbortController | undefined;
  waiters: Set<() => void>;
};

const MOST_MANIFEST_BYTES = 16 * 2 ** 20;
const BACK_OFF = { first: 200, most: 5_000 };
const AVOID_FAILING_MS = 30_000;
const AVOID_LIAR_MS = 600_000;
const LEAST_ANSWER_MS = 10_000;
/** Blobs found at the start that no version asked for stay this long: the assignments of other runs may come later. */
const ORPHANS_STAY_MS = 600_000;

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
  const runs = new Map<string, Run>();
  const jobs = new Map<string, Job>();
  const wanted = new Set<string>();
  const demanded = new Set<string>();
  const orphans = new Set(store.all());
  const origin = options.origin && standing({ ...options.origin, id: "origin", redirects: true });
  const active = new Set<Promise<void>>();
  const busy = new Set<Job>();
  /** Those who wait for a manifest. */
  const readers = new Set<() => void>();
  const received = { parent: 0, origin: 0 };
  const faults = new Map<string, number>();
  let wastedBytes = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let closed = false;
  const orphanTimer = setTimeout(() => {
    for (const sha256 of orphans) if (!wanted.has(sha256)) store.drop(sha256);
    orphans.clear();
  }, ORPHANS_STAY_MS);
  orphanTimer.unref();

  /** Decides anew what is kept and what is missing. */
  function plan(): void {
    if (closed) return;
    const ranked = byRank(
      [...runs.values()].map((run) => run.versions),
      options.maxVersions,
    );
    const kept = chooseKept(ranked, options.budgetBytes);
    for (const version of ranked) keep(version, kept.has(version));
    const order: Omit<Job, "waiters">[] = [];
    const before = new Set(wanted);
    wanted.clear();
    for (const version of kept) {
      wanted.add(version.manifest);
      if (store.size(version.manifest) === undefined) order.push(job(version, version.manifest, undefined));
      else if (!version.blobs) void readManifest(version);
      for (const [sha256, size] of version.blobs ?? []) {
        if (wanted.has(sha256)) continue;
        wanted.add(sha256);
        if (store.size(sha256) === undefined) order.push(job(version, sha256, size));
      }
    }
    for (const sha256 of before) if (!wanted.has(sha256)) store.drop(sha256);
    makeRoom();
    const known = new Map(jobs);
    jobs.clear();
    for (const next of order) {
      const { run, manifest } = next;
      const same = known.get(next.sha256);
      jobs.set(next.sha256, same ? Object.assign(same, { run, manifest }) : { ...next, waiters: new Set() });
      known.delete(next.sha256);
    }
    for (const stale of known.values()) {
      demanded.delete(stale.sha256);
      abandon(stale, new Error(`Blob ${stale.sha256} is not wanted any more.`));
    }
    for (const version of kept) settle(version);
    wake(readers);
    work();
  }

  function keep(version: Version, kept: boolean): void {
    if (version.kept && !kept) {
      const { run, version: number, manifest, held } = version;
      const bytes = sum(version.blobs?.values() ?? []);
      options.onEvent(
        held
          ? { type: "dropped", run, version: number, manifest }
          : { type: "too-large", run, version: number, manifest, bytes, budgetBytes: options.budgetBytes },
      );
      version.held = false;
    }
    version.kept = kept;
  }

  /** What lies on the disk from an earlier time is looked at like what a stranger sends. */
  async function readManifest(version: Version): Promise<void> {
    if (version.reading) return;
    version.reading = true;
    try {
      version.blobs = blobsOf(
        await opened(await store.read(version.manifest), version.run, version.manifest),
      );
    } catch {
      store.drop(version.manifest);
    }
    version.reading = false;
    plan();
  }

  const versions = (): Version[] => [...runs.values()].flatMap((run) => run.versions);

  /** Removes what was found at the start and nobody has asked for, when its room is needed. */
  function makeRoom(): void {
    for (const sha256 of orphans) {
      if (wanted.has(sha256)) orphans.delete(sha256);
      else if (store.bytes() > options.budgetBytes) {
        orphans.delete(sha256);
        store.drop(sha256);
      }
    }
  }

  function settle(version: Version): void {
    if (version.held || !version.kept || !version.blobs) return;
    for (const sha256 of version.blobs.keys()) if (store.size(sha256) === undefined) return;
    version.held = true;
    options.onEvent({
      type: "held",
      run: version.run,
      version: version.version,
      manifest: version.manifest,
      bytes: sum(version.blobs.values()),
      seconds: (performance.now() - version.since) / 1000,
    });
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
      const from = upstreamFor(next, now);
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

  /** Whom to ask for it now, or when that will be known. */
  function upstreamFor(next: Job, now: number): Standing | number | undefined {
    if (next.notBefore > now) return next.notBefore;
    const parent = runs.get(next.run)?.parent;
    const chosen =
      parent === undefined || (origin && (next.preferOrigin || parent.avoidUntil > now)) ? origin : parent;
    if (chosen === undefined) return undefined;
    return chosen.notBefore > now ? chosen.notBefore : chosen;
  }

  async function perform(next: Job, from: Standing): Promise<void> {
    const startedAt = performance.now();
    const abort = new AbortController();
    next.abort = abort;
    try {
      const outcome = await (next.size === undefined
        ? fetchManifest(next, from, abort.signal)
        : fetchPiece(next, next.size, from, abort.signal));
      if (!current(next)) return;
      if (outcome === "done") done(next, from);
      else failed(next, from, outcome, startedAt);
    } catch (cause) {
      if (!current(next)) return;
      // a disk that is full, or a folder that is gone: no upstream can help
      next.notBefore = performance.now() + options.diskAgainMs;
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
      manifest = await opened(bytes, next.run, next.sha256);
    } catch (cause) {
      if (!(cause instanceof ShardcastError)) throw cause;
      wastedBytes += bytes.length;
      return { kind: "fault", fault: "CORRUPT", detail: cause.message };
    }
    await store.put(next.sha256, bytes);
    for (const version of versions()) if (version.manifest === next.sha256) version.blobs = blobsOf(manifest);
    return "done";
  }

  async function fetchPiece(
    next: Job,
    size: number,
    from: Standing,
    signal: AbortSignal,
  ): Promise<"done" | Failed> {
    next.incoming ??= await store.begin({ sha256: next.sha256, size });
    const { incoming } = next;
    let counted = false;
    const outcome: Received =
      incoming.received === size && size > 0
        ? { kind: "ended" }
        : await receive(next, from, signal, incoming.received, (piece) => {
            if (!counted) incoming.answers++;
            counted = true;
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
        received[from.upstream.id === "origin" ? "origin" : "parent"] += piece.length;
        return sink(piece);
      },
    });
    if (outcome.kind === "sink") throw outcome.cause;
    return outcome;
  }

  function done(next: Job, from: Standing): void {
    from.failures = 0;
    jobs.delete(next.sha256);
    demanded.delete(next.sha256);
    wake(next.waiters);
    if (next.size === undefined) plan();
    else for (const version of versions()) if (version.blobs?.has(next.sha256)) settle(version);
  }

  function failed(next: Job, from: Standing, outcome: Failed, startedAt: number): void {
    const now = performance.now();
    const isParent = from !== origin;
    switch (outcome.kind) {
      case "aborted":
        return;
      case "absent":
      case "busy": {
        next.refusals++;
        const asked = outcome.kind === "busy" ? outcome.waitMs : 0;
        next.notBefore = now + Math.max(asked, backOff(next.refusals));
        if (next.refusals % (options.parentAttempts + 2) === 0) next.preferOrigin = isParent;
        return;
      }
      case "mixed":
        next.preferOrigin = isParent;
        next.notBefore = now + backOff(0);
        return;
      case "fault": {
        const { id } = from.upstream;
        const { fault } = outcome;
        faults.set(`${id} ${fault}`, (faults.get(`${id} ${fault}`) ?? 0) + 1);
        const { run, manifest, sha256 } = next;
        options.onEvent({ type: "fault", run, source: id, manifest, sha256, fault, detail: outcome.detail });
        if (!isParent) next.preferOrigin = false;
        else if (fault === "CORRUPT") {
          next.preferOrigin = true;
          from.avoidUntil = now + AVOID_LIAR_MS;
        }
        // connections that break together are one failure
        if (startedAt < from.lastAt) return;
        from.lastAt = now;
        from.failures++;
        from.notBefore = now + backOff(from.failures);
        if (isParent && from.failures >= options.parentAttempts) {
          from.avoidUntil = Math.max(from.avoidUntil, now + AVOID_FAILING_MS);
          from.failures = 0;
        }
      }
    }
  }

  /** The relay above, or what the coordinator calls the origin where nobody told this relay of another. */
  function parentOf({ run, parent, parentUrl }: RelayAssignment): Standing | undefined {
    if (parent === null && origin) return undefined;
    return standing({
      id: parent ?? "origin",
      url: parentUrl,
      redirects: parent === null,
      token: () => runs.get(run)?.assignment.ticket ?? undefined,
    });
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
      const before = runs.get(assignment.run);
      // what is known of a parent outlives its tickets
      const same =
        before?.assignment.parent === assignment.parent &&
        before.assignment.parentUrl === assignment.parentUrl;
      const listed = assignment.versions
        .toSorted((a, b) => b.version - a.version)
        .slice(0, options.maxVersions);
      runs.set(assignment.run, {
        assignment,
        parent: same ? before.parent : parentOf(assignment),
        versions: listed.map(({ version, manifest }) => {
          const known = before?.versions.find((one) => one.manifest === manifest);
          return known ?? freshVersion(assignment.run, version, manifest);
        }),
      });
      for (const gone of before?.versions ?? []) {
        if (listed.some(({ manifest }) => manifest === gone.manifest) || !gone.held) continue;
        options.onEvent({
          type: "dropped",
          run: gone.run,
          version: gone.version,
          manifest: gone.manifest,
        });
      }
      plan();
    },
    unassign(run) {
      if (runs.delete(run)) plan();
    },
    knows(run, sha256) {
      for (const version of runs.get(run)?.versions ?? []) {
        if (!version.kept) continue;
        if (version.manifest === sha256) return { size: store.size(sha256) };
        const size = version.blobs?.get(sha256);
        if (size !== undefined) return { size };
      }
      return undefined;
    },
    async knowsAll(run, { ms, signal }) {
      const until = performance.now() + ms;
      for (;;) {
        const unread = runs.get(run)?.versions.some(({ kept, blobs }) => kept && !blobs) ?? false;
        if (!unread) return true;
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
    runs: () => [...runs.keys()],
    assignment: (run) => runs.get(run)?.assignment,
    status() {
      const held = versions().filter((version) => version.held);
      return {
        runs: runs.size,
        versionsHeld: held.length,
        newestVersion: held.reduce<number | null>((most, { version }) => Math.max(most ?? 0, version), null),
        underWay: busy.size,
        waiting: jobs.size - busy.size,
        receivedBytes: received,
        wastedBytes,
        faults,
      };
    },
    async close() {
      closed = true;
      clearTimeout(timer);
      clearTimeout(orphanTimer);
      const cause = new Error("The relay stops.");
      for (const job of jobs.values()) abandon(job, cause);
      await Promise.all(active);
    },
  };
}

type Failed = Exclude<Received, { kind: "ended" | "sink" }> | { kind: "mixed" };

function job(version: Version, sha256: string, size: number | undefined): Omit<Job, "waiters"> {
  return {
    sha256,
    size,
    run: version.run,
    manifest: version.manifest,
    notBefore: 0,
    refusals: 0,
    preferOrigin: false,
    incoming: undefined,
    abort: undefined,
  };
}

function freshVersion(run: string, version: number, manifest: string): Version {
  return {
    run,
    version,
    manifest,
    blobs: undefined,
    reading: false,
    kept: true,
    held: false,
    since: performance.now(),
  };
}

function standing(upstream: Upstream): Standing {
  return { upstream, failures: 0, lastAt: Number.NEGATIVE_INFINITY, notBefore: 0, avoidUntil: 0 };
}

/** Every distinct blob of a checkpoint: the delta first, because whoever has the version before needs no more. */
function blobsOf({ files, delta }: Manifest): Map<string, number> {
  const shards = [...(delta?.file.shards ?? []), ...files.flatMap((file) => file.shards)];
  return new Map(shards.map(({ sha256, size }) => [sha256, size]));
}

async function opened(bytes: Buffer, run: string, hash: string): Promise<Manifest> {
  const manifest = await openManifest({ bytes, hash });
  if (manifest.run === run) return manifest;
  throw new ShardcastError("MANIFEST_INVALID", `Manifest ${hash} belongs to ${manifest.run}, not to ${run}.`);
}

function sum(sizes: Iterable<number>): number {
  let total = 0;
  for (const size of sizes) total += size;
  return total;
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

/** Full jitter above a small step, so that the children of one relay do not come back in one wave. */
function backOff(failures: number): number {
  const most = Math.min(BACK_OFF.most, BACK_OFF.first * 2 ** Math.max(0, failures - 1));
  return 50 + Math.random() * most;
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
