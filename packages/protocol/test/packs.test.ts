import fc from "fast-check";
import { parquetReadObjects } from "hyparquet";
import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, test } from "vitest";
import {
  type BatchPack,
  type BlindPack,
  decodeBatchPack,
  decodeBlindPack,
  decodeMeasurementPack,
  decodeRolloutPack,
  decodeSamplesPack,
  encodeBatchPack,
  encodeBlindPack,
  encodeMeasurementPack,
  encodeRolloutPack,
  encodeSamplesPack,
  groupOf,
  hashHex,
  type MeasurementPack,
  newId,
  PackError,
  type PackLimits,
  packLimits,
  type RolloutPack,
  type SamplesPack,
  toTypeId,
} from "../src/index.ts";

const proof = { version: 1 as const, manifest: hashHex("manifest"), form: "f32" as const, topK: 128 };
const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const run = toTypeId("run", newId());

const token = fc.integer({ min: 0, max: 2 ** 31 - 1 });
const float = fc.float({ noNaN: true, noDefaultInfinity: true });
const prompt = fc.array(token, { minLength: 1, maxLength: 40 }).map((ids) => Int32Array.from(ids));
const finish = fc.constantFrom("eos" as const, "length" as const);
const bytes = fc.uint8Array({ maxLength: 600 }).map((list) => Uint8Array.from(list));
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });

const output = fc.array(fc.tuple(token, float), { minLength: 1, maxLength: 80 }).map((list) => ({
  tokens: Int32Array.from(list, ([id]) => id),
  logprobs: Float32Array.from(list, ([, logprob]) => logprob),
}));
const several = <T>(item: fc.Arbitrary<T>) => fc.array(item, { minLength: 1, maxLength: 12 });

const rolloutPack: fc.Arbitrary<RolloutPack> = several(
  fc.record({
    prompt,
    output,
    finish,
    proofs: fc.array(bytes, { maxLength: 4 }),
    gap: fc.integer({ min: 1, max: 3 }),
  }),
).map((list) => {
  let next = -1;
  const rollouts = list.map(({ output: made, gap, ...rest }) => {
    next += gap;
    return { index: next, ...rest, ...made };
  });
  return { header: { kind: "rollouts", ...proof, run, task: toTypeId("task", newId()) }, rollouts };
});

const blindPack: fc.Arbitrary<BlindPack> = several(
  fc.record({ prompt, tokens: prompt, key: fc.tuple(u32, u32) }),
).map((rollouts) => ({
  header: { kind: "blind", ...proof, sampling, eos: 11, maxOutputTokens: 7 },
  rollouts,
}));

const window = fc
  .uniqueArray(
    u32.map((x) => x >>> 1),
    { minLength: 1, maxLength: 20 },
  )
  .chain((indices) =>
    fc.tuple(fc.constant(indices), fc.array(float, { minLength: indices.length, maxLength: indices.length })),
  )
  .map(([indices, values]) => ({ indices: Uint32Array.from(indices), values: Float32Array.from(values) }));
const measurementPack: fc.Arbitrary<MeasurementPack> = several(
  output.chain(({ tokens, logprobs }) => {
    const windows = Math.ceil(tokens.length / 32);
    return fc.record({
      logprobs: fc.constant(logprobs),
      argmax: fc.constant(tokens),
      margins: fc.constant(Float32Array.from(tokens, (_, i) => (i % 7 === 6 ? Infinity : i / 3))),
      windows: fc.array(window, { minLength: windows, maxLength: windows }),
    });
  }),
).map((rollouts) => ({ header: { kind: "measurement", ...proof, blind: hashHex("blind") }, rollouts }));

const batchPack: fc.Arbitrary<BatchPack> = several(
  fc.record({ prompt, output, advantage: float, reward: fc.constantFrom(0, 0.5, 1), measured: fc.boolean() }),
).map((list) => ({
  header: { kind: "batch", version: 1, run, step: 1, batch: toTypeId("batch", newId()) },
  rollouts: list.map(({ output: made, measured, ...rest }, policyVersion) => ({
    group: toTypeId("group", newId()),
    ...rest,
    tokens: made.tokens,
    logprobs: measured ? made.logprobs : new Float32Array(0),
    policyVersion,
  })),
}));

