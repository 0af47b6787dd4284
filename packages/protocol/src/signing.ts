import { utf8ToBytes } from "@noble/hashes/utils.js";
import { canonicalJson } from "./canonical.ts";

/** What a worker vouches for when it submits. */
export type Submission = {
  /** TypeID, `run_…`. */
  run: string;
  /** TypeID, `task_…`. */
  task: string;
  /** Number of the attempt, from 1. */
  attempt: number;
  /** SHA-256 of the pack's bytes, hexadecimal. */
  pack: string;
};

/** The bytes a node signs with Ed25519 to submit a pack: `"muster/submit/v1\0"` and the canonical JSON of the four fields. */
export function submissionBytes({ run, task, attempt, pack }: Submission): Uint8Array {
  return signed("muster/submit/v1", { run, task, attempt, pack });
}

/**
 * The bytes a node signs to prove, at registration, that it holds the key: `"muster/register/v1\0"` and canonical JSON. `audience` is the
 * origin of the coordinator as the node dials it, never as somebody tells it: a coordinator that passes on another one's challenge gets
 * a signature that is of no use there.
 */
export function challengeBytes({
  publicKey,
  challenge,
  audience,
}: {
  publicKey: string;
  challenge: string;
  /** For example `https://muster.example` or `http://127.0.0.1:4000`. */
  audience: string;
}): Uint8Array {
  return signed("muster/register/v1", { publicKey, challenge, audience });
}

/**
 * Bytes for a signature in its own domain, so that one made for one purpose is never valid for another.
 * @param domain for example `muster/submit/v1`; a zero byte follows it.
 */
export function signed(domain: string, value: unknown): Uint8Array {
  return utf8ToBytes(`${domain}\0${canonicalJson(value)}`);
}
