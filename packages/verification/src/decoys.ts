import { type PhiloxKey, philoxInto } from "@muster/protocol";
import { countDecoys, DECOYS } from "@muster/toploc";
import type { Check } from "./check.ts";

/** Does a proof also fit where it promises nothing? */
export const decoys: Check = {
  id: "decoys",
  title: "Decoys",
  plain:
    "Each proof is also evaluated at secret places where it promises nothing. A proof of real values is noise there; one made to look right everywhere, without a model, gives itself away.",
  cannotCatch: "A proof of real values from the wrong model: that is what activations are compared for.",
  run(evidence) {
    const limit = evidence.spec.verification.thresholds.decoys;
    let windows = 0;
    let failed = 0;
    let worst = { hits: 0, drawn: DECOYS, rollout: 0, window: 0 };
    const draw = streamOf(evidence.decoyKey);
    for (const { rollout, window, proof, indices, values } of evidence.windows) {
      const { drawn, hits } = countDecoys(proof, indices, values, draw);
      windows++;
      // No honest modulus leaves fewer than 128 residues over; a crafted one would leave nothing to probe.
      if (hits > limit || drawn < DECOYS) failed++;
      if (drawn < worst.drawn || (drawn === worst.drawn && hits > worst.hits))
        worst = { hits, drawn, rollout, window };
    }
    return {
      id: "decoys",
      verdict: failed === 0 ? "PASS" : "FAIL",
      observed: { ...worst, windows, failedWindows: failed },
      expected: { hits: 0, drawn: DECOYS },
      threshold: { hits: limit, drawn: DECOYS },
      note:
        worst.drawn < DECOYS
          ? `The modulus of rollout ${worst.rollout}, window ${worst.window} leaves only ${worst.drawn} residues to probe.`
          : failed === 0
            ? ""
            : `${failed} of ${windows} windows are beyond the threshold; rollout ${worst.rollout}, window ${worst.window} is the furthest.`,
      plain:
        failed === 0
          ? `The proofs are noise where they should be: at most ${worst.hits} of ${DECOYS} secret places fit by chance, where ${limit} may.`
          : `A proof fits where it should be noise (${worst.hits} of ${worst.drawn} secret places, ${limit} may): it was made without the model.`,
    };
  },
};

/** The first word of each Philox block. Every window of a group is probed by the same stream, so it is computed once. */
function streamOf(key: PhiloxKey): (i: number) => number {
  const lanes = new Uint32Array(4);
  let stream = new Uint32Array(2 * DECOYS);
  let known = 0;
  return (i) => {
    for (; known <= i; known++) {
      if (known === stream.length) {
        const longer = new Uint32Array(2 * known);
        longer.set(stream);
        stream = longer;
      }
      philoxInto(lanes, known, 0, 0, 0, key[0], key[1]);
      stream[known] = lanes[0]!;
    }
    return stream[i]!;
  };
}
