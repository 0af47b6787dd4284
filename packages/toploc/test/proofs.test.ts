import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  buildProof,
  buildProofF32,
  compareBf16,
  compareF32,
  countDecoys,
  decodeProof,
  encodeProof,
  encodeProofF32,
  fromBf16,
  injectiveModulus,
  PRIME,
  ProofError,
  pointCount,
  proofLength,
  selectTopK,
  toBf16,
  verifyProof,
  verifyProofF32,
  windowCount,
  windowsOf,
} from "../src/index.ts";

const topK = fc.integer({ min: 1, max: 140 });
const patterns = fc.uint16Array({ minLength: 1, maxLength: 400 });
// Every float32 bit pattern, NaNs and infinities among them.
const floats = fc
  .uint32Array({ minLength: 1, maxLength: 400 })
  .map((bits) => new Float32Array(bits.buffer.slice(0)));
const noDistance = { exponentMismatches: 0, mantissaMean: 0, mantissaMedian: 0, signMismatches: 0 };

function gaussian(length: number, seed: number): Float32Array {
  const draw = stream(seed);
  return Float32Array.from({ length }, (_, i) => {
    const radius = Math.sqrt(-2 * Math.log((draw(2 * i) + 0.5) / 2 ** 32));
    return radius * Math.cos((2 * Math.PI * draw(2 * i + 1)) / 2 ** 32);
  });
}

function stream(seed: number): (i: number) => number {
  return (i) => {
    let x = (seed * 0x9e3779b9 + i * 0x85ebca6b) >>> 0;
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return (x ^ (x >>> 15)) >>> 0;
  };
}

function codeOf(act: () => unknown): string | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof ProofError) return error.code;
    throw error;
  }
  return undefined;
}

describe("a window and its own proof", () => {
  test("are 0 apart in the bf16 form, whatever the bits", () => {
    fc.assert(
      fc.property(patterns, topK, (window, k) => {
        expect(verifyProof(buildProof(window, { topK: k }), window, { topK: k })).toEqual(noDistance);
      }),
    );
  });

  test("are apart in the f32 form only by what the low half's saturation loses", () => {
    fc.assert(
      fc.property(floats, topK, (window, k) => {
        const indices = selectTopK(window, k);
        const words = new Uint32Array(window.buffer);
        const lost = [...indices].map((index) =>
          Number.isNaN(window[index]!) ? 0 : Math.max(0, (words[index]! & 0xffff) - (PRIME - 1)),
        );
        const meanUlp = lost.reduce((sum, ulp) => sum + ulp, 0) / lost.length;
        expect(verifyProofF32(buildProofF32(window, { topK: k }), window, { topK: k })).toEqual({
          outliers: 0,
          meanUlp,
        });
      }),
    );
  });

  test("compare the same from a measurement as from the window", () => {
    fc.assert(
      fc.property(floats, floats, topK, (window, other, k) => {
        const mine = window.slice(0, Math.min(window.length, other.length));
        const theirs = other.slice(0, mine.length);
        const indices = selectTopK(mine, k);
        const values = Float32Array.from(indices, (index) => mine[index]!);
        const f32 = buildProofF32(theirs, { topK: k });
        const compared = compareF32(decodeProof(f32, { k: indices.length, form: "f32" }), indices, values);
        // A NaN read through a Float32Array may change its payload; windows with NaN are compared elsewhere.
        fc.pre(!values.some(Number.isNaN));
        expect(compared).toEqual(verifyProofF32(f32, mine, { topK: k }));

        const rounded = toBf16(mine);
        const roundedIndices = selectTopK(rounded, k);
        const roundedValues = fromBf16(Uint16Array.from(roundedIndices, (index) => rounded[index]!));
        const bf16 = buildProof(toBf16(theirs), { topK: k });
        const proof = decodeProof(bf16, { k: roundedIndices.length, form: "bf16" });
        expect(compareBf16(proof, roundedIndices, roundedValues)).toEqual(
          verifyProof(bf16, rounded, { topK: k }),
        );
      }),
    );
  });
});

test("a proof is evaluated exactly, also where every product is largest", () => {
  const k = 128;
  const indices = Uint32Array.from({ length: k }, (_, i) => PRIME - 1 - i);
  for (const coefficient of [PRIME - 1, 1, 40_503]) {
    const bytes = new Uint8Array(2 + 2 * k);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, PRIME);
    for (let i = 0; i < k; i++) view.setUint16(2 + 2 * i, coefficient);
    const exact = Uint16Array.from(indices, (x) => {
      let value = 0n;
      for (let i = 0; i < k; i++) value = (value * BigInt(x) + BigInt(coefficient)) % BigInt(PRIME);
      return Number(value);
    });
    const proof = decodeProof(bytes, { k, form: "bf16" });
    // A NaN has one spelling in a measurement, and any in a polynomial.
    const numbers = indices.filter((_, i) => (exact[i]! & 0x7fff) <= 0x7f80);
    const values = fromBf16(exact.filter((pattern) => (pattern & 0x7fff) <= 0x7f80));
    expect(values.length).toBeGreaterThan(100);
    expect(compareBf16(proof, numbers, values)).toEqual(noDistance);
  }
});

