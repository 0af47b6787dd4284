import type { Database, Prisma, PrismaClient } from "@muster/db";
import type { Logger } from "pino";
import type { Auth } from "./auth/auth.ts";
import type { BlobStore } from "./blobs/store.ts";
import type { Egress } from "./broadcast/egress.ts";
import type { Config } from "./config.ts";
import type { Bus } from "./events/bus.ts";
import type { EventHub } from "./events/hub.ts";
import type { Metrics } from "./metrics.ts";
import type { Presence } from "./nodes/presence.ts";
import type { RateLimit } from "./rate-limit.ts";

/** Who is asking. Everyone is an actor; an anonymous one has no rights. */
export type Actor =
  | { readonly kind: "anonymous" }
  | { readonly kind: "person"; readonly userId: string; readonly memberships: readonly Membership[] }
  | {
      readonly kind: "apiKey";
      readonly keyId: string;
      readonly organizationId: string;
      readonly scopes: readonly string[];
    }
  | { readonly kind: "node"; readonly nodeId: string; readonly sessionId: string }
  /** The coordinator's own loops. */
  | { readonly kind: "system" };

export type Membership = { readonly organizationId: string; readonly role: "owner" | "admin" | "member" };

/** What outlives a request. */
export type Services = {
  readonly config: Config;
  readonly db: Database;
  readonly prisma: PrismaClient;
  readonly blobs: BlobStore;
  readonly bus: Bus;
  /** Follows event streams for everyone in this process. */
  readonly hub: EventHub;
  /** Heartbeats since the last flush. */
  readonly presence: Presence;
  /** Bytes of checkpoints sent since the last flush. */
  readonly egress: Egress;
  /** People's sessions, organizations and API keys. */
  readonly auth: Auth;
  readonly metrics: Metrics;
  readonly rateLimit: RateLimit;
  readonly log: Logger;
  readonly startedAt: Date;
  /** Where people and nodes reach this API, without a slash at the end. */
  readonly publicUrl: string;
};

/** What every domain function takes first. */
export type Ctx = Services & {
  readonly actor: Actor;
  readonly requestId: string;
  /** Where the request came from; absent for the coordinator's own loops. */
  readonly origin?: Origin;
};

export type Origin = {
  /** The client's address. */
  readonly address: string;
  /** The origin that a client on this machine dialled, by its Host header; undefined for any other, whose header could be anybody's. */
  readonly dialled: string | undefined;
};

/** A transaction that a helper joins; it never opens its own. */
export type Tx = Prisma.TransactionClient;

/** The context of the coordinator's own loops. */
export function systemCtx(services: Services, loop: string): Ctx {
  return { ...services, actor: { kind: "system" }, requestId: `loop:${loop}` };
}
