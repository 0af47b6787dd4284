/**
 * Measuring: what a validator sees of finished rollouts, over whatever runs the model. The engine of `@muster/policy`, a page in a
 * browser and a checker on somebody else's machine all use this one, so that their numbers differ by their arithmetic alone.
 */

import {
  logProbability,
  type MeasuredRollout,
  type PhiloxKey,
  type Sampling,
  sampleMargin,
} from "@muster/protocol";
import { windowsOf } from "@muster/toploc";
import { type ModelConfig, modelProblems } from "./config.ts";
import { type Continuations, continuationFeeds, parameterFeeds, type ReadOut } from "./continuations.ts";
import type { Feeds } from "./feeds.ts";
import { type FlatMeasurement, roomFor } from "./flat.ts";
import { continuationGraph } from "./inference.ts";
import { parameterLayout } from "./parameters.ts";
import { continuationPasses } from "./passes.ts";
import { PolicyError } from "./policy-error.ts";
import { distinctPrompts, requirePairs, type TokenPair } from "./rollouts.ts";
import { measureWindow, type ProofSettings } from "./windows.ts";

/** Runs `continuationGraph(model)` once: its inputs by name, every parameter included → its two outputs. */
export type RunContinuations = (feeds: Feeds) => Promise<ReadOut>;

/** A rollout, and the Philox key of its sampling noise. */
export type KeyedPair = TokenPair & { key: PhiloxKey };

export type MeasureRolloutsInput = ProofSettings & {
  model: ModelConfig;
  /** The flat parameters (see `readCheckpoint`). */
  parameters: Float32Array;
  rollouts: readonly KeyedPair[];
  sampling: Sampling;
  signal?: AbortSignal | undefined;
  /** Called after each pass over the model with how many rollouts were measured so far. */
  onProgress?: ((measured: number) => void) | undefined;
};

/**
 * What a MEASUREMENT pack holds of these rollouts, in their order.
 * @param run an ONNX session of `continuationGraph(input.model)`; `openContinuations` makes one with any onnxruntime.
 * @throws PolicyError `BAD_CONFIG`, `WRONG_SIZE`, `INVALID_TOKEN`, `TOO_LONG`, `TOO_LARGE`, `CANCELLED`
 */
export async function measureRollouts(
  run: RunContinuations,
  input: MeasureRolloutsInput,
): Promise<MeasuredRollout[]> {
  const { model, parameters, rollouts, signal, onProgress } = input;
  const problems = modelProblems(model);
  if (problems.length > 0) throw new PolicyError("BAD_CONFIG", problems.join(" "));
  const { total } = parameterLayout(model);
  if (parameters.length !== total) {
    throw new PolicyError(
      "WRONG_SIZE",
      `The model has ${total} parameters; ${parameters.length} were given.`,
    );
  }
  const weights = parameterFeeds(model, parameters);
  const read = (pass: Continuations) => run({ ...weights, ...continuationFeeds(pass) });
  const checkpoint = () => {
    if (signal?.aborted) throw new PolicyError("CANCELLED", "It was cancelled.", { cause: signal.reason });
  };
  let measured = 0;
  const found = await measurePairs({ model, read, checkpoint }, rollouts, input, (passed) => {
    measured += passed;
    onProgress?.(measured);
  });
  return found.rollouts;
}

/** What reads rollouts: a model, a way to run it, and a function that throws when the caller gave up. */
export type Reader = {
  readonly model: ModelConfig;
  read(pass: Continuations): Promise<ReadOut>;
  checkpoint(): void;
};

/** The same with the measurement's memory beside it: views of the few long arrays of `flat`. */
export async function measurePairs(
  reader: Reader,
  pairs: readonly KeyedPair[],
  settings: ProofSettings & { sampling: Sampling },
  passed?: (rollouts: number) => void,
): Promise<{ flat: FlatMeasurement; rollouts: MeasuredRollout[] }> {
  const { hiddenSize, vocabularySize } = reader.model;
  const { sampling } = settings;
  const outputs = pairs.map(({ tokens }) => tokens.length);
  const room = roomFor(outputs, hiddenSize, settings.topK);
  await readRollouts(
    reader,
    pairs,
    (index, { hidden, logits }) => {
      const { prompt, tokens, key } = pairs[index]!;
      const { logprobs, argmax, margins, windows } = room.rollouts[index]!;
      const sequence = new Int32Array(prompt.length + tokens.length);
      sequence.set(prompt);
      sequence.set(tokens, prompt.length);
      windowsOf(tokens.length).forEach(({ start, end }, w) => {
        const rows = hidden.subarray(start * hiddenSize, end * hiddenSize);
        const { indices, values } = measureWindow(rows, settings);
        windows[w]!.indices.set(indices);
        windows[w]!.values.set(values);
      });
      tokens.forEach((token, j) => {
        const own = logits.subarray(j * vocabularySize, (j + 1) * vocabularySize);
        const choice = sampleMargin(own, sequence.subarray(0, prompt.length + j), key, j, sampling, token);
        logprobs[j] = logProbability(own, token, sampling.temperature);
        argmax[j] = choice.argmax;
        margins[j] = choice.margin;
      });
    },
    passed,
  );
  return room;
}