describe("the top-k", () => {
  test("is the first k of all indices sorted by magnitude, then by index", () => {
    const magnitudes = [
      fc.uint16Array({ minLength: 1, maxLength: 3000 }),
      // Few distinct values: ties everywhere.
      fc.uint16Array({ minLength: 1, maxLength: 3000, min: 0x3f80, max: 0x3f83 }),
    ];
    fc.assert(
      fc.property(fc.oneof(...magnitudes), fc.integer({ min: 1, max: 64 }), (window, k) => {
        const magnitude = (i: number) => {
          const bits = window[i]! & 0x7fff;
          return bits > 0x7f80 ? 0x7fc0 : bits;
        };
        const sorted = [...window.keys()].sort((a, b) => magnitude(b) - magnitude(a) || a - b);
        expect([...selectTopK(window, k)]).toEqual(sorted.slice(0, k));
        const wide = fromBf16(window);
        expect([...selectTopK(wide, k)]).toEqual(sorted.slice(0, k));
      }),
    );
  });

  test("gives ties at the k-th magnitude to the lowest flat index", () => {
    expect([...selectTopK(Float32Array.of(1, -2, 2, -1, 2, 1), 4)]).toEqual([1, 2, 4, 0]);
    expect([...selectTopK(new Uint16Array(5000).fill(0x3f80), 3)]).toEqual([0, 1, 2]);
  });

  test("puts NaN above infinity above every number, and NaNs among themselves by index", () => {
    const window = Float32Array.of(
      3e38,
      Number.NEGATIVE_INFINITY,
      1,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NaN,
    );
    expect([...selectTopK(window, 5)]).toEqual([3, 5, 1, 4, 0]);
  });

  test("is the same for a rising, a falling, a crowded and a long window, and one with an outlier, as by sorting", () => {
    const long = gaussian(32 * 512, 3);
    const short = gaussian(450, 5);
    const crowded = short.map((value) => 1 + Math.round(20 * value) * 2 ** -23);
    const outlier = short.with(7, -1e20);
    const spread = short.map((value, i) => value * 10 ** (i % 40));
    for (const window of [
      long,
      long.slice().sort(),
      long.slice().sort().reverse(),
      short,
      crowded,
      outlier,
      spread,
    ]) {
      const sorted = [...window.keys()].sort((a, b) => Math.abs(window[b]!) - Math.abs(window[a]!) || a - b);
      expect([...selectTopK(window, 128)]).toEqual(sorted.slice(0, 128));
    }
  });

  test("refuses an empty window and a k that is no positive integer", () => {
    expect(codeOf(() => selectTopK(new Float32Array(0), 1))).toBe("WINDOW");
    for (const k of [0, -1, 1.5, Number.NaN])
      expect(codeOf(() => selectTopK(new Float32Array(4), k))).toBe("WINDOW");
    expect(codeOf(() => selectTopK(new Uint16Array(2 ** 22 + 1), 1))).toBe("WINDOW");
  });
});

describe("the modulus", () => {
  test("is the largest that separates the indices", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 0, max: 2 ** 22 - 1 }), { minLength: 1, maxLength: 40 }),
        (indices) => {
          const modulus = injectiveModulus(Uint32Array.from(indices));
          const separates = (m: number) => new Set(indices.map((index) => index % m)).size === indices.length;
          let expected = PRIME;
          while (!separates(expected)) expected--;
          expect(modulus).toBe(expected);
        },
      ),
    );
  });

  test("does not exist for repeated indices", () => {
    expect(codeOf(() => encodeProof([5, 9, 5], [1, 2, 3]))).toBe("MODULUS");
  });
});

