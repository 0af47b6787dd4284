import { characterTokenizer, manifestSchema } from "@muster/protocol";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  CheckpointError,
  decodeCheckpoint,
  decodeSafetensors,
  encodeCheckpoint,
  encodeSafetensors,
  initialParameters,
  parameterLayout,
  SafetensorsError,
  type StoredTensor,
} from "../src/index.ts";
import { demoModel, variants, weightsFor } from "./support/models.ts";

const tokenizer = characterTokenizer("0123456789=$+-*/()");
const refused = (code: string, message: RegExp) =>
  expect.objectContaining({ name: "CheckpointError", code, message: expect.stringMatching(message) });

for (const [name, model] of variants) {
  test(`a checkpoint comes back as it was: ${name}`, () => {
    const flat = weightsFor(model, 4);
    const files = encodeCheckpoint(model, flat, tokenizer);
    expect(decodeCheckpoint(files.model, model)).toEqual(flat);
    expect(encodeCheckpoint(model, flat, tokenizer)).toEqual(files);
  });
}

test("the file has Hugging Face's names, shapes and layout", () => {
  const model = { ...demoModel, kvHeads: 2, qkvBias: true, tiedHead: false };
  const files = encodeCheckpoint(model, weightsFor(model, 4), tokenizer);
  const { tensors } = decodeSafetensors(files.model);
  expect(
    Object.fromEntries(tensors.map(({ name, shape }) => [name.replace("layers.1.", "layers.0."), shape])),
  ).toEqual({
    "model.embed_tokens.weight": [18, 64],
    "model.layers.0.input_layernorm.weight": [64],
    "model.layers.0.self_attn.q_proj.weight": [64, 64],
    "model.layers.0.self_attn.k_proj.weight": [32, 64],
    "model.layers.0.self_attn.v_proj.weight": [32, 64],
    "model.layers.0.self_attn.q_proj.bias": [64],
    "model.layers.0.self_attn.k_proj.bias": [32],
    "model.layers.0.self_attn.v_proj.bias": [32],
    "model.layers.0.self_attn.o_proj.weight": [64, 64],
    "model.layers.0.post_attention_layernorm.weight": [64],
    "model.layers.0.mlp.gate_proj.weight": [160, 64],
    "model.layers.0.mlp.up_proj.weight": [160, 64],
    "model.layers.0.mlp.down_proj.weight": [64, 160],
    "model.norm.weight": [64],
    "lm_head.weight": [18, 64],
  });
  expect(tensors).toHaveLength(2 + 1 + 2 * 12);
  const config: unknown = JSON.parse(new TextDecoder().decode(files.config));
  expect(config).toMatchObject({
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_size: 64,
    num_key_value_heads: 2,
    tie_word_embeddings: false,
    eos_token_id: 11,
    vocab_size: 18,
  });
  expect(JSON.parse(new TextDecoder().decode(files.tokenizer))).toEqual(tokenizer.toJSON());
  const places = files.tensors.map(({ name, offset, size }) => ({
    name,
    bytes: files.model.slice(offset, offset + size),
  }));
  expect(places).toEqual(tensors.map(({ name, data }) => ({ name, bytes: data.slice() })));
  expect(manifestSchema.shape.tensors.parse(files.tensors)).toEqual(files.tensors);
  const llama: unknown = JSON.parse(
    new TextDecoder().decode(encodeCheckpoint(demoModel, weightsFor(demoModel, 1), tokenizer).config),
  );
  expect(llama).toMatchObject({
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    tie_word_embeddings: true,
  });
});

const flat = weightsFor(demoModel, 4);
const stored = (): StoredTensor[] =>
  decodeSafetensors(encodeCheckpoint(demoModel, flat, tokenizer).model).tensors;
const written = (tensors: readonly StoredTensor[]) => encodeSafetensors(tensors).bytes;

test("tensors may come in any order, and in BF16 or F16", () => {
  expect(decodeCheckpoint(written(stored().reverse()), demoModel)).toEqual(flat);

  const bits = new Uint32Array(flat.buffer);
  const bf16 = decodeCheckpoint(
    written(stored().map((tensor) => halved(tensor, "BF16", (value) => bitsOf(value) >>> 16))),
    demoModel,
  );
  expect(new Uint32Array(bf16.buffer)).toEqual(bits.map((word) => word & 0xffff0000));

  // Powers of two, subnormals and the largest number: exact in F16.
  const exact = [1, -0.5, 2 ** -24, -(2 ** -14), 65504, 0, 1.5, 3 * 2 ** -24];
  const patterns = [0x3c00, 0xb800, 0x0001, 0x8400, 0x7bff, 0x0000, 0x3e00, 0x0003];
  let i = 0;
  const f16 = decodeCheckpoint(
    written(stored().map((tensor) => halved(tensor, "F16", () => patterns[i++ % 8]!))),
    demoModel,
  );
  expect([...f16.slice(0, 16)]).toEqual([...exact, ...exact]);
});

