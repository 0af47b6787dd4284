import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import type { Actor, Services } from "./context.ts";
import { CodedError } from "./errors.ts";

export type RateLimit = {
  /** Counts one request of the actor, or of the address when nobody is known there. @throws CodedError `RATE_LIMITED` */
  take(actor: Actor, address: string): Promise<void>;
};

/** Limits requests in windows of ten seconds. Each process counts for itself: behind n replicas a client may have up to n times as many. */
export function createRateLimit({ config, metrics }: Pick<Services, "config" | "metrics">): RateLimit {
  const limiter = new RateLimiterMemory({ points: config.requestsPerTenSeconds, duration: 10 });
  return {
    async take(actor, address) {
      try {
        await limiter.consume(keyOf(actor, address));
      } catch (refusal) {
        if (!(refusal instanceof RateLimiterRes)) throw refusal;
        metrics.refused.inc({ code: "RATE_LIMITED" });
        const retryAfterSeconds = Math.max(1, Math.ceil(refusal.msBeforeNext / 1000));
        throw new CodedError(
          "RATE_LIMITED",
          `More than ${config.requestsPerTenSeconds} requests in ten seconds. Wait ${retryAfterSeconds} s and go on more slowly.`,
          { details: { retryAfterSeconds } },
        );
      }
    },
  };
}

function keyOf(actor: Actor, address: string): string {
  switch (actor.kind) {
    case "anonymous":
      return `address:${address}`;
    case "person":
      return `person:${actor.userId}`;
    case "apiKey":
      return `key:${actor.keyId}`;
    case "node":
      return `node:${actor.nodeId}`;
    case "system":
      return "system";
  }
}
