import { createHash } from "node:crypto";
import { type Manifest, ProtocolError, parseManifest } from "@muster/protocol";
import type { Ctx } from "../context.ts";
import { UnsoundFile } from "./safetensors.ts";

type File = Manifest["files"][number];

/** @throws UnsoundFile for what is no manifest, CodedError `BLOB_NOT_FOUND` */
export async function readManifest(ctx: Ctx, hash: string): Promise<Manifest> {
  try {
    return parseManifest(await ctx.blobs.read(hash));
  } catch (error) {
    if (error instanceof ProtocolError) throw new UnsoundFile(error.message, { cause: error });
    throw error;
  }
}

/** @throws UnsoundFile when the manifest has no such file */
export function fileOf(manifest: Manifest, name: string): File {
  const file = manifest.files.find((one) => one.name === name);
  if (file === undefined) throw new UnsoundFile(`The manifest lacks ${name}.`);
  return file;
}

/** The file's bytes, shard after shard. */
export async function* fileChunks(ctx: Ctx, file: Pick<File, "shards">): AsyncGenerator<Uint8Array> {
  for (const shard of file.shards) {
    const { stream } = await ctx.blobs.open(shard.sha256);
    // Nobody sets an encoding on a blob's stream, so its chunks are bytes.
    for await (const chunk of stream) yield chunk as Uint8Array;
  }
}

/** @throws UnsoundFile when the shards do not make the file */
export async function checkFileHash(ctx: Ctx, file: Pick<File, "name" | "sha256" | "shards">): Promise<void> {
  const hash = createHash("sha256");
  for await (const chunk of fileChunks(ctx, file)) hash.update(chunk);
  if (hash.digest("hex") !== file.sha256)
    throw new UnsoundFile(`The shards of ${file.name} do not have the hash that the manifest names.`);
}
