import type { RelayFault } from "../fetch-shard.ts";
import type { RelayAssignment } from "./assignment.ts";
import type { Received, Upstream } from "./source.ts";

// Whom a relay asks for a blob, and what it makes of the answer: the relay above it or, when that fails, the origin for a while.

export type UpstreamOptions = {
  /** The last resort of every run, and the parent of those without another. */
  origin: Omit<Upstream, "id" | "redirects"> | undefined;
  /** Failures in a row after which the origin takes the place of a parent for a while. */
  parentAttempts: number;
};

/** What may be expected of an upstream. Times are of `performance.now()`. */
export type Standing = {
  upstream: Upstream;
  failures: number;
  lastAt: number;
  notBefore: number;
  avoidUntil: number;
};

/** What has been tried for one blob. */
export type Tries = {
  notBefore: number;
  /** Times it was not to be had from the parent. */
  refusals: number;
  /** Times it came from several answers and was wrong. */
  mixed: number;
  preferOrigin: boolean;
};

/** How an attempt ended that did not bring the blob; `mixed`: of the several answers its bytes came from, any may have been wrong. */
export type Failed = Exclude<Received, { kind: "ended" | "sink" }> | { kind: "mixed" };

export type Upstreams = {
  assign(assignment: RelayAssignment): void;
  unassign(run: string): void;
  /** Whom to ask now, or when that will be known; undefined: nobody. */
  choose(run: string, tries: Tries, now: number): Standing | number | undefined;
  succeeded(from: Standing): void;
  /** Changes what is tried next. @returns what `from` did wrong, if anything. */
  failed(
    from: Standing,
    tries: Tries,
    outcome: Failed,
    startedAt: number,
  ): { fault: RelayFault; detail: string } | undefined;
};

const BACK_OFF = { first: 200, most: 5_000 };
const AVOID_FAILING_MS = 30_000;
const AVOID_LIAR_MS = 600_000;

export function createUpstreams(options: UpstreamOptions): Upstreams {
  const origin = options.origin && standing({ ...options.origin, id: "origin", redirects: true });
  const runs = new Map<string, { assignment: RelayAssignment; parent: Standing | undefined }>();

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

  return {
    assign(assignment) {
      const before = runs.get(assignment.run);
      // what is known of a parent outlives its tickets
      const same =
        before?.assignment.parent === assignment.parent &&
        before.assignment.parentUrl === assignment.parentUrl;
      runs.set(assignment.run, { assignment, parent: same ? before.parent : parentOf(assignment) });
    },
    unassign: (run) => void runs.delete(run),
    choose(run, tries, now) {
      if (tries.notBefore > now) return tries.notBefore;
      const parent = runs.get(run)?.parent;
      const chosen =
        parent === undefined || (origin && (tries.preferOrigin || parent.avoidUntil > now)) ? origin : parent;
      if (chosen === undefined) return undefined;
      return chosen.notBefore > now ? chosen.notBefore : chosen;
    },
    succeeded(from) {
      from.failures = 0;
    },
    failed(from, tries, outcome, startedAt) {
      const now = performance.now();
      const isParent = from !== origin;
      switch (outcome.kind) {
        case "aborted":
          return undefined;
        case "absent":
        case "busy": {
          tries.refusals++;
          const asked = outcome.kind === "busy" ? outcome.waitMs : 0;
          // a parent that only ever says "later" must not hold up those below for long
          const honoured = isParent && origin ? Math.min(asked, BACK_OFF.most) : asked;
          tries.notBefore = now + Math.max(honoured, backOff(tries.refusals));
          if (tries.refusals % (options.parentAttempts + 2) === 0) tries.preferOrigin = isParent;
          return undefined;
        }
        case "mixed":
          // a parent that was cheated itself has it right by now, and all of its children at the origin would cost the origin dear
          tries.mixed++;
          tries.preferOrigin = isParent && tries.mixed > 1;
          tries.notBefore = now + backOff(0);
          return undefined;
        case "fault": {
          const { fault, detail } = outcome;
          if (!isParent) tries.preferOrigin = false;
          else if (fault === "CORRUPT") {
            tries.preferOrigin = true;
            from.avoidUntil = now + AVOID_LIAR_MS;
          }
          // connections that break together are one failure
          if (startedAt < from.lastAt) return { fault, detail };
          from.lastAt = now;
          from.failures++;
          from.notBefore = now + backOff(from.failures);
          if (isParent && from.failures >= options.parentAttempts) {
            from.avoidUntil = Math.max(from.avoidUntil, now + AVOID_FAILING_MS);
            from.failures = 0;
          }
          return { fault, detail };
        }
      }
    },
  };
}

export const freshTries = (): Tries => ({ notBefore: 0, refusals: 0, mixed: 0, preferOrigin: false });

function standing(upstream: Upstream): Standing {
  return { upstream, failures: 0, lastAt: Number.NEGATIVE_INFINITY, notBefore: 0, avoidUntil: 0 };
}

/** Full jitter above a small step, so that the children of one relay do not come back in one wave. */
function backOff(failures: number): number {
  const most = Math.min(BACK_OFF.most, BACK_OFF.first * 2 ** Math.max(0, failures - 1));
  return 50 + Math.random() * most;
}