describe("a parser", () => {
  const form = fc.constantFrom("bf16" as const, "f32" as const);

  test("refuses every length but one", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 600 }),
        fc.integer({ min: 1, max: 140 }),
        form,
        (bytes, k, as) => {
          fc.pre(bytes.length !== proofLength(k, as));
          expect(codeOf(() => decodeProof(bytes, { k, form: as }))).toBe("LENGTH");
        },
      ),
    );
  });

  test("refuses a modulus of 0 or above 65497 and a coefficient of 65497 or more, and takes the values just inside", () => {
    for (const [modulus, code] of [
      [0, "MODULUS"],
      [65498, "MODULUS"],
      [0xffff, "MODULUS"],
      [65497, undefined],
      [1, undefined],
    ] as const) {
      expect(
        codeOf(() => decodeProof(Uint8Array.of(modulus >> 8, modulus & 0xff, 0, 0), { k: 1, form: "bf16" })),
      ).toBe(code);
    }
    for (const [at, as] of [
      [2, "bf16"],
      [2, "f32"],
      [4, "f32"],
    ] as const) {
      const bytes = new Uint8Array(proofLength(1, as));
      bytes.set([0xff, 0xd9]);
      bytes.set([0xff, 0xd9], at);
      expect(codeOf(() => decodeProof(bytes, { k: 1, form: as }))).toBe("COEFFICIENT");
      bytes.set([0xff, 0xd8], at);
      expect(codeOf(() => decodeProof(bytes, { k: 1, form: as }))).toBeUndefined();
    }
  });

  test("answers random bytes with a proof or a ProofError, and what it takes can be compared and probed", () => {
    const window = gaussian(64, 1);
    const indices = selectTopK(window, 16);
    const values = Float32Array.from(indices, (index) => window[index]!);
    const lengths = fc.oneof(
      fc.constant(proofLength(16, "bf16")),
      fc.constant(proofLength(16, "f32")),
      fc.nat(100),
    );
    const bytes = lengths.chain((length) => fc.uint8Array({ minLength: length, maxLength: length }));
    let taken = 0;
    fc.assert(
      fc.property(bytes, form, (random, as) => {
        const code = codeOf(() => {
          const proof = decodeProof(random, { k: 16, form: as });
          taken++;
          if (proof.form === "f32") compareF32(proof, indices, values);
          else compareBf16(proof, indices, values);
          const { drawn, hits } = countDecoys(proof, indices, values, stream(7));
          expect(drawn).toBeLessThanOrEqual(128);
          expect(hits).toBeLessThanOrEqual(drawn);
        });
        expect(["LENGTH", "MODULUS", "COEFFICIENT", undefined]).toContain(code);
      }),
      { numRuns: 500 },
    );
    expect(taken).toBeGreaterThan(50);
  });

  test("has one encoding for a proof: decoding and re-encoding its points gives the same bytes", () => {
    const window = gaussian(7 * 64, 2);
    const bytes = buildProofF32(window, { topK: 128 });
    const indices = selectTopK(window, 128);
    expect(
      encodeProofF32(
        indices,
        Uint32Array.from(indices, (i) => new Uint32Array(window.buffer)[i]!),
      ),
    ).toEqual(bytes);
  });
});

describe("comparison", () => {
  test("counts another window's points as mismatches", () => {
    const proof = buildProofF32(gaussian(32 * 64, 1), { topK: 128 });
    expect(verifyProofF32(proof, gaussian(32 * 64, 2), { topK: 128 }).outliers).toBeGreaterThan(64);
  });

  test("measures the mean in ulp, across a power of two and in both signs", () => {
    const window = Float32Array.of(2, -2, 4, -8);
    const below = new Float32Array(new Uint32Array(window.buffer).map((bits) => bits - 3).buffer);
    expect(verifyProofF32(buildProofF32(window, { topK: 4 }), below, { topK: 4 })).toEqual({
      outliers: 0,
      meanUlp: 3,
    });
  });

  test("calls a point 2^23 ulp away an outlier and leaves it out of the mean", () => {
    const proof = decodeProof(buildProofF32(Float32Array.of(4, 1), { topK: 2 }), { k: 2, form: "f32" });
    expect(compareF32(proof, Uint32Array.of(0, 1), Float32Array.of(2, 1))).toEqual({
      outliers: 1,
      meanUlp: 0,
    });
    expect(compareF32(proof, Uint32Array.of(0, 1), Float32Array.of(-4, -1))).toEqual({
      outliers: 2,
      meanUlp: Number.POSITIVE_INFINITY,
    });
  });

  test("sees negated activations in the bf16 form by their signs alone", () => {
    const window = toBf16(gaussian(64, 4));
    const negated = window.map((pattern) => pattern ^ 0x8000);
    expect(verifyProof(buildProof(negated, { topK: 64 }), window, { topK: 64 })).toEqual({
      ...noDistance,
      signMismatches: 64,
    });
  });

  test("looks only at the points it is given", () => {
    const proof = decodeProof(buildProofF32(Float32Array.of(4, 1e-9), { topK: 2 }), { k: 2, form: "f32" });
    expect(compareF32(proof, Uint32Array.of(0, 1), Float32Array.of(4, 1.1e-9)).meanUlp).toBeGreaterThan(64);
    expect(compareF32(proof, Uint32Array.of(0), Float32Array.of(4))).toEqual({ outliers: 0, meanUlp: 0 });
  });

  test("gives infinite means when no exponent agrees", () => {
    const proof = buildProof(toBf16(Float32Array.of(1, 1)), { topK: 2 });
    expect(verifyProof(proof, toBf16(Float32Array.of(4, 4)), { topK: 2 })).toEqual({
      exponentMismatches: 2,
      mantissaMean: Number.POSITIVE_INFINITY,
      mantissaMedian: Number.POSITIVE_INFINITY,
      signMismatches: 0,
    });
  });

  test("refuses counts and forms that do not belong together", () => {
    const proof = decodeProof(buildProofF32(Float32Array.of(4, 1), { topK: 2 }), { k: 2, form: "f32" });
    expect(codeOf(() => compareF32(proof, Uint32Array.of(0), Float32Array.of(4, 1)))).toBe("POINTS");
    expect(codeOf(() => compareF32(proof, new Uint32Array(0), new Float32Array(0)))).toBe("POINTS");
    expect(codeOf(() => compareBf16(proof, Uint32Array.of(0, 1), Float32Array.of(4, 1)))).toBe("POINTS");
    expect(codeOf(() => encodeProof([], []))).toBe("POINTS");
    expect(codeOf(() => encodeProof([1, 2], [1]))).toBe("POINTS");
    expect(codeOf(() => encodeProof([-1], [1]))).toBe("POINTS");
  });
});

