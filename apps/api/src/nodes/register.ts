import { randomBytes } from "node:crypto";
import type { Node, Prisma } from "@muster/db";
import { challengeBytes } from "@muster/protocol";
import { z } from "zod";
import type { Ctx } from "../context.ts";
import { CodedError } from "../errors.ts";
import type { Loop } from "../loops.ts";
import { verifyEd25519 } from "../tasks/submission.ts";
import { type NodeToken, openNodeSession } from "./session.ts";

/** The oldest protocol this coordinator speaks. */
export const leastProtocol = 1;

const challengeSeconds = 300;
const publicKeySchema = z
  .string()
  .regex(/^[0-9a-f]{64}$/, "a raw Ed25519 public key, 32 bytes in lower-case hexadecimal");

/** A challenge for the holder of a key: valid once, for five minutes. */
export async function createNodeChallenge(
  ctx: Ctx,
  input: { publicKey: string },
): Promise<{ challenge: string; expiresAt: Date }> {
  const publicKey = publicKeySchema.parse(input.publicKey);
  const challenge = randomBytes(32).toString("base64url");
  const expiresAt = new Date(Date.now() + challengeSeconds * 1000);
  await ctx.prisma.nodeChallenge.create({ data: { challenge, publicKey, expiresAt } });
  return { challenge, expiresAt };
}

const registrationSchema = z.object({
  publicKey: publicKeySchema,
  challenge: z.string().max(100),
  signature: z.string().regex(/^[0-9a-f]{128}$/, "an Ed25519 signature, 64 bytes in lower-case hexadecimal"),
  protocol: z.number().int(),
  software: z.string().trim().min(1).max(100),
  name: z.string().trim().min(1).max(100),
  hardware: z
    .record(z.string(), z.json())
    .refine((value) => JSON.stringify(value).length <= 8_192, "at most 8,192 characters as JSON"),
  /** Ids (UUIDs) of runs and organizations. */
  worksFor: z.array(z.uuid()).max(32).default([]),
});

export type RegisterNodeInput = z.input<typeof registrationSchema>;

/**
 * Opens a session for whoever proves to hold a key by signing protocol's `challengeBytes` for this coordinator. The same key is the same
 * node for as long as it is known: a node that never did anything is forgotten after a day of silence.
 * @throws CodedError `UPGRADE_REQUIRED`, `CHALLENGE_INVALID`, `SIGNATURE_INVALID`, `RATE_LIMITED`; ZodError for input of the wrong form
 */
export async function registerNode(ctx: Ctx, input: RegisterNodeInput): Promise<{ node: Node } & NodeToken> {
  if (input.protocol < leastProtocol) {
    throw new CodedError(
      "UPGRADE_REQUIRED",
      `This node speaks protocol ${input.protocol}, the coordinator needs ${leastProtocol}. Run: npm install -g muster@latest`,
      { details: { command: "npm install -g muster@latest", protocol: leastProtocol } },
    );
  }
  const { publicKey, challenge, signature, name, software, protocol, hardware, worksFor } =
    registrationSchema.parse(input);
  // Taken before the signature is looked at: a challenge serves one try, right or wrong.
  const { count } = await ctx.prisma.nodeChallenge.deleteMany({
    where: { challenge, publicKey, expiresAt: { gt: new Date() } },
  });
  if (count === 0) {
    throw new CodedError(
      "CHALLENGE_INVALID",
      "The challenge is unknown, used or older than five minutes. Ask for a new one and sign that.",
    );
  }
  const audiences = [new URL(ctx.publicUrl).origin, ctx.origin?.dialled].filter((one) => one !== undefined);
  const proves = (audience: string) =>
    verifyEd25519(publicKey, challengeBytes({ publicKey, challenge, audience }), signature);
  if (!audiences.some(proves)) {
    throw new CodedError(
      "SIGNATURE_INVALID",
      `The signature is not this key's over the challenge for ${audiences[0]}. Sign protocol's challengeBytes with the node's key, and dial the coordinator by that URL (its operator sets it with MUSTER_PUBLIC_URL).`,
    );
  }
  if (ctx.origin !== undefined && (await ctx.prisma.node.count({ where: { publicKey } })) === 0)
    await ctx.rateLimit.takeNewNode(ctx.origin.address);
  return await ctx.prisma.$transaction(async (tx) => {
    // JSON by its schema.
    const said = {
      name,
      software,
      protocol,
      hardware: hardware as Prisma.InputJsonObject,
      worksFor,
      draining: false,
    };
    // Two registrations of a new key at once: the unique key lets one insert, and both go on with its row.
    await tx.node.createMany({ data: [{ publicKey, ...said }], skipDuplicates: true });
    const node = await tx.node.update({ where: { publicKey }, data: { ...said, lastSeenAt: new Date() } });
    return { node, ...(await openNodeSession(tx, ctx, node.id)) };
  });
}

/** Deletes challenges and sessions that can no longer be used, and nodes that came, did nothing, and have been silent for a day. */
export const sessionCleanupLoop: Loop = {
  name: "session cleanup",
  everyMs: 60_000,
  leader: true,
  async run({ prisma }) {
    // Keys cost nothing, so nothing else bounds this table.
    await prisma.$executeRaw`
      DELETE FROM "Node" n WHERE n.id IN (
        SELECT idle.id FROM "Node" idle WHERE idle."lastSeenAt" < now() - interval '1 day'
          AND NOT EXISTS (SELECT 1 FROM "Attempt" a WHERE a."nodeId" = idle.id)
          AND NOT EXISTS (SELECT 1 FROM "RoleGrant" g WHERE g."nodeId" = idle.id)
          AND NOT EXISTS (SELECT 1 FROM "NodeTrust" t WHERE t."nodeId" = idle.id)
        LIMIT 1000 FOR UPDATE SKIP LOCKED)`;
    const expired = { where: { expiresAt: { lt: new Date() } } };
    await prisma.nodeChallenge.deleteMany(expired);
    await prisma.nodeSession.deleteMany(expired);
  },
};
