import { PolicyError } from "../graph/policy-error.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  SafetensorsError,
  type StoredTensor,
} from "../graph/safetensors.ts";

/** AdamW's memory: first and second moments, one a parameter, and the number of updates behind them. */
export type OptimizerState = { m: Float32Array; v: Float32Array; updates: number };

export function freshState(parameters: number): OptimizerState {
  return { m: new Float32Array(parameters), v: new Float32Array(parameters), updates: 0 };
}

/** The state as a safetensors file: `m`, `v` (F32) and `t` (I64, one element). Same state, same bytes. */
export function encodeState({ m, v, updates }: OptimizerState): Uint8Array {
  return encodeSafetensors([
    { name: "m", dtype: "F32", shape: [m.length], data: bytesOf(m) },
    { name: "v", dtype: "F32", shape: [v.length], data: bytesOf(v) },
    { name: "t", dtype: "I64", shape: [1], data: bytesOf(BigInt64Array.of(BigInt(updates))) },
  ]).bytes;
}

/** @throws PolicyError `BAD_STATE` */
export function decodeState(bytes: Uint8Array, parameters: number): OptimizerState {
  const stored = new Map(read(bytes).map((tensor) => [tensor.name, tensor]));
  const t = stored.get("t");
  if (stored.size !== 3 || t?.dtype !== "I64" || t.data.length !== 8) {
    throw bad("it does not hold exactly m, v and t");
  }
  const updates = Number(new DataView(t.data.buffer, t.data.byteOffset).getBigInt64(0, true));
  if (!Number.isSafeInteger(updates) || updates < 0) throw bad(`t is ${updates}`);
  return {
    m: momentsOf(stored.get("m"), "m", parameters),
    v: momentsOf(stored.get("v"), "v", parameters),
    updates,
  };
}

function read(bytes: Uint8Array): StoredTensor[] {
  try {
    return decodeSafetensors(bytes).tensors;
  } catch (cause) {
    if (cause instanceof SafetensorsError) throw bad(cause.message, { cause });
    throw cause;
  }
}

function momentsOf(tensor: StoredTensor | undefined, name: string, parameters: number): Float32Array {
  if (tensor?.dtype !== "F32" || tensor.data.length !== 4 * parameters) {
    throw bad(`${name} is not ${parameters} float32 values`);
  }
  const values = new Float32Array(tensor.data.slice().buffer);
  const wrong = values.findIndex((value) => !Number.isFinite(value) || (name === "v" && value < 0));
  if (wrong !== -1) throw bad(`${name} has ${values[wrong]} at element ${wrong}`);
  return values;
}

function bytesOf(values: Float32Array | BigInt64Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function bad(why: string, options?: ErrorOptions): PolicyError {
  return new PolicyError("BAD_STATE", `Not an optimizer state of this model: ${why}.`, options);
}
