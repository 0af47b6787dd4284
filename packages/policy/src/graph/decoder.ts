/**
 * The decoder's forward pass, once for all graphs. Activations are [rows, width] with rows = sequences × positions, so that every
 * projection is one matrix product. Rotary positions pair dimension i with i + half (Su et al., 2021, in the "half" layout of
 * Hugging Face's Llama).
 */

import type { Graph, Value } from "./builder.ts";
import { headSize, type ModelConfig } from "./config.ts";
import {
  add,
  choose,
  compare,
  concatenate,
  embed,
  linear,
  multiply,
  product,
  reshape,
  rmsNorm,
  rowsOf,
  silu,
  softmax,
  split,
  subtract,
  transpose,
} from "./operators.ts";
import { layerParameter, parameterLayout } from "./parameters.ts";
import type { Dimension } from "./wire.ts";

/** Graph inputs that hold the parameters, by name. */
export type Parameters = (name: string) => Value;

/** A layer's keys and values, [B, kvHeads, positions, headSize]. */
export type KeyValues = { keys: Value; values: Value };

/** Added to the score of a position that must not be seen: its weight is exactly 0 after the softmax. */
const HIDDEN = -1e9;

/** Declares one input for each fused parameter; `tracked` when gradients are wanted. */
export function parameterInputs(g: Graph, config: ModelConfig, options: { tracked: boolean }): Parameters {
  const inputs = new Map(
    parameterLayout(config).parameters.map(({ name, shape }) => [
      name,
      g.input(name, g.precision, shape, options),
    ]),
  );
  return (name) => {
    const input = inputs.get(name);
    if (input === undefined) throw new Error(`The model has no parameter ${name}.`);
    return input;
  };
}

/**
 * Whole sequences: every position sees itself and those before it.
 * @param tokens int64 [B, T], padded on the right (what follows a position cannot reach it).
 * @returns the hidden states before the last norm, [B·T, hiddenSize], and each layer's keys and values.
 */
export function decodeSequences(
  g: Graph,
  config: ModelConfig,
  parameters: Parameters,
  tokens: Value,
  positions: Value,
): { hidden: Value; layers: KeyValues[] } {
  const { heads, kvHeads } = config;
  const size = headSize(config);
  const rotation = rotationAt(g, config, positions, ["T", 1, size / 2]);
  const earlier = compare(
    g,
    "GreaterOrEqual",
    reshape(g, positions, ["T", 1]),
    reshape(g, positions, [1, "T"]),
  );
  const mask = choose(g, earlier, g.scalar(0), g.scalar(HIDDEN));

  const layers: KeyValues[] = [];
  let x = embed(g, parameters("embedding"), reshape(g, tokens, ["N"]));
  for (let layer = 0; layer < config.layers; layer++) {
    x = block(g, config, parameters, layer, x, (qkv) => {
      const { q, k, v } = rotatedHeads(
        g,
        config,
        reshape(g, qkv, ["B", "T", heads + 2 * kvHeads, size]),
        rotation,
      );
      const keys = transpose(g, k, [0, 2, 1, 3]);
      const values = transpose(g, v, [0, 2, 1, 3]);
      layers.push({ keys, values });
      return attention(g, config, transpose(g, q, [0, 2, 1, 3]), { keys, values }, mask, "N");
    });
  }
  return { hidden: x, layers };
}

/**
 * Prompts, and outputs that continue them: a prompt is read once, however many outputs continue it. Every position computes what it
 * would in one sequence of its prompt and its output.
 * @param prompts int64 [P, S] and @param outputs int64 [B, T], both padded on the right.
 * @param sources int64 [B]: the prompt that each output continues.
 * @param positions int64 [N]: where each position of the prompts, then of the outputs, stands in its sequence; N = P·S + B·T.
 * @param seen int64 [B, C], C = S + T: for an output, where each position of its prompt and its own stand. Padding of the prompt
 *   stands behind everything.
 * @param parts int64 [2] = P·S, B·T.
 * @returns the hidden states before the last norm, [N, hiddenSize].
 */
