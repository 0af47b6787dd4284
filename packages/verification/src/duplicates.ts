import { hashHex, type RolloutPack } from "@muster/protocol";
import type { CheckDescription } from "./check.ts";

/** Has this work been handed in before? Forces an audit, never rejects. */
export const duplicates = {
  id: "duplicates",
  title: "Duplicates",
  plain:
    "Work that was handed in before, for another task, is always measured: the same pack, or the same activations in one window.",
  cannotCatch:
    "Copies with any difference. Two honest rollouts of the same prompt with the same output are the same, which is why this only asks for an audit.",
} as const satisfies CheckDescription;

/** One window's identity: equal activations at its top-k give an equal digest. */
export type WindowFingerprint = {
  /** Index of the rollout in its task. */
  rollout: number;
  window: number;
  /** SHA-256 of the proof's bytes, hexadecimal. A proof has one encoding, so this is as good as a digest of its points. */
  sha256: string;
};

/** A fingerprint of every window in a pack of the f32 form. The bf16 form gives none: rounding makes honest windows coincide. */
export function windowFingerprints(pack: RolloutPack): WindowFingerprint[] {
  if (pack.header.form !== "f32") return [];
  return pack.rollouts.flatMap(({ index, proofs }) =>
    proofs.map((proof, window) => ({ rollout: index, window, sha256: hashHex(proof) })),
  );
}
