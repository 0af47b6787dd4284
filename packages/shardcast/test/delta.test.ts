import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { applyDelta, encodeDelta, patched } from "../src/index.ts";

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const refused = expect.objectContaining({ code: "DELTA_INVALID" });

/** The bytes as a network might deliver them. */
async function* inPieces(bytes: Uint8Array, size = 1_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function applied(old: Uint8Array, delta: Uint8Array, pieces?: number): Promise<Uint8Array> {
  const blocks: Uint8Array[] = [];
  for await (const block of patched({ old, delta: inPieces(delta, pieces) })) blocks.push(block.slice());
  return new Uint8Array(Buffer.concat(blocks));
}

const words = fc.constantFrom<2 | 4>(2, 4);
/** Zeros of both signs, the smallest and largest numbers, infinities, quiet and signalling NaNs with payloads; also as halves of a word. */
const peculiar = [0, 0x8000, 1, 0x8001, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7f81, 0xffc1, 0x7fff, 0xffff];
const half = fc.oneof(fc.constantFrom(...peculiar), fc.nat(0xffff));
/** Two files of one length whose words are equal, near each other or anything at all. */
const pair = fc
  .record({
    old: fc.array(half, { maxLength: 300 }),
    edits: fc.array(fc.record({ at: fc.nat(299), to: half, by: fc.integer({ min: -3, max: 3 }) })),
    tail: fc.tuple(fc.uint8Array({ maxLength: 3 }), fc.nat(255)),
  })
  .map(({ old, edits, tail: [rest, flip] }) => {
    const next = [...old];
    for (const { at, to, by } of edits)
      if (at < next.length) next[at] = by === 0 ? to : ((next[at] ?? 0) + by) & 0xffff;
    const bytes = (halves: number[]) => new Uint8Array(Uint16Array.from(halves).buffer);
    const joined = (halves: number[], end: Uint8Array) => new Uint8Array([...bytes(halves), ...end]);
    return {
      old: joined(old, rest),
      next: joined(
        next,
        rest.map((byte) => byte ^ flip),
      ),
    };
  });

describe("a delta", () => {
  test("makes the new file to the bit, whatever the bytes mean", async () => {
    await fc.assert(
      fc.asyncProperty(
        pair,
        words,
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 1, max: 64 }),
        async ({ old, next }, width, blockWords, pieces) => {
          const delta = encodeDelta(old, next, width, { blockWords });
          expect(await applied(old, delta as Uint8Array, pieces)).toEqual(next);
        },
      ),
      { numRuns: 400 },
    );
  });

  test("reads files that begin anywhere in memory", async () => {
    const [a, b] = [
      new Uint8Array(randomBytes(4_001)).subarray(1),
      new Uint8Array(randomBytes(4_003)).subarray(3),
    ];
    for (const width of [2, 4] as const) expect(await applied(a, encodeDelta(a, b, width))).toEqual(b);
  });

  test.each([0, 1, 253, 254, 255, 256, 257, 510, 65_789, 65_790, 65_791, 300_000])(
    "finds a word behind %i unchanged ones",
    async (gap) => {
      for (const width of [2, 4] as const) {
        const old = new Uint8Array((gap + 3) * width);
        const next = old.slice();
        next[0] = 1;
        next[(gap + 1) * width] = 0xff;
        expect(await applied(old, encodeDelta(old, next, width))).toEqual(next);
      }
    },
  );

  test("of a file that did not change is a header and four bytes a block", () => {
    const bytes = new Uint8Array(randomBytes(100_000));
    expect(encodeDelta(bytes, bytes, 2)).toHaveLength(20 + 4);
  });

  test("of 1 % of words, replaced by others at random, has hardly more bytes than their entropy", async () => {
    const count = 2 ** 20;
    const old = new Uint8Array(randomBytes(2 * count));
    const next = old.slice();
    const view = new Uint16Array(next.buffer);
    const changes = new Set(Array.from({ length: count / 100 }, () => randomBytes(4).readUInt32LE() % count));
    for (const at of changes) view[at] = (view[at] ?? 0) ^ (1 + (randomBytes(2).readUInt16LE() % 0xffff));
    const p = changes.size / count;
    const bits = count * (16 * p - p * Math.log2(p) - (1 - p) * Math.log2(1 - p));
    const delta = encodeDelta(old, next, 2);
    expect(delta.length / (bits / 8)).toBeLessThan(1.05);
    expect(delta.length / (bits / 8)).toBeGreaterThan(0.99);
    expect(await applied(old, delta)).toEqual(next);
  });

  test("of floats that moved a little is small, though every one of them moved", async () => {
    const old = Float32Array.from({ length: 100_000 }, (_, i) => Math.sin(i) / 10);
    const next = old.map((x, i) => x + 1e-5 * Math.cos(3 * i));
    const [a, b] = [new Uint8Array(old.buffer), new Uint8Array(next.buffer)];
    const delta = encodeDelta(a, b, 4);
    expect(delta.length / b.length).toBeLessThan(0.75);
    expect(await applied(a, delta)).toEqual(b);
  });

  test("is given up when it would be larger than allowed", () => {
    const [a, b] = [new Uint8Array(randomBytes(10_000)), new Uint8Array(randomBytes(10_000))];
    const { length } = encodeDelta(a, b, 2);
    expect(encodeDelta(a, b, 2, { mostBytes: length })).toHaveLength(length);
    expect(encodeDelta(a, b, 2, { mostBytes: length - 1 })).toBeUndefined();
    expect(encodeDelta(a, b, 2, { mostBytes: 9_000, blockWords: 1_000 })).toBeUndefined();
  });
});

