export * from "./graph/index.ts";
export type { GeneratedRollout, GenerateInput, GenerateProgress } from "./runtime/generate.ts";
export { type LogprobsInput, type MeasureInput, type OpenOptions, Policy } from "./runtime/policy.ts";
export { type ExecutionProvider, executionProviders } from "./runtime/providers.ts";
export type { TrainRollout } from "./runtime/train.ts";
export {
  type StepInput,
  type StepMetrics,
  Trainer,
  type TrainerOptions,
  type TrainingSettings,
  type WarmupInput,
} from "./runtime/trainer.ts";
