import { createHash } from "node:crypto";
import {
  type Candidate,
  countFailure,
  countShard,
  drawIndex,
  type Standings,
  speedsOf,
  weightsOf,
} from "./balance.ts";
import { ShardcastError } from "./error.ts";
import { fetchShard, newMemory, type RelayFault, type Source } from "./fetch-shard.ts";
import { advance, type Flight, LOOK_EVERY_MS, lateness, rateOf, slowestRate, takeOff } from "./flight.ts";

/** Brings the bytes with this hash from wherever they are; it need not be trusted. */
export type FetchBlob = (input: {
  sha256: string;
  maxBytes: number;
  signal?: AbortSignal;
}) => Promise<Uint8Array>;

/** A blob that is wanted; the size of a manifest is not known before it is here. */
export type Wanted = { sha256: string; size: number | undefined };

/** What one client saw a source do wrong. */
export type Fault = { source: string; manifest: string; sha256: string; fault: RelayFault };

/** Bytes of shards (manifests are not counted) that arrived right, by source (null: the origin), and all bytes that were of no use. */
export type Traffic = { bytes: Map<string | null, number>; wastedBytes: number };

export type TransferOptions = {
  /** Hash of the manifest whose shards are fetched. */
  manifest: string;
  /** Asked when no relay is left for a blob. */
  origin: FetchBlob;
  /** Asked at first, every minute, and when a source does not know our ticket; failing means what was known still holds. */
  relays?: ((manifestHash: string) => Promise<readonly Source[]>) | undefined;
  /** Changed by what happens here. */
  standings: Standings;
  /** Added to by what happens here. */
  traffic: Traffic;
  connections: number;
  stallMs: number;
  signal?: AbortSignal | undefined;
  onFault?: ((fault: Fault) => void) | undefined;
};

/** Fetches blobs of one checkpoint. */
export type Transfer = {
  /**
   * Fetches all of them, in about their order.
   * @param keep takes the bytes of each, once, their hash checked; when it is done, their memory is used for the next ones. What it throws
   * ends the transfer.
   * @throws ShardcastError `SHARD_MISMATCH`, `MANIFEST_MISMATCH`, `NO_SOURCE`; what the origin throws when there was nobody else.
   */
  fetch(
    blobs: readonly Wanted[],
    keep: (blob: Wanted, bytes: Uint8Array<ArrayBuffer>) => Promise<void>,
  ): Promise<void>;
};

type Relay = {
  source: Source;
  listed: boolean;
  corrupt: boolean;
  /** It asked not to be asked before. */
  readyAt: number;
  /** Milliseconds it made us wait, halved whenever it serves. */
  waitedMs: number;
  failuresInARow: number;
  /** Not counted among those that are left before. */
  outUntil: number;
  flights: Set<Way>;
  did: Map<string, number>;
};
/** A flight, and who brings what. */
type Way = Flight & { relay: Relay; task: Task };
type Task = {
  blob: Wanted;
  done: boolean;
  hedged: boolean;
  /** Its relay would take too long, and there is no other. */
  toOrigin: boolean;
  tries: Map<string, number>;
  flights: Set<Way>;
};
const MOST_MANIFEST_BYTES = 16 * 2 ** 20;
const TRIES_OF_A_SOURCE = 2;
const TRIES_OF_THE_ORIGIN = 2;
const REFRESH_MS = 60_000;
const LEAST_REFRESH_MS = 5_000;

