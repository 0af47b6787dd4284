import { expect, test } from "vitest";
import {
  buildProof,
  buildProofF32,
  encodeProof,
  injectiveModulus,
  selectTopK,
  toBf16,
  verifyProof,
  verifyProofF32,
} from "../src/index.ts";
import proofs from "./vectors/proofs.json" with { type: "json" };
import reference from "./vectors/toploc.json" with { type: "json" };

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

for (const points of reference.points) {
  test(`explicit points give the reference's bytes: ${points.name}`, () => {
    const proof = encodeProof(points.indices, points.values_u16);
    expect(hex(proof)).toBe(points.proof_hex);
    expect(Buffer.from(proof).toString("base64")).toBe(points.proof_base64);
    expect(proof.length).toBe(points.proof_bytes);
    expect(injectiveModulus(Uint32Array.from(points.indices))).toBe(points.modulus);
  });
}

// The reference proves the prefill as one window, then windows of three decoded rows.
const { prefill_bf16, decode_bf16, proofs_base64, topk, verify_x1_01 } = reference.readme;
const readmeWindows = [
  prefill_bf16,
  ...[0, 3, 6, 9].map((row) => decode_bf16.slice(row, row + 3).flat()),
].map((window) => Uint16Array.from(window));

test("the reference's README example gives its proofs and its top-k", () => {
  expect(
    readmeWindows.map((window) => Buffer.from(buildProof(window, { topK: 4 })).toString("base64")),
  ).toEqual(proofs_base64);
  for (const [i, window] of readmeWindows.entries()) {
    // The reference does not order its top-k by index within equal magnitudes, so the sets are compared.
    expect([...selectTopK(window, 4)].sort()).toEqual([...(topk[i]?.indices ?? [])].sort());
  }
});

test("the reference's README example verifies to its numbers", () => {
  const distances = proofs_base64.map((proof, i) =>
    verifyProof(Buffer.from(proof, "base64"), Uint16Array.from(verify_x1_01.activations_bf16[i] ?? []), {
      topK: 4,
    }),
  );
  expect(distances).toEqual(
    verify_x1_01.expected.map((expected) => ({
      exponentMismatches: expected.exp_mismatches,
      mantissaMean: expected.mant_err_mean,
      mantissaMedian: expected.mant_err_median,
      signMismatches: 0,
    })),
  );
});

for (const vector of proofs.cases) {
  test(`a float32 window gives the published proofs in both forms: ${vector.name}`, () => {
    const bytes = Uint8Array.from(Buffer.from(vector.windowF32LittleEndianBase64, "base64"));
    const window = new Float32Array(bytes.buffer);
    expect(window.length).toBe(vector.rows * vector.hidden);
    const f32 = buildProofF32(window, { topK: proofs.topK });
    const bf16 = buildProof(toBf16(window), { topK: proofs.topK });
    expect(hex(f32)).toBe(vector.f32ProofHex);
    expect(hex(bf16)).toBe(vector.bf16ProofHex);
    expect(verifyProof(bf16, toBf16(window), { topK: proofs.topK })).toEqual({
      exponentMismatches: 0,
      mantissaMean: 0,
      mantissaMedian: 0,
      signMismatches: 0,
    });
    expect(verifyProofF32(f32, window, { topK: proofs.topK }).outliers).toBe(0);
  });
}
