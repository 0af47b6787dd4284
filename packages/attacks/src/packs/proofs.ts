import { encodeRolloutPack, type PackedRollout } from "@muster/protocol";
import { PRIME } from "@muster/toploc";
import type { Attack } from "../attack.ts";
import { cheating } from "../cheating/generate.ts";

/** Honest rollouts in a pack whose first rollout has proofs of the wrong form. */
export const [missingProofs, shortProof, extraProof, unreducedProof, smallModulus] = (
  [
    [
      "missing-proofs",
      "Missing proofs",
      "Leaves the proofs of one rollout out, hoping that nothing to check passes.",
      () => [],
    ],
    [
      "short-proof",
      "Short proof",
      "Cuts a proof to half of its coefficients, hoping that only those that are there are compared.",
      ([first, ...rest]) => [half(first), ...rest],
    ],
    [
      "extra-proof",
      "Extra proof",
      "Adds a second proof to a window, hoping that the better one counts.",
      (proofs) => [...proofs, ...proofs],
    ],
    [
      "unreduced-proof",
      "Coefficient outside the field",
      "Writes a coefficient that is no element of the field, so that the same polynomial has two spellings and a copy no equal bytes.",
      ([first, ...rest]) => [written(first, 2, PRIME), ...rest],
    ],
    [
      "small-modulus",
      "Modulus of one",
      "Names a modulus at which every place is the same, so that nothing is left to probe with decoys.",
      ([first, ...rest]) => [written(first, 0, 1), ...rest],
    ],
  ] satisfies [string, string, string, (proofs: Uint8Array[]) => Uint8Array[]][]
).map(
  ([id, title, plain, change]): Attack => ({
    id,
    kind: "pack",
    title,
    plain,
    saved: 0.1,
    expectation: { kind: "detected", within: 4 },
    executors: (ledger) => ({
      GENERATE: cheating(ledger, {
        pack: ({ header, rollouts: [first, ...rest] }) =>
          encodeRolloutPack({ header, rollouts: first ? [changed(first, change), ...rest] : rest }),
      }),
    }),
  }),
) as [Attack, Attack, Attack, Attack, Attack];

function changed(rollout: PackedRollout, change: (proofs: Uint8Array[]) => Uint8Array[]): PackedRollout {
  return { ...rollout, proofs: change(rollout.proofs) };
}

function half(proof: Uint8Array = new Uint8Array()): Uint8Array {
  return proof.slice(0, 2 + (proof.length - 2) / 2);
}

function written(proof: Uint8Array = new Uint8Array(), at: number, value: number): Uint8Array {
  const bytes = proof.slice();
  new DataView(bytes.buffer).setUint16(at, value);
  return bytes;
}