export function decodeContinuations(
  g: Graph,
  config: ModelConfig,
  parameters: Parameters,
  input: { prompts: Value; outputs: Value; sources: Value; positions: Value; seen: Value; parts: Value },
): Value {
  const { heads, kvHeads } = config;
  const { prompts, outputs, sources, positions, seen, parts } = input;
  const size = headSize(config);
  const ofBoth = (x: Value) =>
    g.nodeOf(
      "Split",
      [x, parts],
      ["P*S", "B*T"].map((rows) => ({ shape: [rows, ...x.shape.slice(1)] })),
      {
        axis: 0,
      },
    );
  // Written out for every head: multiplying by spans of half a head is several times slower than number by number.
  const written = (x: Value) =>
    g.node("Expand", [x, g.integers([1, heads + kvHeads, size / 2])], {
      shape: ["N", heads + kvHeads, size / 2],
    });
  const { cos, sin } = rotationAt(g, config, positions, ["N", 1, size / 2]);
  const rotation = { cos: written(cos), sin: written(sin) };
  const maskOf = (queries: Value, keys: Value) =>
    choose(g, compare(g, "GreaterOrEqual", queries, keys), g.scalar(0), g.scalar(HIDDEN));
  const [atPrompts, atOutputs] = ofBoth(positions);
  const promptMask = maskOf(
    reshape(g, atPrompts!, ["P", 1, "S", 1]),
    reshape(g, atPrompts!, ["P", 1, 1, "S"]),
  );
  const outputMask = maskOf(reshape(g, atOutputs!, ["B", 1, "T", 1]), reshape(g, seen, ["B", 1, 1, "C"]));

  const tokens = g.node(
    "Concat",
    [reshape(g, prompts, ["P*S"]), reshape(g, outputs, ["B*T"])],
    { shape: ["N"] },
    { axis: 0 },
  );
  let x = embed(g, parameters("embedding"), tokens);
  for (let layer = 0; layer < config.layers; layer++) {
    x = block(g, config, parameters, layer, x, (qkv) => {
      const { q, k, v } = rotatedHeads(
        g,
        config,
        reshape(g, qkv, ["N", heads + 2 * kvHeads, size]),
        rotation,
      );
      const headsFirst = (rows: Value, batch: Dimension, length: Dimension) =>
        transpose(g, reshape(g, rows, [batch, length, rows.shape[1]!, size]), [0, 2, 1, 3]);
      const [promptQueries, outputQueries] = ofBoth(q);
      const [promptKeys, outputKeys] = ofBoth(k);
      const [promptValues, outputValues] = ofBoth(v);
      const before = {
        keys: headsFirst(promptKeys!, "P", "S"),
        values: headsFirst(promptValues!, "P", "S"),
      };
      // A copy of the prompt's keys and values for each output: small beside what reading the prompt again would take.
      const after = (prompt: Value, own: Value) =>
        g.node(
          "Concat",
          [rowsOf(g, prompt, sources), headsFirst(own, "B", "T")],
          { shape: ["B", kvHeads, "C", size] },
          { axis: 2 },
        );
      const everything = {
        keys: after(before.keys, outputKeys!),
        values: after(before.values, outputValues!),
      };
      const ofPrompts = attention(g, config, headsFirst(promptQueries!, "P", "S"), before, promptMask, "P*S");
      const ofOutputs = attention(
        g,
        config,
        headsFirst(outputQueries!, "B", "T"),
        everything,
        outputMask,
        "B*T",
      );
      return g.node("Concat", [ofPrompts, ofOutputs], { shape: ["N", heads * size] }, { axis: 0 });
    });
  }
  return x;
}

/**
 * One further position of each sequence, attending to a cache and to itself in two parts, so that the cache is only read and the
 * caller appends what comes out.
 * @param tokens int64 [B]; @param positions int64 [B].
 * @param past each layer's cache, [B, kvHeads, S, headSize], position p in slot p; what slots from the position on hold is not read.
 * @param slots int64 [S]: 0 … S − 1.
 * @returns the hidden states before the last norm, [B, hiddenSize], and each layer's new [B, kvHeads, 1, headSize].
 */
export function decodeNext(
  g: Graph,
  config: ModelConfig,
  parameters: Parameters,
  tokens: Value,
  positions: Value,
  past: readonly KeyValues[],
  slots: Value,
): { hidden: Value; layers: KeyValues[] } {
  const { heads, kvHeads } = config;
  const size = headSize(config);
  const groups = heads / kvHeads;
  const rotation = rotationAt(g, config, positions, ["B", 1, size / 2]);
  const filled = compare(g, "Less", reshape(g, slots, [1, 1, 1, "S"]), reshape(g, positions, ["B", 1, 1, 1]));
  const mask = choose(g, filled, g.scalar(0), g.scalar(HIDDEN));

  const layers: KeyValues[] = [];
  let x = embed(g, parameters("embedding"), tokens);
  for (let layer = 0; layer < config.layers; layer++) {
    const { keys, values } = past[layer]!;
    x = block(g, config, parameters, layer, x, (qkv) => {
      const { q, k, v } = rotatedHeads(
        g,
        config,
        reshape(g, qkv, ["B", heads + 2 * kvHeads, size]),
        rotation,
      );
      const queries = reshape(g, q, ["B", kvHeads, groups, size]);
      const newKeys = reshape(g, k, ["B", kvHeads, 1, size]);
      const newValues = reshape(g, v, ["B", kvHeads, 1, size]);
      layers.push({ keys: newKeys, values: newValues });
      const before = add(g, product(g, queries, keys, { transposed: true }), mask);
      const self = product(g, queries, newKeys, { transposed: true });
      const scores = g.node("Concat", [before, self], { shape: ["B", kvHeads, groups, "S+1"] }, { axis: 3 });
      const weights = softmax(g, scores);
      const onPast = sliceLast(g, weights, { start: 0, end: -1, size: "S" });
      const onSelf = sliceLast(g, weights, { start: -1, end: Number.MAX_SAFE_INTEGER, size: 1 });
      const attended = add(g, product(g, onPast, values), product(g, onSelf, newValues));
      return reshape(g, attended, ["B", heads * size]);
    });
  }
  return { hidden: x, layers };
}

