import { philox4x32 } from "@muster/protocol";

/** Numbers in [0, 1) for test data: the same every time. */
export function uniform(seed: number): () => number {
  let drawn = 0;
  return () => philox4x32([drawn++, 0, 0, 0], [seed, 0])[0] * 2 ** -32;
}
