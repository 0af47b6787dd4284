/**
 * A policy version as files: what `transformers`' `AutoModelForCausalLM.from_pretrained` reads, and back to the flat array.
 */

import type { Manifest, Tokenizer } from "@muster/protocol";
import { huggingFaceConfig, type ModelConfig, modelProblems } from "./config.ts";
import { type FileTensor, parameterLayout } from "./parameters.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  SafetensorsError,
  type StoredTensor,
  type TensorPlace,
} from "./safetensors.ts";

/**
 * - `MALFORMED`: the bytes are not a safetensors file.
 * - `MISSING_TENSOR`, `UNEXPECTED_TENSOR`, `WRONG_SHAPE`, `WRONG_DTYPE`: the file is of another model; the message names the tensors.
 * - `NOT_FINITE`: a weight is NaN or infinite.
 * - `WRONG_SIZE`: the flat array does not have the model's number of parameters.
 * - `BAD_CONFIG`: the model configuration is impossible, or `config.json` does not describe one.
 * - `MISSING_FILE`: there is no `config.json` or no `model.safetensors`.
 * - `WRONG_FILE`: a file is not the one that the manifest names.
 */
export type CheckpointErrorCode =
  | "MALFORMED"
  | "MISSING_TENSOR"
  | "UNEXPECTED_TENSOR"
  | "WRONG_SHAPE"
  | "WRONG_DTYPE"
  | "NOT_FINITE"
  | "WRONG_SIZE"
  | "BAD_CONFIG"
  | "MISSING_FILE"
  | "WRONG_FILE";

