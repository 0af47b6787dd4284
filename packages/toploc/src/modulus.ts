import { ProofError } from "./error.ts";
import { PRIME } from "./field.ts";

/**
 * The largest m ≤ 65497 for which all `index mod m` differ.
 *
 * @throws ProofError `MODULUS` when no m does, as when an index is repeated.
 */
export function injectiveModulus(indices: Uint32Array): number {
  for (let modulus = PRIME; modulus >= Math.max(1, indices.length); modulus--) {
    if (allDiffer(indices, modulus)) return modulus;
  }
  throw new ProofError("MODULUS", "No modulus up to 65497 separates these indices; give each index once.");
}

/** `index mod m` of each index, in `xs`: the points' x. */
export function residues(
  indices: Uint32Array,
  modulus: number,
  xs: Uint16Array = new Uint16Array(indices.length),
): Uint16Array {
  for (let i = 0; i < indices.length; i++) xs[i] = indices[i]! % modulus;
  return xs;
}

/** A set of residues. The newest one is the only one that works: all share their memory. */
export class Marks {
  constructor() {
    bits.fill(0);
  }

  /** Whether the residue was not in the set yet; it is now. */
  add(residue: number): boolean {
    const word = bits[residue >>> 5]!;
    const mask = 1 << (residue & 31);
    if ((word & mask) !== 0) return false;
    bits[residue >>> 5] = word | mask;
    return true;
  }
}

// 8 KiB stay in the processor's first cache, and are emptied in less time than a residue takes to be found in a larger table.
const bits = new Int32Array(Math.ceil(PRIME / 32));

function allDiffer(indices: Uint32Array, modulus: number): boolean {
  const seen = new Marks();
  for (let i = 0; i < indices.length; i++) if (!seen.add(indices[i]! % modulus)) return false;
  return true;
}
