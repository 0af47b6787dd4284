/**
 * The part of Parquet that packs are made of: required columns of INT32, FLOAT and BYTE_ARRAY, or lists of them, PLAIN and
 * UNCOMPRESSED. Any Parquet reader opens such a file. Reading is our own, because packs come from strangers: every size is compared
 * with the bytes there are before anything is allocated, so a file can make the reader neither stall nor use more than a few times
 * its own length. Without compression and dictionaries nothing else can expand.
 */

import { PackError } from "./pack-error.ts";
import { writtenSchema } from "./parquet-write.ts";
import {
  decodeText,
  malformed,
  readThrift,
  type ThriftStruct,
  thriftCount,
  thriftStruct,
  thriftStructs,
  thriftText,
} from "./thrift.ts";

/** What one column holds in each row: a value, or a list of values. */
export type ColumnSpec = { type: "int32" | "float" | "bytes" | "text"; list: boolean };
export type TableSpec = Readonly<Record<string, ColumnSpec>>;

type Scalar = { int32: number; float: number; bytes: Uint8Array; text: string };
type Values = { int32: Int32Array; float: Float32Array; bytes: Uint8Array[]; text: string[] };
/** One cell; lists of numbers are views on memory that all of a file's share. */
export type Cell<C extends ColumnSpec> = C["list"] extends true ? Values[C["type"]] : Scalar[C["type"]];
export type Row<S extends TableSpec> = { [K in keyof S]: Cell<S[K]> };

export type TableLimits = {
  /** Largest file, in bytes. */
  bytes: number;
  rows: number;
  /** Longest list in a row. */
  listLength: number;
};

/**
 * Reads what `writeTable` writes, and what other writers write within the same limits (several pages and row groups).
 * @throws PackError for everything else.
 */
export function readTable<S extends TableSpec>(
  spec: S,
  bytes: Uint8Array,
  limits: TableLimits,
): { metadata: string; rows: Row<S>[] } {
  if (bytes.length > limits.bytes) throw tooLarge(`${bytes.length} bytes`, limits.bytes);
  const { footer, footerStart, ours } = readFooter(spec, bytes);
  const rowCount = thriftCount(footer, 3);
  if (rowCount > limits.rows) throw tooLarge(`${rowCount} rows`, limits.rows);
  if (!ours || footer.get(2) !== undefined) checkSchema(spec, thriftStructs(footer, 2));
  const metadata = metadataOf(footer);

  const names = Object.keys(spec);
  const groups = thriftStructs(footer, 4);
  const declared = groups.reduce((sum, group) => sum + thriftCount(group, 3), 0);
  if (declared !== rowCount) throw malformed("its row groups do not add up to its rows");
  const columns = names.map((name) => new Collector(name, spec[name]!, limits, bytes.length));
  let cursor = magicBytes;
  for (const group of groups) {
    const chunks = thriftStructs(group, 1);
    if (chunks.length !== names.length) throw malformed("a row group lacks columns");
    for (const [i, chunk] of chunks.entries()) {
      const column = columns[i]!;
      const meta = thriftStruct(chunk, 3);
      const { start, end } = chunkRange(column.name, column.spec, meta);
      // Chunks follow one another, so no byte is decoded twice and the work stays linear in the file.
      if (start < cursor || end > footerStart) throw malformed(`column ${column.name} lies outside the file`);
      cursor = end;
      const before = column.rows;
      for (let at = start; at < end; ) at = readPage(bytes.subarray(0, end), at, column);
      if (column.rows - before !== thriftCount(group, 3))
        throw malformed(`column ${column.name} has other rows`);
    }
  }

  // One buffer for all numbers: memory of its own takes longer to get than a list of a hundred to copy.
  const room = new ArrayBuffer(columns.reduce((sum, column) => sum + column.numberBytes, 0));
  let from = 0;
  const readers = columns.map((column) => {
    from += column.numberBytes;
    return column.reader(room, from - column.numberBytes);
  });
  const rows: Row<S>[] = [];
  for (let row = 0; row < rowCount; row++) {
    const cells: Record<string, unknown> = {};
    for (let i = 0; i < names.length; i++) cells[names[i]!] = readers[i]!(row);
    // One cell a column of the spec, each made by the reader of that column's type.
    rows.push(cells as Row<S>);
  }
  return { metadata, rows };
}

