// A policy small enough to read: its hidden state is a keyed hash of the tokens so far, its logits a fixed projection of it. What
// generation and measurement make of it goes through the real sampler, the real proofs and the real packs.

import {
  decodeMeasurementPack,
  decodeRolloutPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  environment,
  exampleSeed,
  logProbability,
  type MeasurementPack,
  type PackedRollout,
  parseRunSpec,
  philox4x32,
  type RolloutPack,
  type RunSpec,
  rolloutKey,
  sampleMargin,
  sampleToken,
  toTypeId,
} from "@muster/protocol";
import { buildProof, buildProofF32, fromBf16, selectTopK, toBf16, windowsOf } from "@muster/toploc";
import type { GroupTask } from "../src/index.ts";

export const manifest = "a".repeat(64);
export const blind = "b".repeat(64);
export const run = toTypeId("run", "01920000-0000-7000-8000-000000000001");

/** The n-th task: fixed, since seeds follow from it. */
export function testTask(n: number): string {
  return toTypeId("task", `01920000-0000-7000-8000-0000000001${String(n).padStart(2, "0")}`);
}

const slug = "muster/sort-digits@1";
const env = environment(slug);

/** A run whose outputs are long enough for two windows. */
export function spec(form: "f32" | "bf16"): RunSpec {
  const parsed = parseRunSpec({
    name: "Test",
    environment: slug,
    seed: "17".repeat(32),
    model: { maxPositions: 64 },
    generation: { groupSize: 4, groupsPerTask: 2, maxOutputTokens: 40 },
    verification: { form },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.issues));
  return parsed.spec;
}

/** `weights` stands for the policy version, `kernel` for the machine: another one differs in the last bits. */
export type Machine = { weights: number; kernel: number };

export type Work = { task: GroupTask; pack: RolloutPack; taskId: string };

/** One group of a task, generated on `machine`. */
export function generate(runSpec: RunSpec, machine: Machine, options: { taskId?: string } = {}): Work {
  const taskId = options.taskId ?? testTask(1);
  const { groupSize } = runSpec.generation;
  const example = env.example(exampleSeed(runSpec.seed, taskId, 0), "train");
  const prompt = Int32Array.from(env.tokenizer.encode(example.prompt));
  const keys = Array.from({ length: groupSize }, (_, i) => rolloutKey(runSpec.seed, taskId, i));
  const rollouts = keys.map((key, index) => {
    const tokens: number[] = [];
    const logprobs: number[] = [];
    const rows: Float32Array[] = [];
    while (tokens.length < runSpec.generation.maxOutputTokens && tokens.at(-1) !== env.tokenizer.eos) {
      const context = [...prompt, ...tokens];
      const { hidden, logits } = forward(runSpec, machine, context);
      const { token } = sampleToken(logits, context, key, tokens.length, runSpec.generation.sampling);
      tokens.push(token);
      logprobs.push(logProbability(logits, token, runSpec.generation.sampling.temperature));
      rows.push(hidden);
    }
    return submitted(runSpec, index, prompt, Int32Array.from(tokens), Float32Array.from(logprobs), rows);
  });
  const { form, topK } = runSpec.verification;
  const header = { kind: "rollouts" as const, version: 1 as const, run, task: taskId, manifest, form, topK };
  const task = { policyVersion: 3, manifest, blind, keys, promptTokens: keys.map(() => prompt), example };
  return { taskId, task, pack: decodeRolloutPack(encodeRolloutPack({ header, rollouts })) };
}

