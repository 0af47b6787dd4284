import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";
import { ProtocolError } from "./protocol-error.ts";

/** Anything JSON can say. Properties that are `undefined` are left out, as JSON.stringify does. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue | undefined };

/**
 * The one spelling of a JSON value that both parties hash and sign: RFC 8785 (JSON Canonicalization Scheme), so keys in
 * UTF-16 order, no white space, numbers as ECMAScript prints them.
 * @throws ProtocolError `NOT_CANONICAL` for a value JSON cannot hold: NaN, infinities, bigint, functions, lone surrogates.
 */
export function canonicalJson(value: unknown): string {
  switch (typeof value) {
    case "boolean":
      return value ? "true" : "false";
    case "number":
      if (!Number.isFinite(value)) throw notCanonical(String(value));
      return JSON.stringify(value);
    case "string":
      if (/\p{Surrogate}/u.test(value)) throw notCanonical("a string with half a surrogate pair");
      return JSON.stringify(value);
    case "object": {
      if (value === null) return "null";
      if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
      const prototype: unknown = Object.getPrototypeOf(value);
      if (prototype !== Object.prototype && prototype !== null) throw notCanonical("an instance of a class");
      const members = Object.entries(value)
        .filter(([, member]) => member !== undefined)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([key, member]) => `${canonicalJson(key)}:${canonicalJson(member)}`);
      return `{${members.join(",")}}`;
    }
    default:
      throw notCanonical(`a ${typeof value}`);
  }
}

/** SHA-256 as 64 lower-case hexadecimal digits; a string is hashed as UTF-8. */
export function hashHex(data: Uint8Array | string): string {
  return bytesToHex(sha256(typeof data === "string" ? utf8ToBytes(data) : data));
}

function notCanonical(what: string): ProtocolError {
  return new ProtocolError("NOT_CANONICAL", `JSON cannot hold ${what}; send a plain JSON value.`);
}