const metadataKey = "muster";
const magicBytes = 4;
/** A footer of ours has about 2 kB; other writers add their own schema. */
const maxFooterBytes = 256 * 1024;
/** Ours have 30; other writers add statistics. */
const maxPageHeaderBytes = 64 * 1024;

const physicalTypes = { int32: 1, float: 4, bytes: 6, text: 6 } as const;
const [required, repeated] = [0, 2];
const dataPageV2 = 3;

/** `ours`: the schema is the one that `writeTable` writes, byte for byte, and is not among the footer's fields. */
function readFooter(
  spec: TableSpec,
  bytes: Uint8Array,
): { footer: ThriftStruct; footerStart: number; ours: boolean } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = 0x31524150; // "PAR1", little-endian
  if (
    bytes.length < 12 ||
    view.getUint32(0, true) !== magic ||
    view.getUint32(bytes.length - 4, true) !== magic
  ) {
    throw malformed("it is not a Parquet file");
  }
  const length = view.getUint32(bytes.length - 8, true);
  if (length > maxFooterBytes) throw tooLarge(`a footer of ${length} bytes`, maxFooterBytes);
  const footerStart = bytes.length - 8 - length;
  if (footerStart < magicBytes) throw malformed("its footer is longer than the file");
  const footer = bytes.subarray(footerStart, bytes.length - 8);
  // The schema is most of a small pack's footer, and nearly always the same.
  const { bytes: schema, lastField } = writtenSchema(spec);
  const ours = beginsWith(footer, schema);
  const { struct } = ours ? readThrift(footer, schema.length, lastField) : readThrift(footer, 0);
  return { footer: struct, footerStart, ours };
}

function beginsWith(bytes: Uint8Array, start: Uint8Array): boolean {
  if (bytes.length < start.length) return false;
  for (let i = 0; i < start.length; i++) if (bytes[i] !== start[i]) return false;
  return true;
}

function checkSchema(spec: TableSpec, elements: ThriftStruct[]): void {
  const expected: { name?: string; type?: number; repetition?: number; children?: number }[] = [
    { children: Object.keys(spec).length },
  ];
  for (const [name, { type, list }] of Object.entries(spec)) {
    if (!list) expected.push({ name, type: physicalTypes[type], repetition: required });
    else {
      expected.push({ name, repetition: required, children: 1 });
      // The two inner names differ between writers and mean nothing.
      expected.push(
        { repetition: repeated, children: 1 },
        { type: physicalTypes[type], repetition: required },
      );
    }
  }
  const fits = expected.every(({ name, type, repetition, children }, i) => {
    const element = elements[i];
    return (
      element !== undefined &&
      (name === undefined || thriftText(element, 4) === name) &&
      (repetition === undefined || element.get(3) === repetition) &&
      element.get(1) === type &&
      (element.get(5) ?? 0) === (children ?? 0)
    );
  });
  if (!fits || elements.length !== expected.length) {
    const wanted = Object.entries(spec).map(
      ([name, { type, list }]) => `${name}: ${list ? `list of ${type}` : type}`,
    );
    throw new PackError(
      "WRONG_SCHEMA",
      `This pack needs exactly the columns ${wanted.join(", ")}; none may be null.`,
    );
  }
}

function metadataOf(footer: ThriftStruct): string {
  const pairs = footer.get(5) === undefined ? [] : thriftStructs(footer, 5);
  const found = pairs.filter((pair) => thriftText(pair, 1) === metadataKey);
  if (found.length !== 1) {
    throw new PackError("WRONG_HEADER", `A pack has its header in the file metadata "${metadataKey}", once.`);
  }
  return thriftText(found[0]!, 2);
}

function chunkRange(name: string, { type }: ColumnSpec, meta: ThriftStruct): { start: number; end: number } {
  if (thriftCount(meta, 1) !== physicalTypes[type]) throw malformed(`column ${name} has two types`);
  if (thriftCount(meta, 4) !== 0) {
    throw new PackError("UNSUPPORTED", `Column ${name} is compressed; packs are UNCOMPRESSED.`);
  }
  if (meta.get(11) !== undefined) {
    throw new PackError("UNSUPPORTED", `Column ${name} has a dictionary; packs are PLAIN.`);
  }
  const start = thriftCount(meta, 9);
  return { start, end: start + thriftCount(meta, 7) };
}

