/**
 * Packs: the bytes by which rollouts and measurements travel. A pack is one Parquet file, one row a rollout, with its header as
 * canonical JSON in the file metadata `muster`; its name is the SHA-256 of its bytes. Decoding is total: any bytes give a pack or a
 * `PackError`.
 */

import { z } from "zod";
import { canonicalJson } from "./canonical.ts";
import type { FinishReason } from "./environment.ts";
import { PackError } from "./pack-error.ts";
import { type Row, readTable, type TableSpec } from "./parquet.ts";
import { writeTable } from "./parquet-write.ts";
import { samplingSchema } from "./run-spec.ts";

/** What a decoder accepts; compared with declared sizes before anything is allocated. */
export type PackLimits = {
  /** Largest pack, in bytes. */
  bytes: number;
  /** Most rollouts (or samples). */
  rollouts: number;
  /** Longest prompt, and longest output, in tokens. */
  tokens: number;
};

/** The defaults: 100 MiB, 65,536 rollouts, 131,072 tokens each. */
export const packLimits: PackLimits = { bytes: 100 * 2 ** 20, rollouts: 65_536, tokens: 131_072 };

const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/);
const typeId = (prefix: string) => z.string().regex(new RegExp(`^${prefix}_[0-7][0-9a-hjkmnp-tv-z]{25}$`));
const proofHeader = {
  version: z.literal(1),
  /** SHA-256 of the manifest of the policy. */
  manifest: sha256Hex,
  form: z.enum(["f32", "bf16"]),
  topK: z.int().min(1).max(1024),
};

const rolloutHeaderSchema = z.strictObject({
  kind: z.literal("rollouts"),
  ...proofHeader,
  run: typeId("run"),
  task: typeId("task"),
});
const blindHeaderSchema = z.strictObject({
  kind: z.literal("blind"),
  ...proofHeader,
  sampling: samplingSchema,
  eos: z.int().min(0),
  maxOutputTokens: z.int().min(1),
});
const measurementHeaderSchema = z.strictObject({
  kind: z.literal("measurement"),
  ...proofHeader,
  /** SHA-256 of the BLIND pack that was measured. */
  blind: sha256Hex,
});
const batchHeaderSchema = z.strictObject({
  kind: z.literal("batch"),
  version: z.literal(1),
  run: typeId("run"),
  step: z.int().min(1),
  batch: typeId("batch"),
});
const samplesHeaderSchema = z.strictObject({
  kind: z.literal("samples"),
  version: z.literal(1),
  run: typeId("run"),
  suite: z.string().min(1).max(64),
  manifest: sha256Hex,
  policyVersion: z.int().min(0),
});

/** One rollout as its producer submits it. */
export type PackedRollout = {
  /** Position in the task: group × groupSize + rollout. */
  index: number;
  prompt: Int32Array;
  /** The output, EOS included. */
  tokens: Int32Array;
  /** The producer's claim, one a token. Compared with the measurement, never trained on. */
  logprobs: Float32Array;
  finish: FinishReason;
  /** One proof a window of 32 tokens, as bytes. */
  proofs: Uint8Array[];
};
/** What a worker submits: every rollout of a task, by rising index. */
export type RolloutPack = { header: z.output<typeof rolloutHeaderSchema>; rollouts: PackedRollout[] };

/** What a validator gets to know of one rollout: not who made it, nor for which task. */
export type BlindRollout = {
  prompt: Int32Array;
  tokens: Int32Array;
  /** Philox key of its noise. */
  key: [number, number];
};
/** One group, for a validator. */
export type BlindPack = { header: z.output<typeof blindHeaderSchema>; rollouts: BlindRollout[] };

/** What a validator saw in one window of 32 rows: its own top-k, by falling magnitude. In form bf16 the values are rounded to bfloat16. */
export type MeasuredWindow = { indices: Uint32Array; values: Float32Array };
/** What a validator measured of one rollout, in the order of the BLIND pack. */
export type MeasuredRollout = {
  /** One a token of the output. */
  logprobs: Float32Array;
  /** The seeded choice at each position. */
  argmax: Int32Array;
  /** How far the token is from being that choice; Infinity when it cannot be. */
  margins: Float32Array;
  windows: MeasuredWindow[];
};
/** The measurement of one group. */
export type MeasurementPack = {
  header: z.output<typeof measurementHeaderSchema>;
  rollouts: MeasuredRollout[];
};

