import type { Prisma } from "@muster/db";
import { canonicalJson, hashHex } from "@muster/protocol";
import type { Actor, Ctx, Tx } from "../context.ts";
import { CodedError } from "../errors.ts";
import type { Loop } from "../loops.ts";

type Operation = {
  readonly actor: Actor;
  readonly operation: string;
  readonly key: string | undefined;
  readonly input: unknown;
};

/**
 * Does `work` once for one key of one actor: the same call again gets the first answer, and nothing happens twice. Joins the
 * transaction of the work itself, so that neither can be without the other. Without a key the work is simply done.
 * @throws CodedError `IDEMPOTENCY_MISMATCH` when the key came with another input before
 */
export async function once<T extends Prisma.JsonValue>(
  tx: Tx,
  call: Operation,
  work: () => Promise<T>,
): Promise<T> {
  if (call.key === undefined) return work();
  if (call.key.length < 1 || call.key.length > 200)
    throw new CodedError("INPUT_INVALID", "`idempotencyKey` must have 1 to 200 characters.");
  const id = { actor: actorKey(call.actor), operation: call.operation, key: call.key };
  const inputHash = hashHex(canonicalJson(call.input));
  // A second caller waits here for the first one's commit, and then finds its row.
  const { count } = await tx.idempotencyKey.createMany({
    data: [{ ...id, inputHash, result: {} }],
    skipDuplicates: true,
  });
  if (count === 0) {
    const first = await tx.idempotencyKey.findUniqueOrThrow({ where: { actor_operation_key: id } });
    if (first.inputHash !== inputHash)
      throw new CodedError(
        "IDEMPOTENCY_MISMATCH",
        `The key "${call.key}" was used for another ${call.operation}. Use a new key for a new request.`,
      );
    // Written by this function, for this operation.
    return first.result as T;
  }
  const result = await work();
  await tx.idempotencyKey.update({
    where: { actor_operation_key: id },
    data: { result: result as Prisma.InputJsonValue },
  });
  return result;
}

/** Keys are remembered for a day. */
export const idempotencyLoop: Loop = {
  name: "idempotency-keys",
  everyMs: 3_600_000,
  leader: true,
  run: (ctx: Ctx) =>
    ctx.prisma.$executeRaw`DELETE FROM "IdempotencyKey" WHERE "createdAt" < now() - interval '24 hours'`,
};

function actorKey(actor: Actor): string {
  switch (actor.kind) {
    case "person":
      return `user:${actor.userId}`;
    case "apiKey":
      return `key:${actor.keyId}`;
    case "node":
      return `node:${actor.nodeId}`;
    case "system":
    case "anonymous":
      return actor.kind;
  }
}
