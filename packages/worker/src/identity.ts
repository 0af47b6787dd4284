import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  sign,
} from "node:crypto";
import { link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Who a node is: an Ed25519 key. The private half never leaves its file and this object. */
export type Identity = {
  /** Raw 32 bytes in hexadecimal. */
  publicKey: string;
  /** Ed25519 over the bytes: 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array<ArrayBuffer>;
  /** The same in hexadecimal. */
  signHex(bytes: Uint8Array): string;
};

/**
 * The key in `<stateDir>/node.key` (PKCS #8, PEM, readable by the owner alone), made on the first start.
 * @throws Error when the file is there and is no Ed25519 key: whoever replaces it becomes another node.
 */
export async function openIdentity(stateDir: string): Promise<Identity> {
  const path = join(stateDir, "node.key");
  const pem = (await read(path)) ?? (await create(stateDir, path));
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch (cause) {
    throw new Error(`${path} is not a private key. Restore it, or remove it to become a new node.`, {
      cause,
    });
  }
  if (key.asymmetricKeyType !== "ed25519") {
    throw new Error(
      `${path} holds a ${key.asymmetricKeyType} key; a node's is Ed25519. Restore it, or remove it to become a new node.`,
    );
  }
  // SPKI of Ed25519 is a fixed prefix and the 32 bytes
  const publicKey = createPublicKey(key)
    .export({ format: "der", type: "spki" })
    .subarray(-32)
    .toString("hex");
  return {
    publicKey,
    sign: (bytes) => new Uint8Array(sign(null, bytes, key)),
    signHex: (bytes) => sign(null, bytes, key).toString("hex"),
  };
}

async function read(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw cause;
  }
}

async function create(stateDir: string, path: string): Promise<string> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const pem = generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" }).toString();
  const draft = join(stateDir, `.node.key-${randomUUID()}`);
  try {
    await writeFile(draft, pem, { mode: 0o600, flag: "wx", flush: true });
    // link() fails when the file exists, so of two processes starting at once only one decides who the node is
    await link(draft, path);
    return pem;
  } catch (cause) {
    const theirs = await read(path);
    if (theirs === undefined) throw cause;
    return theirs;
  } finally {
    await rm(draft, { force: true });
  }
}