/** One rollout of a sealed batch. */
export type BatchRollout = {
  /** TypeID of its group. */
  group: string;
  prompt: Int32Array;
  tokens: Int32Array;
  /** Old log-probabilities, by a validator; empty when the trainer has to compute them at the generating version. */
  logprobs: Float32Array;
  advantage: number;
  reward: number;
  /** The version that generated it. */
  policyVersion: number;
};
/** A sealed batch. The trainer reads it in this order. */
export type BatchPack = { header: z.output<typeof batchHeaderSchema>; rollouts: BatchRollout[] };

/** One completion of an evaluation. */
export type Sample = {
  /** Position in the suite. */
  index: number;
  prompt: Int32Array;
  tokens: Int32Array;
  finish: FinishReason;
};
/** What an evaluator generated, by rising index. */
export type SamplesPack = { header: z.output<typeof samplesHeaderSchema>; samples: Sample[] };

/** @throws PackError `WRONG_VALUE` or `WRONG_HEADER` for a pack that would not decode. */
export function encodeRolloutPack({ header, rollouts }: RolloutPack): Uint8Array {
  for (const [i, rollout] of rollouts.entries()) checkRollout(rollout, rollouts[i - 1]?.index ?? -1);
  return encode(rolloutColumns, rolloutHeaderSchema, header, rollouts);
}

/** @throws PackError for anything that is not a rollout pack within the limits. */
export function decodeRolloutPack(bytes: Uint8Array, limits: PackLimits = packLimits): RolloutPack {
  const { header, rows } = decode(rolloutColumns, rolloutHeaderSchema, bytes, limits);
  let previous = -1;
  const rollouts = rows.map((row) => {
    const rollout = { ...row, finish: finishOf(row.finish) };
    checkRollout(rollout, previous);
    previous = rollout.index;
    return rollout;
  });
  return { header, rollouts };
}

/** The rollouts of group `group` of a task, in order. Empty when the pack has none of them. */
export function groupOf(pack: RolloutPack, group: number, groupSize: number): PackedRollout[] {
  return pack.rollouts.filter(({ index }) => Math.floor(index / groupSize) === group);
}

/** @throws PackError `WRONG_VALUE` or `WRONG_HEADER` for a pack that would not decode. */
export function encodeBlindPack({ header, rollouts }: BlindPack): Uint8Array {
  for (const rollout of rollouts) checkTokens(rollout);
  const rows = rollouts.map(({ prompt, tokens, key }) => ({
    prompt,
    tokens,
    key0: key[0] | 0,
    key1: key[1] | 0,
  }));
  return encode(blindColumns, blindHeaderSchema, header, rows);
}

/** @throws PackError for anything that is not a blind pack within the limits. */
export function decodeBlindPack(bytes: Uint8Array, limits: PackLimits = packLimits): BlindPack {
  const { header, rows } = decode(blindColumns, blindHeaderSchema, bytes, limits);
  const rollouts = rows.map(({ prompt, tokens, key0, key1 }): BlindRollout => {
    checkTokens({ prompt, tokens });
    return { prompt, tokens, key: [key0 >>> 0, key1 >>> 0] };
  });
  return { header, rollouts };
}

/** @throws PackError `WRONG_VALUE` or `WRONG_HEADER` for a pack that would not decode. */
export function encodeMeasurementPack({ header, rollouts }: MeasurementPack): Uint8Array {
  const rows = rollouts.map((rollout) => {
    checkMeasured(rollout, header.topK);
    const { logprobs, argmax, margins, windows } = rollout;
    const sizes = new Int32Array(windows.length);
    for (let w = 0; w < sizes.length; w++) sizes[w] = windows[w]!.indices.length;
    return { logprobs, argmax, margins, windows: sizes, ...pointsOf(windows) };
  });
  return encode(measurementColumns, measurementHeaderSchema, header, rows);
}

