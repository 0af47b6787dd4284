// Ways in which valid bytes go wrong: by accident, and by somebody who knows the format.

import type { Draws } from "@muster/protocol";

/** Changes bytes; never the ones it was given. */
export type Mutation = (bytes: Uint8Array, draws: Draws, other: Uint8Array) => Uint8Array;

/** Bit flips, truncation, splices, repeats, and numbers at their limits, at any place. */
export function mutateBytes(bytes: Uint8Array, draws: Draws, other: Uint8Array): Uint8Array {
  if (bytes.length === 0) return randomBytes(draws, 64);
  return draws.pick(blind)(bytes, draws, other);
}

/**
 * Changes to the metadata of a Parquet file: one number, length, type or text of the footer's or a page header's thrift is replaced and
 * the footer's length put right, so that what reads the metadata is reached.
 */
export function mutateParquet(bytes: Uint8Array, draws: Draws, other: Uint8Array): Uint8Array {
  const footerLength = u32At(bytes, bytes.length - 8);
  const footerStart = bytes.length - 8 - footerLength;
  if (footerStart < 4 || footerLength < 4) return mutateBytes(bytes, draws, other);
  if (draws.below(5) === 0) {
    // A page header somewhere in the columns: the first column begins behind the magic.
    const spans = thriftSpans(bytes, 4, footerStart);
    if (spans.length === 0) return mutateBytes(bytes, draws, other);
    return replaced(bytes, draws.pick(spans), draws, { keepLength: draws.below(2) === 0 });
  }
  const footer = bytes.subarray(footerStart, footerStart + footerLength);
  const spans = thriftSpans(footer, 0, footer.length);
  let changed: Uint8Array = footer;
  // From the last to the first, so that the places of those before do not move.
  const chosen = Array.from({ length: 1 + draws.below(2) }, () => draws.pick(spans)).sort(
    (a, b) => b.start - a.start,
  );
  for (const span of chosen) changed = replaced(changed, span, draws, { keepLength: false });
  return withFooter(bytes.subarray(0, footerStart), changed);
}

/** Changes to the JSON header in a Parquet file's metadata; everything around it stays right. */
export function mutateHeader(bytes: Uint8Array, draws: Draws, other: Uint8Array): Uint8Array {
  const footerLength = u32At(bytes, bytes.length - 8);
  const footerStart = bytes.length - 8 - footerLength;
  if (footerStart < 4) return mutateBytes(bytes, draws, other);
  const footer = bytes.subarray(footerStart, footerStart + footerLength);
  const json = thriftSpans(footer, 0, footer.length).find(
    (span) => span.kind === "text" && footer[span.body] === 0x7b,
  );
  if (json === undefined) return mutateBytes(bytes, draws, other);
  const text = new TextEncoder().encode(
    mutateJson(new TextDecoder().decode(footer.subarray(json.body, json.end)), draws),
  );
  return withFooter(
    bytes.subarray(0, footerStart),
    concat([footer.subarray(0, json.start), varint(text.length), text, footer.subarray(json.end)]),
  );
}

