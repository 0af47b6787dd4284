import type { Executors } from "./executor.ts";
import { evaluateExecutor } from "./executors/evaluate.ts";
import { generateExecutor } from "./executors/generate.ts";
import { baseExecutor, trainExecutor } from "./executors/train.ts";
import { verifyExecutor } from "./executors/verify.ts";

/** What a worker does with each kind of task. */
export const executors: Executors = {
  BASE: baseExecutor(),
  GENERATE: generateExecutor(),
  VERIFY: verifyExecutor(),
  TRAIN: trainExecutor(),
  EVALUATE: evaluateExecutor(),
};
