/**
 * The operators the decoder and its losses need, each with its derivative beside it. Gradients are built from the same operators;
 * while they are, nothing is recorded (`Graph.gradients`).
 */

import type { Graph, Value } from "./builder.ts";
import { type DataType, type Dimension, dataTypes } from "./wire.ts";

export function add(g: Graph, a: Value, b: Value): Value {
  return recorded(g, [a, b], binary(g, "Add", a, b), (dy) => [sumTo(g, dy, a), sumTo(g, dy, b)]);
}

export function subtract(g: Graph, a: Value, b: Value): Value {
  return recorded(g, [a, b], binary(g, "Sub", a, b), (dy) => [
    sumTo(g, dy, a),
    wants(b, () => sumTo(g, negate(g, dy), b)),
  ]);
}

export function multiply(g: Graph, a: Value, b: Value): Value {
  return recorded(g, [a, b], binary(g, "Mul", a, b), (dy) => [
    wants(a, () => sumTo(g, multiply(g, dy, b), a)),
    wants(b, () => sumTo(g, multiply(g, dy, a), b)),
  ]);
}

/** a / b; no gradient flows to b. */
export function divide(g: Graph, a: Value, b: Value): Value {
  return recorded(g, [a], binary(g, "Div", a, b), (dy) => [sumTo(g, divide(g, dy, b), a)]);
}

export function negate(g: Graph, x: Value): Value {
  return recorded(g, [x], g.node("Neg", [x], x), (dy) => [negate(g, dy)]);
}

export function exponential(g: Graph, x: Value): Value {
  const y = g.node("Exp", [x], x);
  return recorded(g, [x], y, (dy) => [multiply(g, dy, y)]);
}

/** x · sigmoid(x). */
export function silu(g: Graph, x: Value): Value {
  const gate = g.node("Sigmoid", [x], x);
  const y = g.node("Mul", [x, gate], x);
  // y' = s + y (1 − s), with s = sigmoid(x)
  return recorded(g, [x], y, (dy) => [
    multiply(g, dy, add(g, gate, multiply(g, y, subtract(g, g.scalar(1), gate)))),
  ]);
}

/** √x, without a gradient. */
export function squareRoot(g: Graph, x: Value): Value {
  return g.node("Sqrt", [x], x);
}

/** Elementwise `type` ("Less", "LessOrEqual", "GreaterOrEqual") of two values. */
export function compare(
  g: Graph,
  type: "Less" | "LessOrEqual" | "GreaterOrEqual",
  a: Value,
  b: Value,
): Value {
  return g.node(type, [a, b], { shape: broadcast(a.shape, b.shape), dtype: "bool" });
}

/** `a` where the condition holds, else `b`. */
export function choose(g: Graph, condition: Value, a: Value, b: Value): Value {
  const shape = broadcast(condition.shape, broadcast(a.shape, b.shape));
  const zero = g.scalar(0);
  return recorded(g, [a, b], g.node("Where", [condition, a, b], { shape, dtype: a.dtype }), (dy) => [
    wants(a, () => sumTo(g, choose(g, condition, dy, zero), a)),
    wants(b, () => sumTo(g, choose(g, condition, zero, dy), b)),
  ]);
}

export function minimum(g: Graph, a: Value, b: Value): Value {
  return choose(g, compare(g, "LessOrEqual", a, b), a, b);
}

export function maximum(g: Graph, a: Value, b: Value): Value {
  return choose(g, compare(g, "GreaterOrEqual", a, b), a, b);
}

/** A change of element type, without a gradient. */
export function cast(g: Graph, x: Value, dtype: DataType): Value {
  return x.dtype === dtype ? x : g.node("Cast", [x], { shape: x.shape, dtype }, { to: dataTypes[dtype] });
}

/** The same value as a constant: no gradient flows through it. */
export function detach(x: Value): Value {
  return { ...x, tracked: false };
}

/** The sum over the given axes, kept as dimensions of size 1. */
export function sum(g: Graph, x: Value, axes: readonly number[]): Value {
  const shape = x.shape.map((dimension, i) => (axes.includes(i) ? 1 : dimension));
  return recorded(g, [x], g.node("ReduceSum", [x, g.integers(axes)], { shape }, { keepdims: 1 }), (dy) => [
    expandLike(g, dy, x),
  ]);
}

/** The sum over everything, a scalar. */
export function total(g: Graph, x: Value): Value {
  const axes = x.shape.map((_, i) => i);
  return recorded(
    g,
    [x],
    g.node("ReduceSum", [x, g.integers(axes)], { shape: [] }, { keepdims: 0 }),
    (dy) => [expandLike(g, dy, x)],
  );
}

