import { ApiError, type Lease, type MusterClient, retryDelay, type TaskKind } from "@muster/sdk";
import { isOutage } from "./connection.ts";
import type { Log } from "./log.ts";

/** What a node may do. WORKER is open to anyone in an open run; the others are granted by a run's organizer. */
export type WorkerRole = "WORKER" | "VALIDATOR" | "TRAINER" | "EVALUATOR";

/** The kinds of tasks of a role, in the order they are looked for. */
export const kindsOfRole = {
  TRAINER: ["BASE", "TRAIN"],
  VALIDATOR: ["VERIFY"],
  EVALUATOR: ["EVALUATE"],
  WORKER: ["GENERATE"],
} as const satisfies Record<WorkerRole, TaskKind[]>;

/** Looks for work, role by role, no more often than is useful. */
export type Claims = {
  /** Tasks of one role, or none when there is nothing to do now. @throws ApiError `UPGRADE_REQUIRED`. */
  next(signal: AbortSignal): Promise<Lease[]>;
  /** Something may be claimable. */
  nudge(): void;
  /** Milliseconds until looking again is worth it. */
  due(): number;
};

// Asking on every nudge of a burst would be one query per opened task and node.
const LEAST_BETWEEN = 200;
const POLL = 15_000;
// A validator that always finds work would never look whether there is something to evaluate.
const WAITED = 5_000;

type Seat = {
  role: WorkerRole;
  kinds: TaskKind[];
  max: number;
  askedAt: number;
  dueAt: number;
  /** Refusals in a row; while there are any, nudges do not shorten the wait. */
  failures: number;
  told: string | undefined;
};

export function createClaims(input: {
  client: MusterClient;
  roles: readonly WorkerRole[];
  /** Tasks of a kind worked on at once. */
  batchOf: (kind: TaskKind) => number;
  log: Log;
}): Claims {
  const { client, log } = input;
  // in the table's order: what everybody waits for comes first
  const seats = (Object.keys(kindsOfRole) as WorkerRole[])
    .filter((role) => input.roles.includes(role))
    .map((role): Seat => {
      const kinds = [...kindsOfRole[role]];
      const max = Math.min(...kinds.map(input.batchOf));
      return { role, kinds, max, askedAt: Number.NEGATIVE_INFINITY, dueAt: 0, failures: 0, told: undefined };
    });

  async function ask(seat: Seat, signal: AbortSignal): Promise<Lease[]> {
    seat.askedAt = performance.now();
    try {
      const leases = await client.tasks.claim({ kinds: seat.kinds, max: seat.max }, { signal });
      if (seat.told !== undefined) log.info({ role: seat.role }, "claims are answered again");
      seat.failures = 0;
      seat.told = undefined;
      // a fleet must not poll in one wave
      seat.dueAt = leases.length > 0 ? 0 : performance.now() + POLL * (0.75 + Math.random() / 2);
      return leases;
    } catch (error) {
      if (signal.aborted) return [];
      if (error instanceof ApiError && error.code === "UPGRADE_REQUIRED") throw error;
      refused(seat, error);
      return [];
    }
  }

  function refused(seat: Seat, error: unknown): void {
    const code = error instanceof ApiError ? error.code : "INTERNAL";
    // a grant is often given seconds after the node registered; a quarantine lasts
    const most = code === "NODE_QUARANTINED" ? 60_000 : POLL;
    seat.dueAt = performance.now() + 500 + retryDelay(error, seat.failures++, { first: 1_500, most });
    if (seat.told === code || isOutage(error)) return;
    seat.told = code;
    log.warn(
      { role: seat.role, code, error: String(error) },
      "this role gets no tasks for now; asking again from time to time",
    );
  }

  return {
    async next(signal) {
      const now = performance.now();
      const waited = (seat: Seat) => seat.failures === 0 && seat.askedAt < now - WAITED;
      for (const seat of [...seats.filter(waited), ...seats.filter((seat) => !waited(seat))]) {
        if (signal.aborted) return [];
        if (seat.dueAt > performance.now() && !waited(seat)) continue;
        const leases = await ask(seat, signal);
        if (leases.length > 0) return leases;
      }
      return [];
    },
    nudge() {
      for (const seat of seats) {
        if (seat.failures === 0) seat.dueAt = Math.min(seat.dueAt, seat.askedAt + LEAST_BETWEEN);
      }
    },
    due: () => Math.max(0, Math.min(...seats.map(({ dueAt }) => dueAt)) - performance.now()),
  };
}