describe("decoys", () => {
  const window = gaussian(32 * 64, 5);
  const indices = selectTopK(window, 128);
  const values = Float32Array.from(indices, (index) => window[index]!);

  test("hit an honest proof by chance only", () => {
    for (let seed = 0; seed < 20; seed++) {
      const honest = decodeProof(buildProofF32(window, { topK: 128 }), { k: 128, form: "f32" });
      const { drawn, hits } = countDecoys(honest, indices, values, stream(seed));
      expect(drawn).toBe(128);
      expect(hits).toBeLessThan(16);
    }
  });

  test("hit a constant forgery every time", () => {
    const forged = new Uint8Array(proofLength(128, "bf16"));
    forged.set([0xff, 0xd9, 0x40, 0x50]);
    const proof = decodeProof(forged, { k: 128, form: "bf16" });
    expect(countDecoys(proof, indices, values, stream(1))).toEqual({ drawn: 128, hits: 128 });
  });

  test("are fewer when the modulus leaves fewer residues, and none are drawn twice", () => {
    const proof = { form: "bf16" as const, modulus: 130, high: Uint16Array.of(0) };
    const few = Uint32Array.of(0, 1, 2, 3);
    expect(countDecoys(proof, few, Float32Array.of(1, 1, 1, 1), stream(1))).toEqual({ drawn: 126, hits: 0 });
    expect(countDecoys({ ...proof, modulus: 1 }, few, Float32Array.of(1, 1, 1, 1), stream(1)).drawn).toBe(0);
  });

  test("refuse a stream that stands still", () => {
    const proof = { form: "bf16" as const, modulus: PRIME, high: Uint16Array.of(0) };
    expect(codeOf(() => countDecoys(proof, Uint32Array.of(0), Float32Array.of(1), () => 5))).toBe("DRAW");
  });
});

describe("bf16 rounding", () => {
  test("is to nearest, ties to even, and keeps infinities and one NaN", () => {
    const bits = Uint32Array.of(
      0x3f808000,
      0x3f818000,
      0x3f808001,
      0x7f7fffff,
      0xff800000,
      0x7f800001,
      0xffc12345,
      0x80000000,
    );
    expect([...toBf16(new Float32Array(bits.buffer))]).toEqual([
      0x3f80, 0x3f82, 0x3f81, 0x7f80, 0xff80, 0x7fc0, 0x7fc0, 0x8000,
    ]);
  });

  test("leaves bf16 values as they are", () => {
    fc.assert(
      fc.property(fc.uint16Array({ maxLength: 100 }), (window) => {
        const numbers = window.filter((pattern) => (pattern & 0x7fff) <= 0x7f80);
        expect(toBf16(fromBf16(numbers))).toEqual(numbers);
      }),
    );
  });
});

test("windows are 32 rows, the last shorter, and a short one has fewer points", () => {
  expect(windowsOf(70)).toEqual([
    { start: 0, end: 32 },
    { start: 32, end: 64 },
    { start: 64, end: 70 },
  ]);
  expect([0, 1, 32, 33].map(windowCount)).toEqual([0, 1, 1, 2]);
  expect([pointCount(1, 64, 128), pointCount(32, 64, 128)]).toEqual([64, 128]);
});
