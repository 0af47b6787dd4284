export { groupAdvantages, hasSignal, permuteAdvantages } from "./advantages.ts";
export { canonicalJson, hashHex, type JsonValue } from "./canonical.ts";
export { type Draws, drawsFrom } from "./draws.ts";
export {
  defineEnvironment,
  type Environment,
  type EnvironmentDefinition,
  type Example,
  type FinishReason,
  type Score,
  type Split,
  splitOf,
  type WarmupPair,
} from "./environment.ts";
export { environment, environmentHash, environments, heldOutExample } from "./environments.ts";
export { fromTypeId, type IdPrefix, idPrefixes, newId, prefixOf, toTypeId } from "./ids.ts";
export {
  encodeManifest,
  type Manifest,
  manifestBytes,
  manifestHash,
  manifestSchema,
  maxDeltaChain,
  maxShardBytes,
  parseManifest,
  shardsRoot,
  type UnsignedManifest,
} from "./manifest.ts";
export { merkleRoot } from "./merkle.ts";
export { PackError, type PackErrorCode } from "./pack-error.ts";
export {
  type BatchPack,
  type BatchRollout,
  type BlindPack,
  type BlindRollout,
  decodeBatchPack,
  decodeBlindPack,
  decodeMeasurementPack,
  decodeRolloutPack,
  decodeSamplesPack,
  encodeBatchPack,
  encodeBlindPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  encodeSamplesPack,
  groupOf,
  type MeasuredRollout,
  type MeasuredWindow,
  type MeasurementPack,
  type PackedRollout,
  type PackLimits,
  packLimits,
  type RolloutPack,
  type Sample,
  type SamplesPack,
} from "./packs.ts";
export { type PhiloxBlock, type PhiloxKey, philox4x32, philoxInto } from "./philox.ts";
export { ProtocolError, type ProtocolErrorCode } from "./protocol-error.ts";
export { encodeRelayTicket, parseRelayTicket, type RelayTicket, relayTicketBytes } from "./relay-ticket.ts";
export {
  baseSpecSchema,
  demoRunSpec,
  modelSpecSchema,
  parseRunSpec,
  type RunSpec,
  type RunSpecInput,
  type RunSpecIssue,
  runSpecSchema,
  samplingSchema,
  specHash,
  trainingSpecSchema,
} from "./run-spec.ts";
export { gumbel, logProbability, type Sampling, sampleMargin, sampleToken } from "./sampling.ts";
export { demoSeed, exampleSeed, rolloutKey, seedWords, suiteSeed } from "./seeds.ts";
export { challengeBytes, type Submission, signed, submissionBytes } from "./signing.ts";
export {
  type BasePayload,
  basePayloadSchema,
  type EvaluatePayload,
  evaluatePayloadSchema,
  type GeneratePayload,
  generatePayloadSchema,
  type TaskPayload,
  type TrainPayload,
  taskPayloadSchema,
  trainPayloadSchema,
  type VerifyPayload,
  verifyPayloadSchema,
} from "./task-payload.ts";
export { characterTokenizer, type Tokenizer } from "./tokenizer.ts";
export { protocolVersion } from "./version.ts";