/** The points of all windows, one window after another. */
function pointsOf(windows: readonly MeasuredWindow[]): { indices: Int32Array; values: Float32Array } {
  const [only] = windows;
  if (only !== undefined && windows.length === 1) {
    const { buffer, byteOffset, length } = only.indices;
    return { indices: new Int32Array(buffer, byteOffset, length), values: only.values };
  }
  const total = windows.reduce((sum, window) => sum + window.indices.length, 0);
  const indices = new Int32Array(total);
  const values = new Float32Array(total);
  let at = 0;
  for (const window of windows) {
    indices.set(window.indices, at);
    values.set(window.values, at);
    at += window.indices.length;
  }
  return { indices, values };
}

/** @throws PackError for anything that is not a measurement pack within the limits. */
export function decodeMeasurementPack(bytes: Uint8Array, limits: PackLimits = packLimits): MeasurementPack {
  const { header, rows } = decode(measurementColumns, measurementHeaderSchema, bytes, limits);
  const rollouts = rows.map((row): MeasuredRollout => {
    const { logprobs, argmax, margins, windows: sizes, indices, values } = row;
    checkWindowCount(sizes.length, argmax.length);
    let total = 0;
    for (let w = 0; w < sizes.length; w++) {
      const size = sizes[w]!;
      if (size < 1) throw wrongValue(unequalPoints);
      total += size;
    }
    if (total !== indices.length || total !== values.length) throw wrongValue(unequalPoints);
    if (!noneNegative(indices)) throw wrongValue("a measurement has a negative index");
    const windows: MeasuredWindow[] = [];
    let at = 0;
    for (let w = 0; w < sizes.length; w++) {
      const size = sizes[w]!;
      const own = new Uint32Array(indices.buffer, indices.byteOffset + 4 * at, size);
      windows.push({ indices: own, values: size === total ? values : values.subarray(at, at + size) });
      at += size;
    }
    const rollout = { logprobs, argmax, margins, windows };
    checkMeasured(rollout, header.topK);
    return rollout;
  });
  return { header, rollouts };
}

const unequalPoints = "the windows of a measurement do not add up to its points";

/** @throws PackError `WRONG_VALUE` or `WRONG_HEADER` for a pack that would not decode. */
export function encodeBatchPack({ header, rollouts }: BatchPack): Uint8Array {
  for (const rollout of rollouts) checkBatchRollout(rollout);
  return encode(batchColumns, batchHeaderSchema, header, rollouts);
}

/** `advantage` and `reward` come back as float32. @throws PackError for anything that is not a batch pack within the limits. */
export function decodeBatchPack(bytes: Uint8Array, limits: PackLimits = packLimits): BatchPack {
  const { header, rows } = decode(batchColumns, batchHeaderSchema, bytes, limits);
  for (const row of rows) checkBatchRollout(row);
  return { header, rollouts: rows };
}

/** @throws PackError `WRONG_VALUE` or `WRONG_HEADER` for a pack that would not decode. */
export function encodeSamplesPack({ header, samples }: SamplesPack): Uint8Array {
  for (const [i, sample] of samples.entries()) checkSample(sample, samples[i - 1]?.index ?? -1);
  return encode(samplesColumns, samplesHeaderSchema, header, samples);
}

/** @throws PackError for anything that is not a samples pack within the limits. */
export function decodeSamplesPack(bytes: Uint8Array, limits: PackLimits = packLimits): SamplesPack {
  const { header, rows } = decode(samplesColumns, samplesHeaderSchema, bytes, limits);
  let previous = -1;
  const samples = rows.map((row) => {
    const sample = { ...row, finish: finishOf(row.finish) };
    checkSample(sample, previous);
    previous = sample.index;
    return sample;
  });
  return { header, samples };
}

/** Rows of the final hidden state in one window; `ceil(tokens / 32)` windows a rollout. */
const windowRows = 32;

const ids = { type: "int32", list: true } as const;
const floats = { type: "float", list: true } as const;
const integer = { type: "int32", list: false } as const;
const float = { type: "float", list: false } as const;
const text = { type: "text", list: false } as const;

