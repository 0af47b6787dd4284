import {
  type Attribute,
  type DataType,
  type Dimension,
  encodeModel,
  type OnnxNode,
  type OnnxPort,
  type OnnxTensor,
} from "./wire.ts";

/**
 * A tensor inside a graph that is being built.
 * `tracked`: a gradient can flow through it to something that asked for one.
 */
export type Value = {
  readonly name: string;
  readonly shape: readonly Dimension[];
  readonly dtype: DataType;
  readonly tracked: boolean;
};

/** The floating-point type of a graph. `float64` exists so that gradients can be checked against finite differences. */
export type Precision = "float32" | "float64";

/** One differentiable step: from the gradients of its outputs to those of its inputs (undefined = none). */
type TapeEntry = {
  inputs: readonly Value[];
  outputs: readonly Value[];
  pull: (gradients: readonly Value[]) => readonly (Value | undefined)[];
};

/**
 * An ONNX graph under construction. Nodes are appended in execution order; what `record` notes on the way, `gradients` walks
 * backwards, appending the nodes of the backward pass to the same graph. Operators live in `operators.ts`.
 *
 * A named dimension has one size throughout the graph, taken when it runs from the first input that has it.
 */
export class Graph {
  readonly precision: Precision;
  private readonly nodes: OnnxNode[] = [];
  private readonly inputs: OnnxPort[] = [];
  private readonly outputs: OnnxPort[] = [];
  private readonly initializers: OnnxTensor[] = [];
  private readonly constants = new Map<string, Value>();
  private readonly runtimeSizes = new Map<string, Value>();
  private readonly tape: TapeEntry[] = [];
  private recording = true;
  private names = 0;

  constructor(options: { precision?: Precision } = {}) {
    this.precision = options.precision ?? "float32";
  }

  /** Something the caller feeds. `tracked` asks for its gradient. */
  input(
    name: string,
    dtype: DataType,
    shape: readonly Dimension[],
    options: { tracked?: boolean } = {},
  ): Value {
    this.inputs.push({ name, dtype, shape });
    return { name, shape, dtype, tracked: options.tracked ?? false };
  }

  /** Something the caller can fetch, under its own name. */
  output(name: string, value: Value): void {
    this.nodes.push({ type: "Identity", inputs: [value.name], outputs: [name], attributes: {} });
    this.outputs.push({ name, dtype: value.dtype, shape: value.shape });
  }

  /** A floating-point scalar in the graph's precision. */
  scalar(value: number): Value {
    return this.cached(`scalar ${value}`, () => this.table([value], []));
  }

  /** A floating-point table in the graph's precision, row-major. */
  table(values: ArrayLike<number>, dimensions: readonly number[]): Value {
    const data = this.precision === "float32" ? Float32Array.from(values) : Float64Array.from(values);
    return this.initializer(this.precision, dimensions, data);
  }

  /** A list of integers (axes, sizes, target shapes). */
  integers(values: readonly number[]): Value {
    return this.cached(`integers ${values.join()}`, () =>
      this.initializer("int64", [values.length], BigInt64Array.from(values, BigInt)),
    );
  }

  /** A float32 pair whatever the graph's precision: what OneHot has kernels for. */
  offOn(): Value {
    return this.cached("off, on", () => this.initializer("float32", [2], Float32Array.of(0, 1)));
  }

  /** Appends one node with one output. Untracked: an operator that can be differentiated passes the result through `record`. */
  node(
    type: string,
    inputs: readonly Value[],
    result: { shape: readonly Dimension[]; dtype?: DataType },
    attributes: Readonly<Record<string, Attribute>> = {},
  ): Value {
    return this.nodeOf(type, inputs, [result], attributes)[0]!;
  }

  /** Appends one node with several outputs. */
  nodeOf(
    type: string,
    inputs: readonly Value[],
    results: readonly { shape: readonly Dimension[]; dtype?: DataType }[],
    attributes: Readonly<Record<string, Attribute>> = {},
  ): Value[] {
    const values = results.map(({ shape, dtype }) => ({
      name: this.name(),
      shape,
      dtype: dtype ?? inputs[0]!.dtype,
      tracked: false,
    }));
    this.nodes.push({
      type,
      inputs: inputs.map((value) => value.name),
      outputs: values.map((value) => value.name),
      attributes,
    });
    return values;
  }