export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
  readonly code: CheckpointErrorCode;

  constructor(code: CheckpointErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export type CheckpointFiles = {
  /** `model.safetensors` */
  model: Uint8Array;
  /** `config.json` */
  config: Uint8Array;
  /** `tokenizer.json` */
  tokenizer: Uint8Array;
  /** Tensors of `model.safetensors`; `offset` (from the file's first byte) and `size` in bytes. */
  tensors: TensorPlace[];
};

/**
 * The three files of a checkpoint. Same arguments, same bytes.
 * @param flat the parameters in the order of `parameterLayout`; the file's data is its memory.
 * @throws CheckpointError `BAD_CONFIG`, `WRONG_SIZE`, `NOT_FINITE`.
 */
export function encodeCheckpoint(
  config: ModelConfig,
  flat: Float32Array,
  tokenizer: Tokenizer,
): CheckpointFiles {
  requireConfig(config);
  const { tensors, total } = parameterLayout(config);
  if (flat.length !== total) {
    throw new CheckpointError("WRONG_SIZE", `The model has ${total} parameters; ${flat.length} were given.`);
  }
  requireFinite(flat, tensors);
  const stored = tensors.map(({ name, shape, offset, size }): StoredTensor => {
    const values = flat.subarray(offset, offset + size);
    return {
      name,
      dtype: "F32",
      shape,
      data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    };
  });
  const { bytes, places } = encodeSafetensors(stored, { format: "pt" });
  return {
    model: bytes,
    config: json(huggingFaceConfig(config)),
    tokenizer: json(tokenizer.toJSON()),
    tensors: places,
  };
}

/**
 * The flat parameters out of a `model.safetensors` in F32, BF16 or F16 (tensors in any order). Strict: exactly the model's tensors.
 * @throws CheckpointError
 */
export function decodeCheckpoint(bytes: Uint8Array, config: ModelConfig): Float32Array {
  requireConfig(config);
  const { tensors, total } = parameterLayout(config);
  const stored = new Map(readTensors(bytes).map((tensor) => [tensor.name, tensor]));
  const missing = tensors.filter(({ name }) => !stored.has(name));
  if (missing.length > 0) throw new CheckpointError("MISSING_TENSOR", `The file lacks ${listed(missing)}.`);
  const known = new Set(tensors.map(({ name }) => name));
  const extra = [...stored.values()].filter(({ name }) => !known.has(name));
  if (extra.length > 0) throw new CheckpointError("UNEXPECTED_TENSOR", `The model has no ${listed(extra)}.`);

  const flat = new Float32Array(total);
  for (const { name, shape, offset, size } of tensors) {
    const tensor = stored.get(name)!;
    if (tensor.shape.join() !== shape.join()) {
      throw new CheckpointError(
        "WRONG_SHAPE",
        `${name} is [${tensor.shape}] in the file and [${shape}] in the model.`,
      );
    }
    widen(tensor, flat.subarray(offset, offset + size));
  }
  requireFinite(flat, tensors);
  return flat;
}

/**
 * A checkpoint out of its files by name: `config.json` says what the model is, `model.safetensors` its parameters.
 * @throws CheckpointError `MISSING_FILE`, `BAD_CONFIG`, or as `decodeCheckpoint`.
 */
export function readCheckpoint(files: ReadonlyMap<string, Uint8Array>): {
  model: ModelConfig;
  /** Flat, in the order of `parameterLayout`. */
  parameters: Float32Array;
} {
  const named = (name: string) => {
    const bytes = files.get(name);
    if (bytes === undefined) throw new CheckpointError("MISSING_FILE", `The checkpoint has no ${name}.`);
    return bytes;
  };
  const model = readModelConfig(named("config.json"));
  return { model, parameters: decodeCheckpoint(named("model.safetensors"), model) };
}

/**
 * A checkpoint's files by name, put together from its shards.
 * @param shards in the manifest's order through all files, hashes already checked.
 */
export function checkpointFiles(manifest: Manifest, shards: readonly Uint8Array[]): Map<string, Uint8Array> {
  let next = 0;
  return new Map(
    manifest.files.map(({ name, size, shards: pieces }) => {
      const bytes = new Uint8Array(size);
      let at = 0;
      for (const piece of shards.slice(next, next + pieces.length)) {
        bytes.set(piece, at);
        at += piece.length;
      }
      next += pieces.length;
      return [name, bytes];
    }),
  );
}

/**
 * The decoder that a checkpoint's `config.json` describes. Nodes learn the model from here and from nowhere else.
 * @throws CheckpointError `BAD_CONFIG` for anything but a complete Llama or Qwen 2 configuration that this software can run.
 */
export function readModelConfig(bytes: Uint8Array): ModelConfig {
  const config = parseObject(bytes);
  const number = (name: string): number => {
    const value = config[name];
    if (typeof value !== "number") throw unusable(`${name} is ${JSON.stringify(value)}`);
    return value;
  };
  const family = config.model_type;
  if (family !== "llama" && family !== "qwen2") throw unusable(`model_type is ${JSON.stringify(family)}`);
  if ((config.rope_scaling ?? null) !== null) throw unusable("rope_scaling is not supported");
  const model: ModelConfig = {
    vocabularySize: number("vocab_size"),
    eos: number("eos_token_id"),
    hiddenSize: number("hidden_size"),
    layers: number("num_hidden_layers"),
    heads: number("num_attention_heads"),
    kvHeads: number("num_key_value_heads"),
    intermediateSize: number("intermediate_size"),
    maxPositions: number("max_position_embeddings"),
    tiedHead: config.tie_word_embeddings === true,
    qkvBias: family === "qwen2",
    ropeTheta: number("rope_theta"),
    rmsNormEps: number("rms_norm_eps"),
  };
  const problems = modelProblems(model);
  if (problems.length > 0) throw unusable(problems.join(" "));
  return model;
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw unusable("it is not JSON", { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw unusable("it is not an object");
  return Object.fromEntries(Object.entries(value));
}

function unusable(why: string, options?: ErrorOptions): CheckpointError {
  return new CheckpointError("BAD_CONFIG", `The checkpoint's config.json cannot be used: ${why}.`, options);
}

function requireConfig(config: ModelConfig): void {
  const problems = modelProblems(config);
  if (problems.length > 0) throw new CheckpointError("BAD_CONFIG", problems.join(" "));
}

function readTensors(bytes: Uint8Array): StoredTensor[] {
  try {
    return decodeSafetensors(bytes).tensors;
  } catch (cause) {
    if (!(cause instanceof SafetensorsError)) throw cause;
    throw new CheckpointError("MALFORMED", cause.message, { cause });
  }
}

function widen({ name, dtype, data }: StoredTensor, into: Float32Array): void {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length);
  switch (dtype) {
    case "F32":
      for (let i = 0; i < bits.length; i++) bits[i] = view.getUint32(4 * i, true);
      return;
    case "BF16":
      for (let i = 0; i < bits.length; i++) bits[i] = view.getUint16(2 * i, true) << 16;
      return;
    case "F16":
      for (let i = 0; i < into.length; i++) into[i] = halfToNumber(view.getUint16(2 * i, true));
      return;
    case "I64":
      throw new CheckpointError("WRONG_DTYPE", `${name} is ${dtype}; give F32, BF16 or F16.`);
  }
}

/** IEEE 754 binary16. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function requireFinite(flat: Float32Array, tensors: readonly FileTensor[]): void {
  for (const { name, offset, size } of tensors) {
    for (let i = 0; i < size; i++) {
      const value = flat[offset + i]!;
      if (!Number.isFinite(value))
        throw new CheckpointError("NOT_FINITE", `${name} has ${value} at element ${i}.`);
    }
  }
}

function listed(tensors: readonly { name: string }[]): string {
  const names = tensors.slice(0, 5).map(({ name }) => name);
  return names.join(", ") + (tensors.length > 5 ? ` and ${tensors.length - 5} more` : "");
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
}
