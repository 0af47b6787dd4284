import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";

/**
 * Merkle tree hash of RFC 6962 §2.1 over SHA-256 hashes: a leaf is `SHA-256(0x00 ‖ 32 bytes)`, a node `SHA-256(0x01 ‖ left ‖ right)`, and
 * the left side of n leaves has the largest power of two below n.
 * @param hashes 64 hexadecimal digits each, in order.
 * @returns 64 lower-case hexadecimal digits; of no leaves, the SHA-256 of nothing.
 */
export function merkleRoot(hashes: readonly string[]): string {
  return bytesToHex(treeHash(hashes, 0, hashes.length));
}

const leafPrefix = Uint8Array.of(0);
const nodePrefix = Uint8Array.of(1);

function treeHash(hashes: readonly string[], from: number, to: number): Uint8Array {
  const count = to - from;
  const [first] = hashes.slice(from, from + 1);
  if (first === undefined) return sha256(new Uint8Array());
  if (count === 1) return sha256(concatBytes(leafPrefix, hexToBytes(first)));
  let left = 1;
  while (left * 2 < count) left *= 2;
  return sha256(
    concatBytes(nodePrefix, treeHash(hashes, from, from + left), treeHash(hashes, from + left, to)),
  );
}
