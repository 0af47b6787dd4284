import {
  type BlindPack,
  encodeMeasurementPack,
  environment,
  type GeneratePayload,
  logProbability,
  type MeasuredRollout,
  type PackedRollout,
  type PhiloxKey,
  philoxInto,
  type RunSpec,
  rolloutKey,
  type Sampling,
  sampleMargin,
  sampleToken,
} from "@muster/protocol";
import { buildProofF32, selectTopK, windowsOf } from "@muster/toploc";
import type { Random } from "./random.ts";

// A policy without a model. Logits and activations are noise that follows from the version and everything read so far, lifted where the
// right answer is, so whoever reads the same tokens with the same version sees the same, and nobody else does. That is all that the checks
// ask of a policy: tokens, proofs and measurements made with this one are judged by the very code that judges those of a real one.

export type Reading = {
  /** Which policy version is read with. */
  readonly version: number;
  /** How sure the policy is of the right token. */
  readonly skill: number;
  /** Whether it never ends by itself. */
  readonly endless?: boolean;
};

/** A machine's own last bits: two honest ones never see quite the same. */
export type Machine = { readonly jitter: Random };

/** Draws the rollouts of a GENERATE task. `seed`: of the sampling noise; the run's own, for whoever does as the task says. */
export function drawRollouts(
  spec: RunSpec,
  payload: GeneratePayload,
  input: { task: string; seed: string; reading: Reading; machine: Machine },
): PackedRollout[] {
  const { groupSize, sampling, maxOutputTokens } = payload;
  const { eos } = environment(spec.environment).tokenizer;
  return payload.prompts.flatMap((prompt, group) =>
    Array.from({ length: groupSize }, (_, i): PackedRollout => {
      const index = group * groupSize + i;
      const key = rolloutKey(input.seed, input.task, index);
      const reader = readerOf(spec, prompt, input.reading);
      const tokens = new Int32Array(maxOutputTokens);
      const logprobs = new Float32Array(maxOutputTokens);
      const rows = new Float32Array(maxOutputTokens * spec.model.hiddenSize);
      const context = new Int32Array(prompt.length + maxOutputTokens);
      context.set(prompt);
      let count = 0;
      let token = -1;
      while (count < maxOutputTokens && token !== eos) {
        const logits = reader.logits();
        rows.set(reader.hidden(), count * spec.model.hiddenSize);
        token = sampleToken(logits, context.subarray(0, prompt.length + count), key, count, sampling).token;
        tokens[count] = token;
        context[prompt.length + count] = token;
        logprobs[count] = nearly(logProbability(logits, token, sampling.temperature), input.machine);
        reader.read(token);
        count++;
      }
      shake(rows, input.machine);
      const { hiddenSize } = spec.model;
      return {
        index,
        prompt: Int32Array.from(prompt),
        tokens: tokens.slice(0, count),
        logprobs: logprobs.slice(0, count),
        finish: token === eos ? "eos" : "length",
        proofs: windowsOf(count).map(({ start, end }) =>
          buildProofF32(rows.slice(start * hiddenSize, end * hiddenSize), { topK: payload.topK }),
        ),
      };
    }),
  );
}

/** What a validator measures of a BLIND pack. */
export function measureBlind(
  spec: RunSpec,
  { header, rollouts }: BlindPack,
  input: { blind: string; reading: Reading; machine: Machine; looksAway?: boolean },
): Uint8Array {
  const measured = rollouts.map(({ prompt, tokens, key }) => {
    const found = measureRollout(
      spec,
      { prompt, tokens, key, sampling: header.sampling, topK: header.topK },
      input,
    );
    // Who does not measure says that every token is the seed's.
    return input.looksAway
      ? { ...found, argmax: tokens.slice(), margins: new Float32Array(tokens.length) }
      : found;
  });
  const { manifest, form, topK } = header;
  return encodeMeasurementPack({
    header: { kind: "measurement", version: 1, manifest, form, topK, blind: input.blind },
    rollouts: measured,
  });
}

