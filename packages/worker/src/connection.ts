import { ApiError, type Attempt } from "@muster/sdk";
import type { Log } from "./log.ts";

// Every call of a node meets the same outage; a line from each would bury the one that says what happened.

type Trouble = "limited" | "away";

/**
 * Tells once when the coordinator limits this node or does not answer, and once when that is over.
 * @returns what the node's clients call after each try.
 */
export function watchConnection({ url, log }: { url: string; log: Log }): (attempt: Attempt) => void {
  let trouble: { kind: Trouble; since: number; last: number } | undefined;
  let answeredAt = Number.NEGATIVE_INFINITY;

  return ({ startedAt, error }) => {
    const now = performance.now();
    const kind = troubleOf(error);
    if (kind === undefined) {
      answeredAt = now;
      // begun before the trouble was noticed, it says nothing about now
      if (trouble === undefined || startedAt < trouble.last) return;
      const seconds = Math.round((now - trouble.since) / 100) / 10;
      const limited = trouble.kind === "limited";
      trouble = undefined;
      log.info(
        { url, seconds },
        limited ? "the coordinator takes requests again" : "the coordinator is back",
      );
      return;
    }
    // one call that broke off while others are answered is no outage
    if (kind === "away" && startedAt < answeredAt) return;
    if (trouble?.kind === kind) {
      trouble.last = now;
      return;
    }
    trouble = { kind, since: trouble?.since ?? now, last: now };
    if (kind === "limited") {
      const { retryAfterSeconds } = error ?? {};
      log.warn({ url, retryAfterSeconds }, "the coordinator limits this node's requests; waiting as it asks");
    } else log.warn({ url, error: error?.message }, "the coordinator is away; asking until it is back");
  };
}

/** Whether a call failed because nobody could be asked, which `watchConnection` tells: its caller need not. */
export function isOutage(error: unknown): boolean {
  return error instanceof ApiError && troubleOf(error) !== undefined;
}

function troubleOf(error: ApiError | undefined): Trouble | undefined {
  switch (error?.code) {
    case "RATE_LIMITED":
      return "limited";
    case "NETWORK":
    case "TIMEOUT":
    case "UNAVAILABLE":
    case "NOT_READY":
      return "away";
    default:
      return undefined;
  }
}
