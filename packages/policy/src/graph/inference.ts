import { Graph } from "./builder.ts";
import { headSize, type ModelConfig } from "./config.ts";
import { decodeContinuations, decodeNext, decodeSequences, parameterInputs, readOut } from "./decoder.ts";
import { reshape, rowsOf } from "./operators.ts";

/** Names of a layer's keys and values among the inputs of the decode graph, and of both graphs' outputs. */
export const cacheNames = {
  past: (layer: number) => ({ keys: `past.${layer}.keys`, values: `past.${layer}.values` }),
  present: (layer: number) => ({ keys: `present.${layer}.keys`, values: `present.${layer}.values` }),
};

/**
 * The ONNX model that reads whole sequences.
 *
 * Inputs: `tokens` int64 [B, T] padded on the right, `positions` int64 [T] = 0 … T − 1, `rows` int64 [R] (which of the B·T
 * positions, row-major, to answer for), and every parameter of `parameterLayout` by its name.
 * Outputs, float32: `hidden` [R, hiddenSize] after the last norm, `logits` [R, vocabularySize], and per layer
 * `present.N.keys`, `present.N.values` [B, kvHeads, T, headSize].
 */
export function prefillGraph(config: ModelConfig): Uint8Array {
  const g = new Graph();
  const parameters = parameterInputs(g, config, { tracked: false });
  const tokens = g.input("tokens", "int64", ["B", "T"]);
  const positions = g.input("positions", "int64", ["T"]);
  const rows = g.input("rows", "int64", ["R"]);
  const { hidden: x, layers } = decodeSequences(g, config, parameters, tokens, positions);
  const { hidden, logits } = readOut(g, config, parameters, rowsOf(g, x, rows));
  g.output("hidden", hidden);
  g.output("logits", logits);
  layers.forEach(({ keys, values }, layer) => {
    g.output(cacheNames.present(layer).keys, keys);
    g.output(cacheNames.present(layer).values, values);
  });
  return g.encode("prefill");
}

/**
 * The ONNX model that reads finished outputs after their prompts, each prompt once.
 *
 * Inputs, all int64: `prompts` [P, S] and `outputs` [B, T] padded on the right, `sources` [B] (the prompt of each output),
 * `positions` [P·S + B·T] (of prompts, then outputs, in their sequences), `seen` [B, S + T] (of what an output attends to: its
 * prompt, padding far behind, and itself), `parts` [2] = P·S, B·T, `rows` [R] (which of the P·S + B·T positions to answer for); and
 * every parameter.
 * Outputs, float32: `hidden` [R, hiddenSize] after the last norm, `logits` [R, vocabularySize].
 */
export function continuationGraph(config: ModelConfig): Uint8Array {
  const g = new Graph();
  const parameters = parameterInputs(g, config, { tracked: false });
  const x = decodeContinuations(g, config, parameters, {
    prompts: g.input("prompts", "int64", ["P", "S"]),
    outputs: g.input("outputs", "int64", ["B", "T"]),
    sources: g.input("sources", "int64", ["B"]),
    positions: g.input("positions", "int64", ["N"]),
    seen: g.input("seen", "int64", ["B", "C"]),
    parts: g.input("parts", "int64", [2]),
  });
  const { hidden, logits } = readOut(g, config, parameters, rowsOf(g, x, g.input("rows", "int64", ["R"])));
  g.output("hidden", hidden);
  g.output("logits", logits);
  return g.encode("continuations");
}

/**
 * The ONNX model that extends sequences by one position.
 *
 * Inputs: `tokens` int64 [B], `positions` int64 [B], `slots` int64 [S] = 0 … S − 1, per layer `past.N.keys`, `past.N.values`
 * [B, kvHeads, S, headSize] with position p in slot p, and every parameter. Slots from a sequence's position on are not read.
 * Outputs, float32: `hidden` [B, hiddenSize], `logits` [B, vocabularySize], and per layer only what is new: `present.N.keys`,
 * `present.N.values` [B, kvHeads, 1, headSize]. (Handing the whole cache back costs more than the step: outputs are copied.)
 */
export function decodeGraph(config: ModelConfig): Uint8Array {
  const g = new Graph();
  const parameters = parameterInputs(g, config, { tracked: false });
  const tokens = g.input("tokens", "int64", ["B"]);
  const positions = g.input("positions", "int64", ["B"]);
  const slots = g.input("slots", "int64", ["S"]);
  const shape = ["B", config.kvHeads, "S", headSize(config)];
  const past = Array.from({ length: config.layers }, (_, layer) => ({
    keys: g.input(cacheNames.past(layer).keys, "float32", shape),
    values: g.input(cacheNames.past(layer).values, "float32", shape),
  }));
  const { hidden: x, layers } = decodeNext(g, config, parameters, tokens, positions, past, slots);
  const { hidden, logits } = readOut(g, config, parameters, reshape(g, x, ["B", config.hiddenSize]));
  g.output("hidden", hidden);
  g.output("logits", logits);
  layers.forEach(({ keys, values }, layer) => {
    g.output(cacheNames.present(layer).keys, keys);
    g.output(cacheNames.present(layer).values, values);
  });
  return g.encode("decode");
}
