import { createPublicKey, verify } from "node:crypto";
import { submissionBytes, toTypeId } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { CodedError, type ErrorCode, notFound } from "../errors.ts";
import { specOf } from "../runs/spec.ts";
import { mostPackBytes } from "./pack-size.ts";

/** What a node sends when a task is done. */
export type SubmissionInput = {
  readonly taskId: string;
  readonly attempt: number;
  /** SHA-256 of the pack (of the manifest, for a step), uploaded before. */
  readonly pack: string;
  /** Ed25519 over protocol's `submissionBytes`, hexadecimal. */
  readonly signature: string;
  /** CPU-seconds spent, as the node says; only ever used for cost figures. */
  readonly cpuSeconds?: number;
};

/** The expected outcomes of a submission; anything else is thrown. */
export type SubmissionOutcome =
  | { readonly kind: "submitted"; readonly taskId: string; readonly duplicate: boolean }
  | { readonly kind: "lost"; readonly taskId: string; readonly message: string }
  | { readonly kind: "refused"; readonly taskId: string; readonly code: ErrorCode; readonly message: string };

/** The submitting node and its task, once the signature over (run, task, attempt, pack hash) is verified. */
export type SignedSubmission = Awaited<ReturnType<typeof openSubmissions>>[number];

/**
 * Checks who submits, that they vouch for it, and that it is no larger than the task can need, before anything is read or stored.
 * @throws CodedError `UNAUTHENTICATED`, `NOT_FOUND`, `INPUT_INVALID`, `SIGNATURE_INVALID` or `BLOB_TOO_LARGE`
 */
export async function openSubmission(ctx: Ctx, input: SubmissionInput): Promise<SignedSubmission> {
  const [submission] = await openSubmissions(ctx, [input]);
  if (submission === undefined) throw new Error("one submission in, one out");
  return submission;
}

/** The same for several, in their order; one that is not sound refuses them all. */
export async function openSubmissions(ctx: Ctx, inputs: readonly SubmissionInput[]) {
  if (ctx.actor.kind !== "node")
    throw new CodedError(
      "UNAUTHENTICATED",
      "Only a node with a session submits work. Register the node first.",
    );
  const { nodeId } = ctx.actor;
  for (const input of inputs) {
    if (!/^[0-9a-f]{64}$/.test(input.pack))
      throw new CodedError("INPUT_INVALID", "`pack` must be a SHA-256 in lower-case hexadecimal.");
    if (!/^[0-9a-f]{128}$/.test(input.signature))
      throw new CodedError("INPUT_INVALID", "`signature` must be 64 bytes in lower-case hexadecimal.");
  }
  const attempts = await ctx.prisma.attempt.findMany({
    where: { OR: inputs.map(({ taskId, attempt }) => ({ taskId, number: attempt })) },
    include: { task: { include: { run: true } }, node: { select: { publicKey: true } } },
  });
  const opened = inputs.map((input) => {
    const found = attempts.find(
      (attempt) => attempt.taskId === input.taskId && attempt.number === input.attempt,
    );
    // Somebody else's attempt is answered like one that does not exist.
    if (found === undefined || found.nodeId !== nodeId) throw notFound("The attempt");
    const { task, node, ...attempt } = found;
    const bytes = submissionBytes({
      run: toTypeId("run", attempt.runId),
      task: toTypeId("task", input.taskId),
      attempt: input.attempt,
      pack: input.pack,
    });
    if (!verifyEd25519(node.publicKey, bytes, input.signature))
      throw new CodedError(
        "SIGNATURE_INVALID",
        "The signature is not this node's over (run, task, attempt, pack). Sign with the key the node registered.",
      );
    return { nodeId, attempt, task, run: task.run, signature: input.signature };
  });
  for (const [i, { task }] of opened.entries()) {
    const size = await ctx.blobs.size(inputs[i]?.pack ?? "");
    const most = mostPackBytes(await specOf(ctx.prisma, task.runId, task.revision), task.kind);
    // One that is missing is for whoever reads it to tell.
    if (size !== undefined && size > most)
      throw new CodedError(
        "BLOB_TOO_LARGE",
        `The pack has ${size} bytes; this task's can have ${most} at most. Submit what was made for this task.`,
      );
  }
  return opened;
}

/** Verifies an Ed25519 signature (RFC 8032). `publicKeyHex` is the raw 32-byte key. */
export function verifyEd25519(publicKeyHex: string, bytes: Uint8Array, signatureHex: string): boolean {
  try {
    const key = createPublicKey({
      key: { kty: "OKP", crv: "Ed25519", x: Buffer.from(publicKeyHex, "hex").toString("base64url") },
      format: "jwk",
    });
    return verify(null, bytes, key, Buffer.from(signatureHex, "hex"));
  } catch {
    return false;
  }
}
