import { PackError } from "./pack-error.ts";

/**
 * Thrift's compact protocol as Parquet's metadata uses it, for bytes from strangers. Every list announces a length and every struct
 * may nest, so: a list never has more elements than bytes remain, depth is bounded, integers stay exact. Work and memory are then
 * linear in the input.
 */

export type ThriftValue = number | boolean | Uint8Array | ThriftValue[] | ThriftStruct;
/** Fields by id. */
export type ThriftStruct = ReadonlyMap<number, ThriftValue>;

/**
 * Reads one struct.
 * @param bytes may go on after the struct.
 * @returns the struct and the offset of the first byte after it.
 * @throws PackError `NOT_PARQUET`.
 */
export function readThrift(bytes: Uint8Array, start: number): { struct: ThriftStruct; end: number } {
  let at = start;

  function byte(): number {
    const value = bytes[at++];
    if (value === undefined) throw malformed("metadata ends early");
    return value;
  }

  function varint(): number {
    let value = 0;
    for (let scale = 1; scale <= 2 ** 49; scale *= 128) {
      const next = byte();
      value += (next & 0x7f) * scale;
      if (next < 0x80) {
        if (!Number.isSafeInteger(value)) break;
        return value;
      }
    }
    throw malformed("a number in the metadata is too large");
  }

  function zigzag(): number {
    const value = varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  function element(type: number, depth: number): ThriftValue {
    switch (type) {
      case 1: // true, as an element of a list: one byte
      case 2:
        return byte() === 1;
      case 3:
        return byte();
      case 4:
      case 5:
      case 6:
        return zigzag();
      case 7:
        for (let i = 0; i < 8; i++) byte();
        return 0; // no double is of interest to a pack
      case 8: {
        const length = varint();
        if (length > bytes.length - at) throw malformed("a text in the metadata ends early");
        at += length;
        return bytes.subarray(at - length, at);
      }
      case 9:
      case 10: {
        const head = byte();
        const length = head >> 4 === 15 ? varint() : head >> 4;
        if (length > bytes.length - at) throw malformed("a list in the metadata ends early");
        if (depth > 16) throw malformed("metadata nests too deeply");
        return Array.from({ length }, () => element(head & 15, depth + 1));
      }
      case 12:
        return struct(depth + 1);
      default:
        throw malformed(`metadata has an unknown type ${type}`);
    }
  }

  function struct(depth: number): ThriftStruct {
    if (depth > 16) throw malformed("metadata nests too deeply");
    const fields = new Map<number, ThriftValue>();
    let id = 0;
    for (;;) {
      const head = byte();
      const type = head & 15;
      if (type === 0) return fields;
      id = head >> 4 === 0 ? zigzag() : id + (head >> 4);
      fields.set(id, type === 1 || type === 2 ? type === 1 : element(type, depth));
    }
  }

  return { struct: struct(0), end: at };
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
  if (!(value instanceof Map)) throw malformed("a struct is missing");
  return value;
}
