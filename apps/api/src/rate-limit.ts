import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import type { Config } from "./config.ts";
import type { Actor } from "./context.ts";
import { CodedError } from "./errors.ts";
import type { Metrics } from "./metrics.ts";

export type RateLimit = {
  /**
   * Counts requests of the actor, or of the address when nobody is known there. A GraphQL operation counts as one for each field of its
   * root. @throws CodedError `RATE_LIMITED`
   */
  take(actor: Actor, address: string, points?: number): Promise<void>;
  /** Whether an address has shown so many wrong credentials that none is looked up for it now. @throws CodedError `RATE_LIMITED` */
  assertCredible(address: string): Promise<void>;
  /** Counts wrong credentials. @throws CodedError `RATE_LIMITED` */
  takeRefused(address: string): Promise<void>;
  /** Counts a key that has never registered before. @throws CodedError `RATE_LIMITED` */
  takeNewNode(address: string): Promise<void>;
};

// A validator alone fetches, stores and submits 16 measurements several times a second; at the people's limit it stood still for
// half of each ten seconds, and training with it. What a node may store and submit is bounded by its leases besides.
const nodeFactor = 10;
// Keys cost nothing, so the nodes of one address have a limit together; it is that of a room full of busy validators.
const addressFactor = 20;

/** Limits requests in windows of ten seconds; a node may make ten times as many as anyone else. Each process counts for itself: behind n replicas a client may have up to n times as many. */
export function createRateLimit({ config, metrics }: { config: Config; metrics: Metrics }): RateLimit {
  const points = config.requestsPerTenSeconds;
  const limiter = (most: number, duration = 10) => new RateLimiterMemory({ points: most, duration });
  const others = limiter(points);
  const nodes = limiter(points * nodeFactor);
  const nodesOfAddress = limiter(points * addressFactor);
  const refused = limiter(points);
  const newNodes = limiter(config.newNodesPerMinute, 60);

  const limited = (of: RateLimiterMemory, msBeforeNext: number): CodedError => {
    metrics.refused.inc({ code: "RATE_LIMITED" });
    const retryAfterSeconds = Math.max(1, Math.ceil(msBeforeNext / 1000));
    return new CodedError(
      "RATE_LIMITED",
      `More than ${of.points} requests in ${of.duration} seconds. Wait ${retryAfterSeconds} s and go on more slowly.`,
      { details: { retryAfterSeconds } },
    );
  };
  const consume = async (from: RateLimiterMemory, key: string, count = 1): Promise<void> => {
    try {
      await from.consume(key, count);
    } catch (refusal) {
      if (!(refusal instanceof RateLimiterRes)) throw refusal;
      throw limited(from, refusal.msBeforeNext);
    }
  };

  return {
    async take(actor, address, count = 1) {
      if (count <= 0) return;
      if (actor.kind !== "node") return await consume(others, keyOf(actor, address), count);
      await consume(nodes, keyOf(actor, address), count);
      await consume(nodesOfAddress, address, count);
    },
    async assertCredible(address) {
      const seen = await refused.get(address);
      if (seen !== null && seen.consumedPoints >= points && seen.msBeforeNext > 0)
        throw limited(refused, seen.msBeforeNext);
    },
    takeRefused: (address) => consume(refused, address),
    takeNewNode: (address) => consume(newNodes, address),
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