describe("applying a delta to a file", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "muster-delta-"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const old = new Uint8Array(randomBytes(50_001));
  const next = old.map((byte, i) => (i % 97 === 0 ? byte + 1 : byte));
  const delta = encodeDelta(old, next, 2, { blockWords: 1_000 }) as Uint8Array;

  test("writes the new one beside it and says what came out", async () => {
    const [from, out] = [join(folder, "old"), join(folder, "new")];
    await writeFile(from, old);
    expect(await applyDelta({ old: from, delta: inPieces(delta), out })).toEqual({ sha256: sha(next) });
    expect(new Uint8Array(await readFile(out))).toEqual(next);
    expect(new Uint8Array(await readFile(from))).toEqual(old);
  });

  test("leaves nothing behind when it fails, and overwrites nothing", async () => {
    const out = join(folder, "new");
    await expect(applyDelta({ old, delta: inPieces(delta.subarray(0, 900)), out })).rejects.toEqual(refused);
    const stopped = AbortSignal.abort();
    await expect(applyDelta({ old, delta: inPieces(delta), out, signal: stopped })).rejects.toThrow(/abort/);
    expect(await readdir(folder)).toEqual([]);
    await writeFile(out, "mine");
    await expect(applyDelta({ old, delta: inPieces(delta), out })).rejects.toMatchObject({ code: "EEXIST" });
    expect(await readFile(out, "utf8")).toBe("mine");
  });

  test("refuses a file of another length", async () => {
    for (const other of [old.subarray(1), new Uint8Array([...old, 0])]) {
      await expect(applied(other, delta)).rejects.toEqual(refused);
      const from = join(folder, "other");
      await writeFile(from, other);
      const out = join(folder, "new");
      await expect(applyDelta({ old: from, delta: inPieces(delta), out })).rejects.toEqual(refused);
    }
    expect(await readdir(folder)).toEqual(["other"]);
  });
});