/** Changes to a JSON text that mostly leave it JSON: other values, keys gone, twice or new, nesting, numbers that lose precision. */
export function mutateJson(text: string, draws: Draws): string {
  switch (draws.below(6)) {
    case 0: {
      const places = [...text.matchAll(/(?<=[:[,])(?:"[^"]*"|-?[\d.e+-]+|true|false|null)/g)];
      if (places.length === 0) return draws.pick(values);
      const { index, 0: found } = draws.pick(places);
      return text.slice(0, index) + draws.pick(values) + text.slice(index + found.length);
    }
    case 1:
      return text.replace("{", `{${draws.pick(keys)}:${draws.pick(values)},`);
    case 2: {
      const pairs = [...text.matchAll(/"[^"]*":(?:"[^"]*"|-?[\d.e+-]+|true|false|null),?/g)];
      if (pairs.length === 0) return "{}";
      const { index, 0: found } = draws.pick(pairs);
      return text.slice(0, index) + text.slice(index + found.length);
    }
    case 3:
      return draws.pick([` ${text}`, `${text}\n`, `\ufeff${text}`, `[${text}]`, `${text}${text}`, ""]);
    case 4: {
      const at = draws.below(text.length + 1);
      return (
        text.slice(0, at) +
        draws.pick(["\ud800", "\\u0000", '"', "}", "]", ",", "9", "\u202e"]) +
        text.slice(at)
      );
    }
    default: {
      const depth = 2 ** draws.between(1, 14);
      return text.replace(/(?<=:)(?:"[^"]*"|\d+)/, "[".repeat(depth) + "]".repeat(depth));
    }
  }
}

/** Any bytes, at most `limit`. */
export function randomBytes(draws: Draws, limit: number): Uint8Array {
  const bytes = new Uint8Array(draws.below(limit + 1));
  for (let i = 0; i < bytes.length; i++) bytes[i] = draws.below(256);
  return bytes;
}

const blind: readonly Mutation[] = [
  (bytes, draws) => {
    const copy = bytes.slice();
    for (let n = 1 + draws.below(8); n > 0; n--) copy[draws.below(copy.length)]! ^= 1 << draws.below(8);
    return copy;
  },
  (bytes, draws) => {
    const copy = bytes.slice();
    copy[draws.below(copy.length)]! ^= 1 << draws.below(8);
    return copy;
  },
  (bytes, draws) => bytes.slice(0, draws.below(bytes.length)),
  (bytes, draws) => bytes.slice(draws.below(bytes.length)),
  (bytes, draws) => {
    const [a, b] = range(bytes, draws);
    return concat([bytes.subarray(0, a), bytes.subarray(b)]);
  },
  (bytes, draws) => {
    const [a, b] = range(bytes, draws);
    return concat([bytes.subarray(0, b), bytes.subarray(a)]);
  },
  (bytes, draws, other) => {
    const [a, b] = range(bytes, draws);
    const [c, d] = range(other, draws);
    return concat([bytes.subarray(0, a), other.subarray(c, d), bytes.subarray(b)]);
  },
  (bytes, draws, other) => {
    const at = draws.below(bytes.length + 1);
    return concat([bytes.subarray(0, at), other.subarray(Math.min(at, other.length))]);
  },
  (bytes, draws) => {
    const at = draws.below(bytes.length + 1);
    return concat([bytes.subarray(0, at), randomBytes(draws, 32), bytes.subarray(at)]);
  },
  (bytes, draws) => {
    const copy = bytes.slice();
    const width = draws.pick([1, 2, 4] as const);
    const at = draws.below(Math.max(1, copy.length - width + 1));
    const value = draws.pick(limits);
    const view = new DataView(copy.buffer);
    if (width === 1 || at + width > copy.length) view.setUint8(at, value);
    else if (width === 2) view.setUint16(at, value, draws.below(2) === 0);
    else view.setUint32(at, value, draws.below(2) === 0);
    return copy;
  },
  (bytes, draws) => {
    const copy = bytes.slice();
    const [a, b] = range(bytes, draws);
    copy.fill(draws.pick([0, 0xff, 0x80, 0x7f]), a, b);
    return copy;
  },
];

const limits = [
  0, 1, 2, 127, 128, 255, 256, 0x7fff, 0xffd8, 0xffd9, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe,
  0xffffffff,
];
const keys = ['"extra"', '"__proto__"', '"constructor"', '"kind"', '"version"', '"run"', '"parts"', '""'];
const values = [
  "null",
  "true",
  "0",
  "-1",
  "1",
  "2",
  "1.5",
  "1e400",
  "-0",
  "9007199254740993",
  "1e308",
  "4294967296",
  '""',
  '"rollouts"',
  '"evidence"',
  '"f32"',
  '"bf16"',
  `"${"0".repeat(64)}"`,
  `"${"z".repeat(64)}"`,
  "[]",
  "{}",
  '{"a":[{}]}',
  "[1,2]",
  `"${"x".repeat(5000)}"`,
  '"run_01h455vb4pex5vsknk084sn02q"',
  '"\\ud800"',
];

/** One value of a thrift struct: a number (`body` = `start`), or a text with its length before it, or the byte that heads a field or list. */
type Span = { kind: "number" | "text" | "head"; start: number; body: number; end: number };

/** Where a struct's values are, in thrift's compact protocol. Stops quietly at the first thing it does not understand. */
function thriftSpans(bytes: Uint8Array, start: number, end: number): Span[] {
  const spans: Span[] = [];
  let at = start;
  const number = (kind: Span["kind"] = "number"): number => {
    const from = at;
    let value = 0;
    for (let scale = 1; at < end; scale *= 128) {
      const next = bytes[at++]!;
      value += (next & 0x7f) * scale;
      if (next < 0x80) break;
    }
    if (kind === "number") spans.push({ kind, start: from, body: from, end: at });
    return value;
  };
  const element = (type: number, depth: number): boolean => {
    if (depth > 32 || at >= end) return false;
    if (type === 1 || type === 2 || type === 3) at++;
    else if (type <= 6) number();
    else if (type === 7) at += 8;
    else if (type === 8) {
      const from = at;
      const length = number("text");
      spans.push({ kind: "text", start: from, body: at, end: Math.min(end, at + length) });
      at += length;
    } else if (type === 9 || type === 10) {
      spans.push({ kind: "head", start: at, body: at, end: at + 1 });
      const head = bytes[at++]!;
      const length = head >> 4 === 15 ? number() : head >> 4;
      for (let i = 0; i < length; i++) if (!element(head & 15, depth + 1)) return false;
    } else if (type === 12) return struct(depth + 1);
    else return false;
    return at <= end;
  };
  const struct = (depth: number): boolean => {
    while (at < end) {
      const head = bytes[at]!;
      if ((head & 15) === 0) {
        at++;
        return true;
      }
      spans.push({ kind: "head", start: at, body: at, end: at + 1 });
      at++;
      if (head >> 4 === 0) number();
      const type = head & 15;
      if (type !== 1 && type !== 2 && !element(type, depth)) return false;
    }
    return false;
  };
  struct(0);
  return spans;
}

function replaced(
  bytes: Uint8Array,
  span: Span,
  draws: Draws,
  { keepLength }: { keepLength: boolean },
): Uint8Array {
  const width = span.end - span.start;
  let put: Uint8Array;
  switch (span.kind) {
    case "head":
      put = Uint8Array.of(draws.below(256));
      break;
    case "text":
      // Another length before the same text, or another text.
      put =
        draws.below(2) === 0
          ? concat([varint(draws.pick(counts)), bytes.subarray(span.body, span.end)])
          : concat([varint(3), randomBytes(draws, 3)]);
      break;
    case "number":
      put =
        draws.below(3) === 0
          ? varint(Math.max(0, numberAt(bytes, span) + draws.between(0, 8) - 4))
          : varint(draws.pick(counts));
      break;
  }
  if (keepLength && span.kind === "number") {
    // The same number of bytes: cut, or continued with zeros, so that what follows stays in its place.
    const padded = new Uint8Array(width).fill(0x80);
    padded.set(put.subarray(0, width));
    for (let i = 0; i < width - 1; i++) padded[i]! |= 0x80;
    padded[width - 1]! &= 0x7f;
    put = padded;
  }
  return concat([bytes.subarray(0, span.start), put, bytes.subarray(span.end)]);
}

const counts = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  15,
  16,
  100,
  255,
  256,
  4096,
  65_535,
  2 ** 20,
  2 ** 24,
  2 ** 28,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 2,
  2 ** 32,
  2 ** 33,
  2 ** 40,
  2 ** 53 - 2,
  2 ** 53,
  2 ** 60,
];

function numberAt(bytes: Uint8Array, span: Span): number {
  let value = 0;
  for (let at = span.end - 1; at >= span.start; at--) value = value * 128 + (bytes[at]! & 0x7f);
  return value;
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function withFooter(before: Uint8Array, footer: Uint8Array): Uint8Array {
  const end = new Uint8Array(8);
  new DataView(end.buffer).setUint32(0, footer.length, true);
  end.set([0x50, 0x41, 0x52, 0x31], 4);
  return concat([before, footer, end]);
}

function u32At(bytes: Uint8Array, at: number): number {
  return at < 0 ? 0 : new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true);
}

function range(bytes: Uint8Array, draws: Draws): [number, number] {
  const a = draws.below(bytes.length + 1);
  const length = 2 ** draws.below(12);
  return [a, Math.min(bytes.length, a + draws.below(length) + 1)];
}

/** The pieces one after another. */
export function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