/** @see Transfer */
export function openTransfer(options: TransferOptions): Transfer {
  const { manifest, standings, traffic, stallMs } = options;
  // What a source that only ever says "later" can make us wait, and one that sends too little has before that counts.
  const patienceMs = 3 * stallMs;
  const relays = new Map<string, Relay>();
  let askedAt = Number.NEGATIVE_INFINITY;
  let asking: Promise<void> | undefined;
  let ticketRefused = false;
  /** Bytes a second of the last shard it brought; 0 when it failed. */
  let originSpeed: number | undefined;

  /** Asks who has the checkpoint, unless that was done less than so many milliseconds ago; whether it asked. */
  async function refresh(leastAge: number): Promise<boolean> {
    if (!options.relays || (asking === undefined && performance.now() - askedAt < leastAge)) return false;
    asking ??= options
      .relays(manifest)
      .then((sources) => {
        for (const relay of relays.values()) relay.listed = false;
        for (const source of sources) {
          const known = relays.get(source.id);
          if (known) Object.assign(known, { source, listed: true });
          else relays.set(source.id, freshRelay(source));
        }
      })
      .catch(() => {})
      .finally(() => {
        askedAt = performance.now();
        asking = undefined;
        ticketRefused = false;
      });
    await asking;
    return true;
  }

  /** Who may still be asked for it, at some time. */
  function leftFor(task: Task): Relay[] {
    const now = performance.now();
    return [...relays.values()].filter(
      (relay) =>
        relay.listed &&
        !relay.corrupt &&
        relay.outUntil <= now &&
        (task.tries.get(relay.source.id) ?? 0) < TRIES_OF_A_SOURCE &&
        ![...task.flights].some((flight) => flight.relay === relay),
    );
  }

  function readyFor(task: Task): Relay[] {
    const now = performance.now();
    return leftFor(task).filter(({ readyAt }) => readyAt <= now);
  }

  function candidateOf({ source, flights }: Relay): Candidate {
    return { id: source.id, open: flights.size, arriving: slowestRate(flights, stallMs / 4) };
  }

  function draw(ready: readonly Relay[]): Relay | undefined {
    const index = drawIndex(weightsOf(standings, ready.map(candidateOf)), Math.random());
    return index === undefined ? undefined : ready[index];
  }

  async function relayFor(task: Task, signal: AbortSignal): Promise<Relay | undefined> {
    await refresh(ticketRefused ? LEAST_REFRESH_MS : REFRESH_MS);
    for (;;) {
      signal.throwIfAborted();
      if (task.done) return undefined;
      const ready = draw(readyFor(task));
      if (ready) return ready;
      const left = leftFor(task);
      if (left.length > 0) {
        await pause(Math.min(...left.map(({ readyAt }) => readyAt)) - performance.now() + 1, signal);
      } else if (!(await refresh(LEAST_REFRESH_MS))) return undefined;
    }
  }

  return {
    async fetch(blobs, keep) {
      const tasks = blobs.map(
        (blob): Task => ({
          blob,
          done: false,
          hedged: false,
          toOrigin: false,
          tries: new Map(),
          flights: new Set(),
        }),
      );
      // zeroing and mapping new memory for each shard costs as much time as copying it
      const spare: Uint8Array<ArrayBuffer>[] = [];
      const memoryOf = (size: number) => {
        const index = spare.findIndex(({ length }) => length >= size && length <= 2 * size);
        return index < 0 ? newMemory(size) : (spare.splice(index, 1)[0] ?? newMemory(size));
      };
      const stop = new AbortController();
      const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal;
      let next = 0;
      let failure: { cause: unknown } | undefined;
      const wake: (() => void)[] = [];

      function changed(): void {
        for (const resolve of wake.splice(0)) resolve();
      }
      const change = () =>
        new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, LOOK_EVERY_MS);
          wake.push(() => {
            clearTimeout(timer);
            resolve();
          });
        });

      async function finish(task: Task, bytes: Uint8Array<ArrayBuffer>, from: string | null): Promise<void> {
        task.done = true;
        for (const flight of task.flights) flight.abort.abort();
        if (task.blob.size !== undefined)
          traffic.bytes.set(from, (traffic.bytes.get(from) ?? 0) + bytes.length);
        await keep(task.blob, bytes);
      }

      async function fly(task: Task, relay: Relay): Promise<void> {
        const { sha256, size } = task.blob;
        const flight: Way = { ...takeOff(), relay, task };
        task.flights.add(flight);
        relay.flights.add(flight);
        const aborted = AbortSignal.any([signal, flight.abort.signal]);
        const memory = size === undefined ? undefined : memoryOf(size);
        const outcome = await fetchShard({
          source: relay.source,
          sha256,
          size,
          maxBytes: MOST_MANIFEST_BYTES,
          stallMs,
          signal: aborted,
          ...(memory ? { memory } : {}),
          onBytes: (length) => advance(flight, length),
        });
        task.flights.delete(flight);
        relay.flights.delete(flight);
        const seconds = (performance.now() - flight.startedAt) / 1000;
        if (outcome.kind === "whole") {
          countShard(standings, relay.source.id, { bytes: outcome.bytes.length, seconds });
          relay.failuresInARow = 0;
          // not forgotten: one that serves a shard after each long wait would set the pace
          relay.waitedMs /= 2;
          note(relay, "served");
          if (task.done) traffic.wastedBytes += flight.received;
          else await finish(task, outcome.bytes, relay.source.id);
        } else {
          traffic.wastedBytes += flight.received;
          landed(task, relay, outcome);
        }
        if (memory && spare.length < options.connections) spare.push(memory);
        changed();
      }

      function landed(
        task: Task,
        relay: Relay,
        outcome: Exclude<Awaited<ReturnType<typeof fetchShard>>, { kind: "whole" }>,
      ): void {
        switch (outcome.kind) {
          case "aborted":
            return;
          case "busy": {
            const now = performance.now();
            const readyAt = now + outcome.waitMs;
            relay.waitedMs += Math.max(0, readyAt - Math.max(now, relay.readyAt));
            relay.readyAt = Math.max(relay.readyAt, readyAt);
            note(relay, "asked to wait");
            if (relay.waitedMs >= patienceMs) {
              failed(task, relay);
              relay.outUntil = Math.max(relay.outUntil, relay.readyAt);
            }
            return;
          }
          case "absent":
            note(relay, "did not have it");
            failed(task, relay);
            return;
          case "fault": {
            note(relay, `${outcome.fault}: ${outcome.detail}`);
            failed(task, relay);
            relay.corrupt ||= outcome.fault === "CORRUPT";
            ticketRefused ||= outcome.unauthorized;
            const { id } = relay.source;
            options.onFault?.({ source: id, manifest, sha256: task.blob.sha256, fault: outcome.fault });
            return;
          }
        }
      }

      function failed(task: Task, relay: Relay): void {
        const { id } = relay.source;
        countFailure(standings, id);
        task.tries.set(id, (task.tries.get(id) ?? 0) + 1);
        relay.failuresInARow++;
        // Its weight makes it rare where there are others; where there are none, the origin must not wait for it shard by shard.
        const over = relay.failuresInARow - 3;
        if (over >= 0) relay.outUntil = performance.now() + Math.min(60_000, 1_000 * 2 ** Math.min(over, 6));
      }

      async function fromOrigin(task: Task): Promise<void> {
        const { sha256, size } = task.blob;
        const maxBytes = size ?? MOST_MANIFEST_BYTES;
        for (let attempt = 0; attempt < TRIES_OF_THE_ORIGIN; attempt++) {
          const startedAt = performance.now();
          const bytes = await options.origin({ sha256, maxBytes, signal }).catch((cause: unknown) => {
            signal.throwIfAborted();
            if (task.toOrigin) return undefined;
            throw noSource(task, cause);
          });
          if (bytes === undefined) break;
          originSpeed = (bytes.length * 1_000) / Math.max(1, performance.now() - startedAt);
          const right = bytes.length === (size ?? bytes.length) && hashOf(bytes) === sha256;
          if (right) return finish(task, owned(bytes), null);
          traffic.wastedBytes += bytes.length;
        }
        if (task.toOrigin) {
          // then slowly
          task.toOrigin = false;
          originSpeed = 0;
          return;
        }
        throw new ShardcastError(
          size === undefined ? "MANIFEST_MISMATCH" : "SHARD_MISMATCH",
          `Blob ${sha256} of checkpoint ${manifest} arrived damaged twice from the coordinator; it was not used.${tried()}`,
        );
      }

      function noSource(task: Task, cause: unknown): unknown {
        if (relays.size === 0) return cause;
        const reason = cause instanceof Error ? cause.message : String(cause);
        return new ShardcastError(
          "NO_SOURCE",
          `Blob ${task.blob.sha256} of checkpoint ${manifest} could not be had. Coordinator: ${reason}.${tried()}`,
          { cause },
        );
      }

      async function bring(task: Task): Promise<void> {
        while (!task.done) {
          signal.throwIfAborted();
          if (task.flights.size > 0) {
            await change();
            continue;
          }
          const relay = task.toOrigin ? undefined : await relayFor(task, signal);
          if (relay) await fly(task, relay);
          else if (!task.done) await fromOrigin(task);
        }
      }

      const speedsFor = (task: Task) => speedsOf(standings, readyFor(task).map(candidateOf));

      /** Nothing is left to start: asks somebody else, too, for the shard that is expected last, if that is much faster. */
      async function hedge(): Promise<boolean> {
        let worst: { task: Task; late: number } | undefined;
        for (const task of tasks) {
          const [flight] = task.flights;
          if (task.done || task.hedged || task.flights.size !== 1 || !flight) continue;
          if (readyFor(task).length === 0) continue;
          const late = lateness(flight, {
            size: sizeOf(task),
            speeds: speedsFor(task),
            factor: 2,
            patienceMs: stallMs / 4,
          });
          if (late > (worst?.late ?? 0)) worst = { task, late };
        }
        const relay = worst && draw(readyFor(worst.task));
        if (!worst || !relay) return false;
        const { task } = worst;
        task.hedged = true;
        await fly(task, relay);
        task.hedged = task.done;
        return true;
      }

      /**
       * A source that used to be fast can have all connections when it stops being so. It keeps one; the shards of the others go back to
       * those that wait.
       */
      function letGo(): void {
        for (const relay of relays.values()) {
          if (relay.flights.size < 2) continue;
          const late = [...relay.flights].filter(
            (flight) =>
              readyFor(flight.task).length > 0 &&
              lateness(flight, {
                size: sizeOf(flight.task),
                speeds: speedsFor(flight.task),
                factor: 8,
                patienceMs: stallMs / 4,
              }) > 0,
          );
          const [, ...others] = late.toSorted((a, b) => b.received - a.received);
          for (const flight of others) flight.abort.abort();
        }
      }

      /**
       * A relay that hardly sends anything, with nobody to take its place, must not hold up a client for hours: a shard that it had long for
       * and needs twice as long again is asked of the origin. One shard at first, and others only if that was much faster: on a line that is
       * itself slow the origin is spared.
       */
      function turnToOrigin(): void {
        const now = performance.now();
        for (const task of tasks) {
          const [flight] = task.flights;
          if (!flight || task.flights.size > 1 || task.done || now - flight.startedAt < patienceMs) continue;
          if (readyFor(task).length > 0) continue;
          const rate = Math.max(1, rateOf(flight));
          const left = (sizeOf(task) - flight.received) / rate;
          if (left * 1_000 < 2 * patienceMs || (originSpeed !== undefined && originSpeed < 4 * rate))
            continue;
          if (originSpeed === undefined && tasks.some(({ toOrigin, done }) => toOrigin && !done)) return;
          task.toOrigin = true;
          note(flight.relay, "was too slow");
          failed(task, flight.relay);
          flight.abort.abort();
        }
      }

      async function lane(): Promise<void> {
        while (!signal.aborted) {
          const task = tasks[next++];
          if (task) await bring(task);
          else if (tasks.every(({ done }) => done)) return;
          else if (!(await hedge())) await change();
        }
        signal.throwIfAborted();
      }

      const width = Math.min(options.connections, Math.max(1, blobs.length * 2));
      const looking = setInterval(() => {
        letGo();
        turnToOrigin();
      }, LOOK_EVERY_MS);
      await Promise.all(
        Array.from({ length: width }, () =>
          lane().catch((cause: unknown) => {
            failure ??= { cause };
            stop.abort(cause);
            changed();
          }),
        ),
      );
      clearInterval(looking);
      options.signal?.throwIfAborted();
      if (failure !== undefined) throw (failure as { cause: unknown }).cause;
    },
  };

  function tried(): string {
    const all = [...relays.values()].map(
      ({ source, did }) =>
        `${source.id} ${[...did].map(([what, times]) => (times > 1 ? `${what} (${times} times)` : what)).join(", ") || "was not asked"}`,
    );
    return all.length === 0 ? "" : ` Relays: ${all.join("; ")}.`;
  }
}

function freshRelay(source: Source): Relay {
  return {
    source,
    listed: true,
    corrupt: false,
    readyAt: 0,
    waitedMs: 0,
    failuresInARow: 0,
    outUntil: 0,
    flights: new Set(),
    did: new Map(),
  };
}

/** Of a manifest the most that it may have: one that drips would else be waited for without end. */
function sizeOf({ blob }: Task): number {
  return blob.size ?? MOST_MANIFEST_BYTES;
}

function note({ did }: Relay, what: string): void {
  // a source that words each refusal differently must not fill the memory
  const key = did.has(what) || did.size < 8 ? what : "did other things";
  did.set(key, (did.get(key) ?? 0) + 1);
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function owned(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer
    ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    : new Uint8Array(bytes);
}

/** Rejects when the signal aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", aborted);
      resolve();
    }, ms);
    if (signal.aborted) aborted();
    else signal.addEventListener("abort", aborted, { once: true });
  });
}
