import { createHash, webcrypto } from "node:crypto";
import { type Manifest, manifestBytes, ProtocolError, parseManifest } from "@muster/protocol";
import { ShardcastError } from "./error.ts";

/** Whether `signature` (64 bytes) over `message` was made with the key whose public half is `publicKey` (32 bytes). */
export type VerifySignature = (input: {
  publicKey: Uint8Array<ArrayBuffer>;
  message: Uint8Array<ArrayBuffer>;
  signature: Uint8Array<ArrayBuffer>;
}) => boolean | Promise<boolean>;

/**
 * The manifest in `bytes`, if it is exactly the one named: hash, canonical spelling, inner consistency and its trainer's signature.
 * @param input.hash what the task names.
 * @param input.trainer the only public key (hexadecimal) accepted, when it is known.
 * @param input.verify Ed25519; Web Crypto's when left out.
 * @throws ShardcastError `MANIFEST_MISMATCH`, `MANIFEST_INVALID`, `WRONG_TRAINER`, `BAD_SIGNATURE`.
 */
export async function openManifest(input: {
  bytes: Uint8Array;
  hash: string;
  trainer?: string | undefined;
  verify?: VerifySignature | undefined;
}): Promise<Manifest> {
  const found = createHash("sha256").update(input.bytes).digest("hex");
  if (found !== input.hash) {
    throw new ShardcastError(
      "MANIFEST_MISMATCH",
      `Manifest ${input.hash} was asked for and ${found} arrived; it was not used.`,
    );
  }
  const manifest = parsed(input.bytes);
  if (input.trainer !== undefined && manifest.trainer !== input.trainer) {
    throw new ShardcastError(
      "WRONG_TRAINER",
      `Manifest ${input.hash} is signed by ${manifest.trainer}, not by the run's trainer ${input.trainer}.`,
    );
  }
  const genuine = await (input.verify ?? webCryptoVerify)({
    publicKey: fromHex(manifest.trainer),
    message: new Uint8Array(manifestBytes(manifest)),
    signature: fromHex(manifest.signature),
  });
  if (!genuine) {
    throw new ShardcastError(
      "BAD_SIGNATURE",
      `The signature of manifest ${input.hash} is not its trainer's.`,
    );
  }
  return manifest;
}

function parsed(bytes: Uint8Array): Manifest {
  try {
    return parseManifest(bytes);
  } catch (cause) {
    if (!(cause instanceof ProtocolError)) throw cause;
    throw new ShardcastError("MANIFEST_INVALID", cause.message, { cause });
  }
}

const webCryptoVerify: VerifySignature = async ({ publicKey, message, signature }) => {
  const key = await webcrypto.subtle
    .importKey("raw", publicKey, "Ed25519", false, ["verify"])
    .catch(() => undefined);
  return key !== undefined && (await webcrypto.subtle.verify("Ed25519", key, signature, message));
};

function fromHex(hex: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(hex, "hex"));
}
