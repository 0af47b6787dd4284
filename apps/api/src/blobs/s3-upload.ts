import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import type { Draft } from "./drafts.ts";

type Target = { Bucket: string; Key: string };

/** Held in memory at once of an upload, and the largest object sent in one request. */
const partBytes = 16 * 1024 * 1024;
/** The most parts that S3 takes. */
const mostParts = 10_000;

/** What a mirror or a browser is told of every blob. */
const served = {
  ContentType: "application/octet-stream",
  ContentDisposition: "attachment",
  CacheControl: "public, max-age=31536000, immutable",
};

/** Stores bytes in one request, which names their SHA-256 so that the store refuses others. */
export async function sendBytes(
  client: S3Client,
  target: Target,
  bytes: Uint8Array,
  abortSignal?: AbortSignal,
): Promise<void> {
  await client.send(
    new PutObjectCommand({ ...target, ...served, Body: bytes, ChecksumSHA256: checksumOf(bytes) }),
    abortSignal && { abortSignal },
  );
}

/**
 * Stores a draft's bytes, large ones in parts that the store checks one by one. The object appears when all of it is there.
 * @throws Error also when the file's bytes are no longer those that were received
 */
export async function sendDraft(
  client: S3Client,
  target: Target,
  draft: Draft,
  abortSignal?: AbortSignal,
): Promise<void> {
  const file = await open(draft.path, "r");
  try {
    if (draft.size > partBytes) return await sendParts(client, target, { ...draft, file }, abortSignal);
    const bytes = await readPart(file, 0, draft.size);
    assertSame(createHash("sha256").update(bytes).digest("hex"), draft.sha256);
    await sendBytes(client, target, bytes, abortSignal);
  } finally {
    await file.close();
  }
}

async function sendParts(
  client: S3Client,
  target: Target,
  { file, size, sha256 }: Draft & { file: FileHandle },
  abortSignal?: AbortSignal,
): Promise<void> {
  const options = abortSignal && { abortSignal };
  const { UploadId } = await client.send(
    new CreateMultipartUploadCommand({ ...target, ...served, ChecksumAlgorithm: "SHA256" }),
    options,
  );
  if (UploadId === undefined) throw new Error("The store began an upload without a name.");
  try {
    const hash = createHash("sha256");
    const length = Math.max(partBytes, Math.ceil(size / mostParts));
    const Parts: CompletedPart[] = [];
    for (let start = 0; start < size; start += length) {
      const Body = await readPart(file, start, Math.min(length, size - start));
      hash.update(Body);
      const PartNumber = Parts.length + 1;
      const ChecksumSHA256 = checksumOf(Body);
      const { ETag } = await client.send(
        new UploadPartCommand({ ...target, UploadId, PartNumber, Body, ChecksumSHA256 }),
        options,
      );
      Parts.push({ PartNumber, ChecksumSHA256, ...(ETag === undefined ? {} : { ETag }) });
    }
    assertSame(hash.digest("hex"), sha256);
    await client.send(
      new CompleteMultipartUploadCommand({ ...target, UploadId, MultipartUpload: { Parts } }),
      options,
    );
  } catch (error) {
    // What stays all the same is swept, or ended by the bucket's lifecycle.
    await client.send(new AbortMultipartUploadCommand({ ...target, UploadId })).catch(() => {});
    throw error;
  }
}

async function readPart(file: FileHandle, start: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(bytes, at, length - at, start + at);
    if (bytesRead === 0) throw new Error("A received blob became shorter before it was stored.");
    at += bytesRead;
  }
  return bytes;
}

function assertSame(found: string, sha256: string): void {
  if (found !== sha256) throw new Error(`A received blob changed on the disk from ${sha256} to ${found}.`);
}

const checksumOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("base64");
