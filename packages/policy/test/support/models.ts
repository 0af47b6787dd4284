import { initialParameters, type ModelConfig, parameterLayout } from "../../src/index.ts";
import { uniform } from "./uniform.ts";

/** The demo's decoder. */
export const demoModel: ModelConfig = {
  vocabularySize: 18,
  eos: 11,
  hiddenSize: 64,
  layers: 2,
  heads: 4,
  kvHeads: 4,
  intermediateSize: 160,
  maxPositions: 32,
  tiedHead: true,
  qkvBias: false,
  ropeTheta: 10_000,
  rmsNormEps: 1e-5,
};

/** The four forms a decoder can have, and long enough for more than one window. */
export const variants: [string, ModelConfig][] = [
  ["tied head", { ...demoModel, maxPositions: 96 }],
  ["untied head", { ...demoModel, maxPositions: 96, tiedHead: false }],
  ["grouped-query attention", { ...demoModel, maxPositions: 96, kvHeads: 2 }],
  [
    "multi-query attention and biases (Qwen2)",
    { ...demoModel, maxPositions: 96, kvHeads: 1, qkvBias: true, tiedHead: false },
  ],
];

/** Random weights with nothing left at its trivial start: norms are not 1, biases not 0. */
export function weightsFor(model: ModelConfig, seed: number): Float32Array {
  const flat = initialParameters(model, [seed, 1]);
  const draw = uniform(seed);
  for (const { shape, offset, size } of parameterLayout(model).parameters) {
    if (shape.length > 1) continue;
    for (let i = 0; i < size; i++) flat[offset + i]! += 0.4 * (draw() - 0.5);
  }
  return flat;
}

/** Token ids without the end token. */
export function randomTokens(model: ModelConfig, length: number, draw: () => number): Int32Array {
  return Int32Array.from({ length }, () => {
    const token = Math.floor(draw() * (model.vocabularySize - 1));
    return token >= model.eos ? token + 1 : token;
  });
}
