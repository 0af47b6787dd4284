import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { LRUCache } from "lru-cache";
import type { Actor, Membership, Services } from "../context.ts";
import { CodedError } from "../errors.ts";
import { findNodeSession } from "../nodes/session.ts";
import { findApiKey } from "./api-keys.ts";
import { apiKeyPrefix } from "./auth.ts";

export type Identity = {
  readonly actor: Actor;
  /** What the actor was recognised by. Only a cookie is sent by a browser unasked. */
  readonly by: "nothing" | "cookie" | "token";
  /** When this identity must be proven again. */
  readonly until: Date;
};

export type Credentials = {
  readonly authorization?: string | undefined;
  readonly apiKey?: string | undefined;
  readonly cookie?: string | undefined;
};

/** `beforeLookup` runs when the answer is not remembered and the database is about to be asked; what it throws is thrown on. */
export type Authenticate = (
  credentials: Credentials,
  beforeLookup?: () => Promise<void>,
) => Promise<Identity>;

/**
 * Recognises who is asking, by the first of: a bearer token (a node's session or an API key), `x-api-key`, the session cookie.
 * Answers are remembered for ten seconds, so a revoked key or membership ends within that time.
 * The returned function throws CodedError `UNAUTHENTICATED` for a token or key that is not (or no longer) valid; a stale cookie is nobody.
 */
export function createAuthenticate(services: Services): Authenticate {
  const known = new LRUCache<string, Identity>({ max: 20_000, ttl: 10_000 });
  return async ({ authorization, apiKey, cookie }, beforeLookup) => {
    const bearer =
      authorization === undefined ? undefined : /^Bearer ([\w.~+/=-]{1,500})$/i.exec(authorization)?.[1];
    if (authorization !== undefined && bearer === undefined) {
      throw new CodedError("UNAUTHENTICATED", 'The Authorization header must read "Bearer <token>".');
    }
    const token = bearer ?? apiKey;
    const secret = token ?? (cookie?.includes("muster.session_token=") ? cookie : undefined);
    if (secret === undefined) return nobody();
    // By its hash: what is kept must not be as long as a stranger likes, nor a secret.
    const name = createHash("sha256").update(secret).digest("base64");
    const cached = known.get(name);
    if (cached !== undefined && cached.until > new Date()) return cached;
    await beforeLookup?.();
    const found =
      token === undefined
        ? await byCookie(services, secret)
        : token.startsWith(apiKeyPrefix)
          ? await byApiKey(services, token)
          : await byNodeToken(services, token);
    if (found.by !== "nothing") known.set(name, found);
    return found;
  };
}

/** Whether both are the same actor with the same rights. */
export function sameActor(a: Actor, b: Actor): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Picks the credentials out of a request's headers. */
export function credentialsOf(headers: IncomingHttpHeaders): Credentials {
  const apiKey = headers["x-api-key"];
  return {
    authorization: headers.authorization,
    apiKey: typeof apiKey === "string" ? apiKey : undefined,
    cookie: headers.cookie,
  };
}

async function byNodeToken(services: Services, token: string): Promise<Identity> {
  const session = await findNodeSession(services, token);
  if (session === undefined) {
    throw new CodedError(
      "UNAUTHENTICATED",
      "The node's session has ended or never was. Register the node again; its identity stays.",
    );
  }
  return {
    actor: { kind: "node", nodeId: session.nodeId, sessionId: session.sessionId },
    by: "token",
    until: session.expiresAt,
  };
}

async function byApiKey(services: Services, key: string): Promise<Identity> {
  const found = await findApiKey(services, key);
  if (found === undefined)
    throw new CodedError(
      "UNAUTHENTICATED",
      "The API key is not valid: it was revoked, has expired or never was. Make another one.",
    );
  const { keyId, organizationId, scopes, expiresAt } = found;
  return {
    actor: { kind: "apiKey", keyId, organizationId, scopes },
    by: "token",
    until: soonest(expiresAt ?? undefined),
  };
}

async function byCookie(services: Services, cookie: string): Promise<Identity> {
  const session = await services.auth.api.getSession({ headers: new Headers({ cookie }) });
  if (session === null) return nobody();
  const memberships = await membershipsOf(services, session.user.id);
  return {
    actor: { kind: "person", userId: session.user.id, memberships },
    by: "cookie",
    until: soonest(session.session.expiresAt),
  };
}

/** The organizations of a person with the role in each. */
export async function membershipsOf(
  services: Pick<Services, "prisma">,
  userId: string,
): Promise<Membership[]> {
  const rows = await services.prisma.member.findMany({ where: { userId }, orderBy: { createdAt: "asc" } });
  return rows.map(({ organizationId, role }) => ({ organizationId, role: roleOf(role) }));
}

/** The library stores several roles with commas between; the highest counts. */
function roleOf(stored: string): Membership["role"] {
  const roles = stored.split(",");
  if (roles.includes("owner")) return "owner";
  return roles.includes("admin") ? "admin" : "member";
}

const nobody = (): Identity => ({ actor: { kind: "anonymous" }, by: "nothing", until: soonest() });

/** People and programs prove themselves again every hour, so that a socket does not outlive its rights. */
function soonest(expiresAt?: Date): Date {
  const hour = new Date(Date.now() + 3600_000);
  return expiresAt !== undefined && expiresAt < hour ? expiresAt : hour;
}
