import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes, hexToBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import type { PhiloxKey } from "./philox.ts";
import { ProtocolError } from "./protocol-error.ts";

/** The run seed of demo number `n`: SHA-256(`"muster/run/v1\0"` ‖ n as u32 LE), hexadecimal. */
export function demoSeed(n: number): string {
  return bytesToHex(sha256(concatBytes(utf8ToBytes("muster/run/v1\0"), u32(n))));
}

/**
 * The Philox key under which one rollout is sampled: the first two u32 LE words of
 * SHA-256(`"muster/sample/v1\0"` ‖ run seed ‖ task id ‖ index as u32 LE).
 * @param runSeedHex 32 bytes in hexadecimal.
 * @param taskId the TypeID string (`task_…`), or `eval:<suite>` for evaluation.
 * @param index position in the task: group × groupSize + rollout.
 */
export function rolloutKey(runSeedHex: string, taskId: string, index: number): [number, number] {
  const [a, b] = seedWords(
    taskHash("muster/sample/v1\0", runSeedHex, taskId).clone().update(u32(index)).digest(),
  );
  return [a, b];
}

/** The 32-byte seed of group `group` of a task: SHA-256(`"muster/example/v1\0"` ‖ run seed ‖ task id ‖ group as u32 LE). */
export function exampleSeed(runSeedHex: string, taskId: string, group: number): Uint8Array {
  return sha256(
    concatBytes(utf8ToBytes("muster/example/v1\0"), seedBytes(runSeedHex), utf8ToBytes(taskId), u32(group)),
  );
}

/** The 32-byte seed of example `index` of a named suite: SHA-256(`"muster/suite/v1\0"` ‖ suite ‖ index as u32 LE). */
export function suiteSeed(suite: string, index: number): Uint8Array {
  return sha256(concatBytes(utf8ToBytes("muster/suite/v1\0"), utf8ToBytes(suite), u32(index)));
}

/** The first two u32 LE words of a seed or digest, as a Philox key. */
export function seedWords(seed: Uint8Array): PhiloxKey {
  if (seed.length < 8) throw new ProtocolError("INVALID_SEED", `A seed has 32 bytes, not ${seed.length}.`);
  const view = new DataView(seed.buffer, seed.byteOffset, seed.byteLength);
  return [view.getUint32(0, true), view.getUint32(4, true)];
}

/** SHA-256 begun with domain, run seed and task. Keys are asked for by the hundred for one task, so the last one is kept. */
function taskHash(domain: string, runSeedHex: string, taskId: string) {
  if (lastHash?.domain !== domain || lastHash.runSeedHex !== runSeedHex || lastHash.taskId !== taskId) {
    const hash = sha256
      .create()
      .update(concatBytes(utf8ToBytes(domain), seedBytes(runSeedHex), utf8ToBytes(taskId)));
    lastHash = { domain, runSeedHex, taskId, hash };
  }
  return lastHash.hash;
}

let lastHash:
  | { domain: string; runSeedHex: string; taskId: string; hash: ReturnType<typeof sha256.create> }
  | undefined;

function seedBytes(runSeedHex: string): Uint8Array {
  if (!/^[0-9a-f]{64}$/i.test(runSeedHex)) {
    throw new ProtocolError("INVALID_SEED", "A run seed is 64 hexadecimal digits (32 bytes).");
  }
  return hexToBytes(runSeedHex);
}

function u32(n: number): Uint8Array {
  if (!Number.isInteger(n) || n < 0 || n > 0xffffffff) {
    throw new ProtocolError("INVALID_SEED", `${n} is not an index: 0 … 2^32 − 1.`);
  }
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, n, true);
  return bytes;
}
