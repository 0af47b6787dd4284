/**
 * What the TOPLOC reference (Python package `toploc` 0.1.6, C++ inside) does for one bf16 window, written out in our language without
 * its torch: the package needs 3 GB of it. Heap selection for the top-k (torch's own way when 64 k ≤ n), a linear search for repeated
 * residues, Newton's divided differences with an extended Euclid for each division, Horner with a remainder at each step.
 */

const PRIME = 65497;

export type ReferenceProof = { modulus: number; coefficients: number[] };

export function referenceBuild(window: Uint16Array, k: number): ReferenceProof {
  const indices = topK(window, k);
  let modulus = PRIME;
  while (!injective(indices, modulus)) modulus--;
  const xs = indices.map((index) => index % modulus);
  return {
    modulus,
    coefficients: interpolate(
      xs,
      indices.map((index) => window[index]!),
    ),
  };
}

/** The mismatched exponents, and mean and median difference of the other mantissas. */
export function referenceVerify({ modulus, coefficients }: ReferenceProof, window: Uint16Array, k: number) {
  let mismatches = 0;
  const differences: number[] = [];
  for (const index of topK(window, k)) {
    const claimed = evaluate(coefficients, index % modulus);
    const own = window[index]!;
    if ((claimed & 0x7f80) === (own & 0x7f80)) differences.push(Math.abs((claimed & 0x7f) - (own & 0x7f)));
    else mismatches++;
  }
  differences.sort((a, b) => a - b);
  const mean = differences.reduce((sum, difference) => sum + difference, 0) / differences.length;
  return { mismatches, mean, median: differences[differences.length >> 1] };
}

function topK(window: Uint16Array, k: number): number[] {
  const magnitude = (index: number) => window[index]! & 0x7fff;
  // The k best so far, the least of them at the root.
  const heap = Array.from({ length: k }, (_, index) => index);
  const sink = (from: number) => {
    for (let parent = from; ; ) {
      let least = parent;
      for (const child of [2 * parent + 1, 2 * parent + 2])
        if (child < k && magnitude(heap[child]!) < magnitude(heap[least]!)) least = child;
      if (least === parent) return;
      [heap[parent], heap[least]] = [heap[least]!, heap[parent]!];
      parent = least;
    }
  };
  for (let parent = k >> 1; parent >= 0; parent--) sink(parent);
  let root = magnitude(heap[0]!);
  for (let index = k; index < window.length; index++) {
    if ((window[index]! & 0x7fff) <= root) continue;
    heap[0] = index;
    sink(0);
    root = magnitude(heap[0]!);
  }
  return heap.sort((a, b) => magnitude(b) - magnitude(a));
}

function injective(indices: readonly number[], modulus: number): boolean {
  const seen: number[] = [];
  for (const index of indices) {
    if (seen.includes(index % modulus)) return false;
    seen.push(index % modulus);
  }
  return true;
}

function interpolate(xs: readonly number[], ys: readonly number[]): number[] {
  const n = xs.length;
  const differences = ys.map((y) => y % PRIME);
  for (let order = 1; order < n; order++) {
    for (let i = n - 1; i >= order; i--) {
      const rise = positive(differences[i]! - differences[i - 1]!);
      differences[i] = (rise * inverse(positive(xs[i]! - xs[i - order]!))) % PRIME;
    }
  }
  const coefficients = new Array<number>(n).fill(0);
  // (x − x₀) … (x − xᵢ₋₁)
  const factor = new Array<number>(n).fill(0);
  factor[0] = 1;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) coefficients[j] = (coefficients[j]! + differences[i]! * factor[j]!) % PRIME;
    if (i + 1 === n) break;
    const minusX = positive(-xs[i]!);
    let lower = 0;
    for (let j = 0; j <= i + 1; j++) {
      const old = factor[j]!;
      factor[j] = (lower + old * minusX) % PRIME;
      lower = old;
    }
  }
  return coefficients;
}

function evaluate(coefficients: readonly number[], x: number): number {
  let value = coefficients.at(-1)!;
  for (let i = coefficients.length - 2; i >= 0; i--) value = (value * x + coefficients[i]!) % PRIME;
  return value;
}

function inverse(value: number): number {
  let [oldR, r, oldS, s] = [value, PRIME, 1, 0];
  while (r !== 0) {
    const quotient = Math.floor(oldR / r);
    const [nextR, nextS] = [oldR - quotient * r, oldS - quotient * s];
    oldR = r;
    r = nextR;
    oldS = s;
    s = nextS;
  }
  return positive(oldS);
}

function positive(value: number): number {
  return ((value % PRIME) + PRIME) % PRIME;
}
