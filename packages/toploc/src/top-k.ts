import { ProofError } from "./error.ts";

/** Largest window: 32 rows of 131,072 values. */
export const MAX_WINDOW_VALUES = 2 ** 22;

/**
 * Flat indices of the k = min(`k`, window length) values of largest magnitude, by magnitude descending, then index ascending;
 * ties at the k-th magnitude go to the lowest index.
 *
 * Infinities are larger than every finite value, NaNs larger still and equal among themselves (as in torch.topk), so the
 * result is defined for every bit pattern.
 *
 * @param window float32 values, or bf16 patterns in a Uint16Array, row-major.
 * @throws ProofError `WINDOW` for an empty or too large window or a k that is not a positive integer.
 */
export function selectTopK(window: Float32Array | Uint16Array, k: number): Uint32Array {
  if (!Number.isInteger(k) || k < 1) throw new ProofError("WINDOW", `k is ${k}; give a positive integer.`);
  if (window.length === 0) throw new ProofError("WINDOW", "The window is empty; give at least one row.");
  if (window.length > MAX_WINDOW_VALUES) {
    throw new ProofError(
      "WINDOW",
      `The window has ${window.length} values; at most ${MAX_WINDOW_VALUES} can be ordered.`,
    );
  }
  const keep = Math.min(k, window.length);
  return window instanceof Float32Array ? selectF32(window, keep) : select16(window, keep);
}

// One pass with a rising threshold: values above the k-th best seen so far become candidates; when their buffer is full, it is
// sorted and cut to k. A later value equal to the threshold loses by its index, so `>` is the exact rule. A random window of
// 163,840 sorts three times; an ascending one, the worst, every 3k values. Eight differences are or-ed and only the sign is
// looked at: 1.7× faster than eight branches. The two selections stay apart because one function over both array types loads
// polymorphically, and slowly.
function selectF32(window: Float32Array, k: number): Uint32Array {
  return select32(new Uint32Array(window.buffer, window.byteOffset, window.length), k);
}

function select32(bits: Uint32Array, k: number): Uint32Array {
  const candidates = new Candidates(k);
  let threshold = -1;
  let i = 0;
  for (; i + 8 <= bits.length; i += 8) {
    const signs =
      (threshold - (bits[i]! & 0x7fffffff)) |
      0 |
      ((threshold - (bits[i + 1]! & 0x7fffffff)) | 0) |
      ((threshold - (bits[i + 2]! & 0x7fffffff)) | 0) |
      ((threshold - (bits[i + 3]! & 0x7fffffff)) | 0) |
      ((threshold - (bits[i + 4]! & 0x7fffffff)) | 0) |
      ((threshold - (bits[i + 5]! & 0x7fffffff)) | 0) |
      ((threshold - (bits[i + 6]! & 0x7fffffff)) | 0) |
      ((threshold - (bits[i + 7]! & 0x7fffffff)) | 0);
    if (signs >= 0) continue;
    for (let j = i; j < i + 8; j++) {
      const magnitude = bits[j]! & 0x7fffffff;
      if (magnitude > threshold) candidates.add(magnitude > 0x7f800000 ? 0x7fc00000 : magnitude, j);
    }
    threshold = candidates.cutWhenFull(threshold);
  }
  for (; i < bits.length; i++) {
    const magnitude = bits[i]! & 0x7fffffff;
    if (magnitude > threshold) candidates.add(magnitude > 0x7f800000 ? 0x7fc00000 : magnitude, i);
  }
  return candidates.best();
}

function select16(bits: Uint16Array, k: number): Uint32Array {
  const candidates = new Candidates(k);
  let threshold = -1;
  let i = 0;
  for (; i + 8 <= bits.length; i += 8) {
    const signs =
      (threshold - (bits[i]! & 0x7fff)) |
      0 |
      ((threshold - (bits[i + 1]! & 0x7fff)) | 0) |
      ((threshold - (bits[i + 2]! & 0x7fff)) | 0) |
      ((threshold - (bits[i + 3]! & 0x7fff)) | 0) |
      ((threshold - (bits[i + 4]! & 0x7fff)) | 0) |
      ((threshold - (bits[i + 5]! & 0x7fff)) | 0) |
      ((threshold - (bits[i + 6]! & 0x7fff)) | 0) |
      ((threshold - (bits[i + 7]! & 0x7fff)) | 0);
    if (signs >= 0) continue;
    for (let j = i; j < i + 8; j++) {
      const magnitude = bits[j]! & 0x7fff;
      if (magnitude > threshold) candidates.add(magnitude > 0x7f80 ? 0x7fc0 : magnitude, j);
    }
    threshold = candidates.cutWhenFull(threshold);
  }
  for (; i < bits.length; i++) {
    const magnitude = bits[i]! & 0x7fff;
    if (magnitude > threshold) candidates.add(magnitude > 0x7f80 ? 0x7fc0 : magnitude, i);
  }
  return candidates.best();
}

/** Sixteen octaves; what is further below the largest goes into the last of 1,024 ranges. */
const MOST_SPAN = 2 ** 27 - 1;
/** An insertion sort of a range takes time by the square. */
const MOST_IN_RANGE = 32;