/** The mean over the last axis, kept as a dimension of size 1; without a gradient. */
function meanLast(g: Graph, x: Value): Value {
  const shape = [...x.shape.slice(0, -1), 1];
  return g.node("ReduceMean", [x, g.integers([-1])], { shape }, { keepdims: 1 });
}

export function reshape(g: Graph, x: Value, shape: readonly Dimension[]): Value {
  if (sameShape(x.shape, shape)) return x;
  return recorded(g, [x], g.node("Reshape", [x, g.shapeTensor(shape)], { shape }), (dy) => [
    reshape(g, dy, x.shape),
  ]);
}

export function transpose(g: Graph, x: Value, order: readonly number[]): Value {
  const shape = order.map((axis) => x.shape[axis]!);
  const inverse = order.map((_, axis) => order.indexOf(axis));
  return recorded(g, [x], g.node("Transpose", [x], { shape }, { perm: order }), (dy) => [
    transpose(g, dy, inverse),
  ]);
}

/** Consecutive parts along an axis. */
export function split(g: Graph, x: Value, axis: number, sizes: readonly number[]): Value[] {
  const results = sizes.map((size) => ({
    shape: x.shape.map((dimension, i) => (i === axis ? size : dimension)),
  }));
  const parts = g.nodeOf("Split", [x, g.integers(sizes)], results, { axis });
  return g.record([x], parts, (gradients) => [concatenate(g, gradients, axis)]);
}

/** The parts one after another along an axis; their sizes there are numbers. */
export function concatenate(g: Graph, parts: readonly Value[], axis: number): Value {
  const sizes = parts.map((part) => Number(part.shape[axis]));
  const along = sizes.reduce((sum, size) => sum + size, 0);
  const shape = parts[0]!.shape.map((dimension, i) => (i === axis ? along : dimension));
  return recorded(g, parts, g.node("Concat", parts, { shape }, { axis }), (dy) => split(g, dy, axis, sizes));
}

/** x · wᵀ + bias: x is [rows, in], w is [out, in] (as in a Hugging Face file), bias is [out]. */
export function linear(g: Graph, x: Value, w: Value, bias?: Value): Value {
  const inputs = bias === undefined ? [x, w] : [x, w, bias];
  return recorded(
    g,
    inputs,
    g.node("Gemm", inputs, { shape: [x.shape[0]!, w.shape[0]!] }, { transB: 1 }),
    (dy) => [
      wants(x, () => g.node("Gemm", [dy, w], x)),
      wants(w, () => g.node("Gemm", [dy, x], w, { transA: 1 })),
      bias && wants(bias, () => sumTo(g, dy, bias)),
    ],
  );
}

/**
 * a · b over the last two axes, batched over the leading ones; `transposed` reads b as […, columns, inner].
 * The transposes are written out; the runtime's optimizer folds them into the product.
 */
export function product(g: Graph, a: Value, b: Value, options: { transposed?: boolean } = {}): Value {
  const right = options.transposed ? swapLast(g, b) : b;
  const shape = [...a.shape.slice(0, -1), right.shape.at(-1)!];
  const y = g.node("MatMul", [a, right], { shape });
  return recorded(g, [a, right], y, (dy) => [
    wants(a, () => g.node("MatMul", [dy, options.transposed ? b : swapLast(g, right)], a)),
    wants(right, () => g.node("MatMul", [swapLast(g, a), dy], right)),
  ]);
}

/** Softmax over the last axis. */
export function softmax(g: Graph, x: Value): Value {
  const y = g.node("Softmax", [x], x, { axis: -1 });
  return recorded(g, [x], y, (dy) => {
    const weighted = multiply(g, dy, y);
    return [subtract(g, weighted, multiply(g, y, sum(g, weighted, [x.shape.length - 1])))];
  });
}

/** Log-softmax over the last axis. */
export function logSoftmax(g: Graph, x: Value): Value {
  const y = g.node("LogSoftmax", [x], x, { axis: -1 });
  return recorded(g, [x], y, (dy) => [
    subtract(g, dy, multiply(g, exponential(g, detach(y)), sum(g, dy, [x.shape.length - 1]))),
  ]);
}

