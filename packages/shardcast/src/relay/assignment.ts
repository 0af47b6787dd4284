import type { RelayFault } from "../fetch-shard.ts";

/** What the coordinator wants a relay to hold of one run, and from whom it gets it. */
export type RelayAssignment = {
  /** TypeID of this relay in the run: tickets name the one they are for. */
  relay: string;
  /** TypeID of the run. */
  run: string;
  /** TypeID of the relay above; null: the origin. */
  parent: string | null;
  parentUrl: string;
  /** Opens the parent; null at the origin. */
  ticket: string | null;
  /** The coordinator's public key in hexadecimal: who shows a ticket signed with it is served. */
  ticketKey: string;
  /** What to hold, newest first, by the manifests' hashes. */
  versions: readonly { version: number; manifest: string }[];
};

/** What happens in a relay that people want to hear of. */
export type RelayEvent =
  | { type: "held"; run: string; version: number; manifest: string; bytes: number; seconds: number }
  | { type: "dropped"; run: string; version: number; manifest: string }
  /** It does not fit the budget. */
  | { type: "too-large"; run: string; version: number; manifest: string; bytes: number; budgetBytes: number }
  | {
      type: "fault";
      run: string;
      /** TypeID of the parent, or `origin`. */
      source: string;
      /** Hash of the manifest the blob was fetched for. */
      manifest: string;
      sha256: string;
      fault: RelayFault;
      detail: string;
    }
  /** What is here could not be read or written. */
  | { type: "disk"; message: string };
