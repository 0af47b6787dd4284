/**
 * Writes the part of Parquet that packs are made of (see parquet.ts): one row group, data pages of version 2, PLAIN, UNCOMPRESSED.
 * A pack is small and there are many of them, so lists are copied as they lie in memory and nothing is made for a single value.
 */

import type { ColumnSpec, Row, TableSpec } from "./parquet.ts";

/** Writes rows and one metadata text under the key `muster`. The same rows give the same bytes. */
export function writeTable<S extends TableSpec>(
  spec: S,
  metadata: string,
  rows: readonly Row<S>[],
): Uint8Array {
  const out = outputs.file.emptied();
  const { schema, columns, end } = fixedParts(spec);
  out.raw(magic);
  const chunks = columns.map(({ name, column, meta }) => {
    const start = out.length;
    // The specs say which type of cell a column has; one look at a column's type replaces one at every cell.
    const cells = rows.map((row) => row[name] as Cell);
    const slots = writeColumn(out, column, cells);
    return { meta, start, size: out.length - start, slots };
  });
  const size = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  const footer = out.length;
  out.raw(schema);
  const root = new Fields(out, lastOfSchema);
  root.i64(3, rows.length);
  root.list(4, STRUCT, [chunks], () =>
    out.struct((group) => {
      group.list(1, STRUCT, chunks, (chunk) => out.struct((column) => columnChunk(out, column, chunk)));
      group.i64(2, size);
      group.i64(3, rows.length);
      group.i64(6, size);
    }),
  );
  root.list(5, STRUCT, [metadata], (text) =>
    out.struct((pair) => {
      pair.text(1, "muster");
      pair.text(2, text);
    }),
  );
  out.raw(end);
  out.u32(out.length - footer);
  out.raw(magic);
  return out.finish().slice();
}

/** How a file's footer begins when `writeTable` wrote it: its schema, whose field in the footer is `lastField`. */
export function writtenSchema(spec: TableSpec): { bytes: Uint8Array; lastField: number } {
  return { bytes: fixedParts(spec).schema, lastField: lastOfSchema };
}

const lastOfSchema = 2;

/** What is the same in every file of a spec, as bytes. */
type FixedParts = {
  /** The footer as far as its schema. */
  schema: Uint8Array;
  /** `meta`: the fields of a column's metadata before its counts. */
  columns: { name: string; column: ColumnSpec; meta: Uint8Array }[];
  /** The footer after the metadata text. */
  end: Uint8Array;
};

const known = new WeakMap<TableSpec, FixedParts>();

function fixedParts(spec: TableSpec): FixedParts {
  let parts = known.get(spec);
  if (parts === undefined) {
    const columns = Object.entries(spec).map(([name, column]) => ({
      name,
      column,
      meta: metaOf(name, column),
    }));
    parts = { schema: headOf(spec), columns, end: endOf(columns.length) };
    known.set(spec, parts);
  }
  return parts;
}

function headOf(spec: TableSpec): Uint8Array {
  const out = new Output(1024);
  const root = new Fields(out, 0);
  root.i32(1, 2);
  root.list(lastOfSchema, STRUCT, schemaOf(spec), (element) => out.struct(element));
  return out.finish();
}

function metaOf(name: string, { type, list }: ColumnSpec): Uint8Array {
  const out = new Output(128);
  const meta = new Fields(out, 0);
  meta.i32(1, physicalTypes[type]);
  meta.list(2, I32, [0], (encoding) => out.zigzag(encoding));
  meta.list(3, BINARY, list ? [name, "list", "element"] : [name], (part) => out.text(part));
  meta.i32(lastOfMeta, 0);
  return out.finish();
}

const lastOfMeta = 4;

function endOf(columns: number): Uint8Array {
  const out = new Output(64);
  const root = new Fields(out, 5);
  root.text(6, "muster");
  root.list(7, STRUCT, new Array(columns).fill(0), () => out.struct((order) => order.nested(1, () => {})));
  out.byte(0);
  return out.finish();
}

type Cell = number | string | Int32Array | Float32Array | Uint8Array[];
type Chunk = {
  meta: Uint8Array;
  start: number;
  size: number;
  slots: number;
};

const magic = new TextEncoder().encode("PAR1");
/** A page ends before the row with which it would have this many bytes. */
const pageBytes = 2 ** 20;

const physicalTypes = { int32: 1, float: 4, bytes: 6, text: 6 } as const;
const [utf8, listOf] = [0, 3] as const;
const [required, repeated] = [0, 2] as const;
const dataPageV2 = 3;

function schemaOf(spec: TableSpec): ((element: Fields) => void)[] {
  const names = Object.keys(spec);
  const elements = [
    (root: Fields) => {
      root.i32(3, required);
      root.text(4, "root");
      root.i32(5, names.length);
    },
  ];
  for (const name of names) {
    const { type, list } = spec[name]!;
    if (list) {
      elements.push(
        (outer) => {
          outer.i32(3, required);
          outer.text(4, name);
          outer.i32(5, 1);
          outer.i32(6, listOf);
        },
        (middle) => {
          middle.i32(3, repeated);
          middle.text(4, "list");
          middle.i32(5, 1);
        },
      );
    }
    elements.push((leaf) => {
      leaf.i32(1, physicalTypes[type]);
      leaf.i32(3, required);
      leaf.text(4, list ? "element" : name);
      if (type === "text") leaf.i32(6, utf8);
    });
  }
  return elements;
}