/** Reads the page at `at` into the column and returns where the next one starts. `bytes` end where the chunk does. */
function readPage(bytes: Uint8Array, at: number, column: Collector): number {
  const { struct: header, end: bodyStart } = readThrift(bytes.subarray(0, at + maxPageHeaderBytes), at);
  column.headerBytes += bodyStart - at;
  // A byte of metadata costs as much as hundreds of data, so there may only be as much as real pages (8 KiB or more) come with.
  if (column.headerBytes > maxPageHeaderBytes + bytes.length / 512)
    throw malformed(`the page headers of ${column.name} are longer than its pages warrant`);
  const size = thriftCount(header, 3);
  const bodyEnd = bodyStart + size;
  if (bodyEnd > bytes.length || thriftCount(header, 2) !== size)
    throw malformed("a page ends outside its column");
  if (thriftCount(header, 1) !== dataPageV2) {
    throw new PackError("UNSUPPORTED", "Packs have data pages of version 2 only, and no dictionary.");
  }
  const data = thriftStruct(header, 8);
  if (thriftCount(data, 4) !== 0) {
    throw new PackError("UNSUPPORTED", `Column ${column.name} has an encoding other than PLAIN.`);
  }
  const slots = thriftCount(data, 1);
  const definitionStart = bodyStart + thriftCount(data, 6);
  const valuesStart = definitionStart + thriftCount(data, 5);
  if (valuesStart > bodyEnd) throw malformed("a page ends in its levels");
  const plain = bytes.subarray(valuesStart, bodyEnd);
  if (column.spec.list) {
    // Every slot is the start of a row or a value, and a value takes at least four bytes: checked before levels are allocated.
    if (slots > column.limits.rows + size / 4) throw malformed("a page has more values than bytes");
    const repetition = readLevels(bytes.subarray(bodyStart, definitionStart), slots);
    const definition = bytes.subarray(definitionStart, valuesStart);
    column.addLists(
      slots,
      repetition,
      isAllOnes(definition, slots) ? undefined : readLevels(definition, slots),
      plain,
    );
  } else if (valuesStart !== bodyStart) throw malformed("a column without levels has some");
  else column.addFlat(slots, plain);
  return bodyEnd;
}

/** Whether levels are one run of ones, as those of lists without an empty one are. */
function isAllOnes(bytes: Uint8Array, count: number): boolean {
  // The run's length, by sevens of bits, then its value.
  let rest = 2 * count;
  let at = 0;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80))
    if (bytes[at++] !== ((rest % 0x80) | 0x80)) return false;
  return count > 0 && bytes[at] === rest && bytes[at + 1] === 1;
}

/** Levels of one bit in Parquet's RLE and bit-packing hybrid. */
function readLevels(bytes: Uint8Array, count: number): Uint8Array {
  const levels = new Uint8Array(count);
  let at = 0;
  let seen = 0;
  while (seen < count) {
    let head = 0;
    let scale = 1;
    for (;;) {
      const next = bytes[at++];
      if (next === undefined || scale > 2 ** 28) throw malformed("a page ends in its levels");
      head += (next & 0x7f) * scale;
      if (next < 0x80) break;
      scale *= 128;
    }
    if (head % 2 === 0) {
      const value = bytes[at++];
      const run = head / 2;
      if (value === undefined || value > 1 || run === 0 || run > count - seen)
        throw malformed("a run of levels is wrong");
      levels.fill(value, seen, seen + run);
      seen += run;
    } else {
      const packed = (head - 1) / 2;
      if (packed === 0 || packed > bytes.length - at) throw malformed("a page ends in its levels");
      for (let i = 0; i < packed * 8 && seen < count; i++)
        levels[seen++] = ((bytes[at + (i >> 3)] ?? 0) >> (i & 7)) & 1;
      at += packed;
    }
  }
  return levels;
}

/** Gathers the pages of one column. A class because it lives through all of them. */
class Collector {
  readonly name: string;
  readonly spec: ColumnSpec;
  readonly limits: TableLimits;
  headerBytes = 0;
  rows = 0;
  /** First value of each row, when the column is a list. */
  readonly #starts: number[] = [];
  #values = 0;
  readonly #chunks: Uint8Array[] = [];
  readonly #cells: Uint8Array[] = [];
  readonly #maxCells: number;

  constructor(name: string, spec: ColumnSpec, limits: TableLimits, fileBytes: number) {
    // An empty cell takes four bytes in the file and a hundred in memory; real ones are proofs and short texts.
    this.#maxCells = limits.rows + fileBytes / 64;
    this.name = name;
    this.spec = spec;
    this.limits = limits;
  }

