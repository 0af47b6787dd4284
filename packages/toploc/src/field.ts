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

/** The polynomial's value at each x, in `values`. */
export function evaluate(
  coefficients: Uint16Array,
  xs: Uint16Array,
  values: Uint16Array = new Uint16Array(xs.length),
): Uint16Array {
  // Horner by fours at four points at once: chains that do not wait for each other, and each coefficient is loaded once for all. Four
  // terms stay below 2^35 and times a power below 2^51, so only every second step is reduced.
  const terms = Math.ceil(coefficients.length / 8) * 8;
  if (scratch.length < terms) scratch = new Float64Array(terms);
  const c = scratch;
  c.set(coefficients);
  c.fill(0, coefficients.length, terms);
  const points = xs.length;
  for (let i = 0; i < points; i += 4) {
    const p1 = xs[i]!;
    const p2 = reduce(p1 * p1);
    const p3 = reduce(p2 * p1);
    const p4 = reduce(p2 * p2);
    const q1 = i + 1 < points ? xs[i + 1]! : 0;
    const q2 = reduce(q1 * q1);
    const q3 = reduce(q2 * q1);
    const q4 = reduce(q2 * q2);
    const r1 = i + 2 < points ? xs[i + 2]! : 0;
    const r2 = reduce(r1 * r1);
    const r3 = reduce(r2 * r1);
    const r4 = reduce(r2 * r2);
    const s1 = i + 3 < points ? xs[i + 3]! : 0;
    const s2 = reduce(s1 * s1);
    const s3 = reduce(s2 * s1);
    const s4 = reduce(s2 * s2);
    let p = 0;
    let q = 0;
    let r = 0;
    let s = 0;
    for (let j = terms - 8; j >= 0; j -= 8) {
      const c4 = c[j + 4]!;
      const c5 = c[j + 5]!;
      const c6 = c[j + 6]!;
      const c7 = c[j + 7]!;
      p = c4 + c5 * p1 + (c6 * p2 + c7 * p3) + p * p4;
      q = c4 + c5 * q1 + (c6 * q2 + c7 * q3) + q * q4;
      r = c4 + c5 * r1 + (c6 * r2 + c7 * r3) + r * r4;
      s = c4 + c5 * s1 + (c6 * s2 + c7 * s3) + s * s4;
      const c0 = c[j]!;
      const c1 = c[j + 1]!;
      const c2 = c[j + 2]!;
      const c3 = c[j + 3]!;
      p = reduce(c0 + c1 * p1 + (c2 * p2 + c3 * p3) + p * p4);
      q = reduce(c0 + c1 * q1 + (c2 * q2 + c3 * q3) + q * q4);
      r = reduce(c0 + c1 * r1 + (c2 * r2 + c3 * r3) + r * r4);
      s = reduce(c0 + c1 * s1 + (c2 * s2 + c3 * s3) + s * s4);
    }
    values[i] = p;
    if (i + 1 < points) values[i + 1] = q;
    if (i + 2 < points) values[i + 2] = r;
    if (i + 3 < points) values[i + 3] = s;
  }
  return values;
}

/** The coefficients as float64: an array of 128 takes longer to make than to evaluate at ten points. */
let scratch = new Float64Array(128);

// A hair above 1/65497: the quotient of an exact multiple must not fall below its integer, and no other quotient of a number below
// 2^51 comes within 2^-17 of the next one.
const RECIPROCAL = (1 / PRIME) * (1 + 2 ** -52);

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
