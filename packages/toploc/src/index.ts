export { fromBf16, toBf16 } from "./bf16.ts";
export { buildProof, buildProofF32, type ProofOptions } from "./build.ts";
export {
  type Bf16Distance,
  compareBf16,
  compareF32,
  type F32Distance,
  verifyProof,
  verifyProofF32,
} from "./compare.ts";
export { countDecoys, DECOYS, type DecoyCount } from "./decoys.ts";
export { ProofError, type ProofErrorCode } from "./error.ts";
export { PRIME } from "./field.ts";
export { injectiveModulus } from "./modulus.ts";
export {
  decodeProof,
  encodeProof,
  encodeProofF32,
  type Proof,
  type ProofForm,
  proofLength,
} from "./proof.ts";
export { MAX_WINDOW_VALUES, selectTopK } from "./top-k.ts";
export { pointCount, WINDOW_ROWS, type WindowRange, windowCount, windowsOf } from "./windows.ts";
