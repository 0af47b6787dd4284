import {
  type FinishReason,
  logProbability,
  type PhiloxKey,
  type Sampling,
  sampleToken,
} from "@muster/protocol";
import type { ModelConfig } from "../graph/config.ts";
import type { ReadOut } from "../graph/continuations.ts";
import { inferenceFloatsPerToken } from "../graph/passes.ts";
import { distinctPrompts, requirePrompt } from "../graph/rollouts.ts";
import { type ProofBuilder, type ProofSettings, proofBuilder } from "../graph/windows.ts";
import { cacheFrom, type KeyValueCache } from "./cache.ts";
import type { EngineContext } from "./engine.ts";
import type { Forward } from "./forward.ts";

export type GenerateInput = {
  /** One a rollout; equal prompts are read once. */
  prompts: readonly Int32Array[];
  /** One a rollout: the Philox key of its sampling noise. */
  keys: readonly PhiloxKey[];
  sampling: Sampling;
  /** At least 1. */
  maxOutputTokens: number;
  /** Token that ends an output, and is part of it. */
  eos: number;
  /** Left out: no proofs (an evaluation). */
  proof?: ProofSettings | undefined;
};

export type GeneratedRollout = {
  tokens: Int32Array;
  /** One a token: log-softmax of logits / temperature over the whole vocabulary. */
  logprobs: Float32Array;
  finish: FinishReason;
  /** One a window of 32 tokens. */
  proofs: Uint8Array[];
};

/** Rollouts finished and tokens drawn so far. */
export type GenerateProgress = { rollouts: number; tokens: number };

/**
 * Draws an output for each prompt, in the order of the prompts. Row j of a proof's window is the hidden state that produced token j:
 * for token 0 the prompt's last position.
 */
export async function generate(
  forward: Forward,
  input: GenerateInput,
  context: EngineContext,
): Promise<GeneratedRollout[]> {
  const { model } = forward;
  input.prompts.forEach((prompt, i) => {
    requirePrompt(model, prompt, i, input.maxOutputTokens);
  });
  const rollouts = input.prompts.map((prompt, i) => startRollout(model, prompt, input.keys[i]!, input));
  const progress: GenerateProgress = { rollouts: 0, tokens: 0 };
  for (const batch of batchesOf(model, rollouts, input.maxOutputTokens)) {
    await generateBatch(forward, input, batch, progress, context);
  }
  return rollouts.map(({ tokens, logprobs, count, finish, proofs }) => ({
    tokens: tokens.slice(0, count),
    logprobs: logprobs.slice(0, count),
    finish,
    proofs: proofs?.finish() ?? [],
  }));
}

/** A rollout under way. `context` holds prompt and output so far. */
type Live = {
  prompt: Int32Array;
  key: PhiloxKey;
  context: Int32Array;
  tokens: Int32Array;
  logprobs: Float32Array;
  count: number;
  finish: FinishReason;
  done: boolean;
  proofs: ProofBuilder | undefined;
};

function startRollout(model: ModelConfig, prompt: Int32Array, key: PhiloxKey, input: GenerateInput): Live {
  const context = new Int32Array(prompt.length + input.maxOutputTokens);
  context.set(prompt);
  return {
    prompt,
    key,
    context,
    tokens: context.subarray(prompt.length),
    logprobs: new Float32Array(input.maxOutputTokens),
    count: 0,
    finish: "length",
    done: false,
    proofs: input.proof && proofBuilder(model.hiddenSize, input.proof),
  };
}

/** Rows a step: from 32 to 512 a token measured the same cost, with fewer it costs more. */
const MAX_ROWS = 256;
/** Floats a batch's cache, and its prefill, may each take: 64 MiB. */
const BATCH_FLOATS = 2 ** 24;

