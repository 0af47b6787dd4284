import { createHash } from "node:crypto";
import { join } from "node:path";
import { generatePayloadSchema, submissionBytes } from "@muster/protocol";
import { ApiError, type Lease, type LeaseKey, type PackSubmission, type SubmissionResult } from "@muster/sdk";
import {
  describeHardware,
  type Executor,
  type ExecutorContext,
  type Log,
  openCheckpoints,
  openEngines,
  openIdentity,
  openSession,
  readModelConfig,
} from "@muster/worker";

/** A registered node in the hand of a script. */
export type BareNode = AsyncDisposable & {
  /** TypeID. */
  readonly node: string;
  ctx: ExecutorContext;
  /** Does the work of a GENERATE lease and answers the pack's bytes. */
  generate(lease: Lease, executor: Executor<"GENERATE">): Promise<Uint8Array<ArrayBuffer>>;
  /** Stores bytes under a lease. @returns their SHA-256. */
  put(lease: LeaseKey, bytes: Uint8Array<ArrayBuffer>, kind?: string): Promise<string>;
  /** A submission of a stored pack; `as` signs it for another lease. */
  signed(lease: Lease, pack: string, as?: Lease): PackSubmission;
};

export async function openBareNode(options: {
  url: string;
  stateDir: string;
  name: string;
  log: Log;
  signal: AbortSignal;
}): Promise<BareNode> {
  const identity = await openIdentity(options.stateDir);
  const session = await openSession({
    ...options,
    identity,
    software: "muster-worker/0.1.0",
    hardware: describeHardware({ providers: ["cpu"], threads: 1 }),
  });
  const { client } = session;
  const engines = openEngines({ threads: 1, providers: ["cpu"] });
  const ctx: ExecutorContext = {
    client,
    identity,
    log: options.log,
    engines,
    checkpoints: openCheckpoints({
      client,
      cacheDir: join(options.stateDir, "checkpoints"),
      readModelConfig,
      log: options.log,
    }),
  };
  return {
    node: session.node,
    ctx,
    async generate(lease, executor) {
      const payload = generatePayloadSchema.parse(lease.payload);
      const [outcome] = await executor.execute(ctx, [
        { lease, payload, signal: options.signal, progress: () => {} },
      ]);
      if (outcome?.kind === "pack") return outcome.bytes;
      throw new Error(outcome?.kind === "failed" ? outcome.reason : "nothing was generated");
    },
    async put(lease, bytes, kind = "ROLLOUTS") {
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      const { task, attempt } = lease;
      return client.blobs.put({
        body: bytes,
        sha256,
        kind,
        lease: { task, attempt },
        signal: options.signal,
      });
    },
    signed(lease, pack, as = lease) {
      const { run, task, attempt } = as;
      const signature = identity.signHex(submissionBytes({ run, task, attempt, pack }));
      return { task: lease.task, attempt: lease.attempt, pack, signature };
    },
    async [Symbol.asyncDispose]() {
      await engines[Symbol.asyncDispose]();
      await session[Symbol.asyncDispose]();
    },
  };
}

/** `ok`, or the code of what was refused. */
export async function answerTo(call: () => Promise<unknown>): Promise<string> {
  try {
    await call();
    return "ok";
  } catch (error) {
    if (error instanceof ApiError) return error.code;
    throw error;
  }
}

/** How a submission was answered: `ok`, `duplicate`, or why not. */
export async function submitted(call: () => Promise<SubmissionResult>): Promise<string> {
  try {
    const result = await call();
    switch (result.__typename) {
      case "Submitted":
        return result.duplicate ? "duplicate" : "ok";
      case "LeaseLost":
        return "LEASE_LOST";
      case "SubmissionRefused":
        return result.code;
    }
  } catch (error) {
    if (error instanceof ApiError) return error.code;
    throw error;
  }
}