function columnChunk(out: Output, column: Fields, { meta, start, size, slots }: Chunk) {
  column.i64(2, start);
  column.begin(3, STRUCT);
  out.raw(meta);
  const counts = new Fields(out, lastOfMeta);
  counts.i64(5, slots);
  counts.i64(6, size);
  counts.i64(7, size);
  counts.i64(9, start);
  out.byte(0);
}

/** Writes a column's pages; answers how many slots it has: a value each, and one for each empty list. */
function writeColumn(out: Output, { list, type }: ColumnSpec, cells: readonly Cell[]): number {
  let slots = 0;
  let from = 0;
  let bytes = 0;
  const page = (to: number) => {
    const own = from === 0 && to === cells.length ? cells : cells.slice(from, to);
    slots += list ? writeLists(out, own as readonly List[]) : writeFlat(out, type, own);
    from = to;
  };
  for (const [row, cell] of cells.entries()) {
    if (bytes + firstSize(cell) >= pageBytes && row > from) {
      page(row);
      bytes = 0;
    }
    bytes += sizeOf(cell);
  }
  page(cells.length);
  return slots;
}

type List = Int32Array | Float32Array | Uint8Array[];

/** Bytes of a cell's first value. */
function firstSize(cell: Cell): number {
  if (typeof cell === "number") return 4;
  if (typeof cell === "string") return cell.length;
  return Array.isArray(cell) ? (cell[0]?.length ?? 0) : Math.min(4, cell.byteLength);
}

/** Bytes of a cell's values. */
function sizeOf(cell: Cell): number {
  if (typeof cell === "number") return 4;
  if (typeof cell === "string") return cell.length;
  return Array.isArray(cell) ? cell.reduce((sum, { length }) => sum + length, 0) : cell.byteLength;
}

function writeFlat(out: Output, type: ColumnSpec["type"], cells: readonly Cell[]): number {
  const counts = { slots: cells.length, empty: 0, rows: cells.length };
  if (type === "text") {
    const texts = cells.map((cell) => encoder.encode(String(cell)));
    writeHeader(out, counts, none, none, bytesOf(texts));
    for (const text of texts) out.bytes(text);
    return cells.length;
  }
  writeHeader(out, counts, none, none, 4 * cells.length);
  for (const cell of cells) {
    if (type === "float") out.f32(Number(cell));
    else out.u32(Number(cell));
  }
  return cells.length;
}

function writeLists(out: Output, lists: readonly List[]): number {
  let slots = 0;
  let empty = 0;
  let size = 0;
  for (const list of lists) {
    slots += Math.max(list.length, 1);
    if (list.length === 0) empty++;
    size += Array.isArray(list) ? bytesOf(list) : list.byteLength;
  }
  const repetition = outputs.repetition.emptied();
  const definition = outputs.definition.emptied();
  // 0 begins a row; 1 goes on with it.
  writeLevels(
    repetition,
    zeroAtStarts(lists, slots, () => true),
    slots,
  );
  if (empty === 0 && slots >= 8) definition.run(slots, 1);
  else
    writeLevels(
      definition,
      zeroAtStarts(lists, slots, ({ length }) => length === 0),
      slots,
    );
  writeHeader(out, { slots, empty, rows: lists.length }, repetition.finish(), definition.finish(), size);
  for (const list of lists) {
    if (Array.isArray(list)) for (const bytes of list) out.bytes(bytes);
    else out.numbers(list);
  }
  return slots;
}

/** A level a slot: 0 where one of certain lists starts, 1 elsewhere. Valid until the next call. */
function zeroAtStarts(lists: readonly List[], slots: number, zero: (list: List) => boolean): Uint8Array {
  if (levels.length < slots) levels = new Uint8Array(2 * slots);
  levels.fill(1, 0, slots);
  let at = 0;
  for (const list of lists) {
    if (zero(list)) levels[at] = 0;
    at += Math.max(list.length, 1);
  }
  return levels;
}

let levels = new Uint8Array(2048);

/** Bytes of byte arrays, each with its length before it. */
function bytesOf(cells: readonly Uint8Array[]): number {
  let size = 0;
  for (const { length } of cells) size += 4 + length;
  return size;
}

const none = new Uint8Array(0);

/** Everything of a page but its values, which take `size` bytes. */
function writeHeader(
  out: Output,
  { slots, empty, rows }: { slots: number; empty: number; rows: number },
  repetition: Uint8Array,
  definition: Uint8Array,
  size: number,
): void {
  const whole = repetition.length + definition.length + size;
  out.struct((header) => {
    header.i32(1, dataPageV2);
    header.i32(2, whole);
    header.i32(3, whole);
    header.nested(8, (data) => {
      data.i32(1, slots);
      data.i32(2, empty);
      data.i32(3, rows);
      data.i32(4, 0);
      data.i32(5, definition.length);
      data.i32(6, repetition.length);
    });
  });
  out.raw(repetition);
  out.raw(definition);
}

