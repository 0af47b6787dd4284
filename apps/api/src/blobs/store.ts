import type { Readable } from "node:stream";
import { CodedError } from "../errors.ts";

/** Bytes by their SHA-256. Which of them are kept, and who may read them, is in Postgres. */
export type BlobStore = {
  /**
   * Stores a stream under its hash, hashing while it arrives; nothing is visible before the hash matched.
   * @throws CodedError `BLOB_HASH_MISMATCH`, `BLOB_TOO_LARGE`, `STORAGE_FULL`, or `NOT_READY` when a store elsewhere does not answer.
   */
  put(
    sha256: string,
    source: Readable | AsyncIterable<Uint8Array>,
    limit: { maxBytes: number; signal?: AbortSignal },
  ): Promise<{ size: number }>;
  /** Stores bytes the coordinator made itself. Returns their hash. */
  putBytes(bytes: Uint8Array): Promise<string>;
  /** @throws CodedError `BLOB_NOT_FOUND` */
  read(sha256: string): Promise<Uint8Array>;
  /**
   * `size` is the whole blob's; `range` is in bytes, `end` included.
   * @throws CodedError `BLOB_NOT_FOUND`
   */
  open(sha256: string, range?: { start: number; end: number }): Promise<{ size: number; stream: Readable }>;
  /** The blob's size, or undefined when there is none. */
  size(sha256: string): Promise<number | undefined>;
  has(sha256: string): Promise<boolean>;
  /** Removes the blob unless it was stored (again) after `before`. Returns whether it is gone. */
  deleteOlder(sha256: string, before: Date): Promise<boolean>;
  /** Removes what uploads that were cut off left behind, when older than this. Returns how many. */
  sweep(olderThanMs: number): Promise<number>;
  /** Every blob there is with the time it was stored, in no order. */
  list(): AsyncIterable<{ sha256: string; storedAt: Date }>;
  /** Proves that a blob could be written now. @throws CodedError `STORAGE_FULL`, or the system's error. */
  probe(): Promise<void>;
  /** An address from which anybody may GET the blob for some minutes, without asking here. Only of a store that clients reach themselves. */
  signedUrl?(sha256: string): Promise<string>;
};

export const isBlobName = (sha256: string): boolean => /^[0-9a-f]{64}$/.test(sha256);

export function noBlob(sha256: string): CodedError {
  return new CodedError(
    "BLOB_NOT_FOUND",
    `There is no blob ${sha256.slice(0, 64)}. It was never stored, or retention deleted it.`,
  );
}
