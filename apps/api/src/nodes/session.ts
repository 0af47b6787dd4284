import { createHash, randomBytes } from "node:crypto";
import type { Ctx, Services, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";

// Far more than one process needs to go from one token to the next, and as many rows as a node can make by renewing in a loop.
const sessionsPerNode = 8;

/** A node's token, shown once; only its SHA-256 is stored. */
export type NodeToken = { readonly token: string; readonly expiresAt: Date };

/** Opens a session inside the transaction that proved who the node is. */
export async function openNodeSession(tx: Tx, services: Services, nodeId: string): Promise<NodeToken> {
  const token = randomBytes(32).toString("base64url");
  const expiresAt = new Date(Date.now() + services.config.sessionSeconds * 1000);
  await tx.nodeSession.create({ data: { nodeId, tokenHash: hashToken(token), expiresAt } });
  await tx.$executeRaw`
    DELETE FROM "NodeSession" WHERE "nodeId" = ${nodeId}::uuid AND id NOT IN (
      SELECT id FROM "NodeSession" WHERE "nodeId" = ${nodeId}::uuid ORDER BY "createdAt" DESC LIMIT ${sessionsPerNode})`;
  return { token, expiresAt };
}

/**
 * A new token for the node that asks; its present one stays valid until it expires, so that requests under way are not cut off.
 * @throws CodedError `UNAUTHENTICATED` unless a node asks
 */
export async function renewSession(ctx: Ctx): Promise<NodeToken> {
  const { actor } = ctx;
  if (actor.kind !== "node")
    throw new CodedError("UNAUTHENTICATED", "Only a node renews its session. Register the node first.");
  return await ctx.prisma.$transaction((tx) => openNodeSession(tx, ctx, actor.nodeId));
}

/** The session a token belongs to, or undefined when it is unknown or expired. */
export async function findNodeSession(
  services: Pick<Services, "db">,
  token: string,
): Promise<{ sessionId: string; nodeId: string; expiresAt: Date } | undefined> {
  const { rows } = await services.db.pool.query<{ sessionId: string; nodeId: string; expiresAt: Date }>({
    name: "node-session",
    text: 'SELECT "id" AS "sessionId", "nodeId", "expiresAt" FROM "NodeSession" WHERE "tokenHash" = $1 AND "expiresAt" > now()',
    values: [hashToken(token)],
  });
  return rows[0];
}

function hashToken(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}
