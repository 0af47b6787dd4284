// A delta is what changed between two files of equal length, most of whose words are the same: `muster/delta/v1`. Everything is
// little-endian.
//
//   "mdelta" ‖ u8 1 ‖ u8 w ‖ u64 length of the files ‖ u32 B      w = bytes of a word, 2 or 4; B = words of a block
//   for every B words (the last block may have fewer):
//     u32 c = changed words, then, unless it is 0, planes of bytes:
//       gaps (c)        unchanged words before each changed one; 255 means 255 and more, told by the next three
//       rest (3 × 255s) low, middle and high byte of gap − 255
//       values (w × c)  bytes of the differences, lowest plane first
//   length mod w bytes of the new file that are no whole word
//
// A plane is u32 stored size ‖ bytes: as they are when the size is the plane's, a zstd frame when it is smaller; a plane of no bytes is
// left out. The difference is taken between the words as floats are ordered (so that neighbours differ by one), wraps, and is zigzag
// coded: never 0. What a small step moved has high planes of almost nothing but zeros, and gaps of changes that are spread evenly have a
// geometric distribution, whose bytes zstd's Huffman codes within 1 % of their entropy.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rm } from "node:fs/promises";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { ShardcastError } from "./error.ts";

const MAGIC = Buffer.from("mdelta\x01", "latin1");
const HEADER_BYTES = 20;
/** Both sides hold one block of the file in memory; smaller blocks make the tables of zstd count. */
const BLOCK_WORDS = 4 * 2 ** 20;
const ESCAPE = 255;

/**
 * What turns `old` into `next`, whatever the bytes mean.
 * @param old and `next` have the same length.
 * @param elementBytes of the tensors in them; of the smallest when they differ.
 * @param options.mostBytes gives up, and answers undefined, as soon as the delta is larger.
 * @param options.blockWords for tests.
 */
