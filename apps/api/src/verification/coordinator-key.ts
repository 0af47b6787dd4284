import { createPrivateKey, createPublicKey, hkdfSync, type KeyObject, sign } from "node:crypto";
import type { Services } from "../context.ts";

// One key for as long as the secret stays the same: an evidence bundle that was fetched last year still opens with the published key.

const keys = new Map<string, { readonly privateKey: KeyObject; readonly publicKey: string }>();

/** The coordinator's Ed25519 public key, raw 32 bytes in hexadecimal. */
export function coordinatorPublicKey({ config }: Pick<Services, "config">): string {
  return keyOf(config.secret).publicKey;
}

/** Ed25519 (RFC 8032) by the coordinator over exactly these bytes. */
export function signAsCoordinator({ config }: Pick<Services, "config">, bytes: Uint8Array): Uint8Array {
  return new Uint8Array(sign(null, bytes, keyOf(config.secret).privateKey));
}

/** HKDF-SHA-256 of the secret with the info `muster/coordinator-key/v1` is the key's seed. */
function keyOf(secret: string) {
  const known = keys.get(secret);
  if (known !== undefined) return known;
  const seed = Buffer.from(hkdfSync("sha256", secret, "", "muster/coordinator-key/v1", 32));
  // PKCS #8 of Ed25519 (RFC 8410) is a fixed prefix and the seed.
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  const privateKey = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const spki = createPublicKey(privateKey).export({ format: "der", type: "spki" });
  const made = { privateKey, publicKey: spki.subarray(-32).toString("hex") };
  keys.set(secret, made);
  return made;
}
