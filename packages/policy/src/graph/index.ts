export { Graph, type Precision, type Value } from "./builder.ts";
export {
  CheckpointError,
  type CheckpointErrorCode,
  type CheckpointFiles,
  checkpointFiles,
  decodeCheckpoint,
  encodeCheckpoint,
  readCheckpoint,
  readModelConfig,
} from "./checkpoint.ts";
export { headSize, huggingFaceConfig, type ModelConfig, modelProblems } from "./config.ts";
export type { ReadOut } from "./continuations.ts";
export type { Feed, Feeds } from "./feeds.ts";
export { cacheNames, continuationGraph, decodeGraph, prefillGraph } from "./inference.ts";
export {
  type KeyedPair,
  type MeasureRolloutsInput,
  measureRollouts,
  type OnnxRuntime,
  openContinuations,
  type RunContinuations,
} from "./measure.ts";
export {
  decayMask,
  type FileTensor,
  initialParameters,
  type Parameter,
  type ParameterLayout,
  parameterLayout,
} from "./parameters.ts";
export { PolicyError, type PolicyErrorCode, policyErrorCodes } from "./policy-error.ts";
export type { TokenPair } from "./rollouts.ts";
export {
  decodeSafetensors,
  encodeSafetensors,
  SafetensorsError,
  type SafetensorsErrorCode,
  type StoredTensor,
  type TensorPlace,
} from "./safetensors.ts";
export { learningRateAt, type Schedule } from "./schedule.ts";
export {
  grpoScalars,
  metricNames,
  type Objective,
  stepScalars,
  type TrainOutput,
  trainGraph,
  updateGraph,
} from "./training.ts";
export type { ProofSettings } from "./windows.ts";
