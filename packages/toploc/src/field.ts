// Arithmetic in GF(65497) on float64. A product of two elements is below 2^32, so sums of a thousand products are exact, and one
// reduction serves many terms; V8 does this several times faster than `%` on unsigned 32-bit integers (12 ns a step).

/** The field of every proof: the largest prime whose residues still reach all bf16 patterns but negative NaNs. */
export const PRIME = 65497;

/**
 * The polynomial of degree below `xs.length` through the points (x, y mod 65497).
 *
 * @param xs distinct field elements.
 * @param ys one value a point; values of 65497 and more alias, as in the reference.
 * @returns coefficients in ascending power; they do not depend on the points' order.
 */
export function interpolate(xs: Uint16Array, ys: Uint16Array): Uint16Array {
  const n = xs.length;
  const inverse = inverses();
  const differences = Float64Array.from(ys, (y) => y % PRIME);
  for (let order = 1; order < n; order++) {
    // Downwards, so that each difference of the last order is read before it is replaced.
    for (let i = n - 1; i >= order; i--) {
      const rise = differences[i]! - differences[i - 1]! + PRIME;
      const run = xs[i]! - xs[i - order]!;
      const product = rise * inverse[run < 0 ? run + PRIME : run]!;
      differences[i] = product - Math.floor(product * RECIPROCAL) * PRIME;
    }
  }
  const coefficients = new Float64Array(n);
  for (let i = n - 1; i >= 0; i--) {
    // p ← p · (x − xᵢ) + dᵢ, highest power first so that each old coefficient is read before it is replaced.
    const minusX = PRIME - xs[i]!;
    for (let j = n - 1 - i; j > 0; j--) {
      const sum = coefficients[j]! * minusX + coefficients[j - 1]!;
      coefficients[j] = sum - Math.floor(sum * RECIPROCAL) * PRIME;
    }
    const sum = coefficients[0]! * minusX + differences[i]!;
    coefficients[0] = sum - Math.floor(sum * RECIPROCAL) * PRIME;
  }
  return Uint16Array.from(coefficients);
}

/** The polynomial's value at each x. */
export function evaluate(coefficients: Uint16Array, xs: Uint16Array): Uint16Array {
  // Horner by sixteens, in two chains that do not wait for each other: `even` collects the lower eight of each sixteen
  // coefficients, `odd` the upper eight. Eight terms are summed before one reduction.
  const padded = new Float64Array(Math.ceil(coefficients.length / 16) * 16);
  padded.set(coefficients);
  const values = new Uint16Array(xs.length);
  for (let i = 0; i < xs.length; i++) {
    const x1 = xs[i]!;
    const x2 = reduce(x1 * x1);
    const x3 = reduce(x2 * x1);
    const x4 = reduce(x2 * x2);
    const x5 = reduce(x4 * x1);
    const x6 = reduce(x4 * x2);
    const x7 = reduce(x4 * x3);
    const x8 = reduce(x4 * x4);
    const x16 = reduce(x8 * x8);
    let even = 0;
    let odd = 0;
    for (let j = padded.length - 16; j >= 0; j -= 16) {
      const a = padded[j]! + padded[j + 1]! * x1 + padded[j + 2]! * x2 + padded[j + 3]! * x3;
      const b = padded[j + 4]! * x4 + padded[j + 5]! * x5 + padded[j + 6]! * x6 + padded[j + 7]! * x7;
      const c = padded[j + 8]! + padded[j + 9]! * x1 + padded[j + 10]! * x2 + padded[j + 11]! * x3;
      const d = padded[j + 12]! * x4 + padded[j + 13]! * x5 + padded[j + 14]! * x6 + padded[j + 15]! * x7;
      even = reduce(a + b + even * x16);
      odd = reduce(c + d + odd * x16);
    }
    values[i] = reduce(even + odd * x8);
  }
  return values;
}

// A hair above 1/65497: the quotient of an exact multiple must not fall below its integer, and no other quotient of a number below
// 2^40 comes within 2^-17 of the next one.
const RECIPROCAL = (1 / PRIME) * (1 + 2 ** -50);

function reduce(value: number): number {
  return value - Math.floor(value * RECIPROCAL) * PRIME;
}

let inverseTable: Uint16Array | undefined;

// 128 KiB, made on first use: a look-up a point is cheaper than batch inversion at k = 128.
function inverses(): Uint16Array {
  if (inverseTable) return inverseTable;
  const table = new Uint16Array(PRIME);
  table[1] = 1;
  for (let i = 2; i < PRIME; i++) table[i] = reduce((PRIME - Math.floor(PRIME / i)) * table[PRIME % i]!);
  inverseTable = table;
  return table;
}
