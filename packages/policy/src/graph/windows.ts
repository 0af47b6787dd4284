/** From hidden states to proofs (a producer) and to measured windows (a validator), in either form. */

import type { MeasuredWindow } from "@muster/protocol";
import {
  buildProof,
  buildProofF32,
  fromBf16,
  type ProofForm,
  selectTopK,
  toBf16,
  WINDOW_ROWS,
} from "@muster/toploc";

/** How activations are proved: a run's `verification.form` and `verification.topK`. */
export type ProofSettings = { form: ProofForm; topK: number };

/** Collects one rollout's rows as they are produced and proves each full window, so at most one window of rows is held. */
export type ProofBuilder = {
  /** @param hidden holds the row at `start`. */
  add(hidden: Float32Array, start: number): void;
  /** The proofs, the last window's included. */
  finish(): Uint8Array[];
};

export function proofBuilder(width: number, settings: ProofSettings): ProofBuilder {
  const window = new Float32Array(WINDOW_ROWS * width);
  const proofs: Uint8Array[] = [];
  let rows = 0;
  const prove = () => {
    proofs.push(proofOf(window.subarray(0, rows * width), settings));
    rows = 0;
  };
  return {
    add(hidden, start) {
      window.set(hidden.subarray(start, start + width), rows * width);
      rows++;
      if (rows === WINDOW_ROWS) prove();
    },
    finish() {
      if (rows > 0) prove();
      return proofs;
    },
  };
}

/** The top-k of one window as a validator sees it. */
export function measureWindow(window: Float32Array, { form, topK }: ProofSettings): MeasuredWindow {
  switch (form) {
    case "f32": {
      const indices = selectTopK(window, topK);
      return { indices, values: valuesAt(window, indices) };
    }
    case "bf16": {
      const patterns = toBf16(window);
      const indices = selectTopK(patterns, topK);
      return { indices, values: valuesAt(fromBf16(patterns), indices) };
    }
  }
}

function valuesAt(window: Float32Array, indices: Uint32Array): Float32Array {
  const values = new Float32Array(indices.length);
  for (let i = 0; i < indices.length; i++) values[i] = window[indices[i]!]!;
  return values;
}

function proofOf(window: Float32Array, { form, topK }: ProofSettings): Uint8Array {
  switch (form) {
    case "f32":
      return buildProofF32(window, { topK });
    case "bf16":
      return buildProof(toBf16(window), { topK });
  }
}
