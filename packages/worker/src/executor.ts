import type { TaskPayload } from "@muster/protocol";
import type { Lease, MusterClient, TaskKind } from "@muster/sdk";
import type { Checkpoints } from "./checkpoints.ts";
import type { Engines } from "./engines.ts";
import type { Identity } from "./identity.ts";
import type { Log } from "./log.ts";

/** What every executor may use. */
export type ExecutorContext = {
  client: MusterClient;
  identity: Identity;
  checkpoints: Checkpoints;
  engines: Engines;
  log: Log;
};

/** A claimed task whose payload was parsed. */
export type Assignment<Kind extends TaskKind = TaskKind> = {
  lease: Lease;
  payload: Extract<TaskPayload, { kind: Kind }>;
  /** Aborts when the work must stop: the task was lost, or the worker drains and its patience is over. */
  signal: AbortSignal;
  /** Tells the next heartbeat how far it is. */
  progress(done: number, total: number): void;
};

export type PackKind = "ROLLOUTS" | "MEASUREMENT" | "SAMPLES";
export type BlobKind = PackKind | "SHARD" | "MANIFEST" | "STATE";

/** What comes of a task: something to submit, or a reason to hand it back. */
export type Outcome =
  | { kind: "pack"; pack: PackKind; bytes: Uint8Array<ArrayBuffer> }
  | {
      kind: "step";
      /** Shards and files, then manifest and state: all of them are stored before the step is submitted. */
      blobs: readonly { kind: BlobKind; sha256: string; bytes: Uint8Array<ArrayBuffer> }[];
      manifest: string;
      state: string;
      metrics: Record<string, unknown>;
      /** Runs once the coordinator has accepted the step. */
      accepted?: () => void;
    }
  | { kind: "failed"; reason: string };

/** Does the work of one kind of task. It neither claims nor submits. */
export type Executor<Kind extends TaskKind = TaskKind> = {
  /** Most tasks worked on at once. */
  batch: number;
  /** One outcome for each assignment, in their order. What it throws fails all of them. */
  execute(ctx: ExecutorContext, assignments: readonly Assignment<Kind>[]): Promise<Outcome[]>;
};

/** The executor of each kind of task. */
export type Executors = { [Kind in TaskKind]: Executor<Kind> };