/** Reads all rollouts; hands each one's rows, row j being the one that produced token j, to `receive`. */
export async function readRollouts(
  { model, read, checkpoint }: Reader,
  rollouts: readonly TokenPair[],
  receive: (index: number, rows: ReadOut) => void,
  passed?: (rollouts: number) => void,
): Promise<void> {
  const { hiddenSize, vocabularySize } = model;
  requirePairs(model, rollouts);
  const { prompts, sources } = distinctPrompts(rollouts.map(({ prompt }) => prompt));
  const continued = rollouts.map(({ tokens }, index) => ({ index, prompt: sources[index]!, tokens }));
  for (const pass of continuationPasses(model, prompts, continued)) {
    checkpoint();
    const own = [...new Set(pass.map(({ prompt }) => prompt))];
    const places = new Map(own.map((prompt, place) => [prompt, place]));
    const { hidden, logits } = await read({
      prompts: own.map((prompt) => prompts[prompt]!),
      outputs: pass.map(({ prompt, tokens }) => ({ prompt: places.get(prompt)!, tokens })),
    });
    let row = 0;
    for (const { index, tokens } of pass) {
      const next = row + tokens.length;
      receive(index, {
        hidden: hidden.subarray(row * hiddenSize, next * hiddenSize),
        logits: logits.subarray(row * vocabularySize, next * vocabularySize),
      });
      row = next;
    }
    passed?.(pass.length);
  }
}

/** As much of an onnxruntime (onnxruntime-node, onnxruntime-web) as measuring needs. */
export type OnnxRuntime<T = unknown> = {
  Tensor: {
    new (type: "float32", data: Float32Array, dims: readonly number[]): T;
    new (type: "int64", data: BigInt64Array, dims: readonly number[]): T;
  };
  InferenceSession: {
    create(
      model: Uint8Array,
      options: Record<string, unknown>,
    ): Promise<{
      run(feeds: Record<string, T>, outputs: string[]): Promise<Record<string, { data: unknown }>>;
      release(): Promise<void>;
    }>;
  };
};

/**
 * A session of `continuationGraph(model)` in any onnxruntime, to be given to `measureRollouts`.
 * @param ort the module: onnxruntime-node, or onnxruntime-web/wasm.
 * @param options of `InferenceSession.create`; in Node or a browser without WebGPU: `{ executionProviders: ["wasm"] }`.
 */
export async function openContinuations<T>(
  ort: OnnxRuntime<T>,
  model: ModelConfig,
  options: Record<string, unknown> = {},
): Promise<{ run: RunContinuations; release(): Promise<void> }> {
  const session = await ort.InferenceSession.create(continuationGraph(model), {
    // Passes differ in shape, and a pattern is kept for each shape seen.
    enableMemPattern: false,
    logSeverityLevel: 4,
    ...options,
  });
  const tensorOf = (feed: Feeds[string]): T =>
    feed.type === "float32"
      ? new ort.Tensor(feed.type, feed.data, feed.dims)
      : new ort.Tensor(feed.type, feed.data, feed.dims);
  return {
    async run(feeds) {
      const tensors = Object.fromEntries(Object.entries(feeds).map(([name, feed]) => [name, tensorOf(feed)]));
      const { hidden, logits } = await session.run(tensors, ["hidden", "logits"]);
      if (!(hidden?.data instanceof Float32Array && logits?.data instanceof Float32Array))
        throw new TypeError("The session's outputs hidden and logits must be float32 in memory.");
      return { hidden: hidden.data, logits: logits.data };
    },
    release: () => session.release(),
  };
}