const samplesPack: fc.Arbitrary<SamplesPack> = several(fc.record({ prompt, tokens: prompt, finish })).map(
  (list) => ({
    header: {
      kind: "samples",
      version: 1,
      run,
      suite: "held-out",
      manifest: proof.manifest,
      policyVersion: 3,
    },
    samples: list.map((sample, index) => ({ index, ...sample })),
  }),
);

type Kind = {
  pack: fc.Arbitrary<unknown>;
  encode: (pack: never) => Uint8Array;
  decode: (bytes: Uint8Array, limits?: PackLimits) => unknown;
};
const kinds: Record<string, Kind> = {
  rollouts: { pack: rolloutPack, encode: encodeRolloutPack, decode: decodeRolloutPack },
  blind: { pack: blindPack, encode: encodeBlindPack, decode: decodeBlindPack },
  measurement: { pack: measurementPack, encode: encodeMeasurementPack, decode: decodeMeasurementPack },
  batch: { pack: batchPack, encode: encodeBatchPack, decode: decodeBatchPack },
  samples: { pack: samplesPack, encode: encodeSamplesPack, decode: decodeSamplesPack },
};

/** A valid pack's bytes, always the same for a seed. */
function sampleBytes({ pack, encode }: Kind, seed: number): Uint8Array {
  const [value] = fc.sample(pack, { seed, numRuns: 1 });
  return encode(value as never);
}

/** The one promise of every decoder: a pack that encodes again and means the same, or a PackError. */
function decodesOrRefuses({ encode, decode }: Kind, input: Uint8Array): "decoded" | PackError {
  let value: unknown;
  try {
    value = decode(input);
  } catch (error) {
    if (error instanceof PackError) return error;
    throw error;
  }
  expect(decode(encode(value as never))).toEqual(value);
  return "decoded";
}

describe.each(Object.entries(kinds))("a %s pack", (_name, kind) => {
  test("decodes to what was encoded, and its bytes depend on nothing else", () => {
    fc.assert(
      fc.property(kind.pack, (pack) => {
        const encoded = kind.encode(pack as never);
        expect(kind.decode(encoded)).toEqual(pack);
        expect(kind.encode(pack as never)).toEqual(encoded);
      }),
      { numRuns: 60 },
    );
  });

  test("opens in an independent Parquet reader with the same number of rows", async () => {
    const encoded = sampleBytes(kind, 7);
    const decoded = kind.decode(encoded) as { rollouts?: unknown[]; samples?: unknown[] };
    const file = encoded.slice().buffer;
    const rows = await parquetReadObjects({ file });
    expect(rows).toHaveLength((decoded.rollouts ?? decoded.samples)!.length);
  });

  test("is refused when any other kind is expected", () => {
    for (const other of Object.values(kinds)) {
      if (other === kind) continue;
      expect(() => other.decode(sampleBytes(kind, 3))).toThrow(PackError);
    }
  });

  test("is refused at every truncation", () => {
    const encoded = sampleBytes(kind, 11);
    for (let length = 0; length < encoded.length; length += 1 + (length >> 6)) {
      expect(() => kind.decode(encoded.subarray(0, length))).toThrow(PackError);
      expect(() => kind.decode(encoded.subarray(encoded.length - length))).toThrow(PackError);
    }
  });

  test("with flipped bits is refused or still a pack", () => {
    const encoded = sampleBytes(kind, 13);
    let refused = 0;
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(encoded.length - 1), fc.nat(7)), { minLength: 1, maxLength: 4 }),
        (flips) => {
          const damaged = encoded.slice();
          for (const [at, bit] of flips) damaged[at]! ^= 1 << bit;
          if (decodesOrRefuses(kind, damaged) !== "decoded") refused++;
        },
      ),
      { numRuns: 800 },
    );
    expect(refused).toBeGreaterThan(0);
  });

  test("with an overwritten stretch, most of all in its footer, is refused or still a pack", () => {
    const encoded = sampleBytes(kind, 17);
    const view = new DataView(encoded.buffer, encoded.byteOffset, encoded.length);
    const footer = encoded.length - 8 - view.getUint32(encoded.length - 8, true);
    fc.assert(
      fc.property(
        fc.integer({ min: footer, max: encoded.length - 1 }),
        fc.uint8Array({ minLength: 1, maxLength: 12 }),
        (at, patch) => {
          const damaged = encoded.slice();
          damaged.set(patch.subarray(0, damaged.length - at), at);
          decodesOrRefuses(kind, damaged);
        },
      ),
      { numRuns: 800 },
    );
  });

  test("is never found in random bytes, with or without Parquet's magic", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(500), (noise, footer) => {
        expect(() => kind.decode(noise)).toThrow(PackError);
        const framed = new Uint8Array(noise.length + 12);
        framed.set([80, 65, 82, 49], 0);
        framed.set(noise, 4);
        new DataView(framed.buffer).setUint32(noise.length + 4, Math.min(footer, noise.length), true);
        framed.set([80, 65, 82, 49], noise.length + 8);
        expect(() => kind.decode(framed)).toThrow(PackError);
      }),
      { numRuns: 200 },
    );
  });

  test("over a limit is refused before it is decoded", () => {
    const encoded = sampleBytes(kind, 19);
    const refusal = (limits: Partial<PackLimits>) => {
      try {
        kind.decode(encoded, { ...packLimits, ...limits });
      } catch (error) {
        return error instanceof PackError ? error.code : error;
      }
      return "accepted";
    };
    expect(refusal({ bytes: encoded.length - 1 })).toBe("TOO_LARGE");
    expect(refusal({ rollouts: 0 })).toBe("TOO_LARGE");
    expect(refusal({ tokens: 0 })).toBe("TOO_LARGE");
    expect(refusal({})).toBe("accepted");
  });
});