  /** Notes how gradients flow from `outputs` back to `inputs`; answers the outputs, tracked if anything is to be noted. */
  record(inputs: readonly Value[], outputs: readonly Value[], pull: TapeEntry["pull"]): Value[] {
    if (!this.recording || !inputs.some((input) => input.tracked)) return [...outputs];
    const tracked = outputs.map((output) => ({ ...output, tracked: true }));
    this.tape.push({ inputs, outputs: tracked, pull });
    return tracked;
  }

  /**
   * Appends the backward pass from a scalar: its gradient with respect to each of `targets` (tracked inputs).
   * To be called once; values made afterwards are untracked.
   */
  gradients(loss: Value, targets: readonly Value[]): Value[] {
    this.recording = false;
    const found = new Map<string, Value>([[loss.name, this.scalar(1)]]);
    for (const { inputs, outputs, pull } of this.tape.reverse()) {
      if (!outputs.some((output) => found.has(output.name))) continue;
      const pulled = pull(outputs.map((output) => found.get(output.name) ?? this.zerosLike(output)));
      inputs.forEach((input, i) => {
        const gradient = pulled[i];
        if (!input.tracked || gradient === undefined) return;
        const known = found.get(input.name);
        const sum =
          known === undefined ? gradient : this.node("Add", [known, gradient], { shape: input.shape });
        found.set(input.name, sum);
      });
    }
    return targets.map((target) => found.get(target.name) ?? this.zerosLike(target));
  }

  /** A shape as a tensor, for operators that take one. At most one dimension may come from nowhere: it is written as −1. */
  shapeTensor(shape: readonly Dimension[]): Value {
    const symbolic = shape.filter((dimension) => typeof dimension === "string");
    if (symbolic.length <= 1) {
      return this.integers(shape.map((dimension) => (typeof dimension === "string" ? -1 : dimension)));
    }
    if (symbolic.filter((dimension) => this.runtimeSize(dimension) === undefined).length > 1) {
      throw new Error(`Two sizes of [${shape}] are unknown when the graph runs.`);
    }
    const parts = shape.map((dimension) => {
      if (typeof dimension === "number") return this.integers([dimension]);
      return this.runtimeSize(dimension) ?? this.integers([-1]);
    });
    return this.cached(`shape ${shape.join()}`, () =>
      this.node("Concat", parts, { shape: [parts.length], dtype: "int64" }, { axis: 0 }),
    );
  }

  encode(name: string): Uint8Array {
    const { nodes, initializers, inputs, outputs } = this;
    return encodeModel({ name, nodes, initializers, inputs, outputs });
  }

  private runtimeSize(dimension: string): Value | undefined {
    const known = this.runtimeSizes.get(dimension);
    if (known !== undefined) return known;
    for (const input of this.inputs) {
      const axis = input.shape.indexOf(dimension);
      if (axis === -1) continue;
      const size = this.node(
        "Shape",
        [{ ...input, tracked: false }],
        { shape: [1], dtype: "int64" },
        { start: axis, end: axis + 1 },
      );
      this.runtimeSizes.set(dimension, size);
      return size;
    }
    return undefined;
  }

  private zerosLike(value: Value): Value {
    return this.node("Mul", [value, this.scalar(0)], { shape: value.shape });
  }

  private initializer(dtype: DataType, dimensions: readonly number[], data: OnnxTensor["data"]): Value {
    const name = this.name();
    this.initializers.push({ name, dtype, dimensions, data });
    return { name, shape: dimensions, dtype, tracked: false };
  }

  private cached(key: string, make: () => Value): Value {
    const known = this.constants.get(key);
    if (known !== undefined) return known;
    const value = make();
    this.constants.set(key, value);
    return value;
  }

  private name(): string {
    return `v${this.names++}`;
  }
}
