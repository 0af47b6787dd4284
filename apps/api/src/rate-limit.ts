import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import type { Actor, Services } from "./context.ts";
import { CodedError } from "./errors.ts";

export type RateLimit = {
  /** Counts one request of the actor, or of the address when nobody is known there. @throws CodedError `RATE_LIMITED` */
  take(actor: Actor, address: string): Promise<void>;
};

// A validator alone fetches, stores and submits 16 measurements several times a second; at the people's limit it stood still for
// half of each ten seconds, and training with it. What a node may store and submit is bounded by its leases besides.
const nodeFactor = 10;

/** Limits requests in windows of ten seconds; a node may make ten times as many as anyone else. Each process counts for itself: behind n replicas a client may have up to n times as many. */
export function createRateLimit({ config, metrics }: Pick<Services, "config" | "metrics">): RateLimit {
  const few = { points: config.requestsPerTenSeconds, duration: 10 };
  const others = new RateLimiterMemory(few);
  const nodes = new RateLimiterMemory({ ...few, points: few.points * nodeFactor });
  return {
    async take(actor, address) {
      const limiter = actor.kind === "node" ? nodes : others;
      try {
        await limiter.consume(keyOf(actor, address));
      } catch (refusal) {
        if (!(refusal instanceof RateLimiterRes)) throw refusal;
        metrics.refused.inc({ code: "RATE_LIMITED" });
        const retryAfterSeconds = Math.max(1, Math.ceil(refusal.msBeforeNext / 1000));
        throw new CodedError(
          "RATE_LIMITED",
          `More than ${limiter.points} requests in ten seconds. Wait ${retryAfterSeconds} s and go on more slowly.`,
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
