import { canonicalJson, hashHex, type JsonValue } from "@muster/protocol";

/** One line of a run's audit log as it is hashed. */
export type AuditChainEntry = {
  /** Dense per run, from 1. */
  readonly seq: number;
  /** What happened, such as `verdict.rejected`. */
  readonly kind: string;
  /** TypeID of what it happened to. */
  readonly subject: string;
  readonly data: JsonValue;
  /** UTC with milliseconds, `2026-01-01T00:00:00.000Z`. */
  readonly at: string;
  /** Hexadecimal SHA-256; see `auditEntryHash`. */
  readonly hash: string;
};

/**
 * What binds an entry to the one before: SHA-256 over the hash before (32 bytes; zeros before the first) and the UTF-8 of the canonical
 * JSON of `{run, seq, kind, subject, data, at}`. Whoever changes, drops or inserts an entry changes every hash after it.
 * @param previous hexadecimal; null for the first entry.
 * @param run TypeID of the run, so that no log passes for another run's.
 */
export function auditEntryHash(
  previous: string | null,
  run: string,
  { seq, kind, subject, data, at }: Omit<AuditChainEntry, "hash">,
): string {
  const json = new TextEncoder().encode(canonicalJson({ run, seq, kind, subject, data, at }));
  const bytes = new Uint8Array(32 + json.length);
  if (previous !== null)
    for (let i = 0; i < 32; i++) bytes[i] = Number.parseInt(previous.slice(2 * i, 2 * i + 2), 16);
  bytes.set(json, 32);
  return hashHex(bytes);
}

/**
 * The first entry at which a log breaks, or null when it is whole.
 * @param entries in their order, all of them from number 1.
 */
export function auditChainFault(run: string, entries: readonly AuditChainEntry[]): string | null {
  let previous: string | null = null;
  for (const [i, entry] of entries.entries()) {
    if (entry.seq !== i + 1) return `Entry ${i + 1} is missing: number ${entry.seq} stands in its place.`;
    if (auditEntryHash(previous, run, entry) !== entry.hash)
      return `Entry ${entry.seq} (${entry.kind}) does not have the hash that follows from it and the one before.`;
    previous = entry.hash;
  }
  return null;
}
