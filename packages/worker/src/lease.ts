import { ApiError, type Lease, type LeaseKey, type MusterClient, pause, retryDelay } from "@muster/sdk";
import { isOutage } from "./connection.ts";
import type { Log } from "./log.ts";

/** Codes after which a node no longer has the task, whatever it does. */
const gone: ReadonlySet<string> = new Set(["LEASE_LOST", "NOT_FOUND", "NODE_QUARANTINED"]);

/** A task this node holds, for as long as it can keep it. */
export type HeldLease = {
  lease: Lease;
  /** Aborts when the task is not this node's any more. */
  lost: AbortSignal;
  /** Why it was lost. */
  reason(): string | undefined;
  /** `performance.now()` of the claim's answer: a heartbeat sent earlier cannot know of it. */
  since: number;
  /** From here on the coordinator may have ended the attempt in our favour: a heartbeat that does not list it means nothing. */
  submitting: boolean;
  drop(reason: string): void;
};

/** Every lease this node holds, renewed at a third of its length; what is let go is not renewed any more. */
export type LeaseKeeper = {
  hold(lease: Lease): HeldLease;
  letGo(held: HeldLease): void;
  /** Drops what a heartbeat's answer does not list. @param askedAt `performance.now()` when the heartbeat was sent. */
  reconcile(listed: readonly LeaseKey[], askedAt: number): void;
  held(): readonly HeldLease[];
};

export function keepLeases({ client, log }: { client: MusterClient; log: Log }): LeaseKeeper {
  const all = new Map<string, { held: HeldLease; stop: AbortController }>();

  async function renew(held: HeldLease, stop: AbortSignal): Promise<void> {
    const { task, attempt, renewAfterSeconds } = held.lease;
    let refused: unknown;
    for (let failures = 0; ; ) {
      const wait =
        failures === 0
          ? renewAfterSeconds * 1_000
          : retryDelay(refused, failures, { first: 250, most: renewAfterSeconds * 1_000 });
      await pause(wait, stop);
      if (stop.aborted) return;
      try {
        await client.tasks.renew({ task, attempt }, { signal: stop });
        failures = 0;
      } catch (error) {
        if (stop.aborted) return;
        // Judging a large step may outlast a lease, so it is renewed meanwhile; but then only the submission's own answer counts.
        if (error instanceof ApiError && gone.has(error.code))
          return held.submitting ? undefined : held.drop(error.message);
        // an expired lease still wins while nobody else has the task, so the work goes on
        failures++;
        refused = error;
        if (!isOutage(error))
          log.warn({ task, error: String(error) }, "the lease could not be renewed; trying again");
      }
    }
  }

  return {
    hold(lease) {
      const loss = new AbortController();
      const stop = new AbortController();
      let reason: string | undefined;
      const held: HeldLease = {
        lease,
        lost: loss.signal,
        reason: () => reason,
        since: performance.now(),
        submitting: false,
        drop(why) {
          if (stop.signal.aborted) return;
          reason = why;
          stop.abort();
          loss.abort(new Error(why));
          log.warn({ task: lease.task, attempt: lease.attempt, reason: why }, "task lost; its work stops");
        },
      };
      all.set(keyOf(lease), { held, stop });
      void renew(held, stop.signal);
      return held;
    },
    letGo(held) {
      all.get(keyOf(held.lease))?.stop.abort();
      all.delete(keyOf(held.lease));
    },
    reconcile(listed, askedAt) {
      const live = new Set(listed.map(keyOf));
      for (const [key, { held }] of all) {
        if (live.has(key) || held.submitting || held.since >= askedAt) continue;
        held.drop("the coordinator no longer lists it as this node's");
      }
    },
    held: () => [...all.values()].map(({ held }) => held),
  };
}

/** Whether an error says that the task is somebody else's. */
export function meansLost(error: unknown): boolean {
  return error instanceof ApiError && gone.has(error.code);
}

function keyOf({ task, attempt }: LeaseKey): string {
  return `${task}#${attempt}`;
}