  /** @param definition undefined when no list of the page is empty. */
  addLists(
    slots: number,
    repetition: Uint8Array,
    definition: Uint8Array | undefined,
    plain: Uint8Array,
  ): void {
    let values = 0;
    if (definition === undefined) {
      if (this.rows === 0 && repetition[0] === 1) throw malformed(`a list in ${this.name} has no start`);
      for (let i = repetition.indexOf(0); i >= 0; i = repetition.indexOf(0, i + 1)) {
        this.#starts.push(this.#values + i);
        this.rows++;
      }
      values = slots;
    } else {
      for (let i = 0; i < slots; i++) {
        if (repetition[i] === 0) {
          this.#starts.push(this.#values + values);
          this.rows++;
        } else if (this.rows === 0 || definition[i] === 0)
          throw malformed(`a list in ${this.name} has no start`);
        if (definition[i] === 1) values++;
      }
    }
    this.#add(values, plain);
  }

  addFlat(values: number, plain: Uint8Array): void {
    this.rows += values;
    this.#add(values, plain);
  }

  #add(values: number, plain: Uint8Array): void {
    if (this.rows > this.limits.rows) throw tooLarge(`${this.rows} rows`, this.limits.rows);
    this.#values += values;
    switch (this.spec.type) {
      case "int32":
      case "float":
        if (plain.length !== values * 4) throw malformed(`a page of ${this.name} has another size`);
        this.#chunks.push(plain);
        break;
      case "bytes":
      case "text":
        this.#addCells(values, plain);
        break;
    }
  }

  #addCells(values: number, plain: Uint8Array): void {
    if (this.#cells.length + values > this.#maxCells)
      throw tooLarge(`${values} values in ${this.name}`, this.#maxCells);
    const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength);
    let at = 0;
    for (let i = 0; i < values; i++) {
      if (at + 4 > plain.length) throw malformed(`a page of ${this.name} ends early`);
      const length = view.getUint32(at, true);
      at += 4;
      if (length > plain.length - at) throw malformed(`a value of ${this.name} ends early`);
      this.#cells.push(plain.slice(at, at + length));
      at += length;
    }
    if (at !== plain.length) throw malformed(`a page of ${this.name} has bytes left over`);
  }

  /** Bytes that the column's numbers take. */
  get numberBytes(): number {
    return this.spec.type === "int32" || this.spec.type === "float" ? 4 * this.#values : 0;
  }

  /**
   * The cell of a row.
   * @param room where numbers are put, from byte `from` on.
   */
  reader(
    room: ArrayBuffer,
    from: number,
  ): (row: number) => Scalar[ColumnSpec["type"]] | Values[ColumnSpec["type"]] {
    const values = this.#all(room, from);
    if (!this.spec.list) {
      return (row) => {
        const cell = values[row];
        if (cell === undefined) throw malformed(`column ${this.name} lacks a row`);
        return cell;
      };
    }
    const starts = this.#starts;
    for (let row = 0; row < starts.length; row++) {
      const length = (starts[row + 1] ?? this.#values) - starts[row]!;
      if (length > this.limits.listLength)
        throw tooLarge(`a list of ${length} in ${this.name}`, this.limits.listLength);
    }
    const end = (row: number) => starts[row + 1] ?? this.#values;
    if (Array.isArray(values)) return (row) => values.slice(starts[row]!, end(row));
    return (row) => values.subarray(starts[row]!, end(row));
  }

  #all(room: ArrayBuffer, from: number): Values[ColumnSpec["type"]] {
    switch (this.spec.type) {
      case "bytes":
        return this.#cells;
      case "text":
        return this.#cells.map(decodeText);
      case "int32":
      case "float": {
        // Copied: pages are not aligned. Parquet is little-endian, as is every machine with typed arrays today.
        const joined = new Uint8Array(room, from, this.#values * 4);
        let at = 0;
        for (const chunk of this.#chunks) {
          joined.set(chunk, at);
          at += chunk.length;
        }
        return this.spec.type === "int32"
          ? new Int32Array(room, from, this.#values)
          : new Float32Array(room, from, this.#values);
      }
    }
  }
}

function tooLarge(what: string, limit: number): PackError {
  return new PackError(
    "TOO_LARGE",
    `The pack has ${what}; at most ${limit} are allowed here. Send smaller packs.`,
  );
}
