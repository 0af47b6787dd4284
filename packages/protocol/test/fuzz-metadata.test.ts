import { describe, expect, test } from "vitest";
import { decodeBlindPack, PackError } from "../src/index.ts";

// Metadata costs its reader far more than its bytes: a list of empty structs becomes a map for each byte. These files are nothing else.

/** A value in thrift's compact protocol: a number, a text, a struct by field id, or a list of one of them. */
type Thrift = number | string | Uint8Array | Thrift[] | { [field: number]: Thrift };

function typeOf(value: Thrift): number {
  if (typeof value === "number") return 5;
  if (typeof value === "string" || value instanceof Uint8Array) return 8;
  return Array.isArray(value) ? 9 : 12;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  return [...bytes, rest];
}

function write(value: Thrift): number[] {
  if (typeof value === "number") return varint(2 * value);
  if (typeof value === "string") return write(new TextEncoder().encode(value));
  if (value instanceof Uint8Array) return [...varint(value.length), ...value];
  if (Array.isArray(value)) {
    const type = value[0] === undefined ? 12 : typeOf(value[0]);
    return [0xf0 | type, ...varint(value.length), ...value.flatMap(write)];
  }
  const fields = Object.entries(value).flatMap(([id, field]) => [
    typeOf(field),
    ...varint(2 * Number(id)),
    ...write(field),
  ]);
  return [...fields, 0];
}

function pageHeader(filler: number): Uint8Array {
  const empty = { 1: 3, 2: 0, 3: 0, 8: { 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0 } };
  const filled = filler === 0 ? empty : { ...empty, 15: Array.from({ length: filler }, () => ({})) };
  return Uint8Array.from(write(filled));
}

/** A BLIND pack whose first column is the given pages and whose others are empty. */
function file(pages: Uint8Array, extra: Thrift = 0): Uint8Array {
  const list = (name: string) => [
    { 3: 0, 4: name, 5: 1 },
    { 3: 2, 4: "list", 5: 1 },
    { 1: 1, 3: 0, 4: "element" },
  ];
  const integer = (name: string) => [{ 1: 1, 3: 0, 4: name }];
  const end = 4 + pages.length;
  const column = (start: number, size: number) => ({
    2: start,
    3: { 1: 1, 2: [0], 3: ["c"], 4: 0, 5: 0, 6: size, 7: size, 9: start },
  });
  const footer = Uint8Array.from(
    write({
      1: 2,
      2: [{ 4: "root", 5: 4 }, ...list("prompt"), ...list("tokens"), ...integer("key0"), ...integer("key1")],
      3: 1,
      4: [{ 1: [column(4, pages.length), column(end, 0), column(end, 0), column(end, 0)], 2: 0, 3: 1 }],
      5: [{ 1: "muster", 2: "{}" }],
      15: extra,
    }),
  );
  const bytes = new Uint8Array(end + footer.length + 8);
  const magic = [0x50, 0x41, 0x52, 0x31];
  bytes.set(magic);
  bytes.set(pages, 4);
  bytes.set(footer, end);
  new DataView(bytes.buffer).setUint32(bytes.length - 8, footer.length, true);
  bytes.set(magic, bytes.length - 4);
  return bytes;
}

function repeated(piece: Uint8Array, bytes: number): Uint8Array {
  const times = Math.floor(bytes / piece.length);
  const all = new Uint8Array(times * piece.length);
  for (let i = 0; i < times; i++) all.set(piece, i * piece.length);
  return all;
}

function refusal(bytes: Uint8Array): { message: string; ms: number } {
  const start = performance.now();
  try {
    decodeBlindPack(bytes);
  } catch (error) {
    if (error instanceof PackError) return { message: error.message, ms: performance.now() - start };
    throw error;
  }
  throw new Error("the file was read");
}

test("the files here fail for what they are about, not for their shape", () => {
  expect(refusal(file(pageHeader(0))).message).toContain("column prompt has other rows");
});

describe("sixteen megabytes of metadata cost no more than a moment:", () => {
  test.each([
    ["page headers with a list of empty structs", repeated(pageHeader(60_000), 2 ** 24)],
    ["pages of nothing", repeated(pageHeader(0), 2 ** 24)],
  ])("%s", (_, pages) => {
    const { message, ms } = refusal(file(pages));
    expect(message).toContain("page headers");
    expect(ms).toBeLessThan(500);
  });
});

test("a footer full of empty structs is bounded by its own limit", () => {
  expect(
    refusal(
      file(
        new Uint8Array(0),
        Array.from({ length: 300_000 }, () => ({})),
      ),
    ).message,
  ).toContain("a footer of");
});
