import { workerData } from "node:worker_threads";
import type { PhiloxKey } from "@muster/protocol";
import type { ModelConfig } from "../graph/config.ts";
import { initialParameters, parameterLayout } from "../graph/parameters.ts";
import type { TokenPair } from "../graph/rollouts.ts";
import { type EngineContext, serve } from "./engine.ts";
import { decodeState, encodeState, freshState } from "./optimizer-state.ts";
import type { RuntimeOptions } from "./session.ts";
import { type GrpoInput, type ImitateInput, openTraining, type Training } from "./train.ts";

// `Trainer.open` is the only one to start this module, with these options.
const options = workerData as RuntimeOptions & { model: ModelConfig };
const { model } = options;
const { total } = parameterLayout(model);
let opened: Promise<Training> | undefined;
const training = () => {
  opened ??= openTraining(options);
  return opened;
};

const engine = {
  open: async (_: null) => ({ provider: (await training()).provider }),
  init: async (key: PhiloxKey) => (await training()).load(initialParameters(model, key), freshState(total)),
  load: async (flat: Float32Array) => (await training()).load(flat, freshState(total)),
  restore: async ({ flat, state }: { flat: Float32Array; state: Uint8Array }) =>
    (await training()).load(flat, decodeState(state, total)),
  setReference: async (flat: Float32Array) => (await training()).setReference(flat),
  imitate: async (input: ImitateInput, context: EngineContext) => (await training()).imitate(input, context),
  endImitation: async (_: null) => {
    const trained = await training();
    trained.resetOptimizer();
    await trained.endImitation();
  },
  grpo: async (input: GrpoInput, context: EngineContext) => (await training()).grpo(input, context),
  logprobs: async (
    input: { flat: Float32Array | undefined; rollouts: readonly TokenPair[]; temperature: number },
    context: EngineContext,
  ) => {
    const trained = await training();
    return trained.logprobs(input.flat ?? trained.weights, input, context);
  },
  export: async (_: null) => {
    const { weights, state } = await training();
    return { flat: weights.slice(), state: encodeState(state) };
  },
};
export type TrainerEngine = typeof engine;

serve(engine);
