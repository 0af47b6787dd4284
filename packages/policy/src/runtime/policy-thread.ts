import { workerData } from "node:worker_threads";
import { type EngineContext, serve } from "./engine.ts";
import { type Forward, type ForwardOptions, openForward } from "./forward.ts";
import { type GenerateInput, generate } from "./generate.ts";
import { type LogprobsInput, logprobs, type MeasureInput, measure } from "./measure.ts";

// `Policy.open` is the only one to start this module, with these options.
const options = workerData as ForwardOptions;
let opened: Promise<Forward> | undefined;
const forward = () => {
  opened ??= openForward(options);
  return opened;
};

const engine = {
  open: async (_: null) => ({ provider: (await forward()).provider }),
  load: async (flat: Float32Array) => (await forward()).load(flat),
  generate: async (input: GenerateInput, context: EngineContext) => generate(await forward(), input, context),
  measure: async (input: MeasureInput, context: EngineContext) => measure(await forward(), input, context),
  logprobs: async (input: LogprobsInput, context: EngineContext) => logprobs(await forward(), input, context),
};
export type PolicyEngine = typeof engine;

serve(engine);