describe("a hostile delta", () => {
  const old = new Uint8Array(randomBytes(4_001));
  const next = old.map((byte, i) => (i % 13 === 0 ? byte ^ 0x55 : byte));
  const honest = encodeDelta(old, next, 2, { blockWords: 600 }) as Uint8Array;

  test("that ends early anywhere, or goes on, is refused", async () => {
    for (let end = 0; end < honest.length; end++)
      await expect(applied(old, honest.subarray(0, end))).rejects.toEqual(refused);
    await expect(applied(old, new Uint8Array([...honest, 0]))).rejects.toEqual(refused);
  });

  test("is refused or makes a file of the same length, whatever its bytes", async () => {
    const damage = fc.array(fc.record({ at: fc.nat(honest.length - 1), to: fc.nat(255) }), {
      minLength: 1,
      maxLength: 4,
    });
    let survivors = 0;
    const outcome = async (bytes: Uint8Array) => {
      try {
        expect(await applied(old, bytes)).toHaveLength(old.length);
        survivors++;
      } catch (error) {
        expect(error).toEqual(refused);
      }
    };
    await fc.assert(
      fc.asyncProperty(damage, async (changes) => {
        const damaged = honest.slice();
        for (const { at, to } of changes) damaged[at] = to;
        await outcome(damaged);
      }),
      { numRuns: 3_000 },
    );
    // some bytes are values, which may be any: only the hash of what comes out tells
    expect(survivors).toBeGreaterThan(0);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), (bytes) =>
        outcome(new Uint8Array([...honest.subarray(0, 20), ...bytes])),
      ),
      { numRuns: 500 },
    );
  });

  const header = (length: number | bigint, blockWords: number, width = 2, version = 1) => {
    const bytes = Buffer.alloc(20);
    bytes.write("mdelta", "latin1");
    bytes.writeUInt8(version, 6);
    bytes.writeUInt8(width, 7);
    bytes.writeBigUInt64LE(BigInt(length), 8);
    bytes.writeUInt32LE(blockWords, 16);
    return bytes;
  };
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
  const plane = (bytes: Uint8Array, size = bytes.length) => Buffer.concat([u32(size), bytes]);
  const zeros = new Uint8Array(200);
  const one = plane(Buffer.of(1));
  const parts: [string, Uint8Array[]][] = [
    ["another format", [Buffer.from("PK\x03\x04 and more than twenty bytes")]],
    ["another version", [header(200, 100, 2, 2), u32(0)]],
    ["words of three bytes", [header(200, 100, 3), u32(0)]],
    ["words of no bytes", [header(200, 100, 0), u32(0)]],
    ["blocks of nothing", [header(200, 0)]],
    ["blocks that no memory holds", [header(200, 0xffff_ffff), u32(0)]],
    ["a file of 16 EiB", [header(0xffff_ffff_ffff_ffffn, 100), u32(0)]],
    ["more changes than words", [header(200, 100), u32(101), plane(zeros.subarray(0, 101))]],
    ["a plane of 4 GiB", [header(200, 100), u32(1), u32(0xffff_ffff)]],
    ["a plane larger than what it holds", [header(200, 100), u32(1), plane(zeros.subarray(0, 2))]],
    ["a change behind the block", [header(200, 100), u32(1), plane(Buffer.of(100)), one, one]],
    [
      "changes that add up to one behind the block",
      [header(200, 100), u32(2), plane(Buffer.of(98, 1)), plane(Buffer.of(1, 1)), plane(Buffer.of(0, 0))],
    ],
    [
      "a gap that wraps",
      [header(200, 100), u32(1), ...[255, 255, 255, 255, 1, 1].map((byte) => plane(Buffer.of(byte)))],
    ],
    [
      "a change that changes nothing",
      [header(200, 100), u32(1), plane(Buffer.of(3)), plane(Buffer.of(0)), plane(Buffer.of(0))],
    ],
    [
      "a plane that grows without end",
      [header(200, 100), u32(100), plane(zstdCompressSync(Buffer.alloc(2 ** 26)).subarray(0, 90))],
    ],
    [
      "a plane that grows beyond its size",
      [header(200, 100), u32(100), plane(zstdCompressSync(Buffer.alloc(101)))],
    ],
    [
      "a plane that stays below its size",
      [header(200, 100), u32(100), plane(zstdCompressSync(Buffer.alloc(99)))],
    ],
    [
      "something behind a plane's frame",
      [
        header(200, 100),
        u32(100),
        plane(Buffer.concat([zstdCompressSync(Buffer.alloc(100)), Buffer.of(0)])),
        plane(Buffer.alloc(100, 1)),
        plane(Buffer.alloc(100)),
      ],
    ],
    [
      "two frames in a plane",
      [
        header(200, 100),
        u32(100),
        plane(Buffer.concat([zstdCompressSync(Buffer.alloc(50)), zstdCompressSync(Buffer.alloc(50))])),
        plane(Buffer.alloc(100, 1)),
        plane(Buffer.alloc(100)),
      ],
    ],
    [
      "a frame that asks for 2 GiB of memory",
      [header(200, 100), u32(100), plane(Buffer.from("28b52ffd00a8010000", "hex"))],
    ],
  ];
  test.each(parts)("with %s is refused", async (_name, pieces) => {
    const before = process.memoryUsage().arrayBuffers;
    await expect(applied(zeros, Buffer.concat(pieces))).rejects.toEqual(refused);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 25);
  });

  test("is refused for the reasons above and not for how they were put together", async () => {
    const good = [header(200, 100), u32(1), plane(Buffer.of(99)), one, plane(Buffer.of(0))];
    const expected = zeros.slice();
    // one below +0 is −0
    new Uint16Array(expected.buffer)[99] = 0x8000;
    expect(await applied(zeros, Buffer.concat(good))).toEqual(expected);
    const all = [
      header(200, 100),
      u32(100),
      plane(zstdCompressSync(Buffer.alloc(100))),
      plane(Buffer.alloc(100, 2)),
      plane(zstdCompressSync(Buffer.alloc(100))),
    ];
    expect(await applied(zeros, Buffer.concat(all))).toEqual(
      new Uint8Array(new Int16Array(100).fill(1).buffer),
    );
  });
});