/**
 * The best values seen so far, and those since that may be better; they arrive by rising index. The newest one is the only one that
 * works: all share their memory, because making it takes longer than sorting in it.
 */
class Candidates {
  readonly #k: number;
  readonly #magnitudes: Uint32Array;
  readonly #indices: Uint32Array;
  #used = 0;

  constructor(k: number) {
    const room = 4 * k + 8;
    if (memory.magnitudes.length < room) memory = memoryFor(room);
    this.#k = k;
    this.#magnitudes = memory.magnitudes;
    this.#indices = memory.indices;
  }

  add(magnitude: number, index: number): void {
    this.#magnitudes[this.#used] = magnitude;
    this.#indices[this.#used++] = index;
  }

  /** The threshold to use from here on; room for eight more is certain. */
  cutWhenFull(threshold: number): number {
    if (this.#used < 4 * this.#k) return threshold;
    this.#cut();
    // `| 0` shows the compiler an integer, and keeps the comparisons in the loops integer comparisons.
    return this.#magnitudes[this.#k - 1]! | 0;
  }

  best(): Uint32Array {
    this.#cut();
    return this.#indices.slice(0, this.#k);
  }

  /** Brings the best k to the front, in order. */
  #cut(): void {
    // Where nearly all stay, all have to be in order.
    if (this.#used < 2 * this.#k || !this.#cutByDistance()) this.#sort();
    this.#used = this.#k;
  }

  // Candidates go into ranges of distance from the largest, so narrow that few are in each; an insertion sort puts those in order.
  // Answers false where too many are in one.
  #cutByDistance(): boolean {
    const { magnitudes, indices, ranges, places, spareMagnitudes, spareIndices } = memory;
    const used = this.#used;
    let largest = 0;
    let smallest = 0x7fffffff;
    for (let i = 0; i < used; i++) {
      largest = Math.max(largest, magnitudes[i]!);
      smallest = Math.min(smallest, magnitudes[i]!);
    }
    const span = Math.min(largest - smallest, MOST_SPAN);
    const shift = Math.max(0, 22 - Math.clz32(span));
    places.fill(0);
    for (let i = 0; i < used; i++) {
      const range = Math.min(largest - magnitudes[i]!, span) >>> shift;
      ranges[i] = range;
      places[range]!++;
    }
    let before = 0;
    let last = 0;
    for (; before < this.#k; last++) {
      const found = places[last]!;
      if (found > MOST_IN_RANGE) return false;
      places[last] = before;
      before += found;
    }
    for (let i = 0; i < used; i++) {
      const range = ranges[i]!;
      if (range >= last) continue;
      const place = places[range]!++;
      spareMagnitudes[place] = magnitudes[i]!;
      spareIndices[place] = indices[i]!;
    }
    for (let i = 0; i < before; i++) {
      const magnitude = spareMagnitudes[i]!;
      const index = spareIndices[i]!;
      let place = i;
      // Equal ones stay as they came, by rising index.
      for (; place > 0 && magnitudes[place - 1]! < magnitude; place--) {
        magnitudes[place] = magnitudes[place - 1]!;
        indices[place] = indices[place - 1]!;
      }
      magnitudes[place] = magnitude;
      indices[place] = index;
    }
    return true;
  }

  // A radix sort by bytes, stable, for whatever is crowded. A comparison sort takes twice as long: the processor guesses half of its
  // comparisons wrong.
  #sort(): void {
    const { magnitudes, indices, places, spareMagnitudes, spareIndices } = memory;
    places.fill(0);
    for (let i = 0; i < this.#used; i++) {
      const falling = ~magnitudes[i]!;
      places[falling & 0xff]!++;
      places[0x100 + ((falling >>> 8) & 0xff)]!++;
      places[0x200 + ((falling >>> 16) & 0xff)]!++;
      places[0x300 + (falling >>> 24)]!++;
    }
    for (let shift = 0; shift < 32; shift += 16) {
      scatter(magnitudes, indices, spareMagnitudes, spareIndices, this.#used, shift);
      scatter(spareMagnitudes, spareIndices, magnitudes, indices, this.#used, shift + 8);
    }
  }
}

function memoryFor(room: number) {
  return {
    magnitudes: new Uint32Array(room),
    indices: new Uint32Array(room),
    spareMagnitudes: new Uint32Array(room),
    spareIndices: new Uint32Array(room),
    ranges: new Uint16Array(room),
    /** How often each range, or each value of each byte, occurs; then where the next one goes. */
    places: new Uint32Array(4 * 256),
  };
}

let memory = memoryFor(520);

/** Moves the pairs to the places that one byte of their magnitudes gives them, largest first. */
function scatter(
  magnitudes: Uint32Array,
  indices: Uint32Array,
  toMagnitudes: Uint32Array,
  toIndices: Uint32Array,
  count: number,
  shift: number,
): void {
  const { places } = memory;
  const base = shift << 5;
  let start = 0;
  for (let value = base; value < base + 0x100; value++) {
    const found = places[value]!;
    places[value] = start;
    start += found;
  }
  for (let i = 0; i < count; i++) {
    const magnitude = magnitudes[i]!;
    const place = places[base + ((~magnitude >>> shift) & 0xff)]!++;
    toMagnitudes[place] = magnitude;
    toIndices[place] = indices[i]!;
  }
}
