import { characterTokenizer } from "@muster/protocol";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { expect, test } from "vitest";
import { decodeSafetensors, encodeCheckpoint, parameterLayout, prefillGraph } from "../src/index.ts";
import { randomTokens, variants, weightsFor } from "./support/models.ts";
import { referenceLlama } from "./support/reference-llama.ts";
import { uniform } from "./support/uniform.ts";

const tokenizer = characterTokenizer("0123456789=$+-*/()");

for (const [name, model] of variants) {
  test(`the graph computes what Llama computes from the checkpoint's tensors: ${name}`, async () => {
    const flat = weightsFor(model, 5);
    const stored = new Map(
      decodeSafetensors(encodeCheckpoint(model, flat, tokenizer).model).tensors.map((tensor) => [
        tensor.name,
        tensor,
      ]),
    );
    const lengths = [9, 5];
    const sequences = lengths.map((length, i) => randomTokens(model, length, uniform(i)));
    const padded = new BigInt64Array(2 * 9);
    sequences.forEach((sequence, i) => {
      sequence.forEach((token, t) => {
        padded[i * 9 + t] = BigInt(token);
      });
    });
    const rows = sequences.flatMap((sequence, i) => Array.from(sequence, (_, t) => BigInt(i * 9 + t)));
    const session = await InferenceSession.create(prefillGraph(model), { intraOpNumThreads: 1 });
    const results = await session.run(
      {
        tokens: new Tensor("int64", padded, [2, 9]),
        positions: new Tensor(
          "int64",
          BigInt64Array.from({ length: 9 }, (_, i) => BigInt(i)),
          [9],
        ),
        rows: new Tensor("int64", BigInt64Array.from(rows), [rows.length]),
        ...Object.fromEntries(
          parameterLayout(model).parameters.map(({ name, shape, offset, size }) => [
            name,
            new Tensor("float32", flat.subarray(offset, offset + size), shape),
          ]),
        ),
      },
      ["hidden", "logits"],
    );
    const expected = sequences.map((sequence) =>
      referenceLlama(
        model,
        (tensorName) => {
          const tensor = stored.get(tensorName);
          return tensor && { rows: tensor.shape[0]!, data: new Float32Array(tensor.data.slice().buffer) };
        },
        sequence,
      ),
    );
    expect(results.hidden!.dims).toEqual([14, model.hiddenSize]);
    expect(
      furthest(
        results.hidden!.data,
        expected.flatMap(({ hidden }) => hidden.flat()),
      ),
    ).toBeLessThan(2e-5);
    expect(
      furthest(
        results.logits!.data,
        expected.flatMap(({ logits }) => logits.flat()),
      ),
    ).toBeLessThan(2e-5);
  });
}

function furthest(found: ArrayLike<unknown>, expected: number[]): number {
  expect(found).toHaveLength(expected.length);
  return Math.max(...expected.map((value, i) => Math.abs(value - Number(found[i]))));
}