/** The last norm and the output head: [rows, hiddenSize] → hidden states and logits [rows, vocabularySize]. */
export function readOut(
  g: Graph,
  config: ModelConfig,
  parameters: Parameters,
  x: Value,
): { hidden: Value; logits: Value } {
  const hidden = rmsNorm(g, x, parameters("norm"), config.rmsNormEps);
  return { hidden, logits: linear(g, hidden, parameters(config.tiedHead ? "embedding" : "head")) };
}

/**
 * What queries [B, heads, T, headSize] gather from keys and values [B, kvHeads, C, headSize], one row a query: [rows, heads · headSize].
 * @param mask added to the scores, broadcast to [B, heads, T, C].
 * @param rows names the dimension B · T.
 */
function attention(
  g: Graph,
  config: ModelConfig,
  queries: Value,
  { keys, values }: KeyValues,
  mask: Value,
  rows: Dimension,
): Value {
  const { heads, kvHeads } = config;
  const size = headSize(config);
  const [batch, , length] = queries.shape;
  const seen = keys.shape[2];
  // Query heads that share a key head lie side by side: [B, kvHeads, groups · T, size] is one product a key head.
  const together = heads === kvHeads ? length! : `G*${length}`;
  const scores = product(g, reshape(g, queries, [batch!, kvHeads, together, size]), keys, {
    transposed: true,
  });
  const allowed = add(g, reshape(g, scores, [batch!, heads, length!, seen!]), mask);
  const weights = reshape(g, softmax(g, allowed), scores.shape);
  const attended = reshape(g, product(g, weights, values), [batch!, heads, length!, size]);
  return reshape(g, transpose(g, attended, [0, 2, 1, 3]), [rows, heads * size]);
}

/** Norm, attention, residual; norm, SwiGLU, residual (Shazeer, 2020). */
function block(
  g: Graph,
  config: ModelConfig,
  parameters: Parameters,
  layer: number,
  x: Value,
  attend: (qkv: Value) => Value,
): Value {
  const own = (name: string) => parameters(layerParameter(layer, name));
  const bias = config.qkvBias ? own("qkvBias") : undefined;
  const qkv = linear(g, rmsNorm(g, x, own("attentionNorm"), config.rmsNormEps), own("qkv"), bias);
  const attended = add(g, x, linear(g, attend(qkv), own("attentionOut")));
  const normed = rmsNorm(g, attended, own("mlpNorm"), config.rmsNormEps);
  const inner = config.intermediateSize;
  const [gate, up] = split(g, linear(g, normed, own("gateUp")), 1, [inner, inner]);
  return add(g, attended, linear(g, multiply(g, silu(g, gate!), up!), own("down")));
}

/**
 * Queries, keys and values out of one tensor [..., heads + 2 kvHeads, headSize], the first two rotated to their positions, queries
 * divided by √headSize.
 */
function rotatedHeads(
  g: Graph,
  config: ModelConfig,
  qkv: Value,
  { cos, sin }: Rotation,
): { q: Value; k: Value; v: Value } {
  const { heads, kvHeads } = config;
  const headAxis = qkv.shape.length - 2;
  const half = headSize(config) / 2;
  const [qk, v] = split(g, qkv, headAxis, [heads + kvHeads, kvHeads]);
  const [first, second] = split(g, qk!, headAxis + 1, [half, half]);
  const rotated = concatenate(
    g,
    [
      subtract(g, multiply(g, first!, cos), multiply(g, second!, sin)),
      add(g, multiply(g, second!, cos), multiply(g, first!, sin)),
    ],
    headAxis + 1,
  );
  const [q, k] = split(g, rotated, headAxis, [heads, kvHeads]);
  return { q: multiply(g, q!, g.scalar(1 / Math.sqrt(headSize(config)))), k: k!, v: v! };
}

type Rotation = { cos: Value; sin: Value };

/** Cosines and sines at the given positions, shaped to be multiplied with heads. */
function rotationAt(g: Graph, config: ModelConfig, positions: Value, shape: readonly Dimension[]): Rotation {
  const half = headSize(config) / 2;
  const angles = Array.from({ length: config.maxPositions * half }, (_, i) => {
    return Math.floor(i / half) * config.ropeTheta ** (-(i % half) / half);
  });
  const at = (table: number[]) =>
    reshape(g, rowsOf(g, g.table(table, [config.maxPositions, half]), positions), shape);
  return { cos: at(angles.map(Math.cos)), sin: at(angles.map(Math.sin)) };
}

function sliceLast(g: Graph, x: Value, range: { start: number; end: number; size: Dimension }): Value {
  const axis = x.shape.length - 1;
  const shape = [...x.shape.slice(0, axis), range.size];
  return g.node("Slice", [x, g.integers([range.start]), g.integers([range.end]), g.integers([axis])], {
    shape,
  });
}