/** What an honest validator on `machine` measures of these rollouts. */
export function measure(runSpec: RunSpec, machine: Machine, work: Work): MeasurementPack {
  const { form, topK } = runSpec.verification;
  const rollouts = work.pack.rollouts.map(({ prompt, tokens }, i) => {
    const rows: Float32Array[] = [];
    const logprobs = new Float32Array(tokens.length);
    const argmax = new Int32Array(tokens.length);
    const margins = new Float32Array(tokens.length);
    for (const [j, token] of tokens.entries()) {
      const context = [...prompt, ...tokens.subarray(0, j)];
      const { hidden, logits } = forward(runSpec, machine, context);
      rows.push(hidden);
      logprobs[j] = logProbability(logits, token, runSpec.generation.sampling.temperature);
      const key = work.task.keys[i]!;
      const choice = sampleMargin(logits, context, key, j, runSpec.generation.sampling, token);
      argmax[j] = choice.argmax;
      margins[j] = choice.margin;
    }
    const windows = windowsOf(tokens.length).map(({ start, end }) => {
      const window = concat(rows.slice(start, end));
      const values = form === "f32" ? window : fromBf16(toBf16(window));
      const indices = selectTopK(values, topK);
      return { indices, values: Float32Array.from(indices, (index) => values[index]!) };
    });
    return { logprobs, argmax, margins, windows };
  });
  const header = { kind: "measurement" as const, version: 1 as const, manifest, form, topK, blind };
  return decodeMeasurementPack(encodeMeasurementPack({ header, rollouts }));
}

/** The rollout as an honest worker on `machine` would have sent it, had it chosen these tokens. */
export function prefilled(
  runSpec: RunSpec,
  machine: Machine,
  rollout: PackedRollout,
  tokens: Int32Array,
): PackedRollout {
  const steps = Array.from(tokens, (token, j) => {
    const { hidden, logits } = forward(runSpec, machine, [...rollout.prompt, ...tokens.subarray(0, j)]);
    return { hidden, logprob: logProbability(logits, token, runSpec.generation.sampling.temperature) };
  });
  const logprobs = Float32Array.from(steps, ({ logprob }) => logprob);
  return submitted(
    runSpec,
    rollout.index,
    rollout.prompt,
    tokens,
    logprobs,
    steps.map(({ hidden }) => hidden),
  );
}

function submitted(
  runSpec: RunSpec,
  index: number,
  prompt: Int32Array,
  tokens: Int32Array,
  logprobs: Float32Array,
  rows: Float32Array[],
): PackedRollout {
  const { form, topK } = runSpec.verification;
  const proofs = windowsOf(tokens.length).map(({ start, end }) => {
    const window = concat(rows.slice(start, end));
    return form === "f32" ? buildProofF32(window, { topK }) : buildProof(toBf16(window), { topK });
  });
  const finish = tokens.at(-1) === env.tokenizer.eos ? "eos" : "length";
  return { index, prompt, tokens, logprobs, finish, proofs };
}

function forward(runSpec: RunSpec, { weights, kernel }: Machine, context: number[]) {
  let state = weights >>> 0;
  for (const token of context) state = philox4x32([token, state, 0, 0], [weights, 0])[0];
  const hidden = new Float32Array(runSpec.model.hiddenSize);
  for (let i = 0; i < hidden.length; i += 2) {
    const [a, b, c, d] = philox4x32([i, 0, 0, 0], [state, weights]);
    const radius = Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32));
    // Machines differ by up to two units in the last place.
    const noise = (x: number) => 1 + ((x + kernel) % 3) * 2 ** -23;
    hidden[i] = radius * Math.cos((2 * Math.PI * b) / 2 ** 32) * noise(c);
    hidden[i + 1] = radius * Math.sin((2 * Math.PI * b) / 2 ** 32) * noise(d);
  }
  const logits = Float32Array.from({ length: env.tokenizer.vocabularySize }, (_, token) => {
    let sum = token === env.tokenizer.eos ? -2 : 0;
    for (let i = 0; i < hidden.length; i++) sum += hidden[i]! * Math.sin(1 + token * 7 + i) * 0.2;
    return sum;
  });
  return { hidden, logits };
}

function concat(rows: Float32Array[]): Float32Array {
  const all = new Float32Array(rows.reduce((sum, row) => sum + row.length, 0));
  let at = 0;
  for (const row of rows) {
    all.set(row, at);
    at += row.length;
  }
  return all;
}
