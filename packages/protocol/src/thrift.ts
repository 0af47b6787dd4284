import { PackError } from "./pack-error.ts";

/**
 * Thrift's compact protocol as Parquet's metadata uses it, for bytes from strangers. Every list announces a length and every struct
 * may nest, so: a list never has more elements than bytes remain, depth is bounded, integers stay exact. Work and memory are then
 * linear in the input.
 */

export type ThriftValue = number | boolean | Uint8Array | ThriftValue[] | ThriftStruct;

/** Fields by id. A class, so that a struct is not mistaken for a list; an array inside, because a Map takes longer to make than to fill. */
export class ThriftStruct {
  readonly #fields: ThriftValue[] = [];

  get(field: number): ThriftValue | undefined {
    return this.#fields[field];
  }

  /** A field that is there twice is the later one. Those beyond the ids that Parquet has are read over. */
  set(field: number, value: ThriftValue): void {
    if (field >= 0 && field <= lastField) this.#fields[field] = value;
  }
}

const lastField = 31;

/**
 * Reads one struct.
 * @param bytes may go on after the struct.
 * @param after the id of the field before `start`, when reading begins in the middle of a struct: its earlier fields are then missing.
 * @returns the struct and the offset of the first byte after it.
 * @throws PackError `NOT_PARQUET`.
 */
export function readThrift(
  bytes: Uint8Array,
  start: number,
  after = 0,
): { struct: ThriftStruct; end: number } {
  const reader = new Reader(bytes, start);
  const struct = reader.struct(0, after);
  return { struct, end: reader.at };
}

class Reader {
  readonly #bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, start: number) {
    this.#bytes = bytes;
    this.at = start;
  }

  struct(depth: number, after: number): ThriftStruct {
    if (depth > 16) throw malformed("metadata nests too deeply");
    const struct = new ThriftStruct();
    let id = after;
    for (;;) {
      const head = this.#byte();
      const type = head & 15;
      if (type === 0) return struct;
      id = head >> 4 === 0 ? this.#zigzag() : id + (head >> 4);
      struct.set(id, type === 1 || type === 2 ? type === 1 : this.#element(type, depth));
    }
  }

  #element(type: number, depth: number): ThriftValue {
    switch (type) {
      case 1: // true, as an element of a list: one byte
      case 2:
        return this.#byte() === 1;
      case 3:
        return this.#byte();
      case 4:
      case 5:
      case 6:
        return this.#zigzag();
      case 7:
        for (let i = 0; i < 8; i++) this.#byte();
        return 0; // no double is of interest to a pack
      case 8: {
        const length = this.#varint();
        if (length > this.#bytes.length - this.at) throw malformed("a text in the metadata ends early");
        this.at += length;
        return this.#bytes.subarray(this.at - length, this.at);
      }
      case 9:
      case 10: {
        const head = this.#byte();
        const length = head >> 4 === 15 ? this.#varint() : head >> 4;
        if (length > this.#bytes.length - this.at) throw malformed("a list in the metadata ends early");
        if (depth > 16) throw malformed("metadata nests too deeply");
        const list: ThriftValue[] = [];
        for (let i = 0; i < length; i++) list.push(this.#element(head & 15, depth + 1));
        return list;
      }
      case 12:
        return this.struct(depth + 1, 0);
      default:
        throw malformed(`metadata has an unknown type ${type}`);
    }
  }

  #byte(): number {
    const value = this.#bytes[this.at++];
    if (value === undefined) throw malformed("metadata ends early");
    return value;
  }

  #varint(): number {
    let value = 0;
    for (let scale = 1; scale <= 2 ** 49; scale *= 128) {
      const next = this.#byte();
      value += (next & 0x7f) * scale;
      if (next < 0x80) {
        if (!Number.isSafeInteger(value)) break;
        return value;
      }
    }
    throw malformed("a number in the metadata is too large");
  }

  #zigzag(): number {
    const value = this.#varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }
}

/** A whole number ≥ 0. @throws PackError `NOT_PARQUET` when the field is missing or something else. */
export function thriftCount(struct: ThriftStruct, field: number): number {
  const value = struct.get(field);
  if (typeof value !== "number" || value < 0) throw malformed(`field ${field} is not a count`);
  return value;
}

/** A nested struct. @throws PackError `NOT_PARQUET`. */
export function thriftStruct(struct: ThriftStruct, field: number): ThriftStruct {
  return asStruct(struct.get(field));
}

/** A list of structs. @throws PackError `NOT_PARQUET`. */
export function thriftStructs(struct: ThriftStruct, field: number): ThriftStruct[] {
  const value = struct.get(field);
  if (!Array.isArray(value)) throw malformed(`field ${field} is not a list`);
  return value.map(asStruct);
}

/** A UTF-8 text. @throws PackError `NOT_PARQUET`. */
export function thriftText(struct: ThriftStruct, field: number): string {
  const value = struct.get(field);
  if (!(value instanceof Uint8Array)) throw malformed(`field ${field} is not a text`);
  return decodeText(value);
}

/** @throws PackError `NOT_PARQUET` for anything but UTF-8. */
export function decodeText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new PackError("NOT_PARQUET", "Not a pack: a text is not UTF-8.", { cause });
  }
}

export function malformed(why: string): PackError {
  return new PackError("NOT_PARQUET", `Not a pack: ${why}. Write it again, or fetch it again.`);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function asStruct(value: ThriftValue | undefined): ThriftStruct {
  if (!(value instanceof ThriftStruct)) throw malformed("a struct is missing");
  return value;
}