/** Root-mean-square norm over the last axis of x [rows, width], scaled by weight [width] (Zhang and Sennrich, 2019). */
export function rmsNorm(g: Graph, x: Value, weight: Value, epsilon: number): Value {
  const squared = g.node("Mul", [x, x], x);
  const shifted = add(g, meanLast(g, squared), g.scalar(epsilon));
  const inverse = g.node("Reciprocal", [squareRoot(g, shifted)], shifted);
  const normed = g.node("Mul", [x, inverse], x);
  const y = g.node("Mul", [normed, weight], x);
  return recorded(g, [x, weight], y, (dy) => {
    const dNormed = multiply(g, dy, detach(weight));
    const along = multiply(g, normed, meanLast(g, multiply(g, dNormed, normed)));
    return [multiply(g, inverse, subtract(g, dNormed, along)), sumTo(g, multiply(g, dy, normed), weight)];
  });
}

/**
 * Rows of a table [vocabulary, width] by token id. Its gradient is onehotᵀ · dy: a scatter with addition gives a different sum
 * each time it runs on more than one thread.
 */
export function embed(g: Graph, table: Value, ids: Value): Value {
  const shape = [...ids.shape, table.shape[1]!];
  return recorded(
    g,
    [table],
    g.node("Gather", [table, ids], { shape, dtype: table.dtype }, { axis: 0 }),
    (dy) => [g.node("Gemm", [oneHot(g, ids, Number(table.shape[0])), dy], table, { transA: 1 })],
  );
}

/** x[i, ids[i]] of x [rows, columns], as [rows, 1]. */
export function pick(g: Graph, x: Value, ids: Value): Value {
  const column = reshape(g, ids, [ids.shape[0]!, 1]);
  const shape = [x.shape[0]!, 1];
  return recorded(g, [x], g.node("GatherElements", [x, column], { shape }, { axis: 1 }), (dy) => [
    multiply(g, oneHot(g, ids, Number(x.shape[1])), dy),
  ]);
}

/** The given rows of a tensor, without a gradient. */
export function rowsOf(g: Graph, x: Value, rows: Value): Value {
  return g.node(
    "Gather",
    [x, rows],
    { shape: [...rows.shape, ...x.shape.slice(1)], dtype: x.dtype },
    { axis: 0 },
  );
}

function oneHot(g: Graph, ids: Value, depth: number): Value {
  const shape = [...ids.shape, depth];
  const hot = g.node(
    "OneHot",
    [ids, g.integers([depth]), g.offOn()],
    { shape, dtype: "float32" },
    { axis: -1 },
  );
  return cast(g, hot, g.precision);
}

function recorded(
  g: Graph,
  inputs: readonly Value[],
  output: Value,
  pull: (dy: Value) => readonly (Value | undefined)[],
): Value {
  return g.record(inputs, [output], ([dy]) => pull(dy!))[0]!;
}

function wants(input: Value, gradient: () => Value): Value | undefined {
  return input.tracked ? gradient() : undefined;
}

function binary(g: Graph, type: string, a: Value, b: Value): Value {
  return g.node(type, [a, b], { shape: broadcast(a.shape, b.shape) });
}

function swapLast(g: Graph, x: Value): Value {
  const axes = x.shape.map((_, i) => i);
  return transpose(g, x, [...axes.slice(0, -2), axes.length - 1, axes.length - 2]);
}

/** A gradient of fewer elements, repeated to the shape of what it is the gradient of. */
function expandLike(g: Graph, dy: Value, x: Value): Value {
  if (sameShape(dy.shape, x.shape)) return dy;
  const shape = g.node("Shape", [x], { shape: [x.shape.length], dtype: "int64" });
  return g.node("Expand", [dy, shape], x);
}

/** The gradient of something that was broadcast to `dy`'s shape. */
function sumTo(g: Graph, dy: Value, target: Value): Value {
  if (sameShape(dy.shape, target.shape)) return dy;
  const lead = dy.shape.length - target.shape.length;
  const axes = dy.shape.flatMap((dimension, i) => {
    const wanted = i < lead ? undefined : target.shape[i - lead];
    return wanted === undefined || (wanted === 1 && dimension !== 1) ? [i] : [];
  });
  return axes.length === 0 ? dy : reshape(g, sum(g, dy, axes), target.shape);
}

function broadcast(a: readonly Dimension[], b: readonly Dimension[]): Dimension[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const left = a[a.length - rank + i] ?? 1;
    const right = b[b.length - rank + i] ?? 1;
    if (left !== 1 && right !== 1 && left !== right)
      throw new Error(`Shapes [${a}] and [${b}] do not fit together.`);
    return left === 1 ? right : left;
  });
}

function sameShape(a: readonly Dimension[], b: readonly Dimension[]): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i]);
}
