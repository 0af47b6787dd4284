import { philox4x32 } from "@muster/protocol";

/** Numbers in [0, 1), the same for the same seed: an attack that failed once fails again. */
export function draws(seed: number): () => number {
  let n = 0;
  return () => philox4x32([n++, 0, 0, 0], [Math.round(seed), 0x61747461])[0] / 2 ** 32;
}