describe("a pack by another writer", () => {
  const header = JSON.stringify({
    kind: "samples",
    version: 1,
    run,
    suite: "s",
    manifest: proof.manifest,
    policyVersion: 0,
  });
  const list = (name: string, repetition: "REQUIRED" | "OPTIONAL") => [
    { name, repetition_type: "REQUIRED" as const, num_children: 1, converted_type: "LIST" as const },
    { name: "array", repetition_type: "REPEATED" as const, num_children: 1 },
    { name: "item", type: "INT32" as const, repetition_type: repetition },
  ];
  const rowCount = 100;
  const write = (options: {
    codec?: "SNAPPY";
    encoding?: "RLE_DICTIONARY" | "DELTA_BINARY_PACKED";
    item?: "OPTIONAL";
    metadata?: { key: string; value: string }[];
  }) =>
    new Uint8Array(
      parquetWriteBuffer({
        codec: options.codec ?? "UNCOMPRESSED",
        kvMetadata: options.metadata ?? [
          { key: "other", value: "kept" },
          { key: "muster", value: header },
        ],
        rowGroupSize: 30,
        pageSize: 64,
        schema: [
          { name: "schema", repetition_type: "REQUIRED", num_children: 4 },
          { name: "index", type: "INT32", repetition_type: "REQUIRED" },
          ...list("prompt", options.item ?? "REQUIRED"),
          ...list("tokens", "REQUIRED"),
          { name: "finish", type: "BYTE_ARRAY", repetition_type: "REQUIRED", converted_type: "UTF8" },
        ],
        columnData: [
          {
            name: "index",
            data: Array.from({ length: rowCount }, (_, i) => i),
            encoding: options.encoding ?? "PLAIN",
          },
          { name: "prompt", data: Array.from({ length: rowCount }, (_, i) => [i, 2, 3]), encoding: "PLAIN" },
          { name: "tokens", data: Array.from({ length: rowCount }, (_, i) => [4, i]), encoding: "PLAIN" },
          { name: "finish", data: Array.from({ length: rowCount }, () => "eos"), encoding: "PLAIN" },
        ],
      }),
    );
  const code = (bytes: Uint8Array) => {
    try {
      return decodeSamplesPack(bytes).samples.length;
    } catch (error) {
      return error instanceof PackError ? error.code : error;
    }
  };

  test("may have statistics, row groups, small pages and more metadata", () => {
    const { samples } = decodeSamplesPack(write({}));
    expect(samples).toEqual(
      Array.from({ length: rowCount }, (_, i) => ({
        index: i,
        prompt: Int32Array.of(i, 2, 3),
        tokens: Int32Array.of(4, i),
        finish: "eos",
      })),
    );
  });

  test("may not be compressed, so a small file cannot expand", () => {
    expect(code(write({ codec: "SNAPPY" }))).toBe("UNSUPPORTED");
  });

  test("may not use dictionaries or delta encodings", () => {
    expect(code(write({ encoding: "RLE_DICTIONARY" }))).toBe("UNSUPPORTED");
    expect(code(write({ encoding: "DELTA_BINARY_PACKED" }))).toBe("UNSUPPORTED");
  });

  test("may not have nulls", () => {
    expect(code(write({ item: "OPTIONAL" }))).toBe("WRONG_SCHEMA");
  });

  test("needs its header exactly once, as JSON, and complete", () => {
    expect(code(write({ metadata: [] }))).toBe("WRONG_HEADER");
    const both = { key: "muster", value: header };
    expect(code(write({ metadata: [both, both] }))).toBe("WRONG_HEADER");
    expect(code(write({ metadata: [{ key: "muster", value: "{" }] }))).toBe("WRONG_HEADER");
    expect(code(write({ metadata: [{ key: "muster", value: "{}" }] }))).toBe("WRONG_HEADER");
  });
});