export function encodeDelta(old: Uint8Array, next: Uint8Array, elementBytes: 2 | 4): Uint8Array<ArrayBuffer>;
export function encodeDelta(
  old: Uint8Array,
  next: Uint8Array,
  elementBytes: 2 | 4,
  options: { mostBytes?: number; blockWords?: number },
): Uint8Array<ArrayBuffer> | undefined;
export function encodeDelta(
  old: Uint8Array,
  next: Uint8Array,
  elementBytes: 2 | 4,
  options: { mostBytes?: number; blockWords?: number } = {},
): Uint8Array<ArrayBuffer> | undefined {
  if (old.length !== next.length) throw new TypeError("A delta is between two files of the same length.");
  const { mostBytes = Number.POSITIVE_INFINITY, blockWords = BLOCK_WORDS } = options;
  const words = Math.floor(next.length / elementBytes);
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt8(elementBytes, 7);
  header.writeBigUInt64LE(BigInt(next.length), 8);
  header.writeUInt32LE(blockWords, 16);
  const parts: Uint8Array[] = [header];
  let size = header.length + next.length - words * elementBytes;
  const room = newPlanes(Math.min(blockWords, words), elementBytes);
  for (let first = 0; first < words; first += blockWords) {
    const count = Math.min(blockWords, words - first);
    const [before, after] = [old, next].map((bytes) =>
      wordsOf(bytes.subarray(first * elementBytes, (first + count) * elementBytes), elementBytes),
    );
    if (before === undefined || after === undefined) throw new TypeError("unreachable");
    const found = difference(before, after, room);
    for (const part of [u32(found.changed), ...planesOf(room, found).flatMap(stored)]) {
      parts.push(part);
      size += part.length;
    }
    if (size > mostBytes) return undefined;
  }
  parts.push(next.subarray(words * elementBytes));
  if (size > mostBytes) return undefined;
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Writes the file that `delta` makes of `old`; at most one block of it (16 MiB) is in memory at a time.
 * @param input.old path, bytes or the file as it is read.
 * @param input.delta from whoever: it need not be trusted, but `sha256` says what came out of it, and that has to be compared.
 * @param input.out path of a file that does not exist; it is on disk when this returns and gone when this throws.
 * @throws ShardcastError `DELTA_INVALID` for anything but a delta for a file of this length.
 */
export async function applyDelta(input: {
  old: string | Uint8Array | AsyncIterable<Uint8Array>;
  delta: AsyncIterable<Uint8Array>;
  out: string;
  signal?: AbortSignal;
}): Promise<{ sha256: string }> {
  const file = await open(input.out, "wx");
  try {
    const hash = createHash("sha256");
    for await (const bytes of patched(input)) {
      input.signal?.throwIfAborted();
      hash.update(bytes);
      for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten;
    }
    await file.sync();
    await file.close();
    return { sha256: hash.digest("hex") };
  } catch (cause) {
    await file.close().catch(() => undefined);
    await rm(input.out, { force: true });
    throw cause;
  }
}

/**
 * The file that `delta` makes of `old`, block by block; what is yielded is overwritten by the next block.
 * @throws ShardcastError `DELTA_INVALID`
 */
export async function* patched(input: {
  old: string | Uint8Array | AsyncIterable<Uint8Array>;
  delta: AsyncIterable<Uint8Array>;
}): AsyncGenerator<Uint8Array> {
  await using delta = reader(input.delta);
  await using old = reader(chunksOf(input.old));
  const header = Buffer.from(await delta.take(HEADER_BYTES, "its header"));
  if (!header.subarray(0, MAGIC.length).equals(MAGIC)) throw invalid("it is not one of muster/delta/v1");
  const elementBytes = header.readUInt8(7);
  if (elementBytes !== 2 && elementBytes !== 4) throw invalid(`its words have ${elementBytes} bytes`);
  const length = header.readBigUInt64LE(8);
  if (length > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(`it is for a file of ${length} bytes`);
  if (input.old instanceof Uint8Array && BigInt(input.old.length) !== length)
    throw invalid(`it is for a file of ${length} bytes, not of ${input.old.length}`);
  const blockWords = header.readUInt32LE(16);
  if (blockWords < 1 || blockWords > BLOCK_WORDS) throw invalid(`it has blocks of ${blockWords} words`);
  const words = Math.floor(Number(length) / elementBytes);
  const tail = Number(length) - words * elementBytes;

  for (let first = 0; first < words; first += blockWords) {
    const count = Math.min(blockWords, words - first);
    const block = await old.take(count * elementBytes, "the file it is for");
    const changed = readU32(await delta.take(4, "a block"));
    if (changed > count) throw invalid(`${changed} of ${count} words of a block have changed`);
    if (changed > 0) await patch(block, changed, elementBytes);
    yield block;
  }
  if (tail > 0) {
    await old.take(tail, "the file it is for");
    yield await delta.take(tail, "its end");
  }
  if (!(await old.ended())) throw invalid(`it is for a file of ${length} bytes and this one is longer`);
  if (!(await delta.ended())) throw invalid("there is something behind its end");

  async function patch(block: Uint8Array<ArrayBuffer>, changed: number, wordBytes: 2 | 4): Promise<void> {
    const gaps = await plane(changed);
    let wide = 0;
    // for-of over a typed array takes five times as long
    for (let i = 0; i < gaps.length; i++) if (gaps[i] === ESCAPE) wide++;
    const rest = [await plane(wide), await plane(wide), await plane(wide)] as const;
    const values: Uint8Array[] = [];
    for (let i = 0; i < wordBytes; i++) values.push(await plane(changed));
    change(wordsOf(block, wordBytes), { gaps, rest, values });
  }

  async function plane(size: number): Promise<Uint8Array> {
    if (size === 0) return new Uint8Array();
    const bytes = readU32(await delta.take(4, "a plane"));
    if (bytes > size) throw invalid(`${bytes} bytes are stored for a plane of ${size}`);
    const kept = await delta.take(bytes, "a plane");
    return bytes === size ? kept : inflated(kept, size);
  }
}

type Words = Int16Array<ArrayBuffer> | Int32Array<ArrayBuffer>;
/** Planes of a block; `rest` and `values` from the low byte up. */
type Planes = {
  gaps: Uint8Array;
  rest: readonly [Uint8Array, Uint8Array, Uint8Array];
  values: readonly Uint8Array[];
};

function newPlanes(words: number, elementBytes: number): Planes {
  const wide = Math.ceil(words / ESCAPE);
  return {
    gaps: new Uint8Array(words),
    rest: [new Uint8Array(wide), new Uint8Array(wide), new Uint8Array(wide)],
    values: Array.from({ length: elementBytes }, () => new Uint8Array(words)),
  };
}

/** In the order they are stored in. */
function planesOf({ gaps, rest, values }: Planes, found: { changed: number; wide: number }): Uint8Array[] {
  return [
    gaps.subarray(0, found.changed),
    ...rest.map((plane) => plane.subarray(0, found.wide)),
    ...values.map((plane) => plane.subarray(0, found.changed)),
  ];
}

/** Fills the planes. Integers of the same sign are ordered as their floats are, negative ones the other way round: hence the mask. */
function difference(before: Words, after: Words, planes: Planes): { changed: number; wide: number } {
  const { gaps } = planes;
  const [restLow, restMiddle, restHigh] = planes.rest;
  const [v0, v1, v2, v3] = planes.values;
  if (v0 === undefined || v1 === undefined) throw new TypeError("A word has two bytes or four.");
  const shift = 32 - 8 * after.BYTES_PER_ELEMENT;
  const mask = 0x7fffffff >>> shift;
  let changed = 0;
  let wide = 0;
  let next = 0;
  for (let i = 0; i < after.length; i++) {
    const a = before[i] as number; // both have the same length
    const b = after[i] as number;
    if (a === b) continue;
    const gap = i - next;
    next = i + 1;
    if (gap < ESCAPE) gaps[changed] = gap;
    else {
      gaps[changed] = ESCAPE;
      restLow[wide] = gap - ESCAPE;
      restMiddle[wide] = (gap - ESCAPE) >>> 8;
      restHigh[wide++] = (gap - ESCAPE) >>> 16;
    }
    const step = (((b ^ ((b >> 31) & mask)) - (a ^ ((a >> 31) & mask))) << shift) >> shift;
    const value = (step << 1) ^ (step >> 31);
    v0[changed] = value;
    v1[changed] = value >>> 8;
    if (v2 !== undefined && v3 !== undefined) {
      v2[changed] = value >>> 16;
      v3[changed] = value >>> 24;
    }
    changed++;
  }
  return { changed, wide };
}

/** Undoes {@link difference} in place. */
function change(block: Words, { gaps, rest, values }: Planes): void {
  const [restLow, restMiddle, restHigh] = rest;
  const [v0, v1, v2, v3] = values;
  if (v0 === undefined || v1 === undefined) throw new TypeError("A word has two bytes or four.");
  const shift = 32 - 8 * block.BYTES_PER_ELEMENT;
  const mask = 0x7fffffff >>> shift;
  let wide = 0;
  let at = 0;
  for (let i = 0; i < gaps.length; i++) {
    // every plane has the length that this loop expects
    const gap = gaps[i] as number;
    at += gap;
    if (gap === ESCAPE) {
      at +=
        (restLow[wide] as number) | ((restMiddle[wide] as number) << 8) | ((restHigh[wide] as number) << 16);
      wide++;
    }
    if (at >= block.length) throw invalid(`word ${at} of a block of ${block.length} has changed`);
    let value = (v0[i] as number) | ((v1[i] as number) << 8);
    if (v2 !== undefined && v3 !== undefined) value |= ((v2[i] as number) << 16) | ((v3[i] as number) << 24);
    if (value === 0) throw invalid("a word that is said to have changed is the same");
    const step = (value >>> 1) ^ -(value & 1);
    const a = block[at] as number;
    const b = (((a ^ ((a >> 31) & mask)) + step) << shift) >> shift;
    block[at++] = b ^ ((b >> 31) & mask);
  }
}

/** Typed arrays have the machine's byte order, which is the format's wherever onnxruntime runs. */
function wordsOf(bytes: Uint8Array, elementBytes: 2 | 4): Words {
  const aligned =
    bytes.buffer instanceof ArrayBuffer && bytes.byteOffset % elementBytes === 0 ? bytes : bytes.slice();
  const buffer = aligned.buffer as ArrayBuffer; // a slice has a buffer of its own
  const words = bytes.length / elementBytes;
  return elementBytes === 2
    ? new Int16Array(buffer, aligned.byteOffset, words)
    : new Int32Array(buffer, aligned.byteOffset, words);
}

function stored(plane: Uint8Array): Uint8Array[] {
  if (plane.length === 0) return [];
  const packed = zstdCompressSync(plane);
  const kept = packed.length < plane.length ? packed : plane.slice();
  return [u32(kept.length), kept];
}

/** zstd's own default would let a frame of a few bytes ask for 128 MiB. */
const inflateOptions = { params: { [constants.ZSTD_d_windowLogMax]: 23 }, info: true } as const;

function inflated(kept: Uint8Array, size: number): Uint8Array {
  let result: { buffer: Buffer; engine: { bytesWritten: number } };
  try {
    // @types/node does not know that `info` changes what comes back
    result = zstdDecompressSync(kept, { ...inflateOptions, maxOutputLength: size }) as never;
  } catch (cause) {
    throw invalid("a plane does not decompress", { cause });
  }
  // Node stops at the end of the first frame and says nothing of what follows.
  if (result.buffer.length !== size || result.engine.bytesWritten !== kept.length)
    throw invalid(`a plane of ${size} bytes has another length`);
  return result.buffer;
}

function chunksOf(source: string | Uint8Array | AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  if (typeof source === "string") return createReadStream(source, { highWaterMark: 2 ** 20 });
  if (!(source instanceof Uint8Array)) return source;
  return (async function* () {
    yield source;
  })();
}

/** Takes a stream of bytes apart in pieces of the wanted lengths. */
function reader(source: AsyncIterable<Uint8Array>) {
  const chunks = source[Symbol.asyncIterator]();
  let chunk: Uint8Array = new Uint8Array();
  /** Whether there is another byte. */
  async function more(): Promise<boolean> {
    while (chunk.length === 0) {
      const { done, value } = await chunks.next();
      if (done) return false;
      chunk = value;
    }
    return true;
  }
  return {
    /** A copy of the next `size` bytes. */
    async take(size: number, what: string): Promise<Uint8Array<ArrayBuffer>> {
      const bytes = new Uint8Array(size);
      for (let filled = 0; filled < size; ) {
        if (!(await more())) throw invalid(`${what} ends early`);
        const piece = chunk.subarray(0, size - filled);
        bytes.set(piece, filled);
        chunk = chunk.subarray(piece.length);
        filled += piece.length;
      }
      return bytes;
    },
    ended: async () => !(await more()),
    [Symbol.asyncDispose]: async () => void (await chunks.return?.()),
  };
}

function u32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function readU32(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

function invalid(why: string, options?: ErrorOptions): ShardcastError {
  return new ShardcastError(
    "DELTA_INVALID",
    `Not a delta for this file: ${why}. Nothing of it was used; the whole file is needed.`,
    options,
  );
}