const rolloutColumns = {
  index: integer,
  prompt: ids,
  tokens: ids,
  logprobs: floats,
  finish: text,
  proofs: { type: "bytes", list: true },
} as const satisfies TableSpec;
const blindColumns = { prompt: ids, tokens: ids, key0: integer, key1: integer } as const satisfies TableSpec;
const measurementColumns = {
  logprobs: floats,
  argmax: ids,
  margins: floats,
  windows: ids,
  indices: ids,
  values: floats,
} as const satisfies TableSpec;
const batchColumns = {
  group: text,
  prompt: ids,
  tokens: ids,
  logprobs: floats,
  advantage: float,
  reward: float,
  policyVersion: integer,
} as const satisfies TableSpec;
const samplesColumns = {
  index: integer,
  prompt: ids,
  tokens: ids,
  finish: text,
} as const satisfies TableSpec;

function encode<S extends TableSpec, H extends z.ZodType>(
  columns: S,
  schema: H,
  header: z.output<H>,
  rows: readonly Row<S>[],
): Uint8Array {
  const parsed = schema.safeParse(header);
  if (!parsed.success) throw wrongHeader(parsed.error);
  if (rows.length === 0) throw wrongValue("it is empty");
  return writeTable(columns, canonicalJson(parsed.data), rows);
}

function decode<S extends TableSpec, H extends z.ZodType>(
  columns: S,
  schema: H,
  bytes: Uint8Array,
  limits: PackLimits,
): { header: z.output<H>; rows: Row<S>[] } {
  const { metadata, rows } = readTable(columns, bytes, {
    bytes: limits.bytes,
    rows: limits.rollouts,
    // The longest list of a pack is a measurement's points: at most 1,024 in each window of 32 tokens.
    listLength: limits.tokens * 32,
  });
  let json: unknown;
  try {
    json = JSON.parse(metadata);
  } catch (cause) {
    throw new PackError("WRONG_HEADER", "The pack's header is not JSON.", { cause });
  }
  const header = schema.safeParse(json);
  if (!header.success) throw wrongHeader(header.error);
  if (rows.length === 0) throw wrongValue("it is empty");
  const lists = ["prompt", "tokens", "argmax"].filter((name) => Object.hasOwn(columns, name));
  for (const row of rows) {
    for (const name of lists) {
      const list: unknown = row[name];
      if (list instanceof Int32Array && list.length > limits.tokens) {
        throw new PackError(
          "TOO_LARGE",
          `A rollout has ${list.length} tokens; at most ${limits.tokens} are allowed here.`,
        );
      }
    }
  }
  return { header: header.data, rows };
}

function checkTokens({ prompt, tokens }: { prompt: Int32Array; tokens: Int32Array }): void {
  if (prompt.length === 0 || tokens.length === 0) throw wrongValue("a rollout has no prompt or no output");
  if (!noneNegative(prompt) || !noneNegative(tokens)) throw wrongValue("a token id is negative");
}

function checkRollout(rollout: PackedRollout, previous: number): void {
  checkTokens(rollout);
  if (rollout.index <= previous) throw wrongValue("its rollouts are not in the order of their indices");
  if (rollout.logprobs.length !== rollout.tokens.length)
    throw wrongValue("log-probabilities and tokens differ in number");
  if (!everyFinite(rollout.logprobs)) throw wrongValue("a log-probability is not a number");
  if (rollout.proofs.some((proof) => proof.length > maxProofBytes)) throw wrongValue("a proof is too long");
}

/** Modulus, and two polynomials of 1,024 coefficients. */
const maxProofBytes = 2 + 4 * 1024;