describe("what no honest writer says is refused on both sides:", () => {
  const [pack] = fc.sample(rolloutPack, { seed: 5, numRuns: 1 });
  const first = pack!.rollouts[0]!;
  const withFirst = (change: Partial<typeof first>) =>
    encodeRolloutPack({ ...pack!, rollouts: [{ ...first, ...change }] });

  test.each([
    ["a log-probability that is not a number", { logprobs: first.logprobs.map(() => Number.NaN) }],
    ["a log-probability too few", { logprobs: first.logprobs.slice(1) }],
    ["no output", { tokens: new Int32Array(0), logprobs: new Float32Array(0) }],
    ["no prompt", { prompt: new Int32Array(0) }],
    ["a negative token", { prompt: Int32Array.of(-1) }],
  ])("%s", (_what, change) => {
    expect(() => withFirst(change)).toThrow(expect.objectContaining({ code: "WRONG_VALUE" }));
  });

  test("rollouts out of order, twice, or none at all", () => {
    const twice = { ...pack!, rollouts: [first, first] };
    expect(() => encodeRolloutPack(twice)).toThrow(expect.objectContaining({ code: "WRONG_VALUE" }));
    expect(() => encodeRolloutPack({ ...pack!, rollouts: [] })).toThrow(PackError);
  });

  test("a window with more points than the header's top-k, or with one twice", () => {
    const [measurement] = fc.sample(measurementPack, { seed: 5, numRuns: 1 });
    const rollout = measurement!.rollouts[0]!;
    const points = (indices: number[]) => ({
      ...measurement!,
      rollouts: [
        {
          ...rollout,
          windows: rollout.windows.map(() => ({
            indices: Uint32Array.from(indices),
            values: Float32Array.from(indices),
          })),
        },
      ],
    });
    expect(encodeMeasurementPack(points([1, 2]))).toBeInstanceOf(Uint8Array);
    expect(() => encodeMeasurementPack(points([1, 1]))).toThrow(PackError);
    expect(() => encodeMeasurementPack(points(Array.from({ length: 129 }, (_, i) => i)))).toThrow(PackError);
  });
});

test("a rollout pack reads the same in an independent Parquet reader", async () => {
  const [pack] = fc.sample(rolloutPack, { seed: 23, numRuns: 1 });
  const rows = await parquetReadObjects({ file: encodeRolloutPack(pack!).slice().buffer, utf8: false });
  expect(rows).toEqual(
    pack!.rollouts.map(({ prompt, tokens, logprobs, ...rest }) => ({
      ...rest,
      prompt: Array.from(prompt),
      tokens: Array.from(tokens),
      logprobs: Array.from(logprobs),
    })),
  );
});

test("groupOf gives the rollouts of one group and nothing else", () => {
  const [pack] = fc.sample(rolloutPack, { seed: 29, numRuns: 1 });
  const whole = {
    ...pack!,
    rollouts: Array.from({ length: 12 }, (_, index) => ({ ...pack!.rollouts[0]!, index })),
  };
  expect(groupOf(whole, 1, 4).map(({ index }) => index)).toEqual([4, 5, 6, 7]);
  expect(groupOf(whole, 3, 4)).toEqual([]);
});
