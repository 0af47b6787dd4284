export { readModelConfig } from "@muster/policy/graph";
export {
  type CheckpointLimits,
  type Checkpoints,
  type LocalCheckpoint,
  openCheckpoints,
} from "./checkpoints.ts";
export { kindsOfRole, type WorkerRole } from "./claims.ts";
export { type EngineOptions, type Engines, openEngines } from "./engines.ts";
export type { Assignment, Executor, ExecutorContext, Executors, Outcome } from "./executor.ts";
export { type ChooseCheckpoint, generateExecutor, namedCheckpoint } from "./executors/generate.ts";
export { executors } from "./executors.ts";
export { describeHardware, type Hardware } from "./hardware.ts";
export { type Identity, openIdentity } from "./identity.ts";
export { createLog, type Log } from "./log.ts";
export { openRelay, type RelayService, type RelayServiceOptions } from "./relay.ts";
export { openSession, type Session, type SessionOptions } from "./session.ts";
export { runWorker, type WorkerOptions, type WorkerSummary } from "./worker.ts";
