/**
 * Writes ONNX models. Field numbers and enumerations are those of onnx.proto3 (IR version 10); only what this package emits is
 * here. Protobuf wire format: https://protobuf.dev/programming-guides/encoding/
 */

/** Element types a graph here can hold, by their number in `TensorProto.DataType`. */
export const dataTypes = { float32: 1, int32: 6, int64: 7, bool: 9, float64: 11 } as const;
export type DataType = keyof typeof dataTypes;

/** A number, or the name of a dimension that is known when the graph runs. */
export type Dimension = number | string;

/** `number` is written as INT, `{ float }` as FLOAT, an array as INTS. */
export type Attribute = number | string | { float: number } | readonly number[];

export type OnnxTensor = {
  name: string;
  dtype: DataType;
  dimensions: readonly number[];
  data: Float32Array | Float64Array | BigInt64Array;
};

export type OnnxNode = {
  type: string;
  /** Empty string = optional input left out. */
  inputs: readonly string[];
  outputs: readonly string[];
  attributes: Readonly<Record<string, Attribute>>;
};

export type OnnxPort = { name: string; dtype: DataType; shape: readonly Dimension[] };

export type OnnxModel = {
  name: string;
  nodes: readonly OnnxNode[];
  initializers: readonly OnnxTensor[];
  inputs: readonly OnnxPort[];
  outputs: readonly OnnxPort[];
};

const IR_VERSION = 10;
const OPSET = 21;

/** The bytes of a `.onnx` file, opset 21, standard operators only. */
export function encodeModel(model: OnnxModel): Uint8Array {
  const graph = new Message();
  model.nodes.forEach((node, i) => {
    graph.message(1, nodeMessage(node, i));
  });
  graph.text(2, model.name);
  for (const tensor of model.initializers) graph.message(5, tensorMessage(tensor));
  for (const port of model.inputs) graph.message(11, portMessage(port));
  for (const port of model.outputs) graph.message(12, portMessage(port));
  return new Message()
    .integer(1, IR_VERSION)
    .text(2, "muster")
    .message(7, graph)
    .message(8, new Message().text(1, "").integer(2, OPSET))
    .finish();
}

function nodeMessage(node: OnnxNode, index: number): Message {
  const message = new Message();
  for (const input of node.inputs) message.text(1, input);
  for (const output of node.outputs) message.text(2, output);
  message.text(3, `${node.type}_${index}`).text(4, node.type);
  for (const [name, value] of Object.entries(node.attributes))
    message.message(5, attributeMessage(name, value));
  return message;
}

function attributeMessage(name: string, value: Attribute): Message {
  const message = new Message().text(1, name);
  if (typeof value === "number") return message.integer(3, value).integer(20, 2);
  if (typeof value === "string") return message.text(4, value).integer(20, 3);
  if ("float" in value) return message.float(2, value.float).integer(20, 1);
  for (const item of value) message.integer(8, item);
  return message.integer(20, 7);
}

function tensorMessage(tensor: OnnxTensor): Message {
  const { data } = tensor;
  const message = new Message();
  for (const dimension of tensor.dimensions) message.integer(1, dimension);
  return message
    .integer(2, dataTypes[tensor.dtype])
    .text(8, tensor.name)
    .bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

function portMessage(port: OnnxPort): Message {
  const shape = new Message();
  for (const dimension of port.shape) {
    const one = new Message();
    shape.message(1, typeof dimension === "string" ? one.text(2, dimension) : one.integer(1, dimension));
  }
  const tensorType = new Message().integer(1, dataTypes[port.dtype]).message(2, shape);
  return new Message().text(1, port.name).message(2, new Message().message(1, tensorType));
}

const utf8 = new TextEncoder();

/** A protobuf message under construction: chunks, joined once at the end so that tensors are copied once. */
class Message {
  readonly chunks: Uint8Array[] = [];
  length = 0;

  integer(field: number, value: number): this {
    return this.tag(field, 0).varint(value);
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    return this.tag(field, 5).push(bytes);
  }

  text(field: number, value: string): this {
    return this.bytes(field, utf8.encode(value));
  }

  bytes(field: number, value: Uint8Array): this {
    return this.tag(field, 2).varint(value.length).push(value);
  }

  message(field: number, value: Message): this {
    this.tag(field, 2).varint(value.length);
    for (const chunk of value.chunks) this.push(chunk);
    return this;
  }

  finish(): Uint8Array {
    const bytes = new Uint8Array(this.length);
    let offset = 0;
    for (const chunk of this.chunks) {
      bytes.set(chunk, offset);
      offset += chunk.length;
    }
    return bytes;
  }

  private tag(field: number, wireType: number): this {
    return this.varint((field << 3) | wireType);
  }

  /** Negative integers are sign-extended to 64 bits, as `int64` fields want them. */
  private varint(value: number): this {
    let rest = BigInt.asUintN(64, BigInt(value));
    const bytes: number[] = [];
    do {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      bytes.push(rest === 0n ? low : low | 0x80);
    } while (rest !== 0n);
    return this.push(Uint8Array.from(bytes));
  }

  private push(chunk: Uint8Array): this {
    this.chunks.push(chunk);
    this.length += chunk.length;
    return this;
  }
}
