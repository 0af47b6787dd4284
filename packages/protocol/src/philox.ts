/**
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed bijection on
 * 128-bit counters. Counter-based, so any draw can be recomputed alone, which is what makes sampling checkable.
 */

/** Two 32-bit words, unsigned. */
export type PhiloxKey = readonly [number, number];
/** Four 32-bit words, unsigned. */
export type PhiloxBlock = readonly [number, number, number, number];

/** The four 32-bit words (unsigned) for one counter under one key. */
export function philox4x32(counter: PhiloxBlock, key: PhiloxKey): [number, number, number, number] {
  const lanes = new Uint32Array(4);
  philoxInto(lanes, counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
  return [lanes[0] ?? 0, lanes[1] ?? 0, lanes[2] ?? 0, lanes[3] ?? 0];
}

/** The same without allocating: writes the four words into `lanes`. For loops over a vocabulary. */
export function philoxInto(
  lanes: Uint32Array,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): void {
  let x0 = c0 | 0;
  let x1 = c1 | 0;
  let x2 = c2 | 0;
  let x3 = c3 | 0;
  let key0 = k0 | 0;
  let key1 = k1 | 0;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(x0, 0xd2511f53);
    const low0 = Math.imul(x0, 0xd2511f53);
    const high1 = multiplyHigh(x2, 0xcd9e8d57);
    const low1 = Math.imul(x2, 0xcd9e8d57);
    x0 = high1 ^ x1 ^ key0;
    x1 = low1;
    x2 = high0 ^ x3 ^ key1;
    x3 = low0;
    key0 = (key0 + 0x9e3779b9) | 0;
    key1 = (key1 + 0xbb67ae85) | 0;
  }
  lanes[0] = x0;
  lanes[1] = x1;
  lanes[2] = x2;
  lanes[3] = x3;
}

/** Upper 32 bits of the unsigned 64-bit product, by 16-bit halves: no partial sum exceeds 32 bits. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const cross = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const middle = (Math.imul(aLow, bHigh) + (cross & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (cross >>> 16) + (middle >>> 16)) | 0;
}
