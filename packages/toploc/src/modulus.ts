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

/** `index mod m` of each index: the points' x. */
export function residues(indices: Uint32Array, modulus: number): Uint16Array {
  const xs = new Uint16Array(indices.length);
  for (let i = 0; i < indices.length; i++) xs[i] = indices[i]! % modulus;
  return xs;
}

/** A set of residues. The newest one is the only one that works: all share one array, so that making a set costs nothing. */
export class Marks {
  readonly #round: number;

  constructor() {
    if (round === 0xffffffff) {
      slots.fill(0);
      round = 0;
    }
    this.#round = ++round;
  }

  /** Whether the residue was not in the set yet; it is now. */
  add(residue: number): boolean {
    if (slots[residue] === this.#round) return false;
    slots[residue] = this.#round;
    return true;
  }
}

// A slot holds the number of the set that last marked it, so that nothing is ever cleared: 64 Ki entries a window cost more than
// all of the arithmetic.
const slots = new Uint32Array(PRIME);
let round = 0;

function allDiffer(indices: Uint32Array, modulus: number): boolean {
  const seen = new Marks();
  for (let i = 0; i < indices.length; i++) if (!seen.add(indices[i]! % modulus)) return false;
  return true;
}