test("a file of another model is refused, and its tensors named", () => {
  const tensors = stored();
  const decode = (changed: readonly StoredTensor[]) => () => decodeCheckpoint(written(changed), demoModel);
  expect(decode(tensors.slice(1))).toThrow(refused("MISSING_TENSOR", /model\.embed_tokens\.weight/));
  const extra: StoredTensor = { name: "lm_head.weight", dtype: "F32", shape: [1], data: new Uint8Array(4) };
  expect(decode([...tensors, extra])).toThrow(refused("UNEXPECTED_TENSOR", /lm_head\.weight/));
  const turned = tensors.map((tensor) =>
    tensor.shape.length > 1 ? { ...tensor, shape: tensor.shape.toReversed() } : tensor,
  );
  expect(decode(turned)).toThrow(
    refused("WRONG_SHAPE", /embed_tokens\.weight is \[64,18\] in the file and \[18,64\]/),
  );
  const longs: StoredTensor[] = tensors.map((tensor) =>
    tensor.name === "model.norm.weight" ? { ...tensor, dtype: "I64", data: new Uint8Array(512) } : tensor,
  );
  expect(decode(longs)).toThrow(refused("WRONG_DTYPE", /model\.norm\.weight is I64/));
});

test("weights that are not finite are refused, on the way out and in", () => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const broken = flat.slice();
    broken[18 * 64 + 3] = value;
    const message = /model\.layers\.0\.input_layernorm\.weight has -?(NaN|Infinity) at element 3/;
    expect(() => encodeCheckpoint(demoModel, broken, tokenizer)).toThrow(refused("NOT_FINITE", message));
    const bytes = encodeCheckpoint(demoModel, flat, tokenizer);
    const place = bytes.tensors.find(({ name }) => name === "model.layers.0.input_layernorm.weight")!;
    new DataView(bytes.model.buffer).setFloat32(place.offset + 12, value, true);
    expect(() => decodeCheckpoint(bytes.model, demoModel)).toThrow(refused("NOT_FINITE", message));
  }
  expect(() => encodeCheckpoint(demoModel, flat.slice(1), tokenizer)).toThrow(
    refused("WRONG_SIZE", /95680|parameters/),
  );
  expect(() => encodeCheckpoint({ ...demoModel, kvHeads: 3 }, flat, tokenizer)).toThrow(
    refused("BAD_CONFIG", /kvHeads 3/),
  );
});

test("any other bytes are refused with a coded error", () => {
  const good = encodeCheckpoint(demoModel, flat, tokenizer).model;
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, value, length) => {
      const bytes = good.slice(0, length);
      if (at < bytes.length) bytes[at] = value;
      try {
        expect(decodeCheckpoint(bytes, demoModel)).toHaveLength(flat.length);
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error;
      }
    }),
    { numRuns: 100 },
  );
  for (const header of [
    "[]",
    "null",
    "{",
    '{"a":1}',
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}',
    '{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}',
    '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}',
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
  ]) {
    const text = new TextEncoder().encode(header);
    const bytes = new Uint8Array(8 + text.length + 8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
    bytes.set(text, 8);
    expect(() => decodeSafetensors(bytes), header).toThrow(SafetensorsError);
  }
});

test("first weights depend on the seed alone, and have the scale they are said to have", () => {
  const [a, b] = [initialParameters(demoModel, [1, 2]), initialParameters(demoModel, [1, 2])];
  expect(a).toEqual(b);
  expect(a).not.toEqual(initialParameters(demoModel, [1, 3]));
  for (const { initial, offset, size } of parameterLayout(demoModel).parameters) {
    const values = a.subarray(offset, offset + size);
    if ("constant" in initial) {
      expect(new Set(values)).toEqual(new Set([initial.constant]));
      continue;
    }
    const mean = values.reduce((sum, value) => sum + value, 0) / size;
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / size);
    expect(Math.abs(mean)).toBeLessThan((4 * initial.deviation) / Math.sqrt(size));
    expect(Math.abs(deviation / initial.deviation - 1)).toBeLessThan(4 / Math.sqrt(2 * size));
  }
});

function halved(
  tensor: StoredTensor,
  dtype: "BF16" | "F16",
  pattern: (value: number) => number,
): StoredTensor {
  const values = new Float32Array(tensor.data.slice().buffer);
  const data = new Uint8Array(Uint16Array.from(values, pattern).buffer);
  return { ...tensor, dtype, data };
}

function bitsOf(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}
