export { Graph, type Precision, type Value } from "./builder.ts";
export {
  CheckpointError,
  type CheckpointErrorCode,
  type CheckpointFiles,
  decodeCheckpoint,
  encodeCheckpoint,
} from "./checkpoint.ts";
export { headSize, huggingFaceConfig, type ModelConfig, modelProblems } from "./config.ts";
export { cacheNames, decodeGraph, prefillGraph } from "./inference.ts";
export {
  decayMask,
  type FileTensor,
  initialParameters,
  type Parameter,
  type ParameterLayout,
  parameterLayout,
} from "./parameters.ts";
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
