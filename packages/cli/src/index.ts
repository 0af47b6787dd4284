export { type Reach as ThresholdReach, thresholdBetween } from "./calibrate/thresholds.ts";
export { clockFinding, protocolFinding } from "./doctor/coordinator.ts";
export type { Finding } from "./doctor/finding.ts";
export { type Exit, exitCodes } from "./exit-codes.ts";
export { Failure } from "./failure.ts";
export {
  type CheckOptions,
  checkDatabase,
  checkInvariants,
  type InvariantReport,
  type InvariantResult,
  invariants,
} from "./invariants/check.ts";
export type { Invariant } from "./invariants/invariant.ts";
export { runCli } from "./program.ts";
export {
  type Connection,
  clearStateFolder,
  findStateFolder,
  type Holder,
  holderOf,
  lockStateFolder,
  openStateFolder,
  readConnection,
  requireFreeDisk,
  type StateFolder,
  secretOf,
  writeConnection,
} from "./state-folder.ts";
export type { Terminal } from "./terminal.ts";
export { type Reach, type ReachOptions, reachOf } from "./up/reach.ts";
export {
  type Child,
  type ChildSpec,
  createSupervisor,
  endLeftovers,
  type Supervisor,
} from "./up/supervisor.ts";
export { type VerifyOptions, verifyFile } from "./verify/command.ts";