/** Levels of one bit in Parquet's hybrid: runs of eight and more as runs, the rest bit-packed by eights. */
function writeLevels(out: Output, values: Uint8Array, count: number): void {
  let packed = 0;
  let i = 0;
  const flush = (end: number) => {
    if (packed === 0) return;
    out.varint(2 * packed + 1);
    for (let at = end - 8 * packed; at < end; at += 8) {
      let bits = 0;
      for (let bit = 0; bit < 8 && at + bit < count; bit++) bits |= values[at + bit]! << bit;
      out.byte(bits);
    }
    packed = 0;
  };
  while (i < count) {
    const value = values[i]!;
    let end = i + 1;
    while (end < count && values[end] === value) end++;
    if (end - i >= 8) {
      flush(i);
      out.run(end - i, value);
      i = end;
    } else {
      packed++;
      i += 8;
    }
  }
  flush(i);
}

const encoder = new TextEncoder();
const [I32, I64, BINARY, LIST, STRUCT] = [5, 6, 8, 9, 12] as const;

/** Growing bytes, and Thrift's compact protocol on top of them. */
class Output {
  length = 0;
  #bytes: Uint8Array;
  #view: DataView;

  constructor(room: number) {
    this.#bytes = new Uint8Array(room);
    this.#view = new DataView(this.#bytes.buffer);
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#bytes[this.length++] = value;
  }

  u32(value: number): void {
    this.#reserve(4);
    this.#view.setUint32(this.length, value, true);
    this.length += 4;
  }

  f32(value: number): void {
    this.#reserve(4);
    this.#view.setFloat32(this.length, value, true);
    this.length += 4;
  }

  /** The numbers of a list, as they lie in memory. */
  numbers(list: Int32Array | Float32Array): void {
    // A view takes longer to make than a few numbers to write.
    if (list.length > 16) this.raw(new Uint8Array(list.buffer, list.byteOffset, list.byteLength));
    else if (list instanceof Float32Array) for (let i = 0; i < list.length; i++) this.f32(list[i]!);
    else for (let i = 0; i < list.length; i++) this.u32(list[i]!);
  }

  /** A run in Parquet's hybrid. */
  run(length: number, value: number): void {
    this.varint(2 * length);
    this.byte(value);
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** Parquet's byte array: its length, then its bytes. */
  bytes(bytes: Uint8Array): void {
    this.u32(bytes.length);
    this.raw(bytes);
  }

  /** A whole number, by sevens of bits. */
  varint(value: number): void {
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) this.byte((rest % 0x80) | 0x80);
    this.byte(rest);
  }

  /** A whole number ≥ 0 as Thrift writes signed ones. */
  zigzag(value: number): void {
    this.varint(2 * value);
  }

  text(value: string): void {
    const bytes = encoder.encode(value);
    this.varint(bytes.length);
    this.raw(bytes);
  }

  struct(write: (fields: Fields) => void): void {
    write(new Fields(this, 0));
    this.byte(0);
  }

  /** The same, to be written anew; what it held is no more. */
  emptied(): this {
    if (this.#bytes.length > mostKept) {
      this.#bytes = new Uint8Array(mostKept);
      this.#view = new DataView(this.#bytes.buffer);
    }
    this.length = 0;
    return this;
  }

  /** A view of what was written. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.length);
  }

  #reserve(more: number): void {
    if (this.length + more <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(2 * this.#bytes.length, this.length + more));
    larger.set(this.#bytes.subarray(0, this.length));
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}

/** The fields of one Thrift struct, by rising id. */
class Fields {
  readonly #out: Output;
  #last: number;

  /** @param last the id of the field before. */
  constructor(out: Output, last: number) {
    this.#out = out;
    this.#last = last;
  }

  i32(id: number, value: number): void {
    this.begin(id, I32);
    this.#out.zigzag(value);
  }

  i64(id: number, value: number): void {
    this.begin(id, I64);
    this.#out.zigzag(value);
  }

  text(id: number, value: string): void {
    this.begin(id, BINARY);
    this.#out.text(value);
  }

  nested(id: number, write: (fields: Fields) => void): void {
    this.begin(id, STRUCT);
    this.#out.struct(write);
  }

  list<T>(id: number, type: number, items: readonly T[], write: (item: T) => void): void {
    this.begin(id, LIST);
    if (items.length > 14) {
      this.#out.byte(0xf0 | type);
      this.#out.varint(items.length);
    } else this.#out.byte((items.length << 4) | type);
    for (const item of items) write(item);
  }

  /** The head of a field; whoever calls this writes the value. */
  begin(id: number, type: number): void {
    this.#out.byte(((id - this.#last) << 4) | type);
    this.#last = id;
  }
}

/** Bytes that are kept between files. */
const mostKept = 2 ** 18;

// Kept from file to file, because memory for a small pack takes about as long to get as the pack to write.
const outputs = { file: new Output(mostKept), repetition: new Output(1024), definition: new Output(1024) };