function checkMeasured({ logprobs, argmax, margins, windows }: MeasuredRollout, topK: number): void {
  const tokens = argmax.length;
  if (tokens === 0 || logprobs.length !== tokens || margins.length !== tokens) {
    throw wrongValue("log-probabilities, choices and margins differ in number");
  }
  if (!noneNegative(argmax)) throw wrongValue("a token id is negative");
  if (!everyFinite(logprobs)) throw wrongValue("a log-probability is not a number");
  if (!everyAtLeastZero(margins)) throw wrongValue("a margin is negative or not a number");
  if (windows.length !== Math.ceil(tokens / windowRows)) {
    throw wrongValue(
      `${tokens} tokens need ${Math.ceil(tokens / windowRows)} windows, not ${windows.length}`,
    );
  }
  for (const { indices, values } of windows) {
    if (indices.length === 0 || indices.length > topK || values.length !== indices.length) {
      throw wrongValue(`a window has ${indices.length} points; 1 to ${topK} are possible`);
    }
    if (hasTwice(indices)) throw wrongValue("a window has a point twice");
    if (!everyFinite(values)) throw wrongValue("a measured value is not a number");
  }
}

function checkWindowCount(windows: number, tokens: number): void {
  const expected = Math.ceil(tokens / windowRows);
  if (windows !== expected) throw wrongValue(`${tokens} tokens need ${expected} windows, not ${windows}`);
}

function checkBatchRollout(rollout: BatchRollout): void {
  checkTokens(rollout);
  const { logprobs, tokens, advantage, reward, policyVersion } = rollout;
  if (logprobs.length !== 0 && logprobs.length !== tokens.length) {
    throw wrongValue("log-probabilities and tokens differ in number");
  }
  if (
    ![...logprobs, advantage].every(Number.isFinite) ||
    !(reward >= 0 && reward <= 1) ||
    policyVersion < 0
  ) {
    throw wrongValue("an advantage, reward, log-probability or version is out of range");
  }
}

function checkSample(sample: Sample, previous: number): void {
  checkTokens(sample);
  if (sample.index <= previous) throw wrongValue("its samples are not in the order of their indices");
}

function finishOf(finish: string): FinishReason {
  if (finish !== "eos" && finish !== "length") throw wrongValue("a finish reason is neither eos nor length");
  return finish;
}

// Loops and not `every`: a pack has thousands of numbers, and calling a function for each takes longer than writing the file.
function noneNegative(list: Int32Array): boolean {
  let signs = 0;
  for (let i = 0; i < list.length; i++) signs |= list[i]!;
  return signs >= 0;
}

function everyAtLeastZero(list: Float32Array): boolean {
  for (let i = 0; i < list.length; i++) if (!(list[i]! >= 0)) return false;
  return true;
}

function everyFinite(list: Float32Array): boolean {
  // 0 · x is 0 for a finite x and NaN for every other, and a sum that met a NaN stays one.
  let sum = 0;
  for (let i = 0; i < list.length; i++) sum += 0 * list[i]!;
  return sum === 0;
}

/** Whether an index is there twice. An open-addressing table, because a Set of a window's points is made ten times slower. */
function hasTwice(indices: Uint32Array): boolean {
  const mask = 2 ** Math.ceil(Math.log2(2 * indices.length)) - 1;
  if (seen.indices.length <= mask)
    seen = { indices: new Uint32Array(mask + 1), rounds: new Uint32Array(mask + 1) };
  if (++round > 0xffffffff) {
    seen.rounds.fill(0);
    round = 1;
  }
  const { indices: places, rounds } = seen;
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i]!;
    let slot = Math.imul(index, 0x9e3779b1) & mask;
    for (; rounds[slot] === round; slot = (slot + 1) & mask) if (places[slot] === index) return true;
    places[slot] = index;
    rounds[slot] = round;
  }
  return false;
}

// A slot is taken when it names this round, so that no window has to empty the table of the one before.
let seen = { indices: new Uint32Array(256), rounds: new Uint32Array(256) };
let round = 0;

function wrongValue(why: string): PackError {
  return new PackError("WRONG_VALUE", `Not a pack of this kind: ${why}.`);
}

function wrongHeader(error: z.ZodError): PackError {
  const [issue] = error.issues;
  // Never the message: it quotes what a stranger wrote.
  const where = issue?.path.map(String).join(".") || "header";
  return new PackError("WRONG_HEADER", `The pack's header is wrong: ${where}: ${issue?.code ?? "wrong"}.`);
}
