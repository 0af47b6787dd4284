export { ApiError, type ApiErrorInit, isRetryable } from "./api-error.ts";
export { type BackOff, fullJitter, pause, retryDelay } from "./back-off.ts";
export type { Blobs, GetBlob, PutBlob } from "./blobs.ts";
export type {
  Broadcast,
  CheckpointLayout,
  CheckpointReceipt,
  CheckpointSource,
  RelayAssignment,
  RelayFault,
  RelayHealth,
  RelayReport,
} from "./broadcast.ts";
export {
  type ClientOptions,
  createClient,
  type Environment,
  type Health,
  type MusterClient,
  type Viewer,
} from "./client.ts";
export { type CredentialOptions, type GetToken, PROTOCOL } from "./credentials.ts";
export type { EventBatch, Events, StreamEvent } from "./events.ts";
export type { EvidenceBundles } from "./evidence.ts";
export {
  type FragmentOf,
  graphql,
  type ResultOf,
  readFragment,
  type TadaDocumentNode,
  type VariablesOf,
} from "./graphql.ts";
export type { ComputeNode, HeartbeatReply, NodeRegistration, Nodes, RegisterNodeInput } from "./nodes.ts";
export type { CreatedApiKey, Organization, Organizations } from "./organizations.ts";
export type {
  Checkpoint,
  CreateRunInput,
  CreateRunResult,
  Evaluation,
  Group,
  GroupState,
  RoleGrant,
  RoleGrantInput,
  Run,
  RunNode,
  RunSpecCheck,
  RunState,
  Runs,
  TrainStepBucket,
  Verification,
} from "./runs.ts";
export type {
  Lease,
  LeaseKey,
  PackSubmission,
  StepSubmission,
  SubmissionResult,
  TaskKind,
  TaskOffer,
  Tasks,
} from "./tasks.ts";
export type { Attempt, CallOptions } from "./transport.ts";
