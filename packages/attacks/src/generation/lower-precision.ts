import type { ModelConfig } from "@muster/policy/graph";
import { fromBf16, toBf16 } from "@muster/toploc";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";
import { quantized, withWeights } from "../cheating/weights.ts";

/** One attack for each way to store weights in fewer bits. Arithmetic stays float32, which is the hardest to notice. */
export const [fp16Weights, bf16Weights, int8Weights, int4Weights] = (
  [
    ["fp16", "float16", 0.3, (flat) => flat.map(Math.f16round)],
    ["bf16", "bfloat16", 0.3, (flat) => fromBf16(toBf16(flat))],
    ["int8", "8-bit integers", 0.3, (flat, model) => quantized(flat, model, 8)],
    ["int4", "4-bit integers", 0.5, (flat, model) => quantized(flat, model, 4)],
  ] satisfies [string, string, number, (flat: Float32Array, model: ModelConfig) => Float32Array][]
).map(
  ([id, name, saved, change]): Attack => ({
    id: `${id}-weights`,
    kind: "generation",
    title: `Weights in ${name}`,
    plain: `Generates with weights rounded to ${name}, which need less memory and less time.`,
    saved,
    expectation: { kind: "detected", within: 4 },
    executors: (ledger) => ({ GENERATE: cheating(ledger, { checkpoint: withWeights(id, change) }) }),
  }),
) as [Attack, Attack, Attack, Attack];