/** Neighbours together: a group's rollouts share their prompt. */
function batchesOf(model: ModelConfig, rollouts: readonly Live[], maxOutputTokens: number): Live[][] {
  const batches: Live[][] = [];
  let batch: Live[] = [];
  let longest = 0;
  const cachedPerToken = (2 * model.layers * model.hiddenSize * model.kvHeads) / model.heads;
  for (const rollout of rollouts) {
    const wider = Math.max(longest, rollout.prompt.length);
    const rows = batch.length + 1;
    const fits =
      rows <= MAX_ROWS &&
      rows * (wider + maxOutputTokens) * cachedPerToken <= BATCH_FLOATS &&
      rows * wider * inferenceFloatsPerToken(model, wider) <= BATCH_FLOATS;
    if (!fits && batch.length > 0) {
      batches.push(batch);
      batch = [];
    }
    longest = batch.length === 0 ? rollout.prompt.length : wider;
    batch.push(rollout);
  }
  if (batch.length > 0) batches.push(batch);
  return batches;
}

async function generateBatch(
  forward: Forward,
  input: GenerateInput,
  batch: readonly Live[],
  progress: GenerateProgress,
  context: EngineContext,
): Promise<void> {
  context.checkpoint();
  let live = [...batch];
  const { cache, ...first } = await readPrompts(forward, live, input.maxOutputTokens);
  draw(forward.model, live, first, input, progress);
  for (;;) {
    const going = live.flatMap((rollout, row) => (rollout.done ? [] : [row]));
    context.progress({ ...progress });
    if (going.length === 0) return;
    // Finished rows are dropped once a quarter of the work is for nothing; dropping them copies the cache.
    if (going.length <= 0.75 * live.length) {
      cache.keep(going);
      live = going.map((row) => live[row]!);
    }
    context.checkpoint();
    const tokens = live.map(({ tokens, count }) => tokens[count - 1]!);
    const positions = live.map(({ prompt, count }) => prompt.length + count - 1);
    draw(forward.model, live, await forward.decode({ tokens, positions, cache }), input, progress);
  }
}

/** Reads each distinct prompt once; answers every rollout's first row and a cache with a copy for each. */
async function readPrompts(
  forward: Forward,
  live: readonly Live[],
  maxOutputTokens: number,
): Promise<ReadOut & { cache: KeyValueCache }> {
  const { hiddenSize, vocabularySize } = forward.model;
  const { prompts: sequences, sources } = distinctPrompts(live.map(({ prompt }) => prompt));
  const longest = Math.max(...sequences.map((sequence) => sequence.length));
  const rows = sequences.map((sequence, i) => i * longest + sequence.length - 1);
  const { hidden, logits, present, length } = await forward.prefill({ sequences, rows });
  return {
    hidden: repeatRows(hidden, sources, hiddenSize),
    logits: repeatRows(logits, sources, vocabularySize),
    // The last token drawn is never read back.
    cache: cacheFrom(forward.model, present, sources, length, longest + maxOutputTokens - 1),
  };
}

function repeatRows(rows: Float32Array, sources: readonly number[], width: number): Float32Array {
  const repeated = new Float32Array(sources.length * width);
  sources.forEach((source, i) => {
    repeated.set(rows.subarray(source * width, (source + 1) * width), i * width);
  });
  return repeated;
}

/** One token for each row that is not done. */
function draw(
  model: ModelConfig,
  live: readonly Live[],
  { hidden, logits }: ReadOut,
  input: GenerateInput,
  progress: GenerateProgress,
): void {
  live.forEach((rollout, row) => {
    if (rollout.done) return;
    const own = logits.subarray(row * model.vocabularySize, (row + 1) * model.vocabularySize);
    const seen = rollout.context.subarray(0, rollout.prompt.length + rollout.count);
    const { token } = sampleToken(own, seen, rollout.key, rollout.count, input.sampling);
    rollout.tokens[rollout.count] = token;
    rollout.logprobs[rollout.count] = logProbability(own, token, input.sampling.temperature);
    rollout.proofs?.add(hidden, row * model.hiddenSize);
    rollout.count++;
    progress.tokens++;
    if (token === input.eos) rollout.finish = "eos";
    rollout.done = token === input.eos || rollout.count === input.maxOutputTokens;
    if (rollout.done) progress.rollouts++;
  });
}
