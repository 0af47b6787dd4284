import type { Actor } from "../context.ts";
import { CodedError } from "../errors.ts";

/** What a person or a program may do inside an organization, and the least role that may do it. */
const leastRole = {
  "run:read": "member",
  "run:create": "member",
  "run:control": "admin",
  "run:fund": "admin",
  "node:grant": "admin",
  "case:decide": "admin",
  "rollout:read": "member",
  "ledger:read": "member",
  "upload:create": "member",
  "alert:manage": "admin",
  "webhook:manage": "admin",
  "key:manage": "owner",
} as const;

export type Action = keyof typeof leastRole;

/** Actions an API key can be limited to; a key never manages keys. */
export const apiKeyScopes = (Object.keys(leastRole) as Action[]).filter((action) => action !== "key:manage");

const rank = { member: 0, admin: 1, owner: 2 } as const;

/** Whether the actor may do this in the organization; without one, whether anywhere. */
export function allows(actor: Actor, action: Action, organizationId?: string): boolean {
  switch (actor.kind) {
    case "anonymous":
    case "node":
      return false;
    case "system":
      return true;
    case "apiKey":
      return (
        (organizationId === undefined || actor.organizationId === organizationId) &&
        actor.scopes.includes(action) &&
        action !== "key:manage"
      );
    case "person":
      return actor.memberships.some(
        (membership) =>
          (organizationId === undefined || membership.organizationId === organizationId) &&
          rank[membership.role] >= rank[leastRole[action]],
      );
  }
}

/** @throws CodedError `UNAUTHENTICATED` or `FORBIDDEN` */
export function assertAllowed(actor: Actor, action: Action, organizationId: string): void {
  if (allows(actor, action, organizationId)) return;
  if (actor.kind === "anonymous")
    throw new CodedError("UNAUTHENTICATED", "Sign in, or send an API key, to do this.");
  throw new CodedError(
    "FORBIDDEN",
    `This needs the right "${action}" in the organization. Ask one of its owners.`,
  );
}

/** Ids of the organizations in which the actor may do this. */
export function organizationsWhere(actor: Actor, action: Action): string[] {
  switch (actor.kind) {
    case "person":
      return actor.memberships.map((m) => m.organizationId).filter((id) => allows(actor, action, id));
    case "apiKey":
      return allows(actor, action) ? [actor.organizationId] : [];
    case "anonymous":
    case "node":
    case "system":
      return [];
  }
}