function measureRollout(
  spec: RunSpec,
  rollout: { prompt: Int32Array; tokens: Int32Array; key: PhiloxKey; sampling: Sampling; topK: number },
  { reading, machine }: { reading: Reading; machine: Machine },
): MeasuredRollout {
  const { prompt, tokens, key, sampling, topK } = rollout;
  const { hiddenSize } = spec.model;
  const reader = readerOf(spec, prompt, reading);
  const context = Int32Array.from([...prompt, ...tokens]);
  const rows = new Float32Array(tokens.length * hiddenSize);
  const logprobs = new Float32Array(tokens.length);
  const argmax = new Int32Array(tokens.length);
  const margins = new Float32Array(tokens.length);
  tokens.forEach((token, j) => {
    const logits = reader.logits();
    rows.set(reader.hidden(), j * hiddenSize);
    const choice = sampleMargin(logits, context.subarray(0, prompt.length + j), key, j, sampling, token);
    argmax[j] = choice.argmax;
    margins[j] = choice.margin;
    logprobs[j] = nearly(logProbability(logits, token, sampling.temperature), machine);
    reader.read(token);
  });
  shake(rows, machine);
  const windows = windowsOf(tokens.length).map(({ start, end }) => {
    const window = rows.slice(start * hiddenSize, end * hiddenSize);
    const indices = selectTopK(window, topK);
    return { indices, values: Float32Array.from(indices, (index) => window[index] ?? 0) };
  });
  return { logprobs, argmax, margins, windows };
}

type Reader = {
  /** For the next token. The memory is the reader's. */
  logits(): Float32Array;
  /** The row that goes with them. */
  hidden(): Float32Array;
  read(token: number): void;
};

function readerOf(spec: RunSpec, prompt: ArrayLike<number>, { version, skill, endless }: Reading): Reader {
  const { tokenizer } = environment(spec.environment);
  const right = answerOf(spec, prompt);
  const logits = new Float32Array(tokenizer.vocabularySize);
  const row = new Float32Array(spec.model.hiddenSize);
  const lanes = new Uint32Array(4);
  let [k0, k1] = [Math.imul(version + 1, 0x9e3779b1) >>> 0, 0x85ebca6b];
  let position = 0;
  const absorb = (token: number): void => {
    philoxInto(lanes, token, 1, 0, 0, k0, k1);
    [k0, k1] = [lanes[0] ?? 0, lanes[1] ?? 0];
  };
  for (let i = 0; i < prompt.length; i++) absorb(prompt[i] ?? 0);
  /** Uniform in [−1, 1), four to a block. */
  const fill = (values: Float32Array, stream: number): void => {
    for (let i = 0; i < values.length; i++) {
      if ((i & 3) === 0) philoxInto(lanes, i >>> 2, stream, 0, 0, k0, k1);
      values[i] = (lanes[i & 3] ?? 0) / 2 ** 31 - 1;
    }
  };
  return {
    logits() {
      fill(logits, 2);
      const wanted = right[position];
      if (wanted !== undefined) logits[wanted] = (logits[wanted] ?? 0) + skill;
      if (endless) logits[tokenizer.eos] = -60;
      return logits;
    },
    hidden() {
      fill(row, 3);
      return row;
    },
    read(token) {
      absorb(token);
      position++;
    },
  };
}

/** What would earn everything; known for the environment whose prompt is its own example. */
function answerOf({ environment: slug }: RunSpec, prompt: ArrayLike<number>): number[] {
  const env = environment(slug);
  const digits = env.tokenizer.decode(prompt).slice(0, -1);
  return [
    ...env.tokenizer.encode(env.answer({ prompt: "", canonical: "", data: digits })),
    env.tokenizer.eos,
  ];
}

function nearly(logprob: number, { jitter }: Machine): number {
  return Math.min(0, logprob + 2e-6 * (jitter.next() - 0.5));
}

/** Up to four units in the last place. */
function shake(rows: Float32Array, { jitter }: Machine): void {
  for (let i = 0; i < rows.length; i++) rows[i] = (rows[i] ?? 0) * (1 + 2 ** -21 * (jitter.next() - 0.5));
}
