import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
} from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { openDrafts } from "./drafts.ts";
import {
  assertUsable,
  asUnavailable,
  connectS3,
  isAbsent,
  type S3Options,
  statusOf,
} from "./s3-connection.ts";
import { sendBytes, sendDraft } from "./s3-upload.ts";
import { type BlobStore, isBlobName, noBlob } from "./store.ts";

export type S3StoreOptions = S3Options & {
  /** Folder of uploads that have not all arrived. */
  readonly drafts: string;
  /** Where clients reach the store themselves, without the bucket; left out, they are served by the coordinator. */
  readonly publicEndpoint?: string;
};

/** A redirect is followed at once; a transfer that began goes on. */
const linkSeconds = 600;
/** A deletion ends before this, … */
const deletionMs = 30_000;
/** … so that a note older than this was left by a process that was killed. */
const noteMs = 60_000;
/** The readiness of a store costs a request that is paid for. */
const probedMs = 30_000;

/**
 * Blobs as objects of an S3-compatible store: `<prefix>ab/abcd…`, the layout of the file store. An object appears when the store has all of
 * its bytes and has checked them against the hash we sent, after we had checked it against the bytes we received.
 *
 * S3 has no rename, and the same bytes stored again look the same to its conditional requests, so a deletion could take what was stored
 * again a moment ago. Therefore a deletion leaves a note (`<prefix>deleting/abcd…`) before it looks at the object's time and until it is
 * over, and whoever stored a blob waits until there is no note and then looks whether the object is there. S3 is strongly consistent: a
 * deletion that did not see the new time had left its note before the object was stored.
 * @throws Error in one line what is wrong with the configuration or the store, and what to do
 */
export async function createS3Store(options: S3StoreOptions): Promise<BlobStore> {
  const { bucket: Bucket, prefix, publicEndpoint } = options;
  const drafts = await openDrafts(options.drafts);
  const client = connectS3(options);
  await assertUsable(client, options);
  let provenAt = Date.now();

  const targetOf = (sha256: string) => {
    // The only guard between a URL and a key.
    if (!isBlobName(sha256)) throw noBlob(sha256);
    return { Bucket, Key: `${prefix}${sha256.slice(0, 2)}/${sha256}` };
  };
  const noteOf = (sha256: string) => ({ Bucket, Key: `${prefix}deleting/${sha256}` });

  /** Names what goes wrong, without what the library says beyond it. */
  const guarded = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw asUnavailable(error, options);
    }
  };
  const look = async (target: { Bucket: string; Key: string }, abortSignal?: AbortSignal) => {
    try {
      return await client.send(new HeadObjectCommand(target), abortSignal && { abortSignal });
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw error;
    }
  };

  /** Stores until it stays: see above. */
  const store = async (sha256: string, size: number, send: () => Promise<void>): Promise<void> => {
    for (let tries = 0; tries < 3; tries++) {
      await send();
      const patience = performance.now() + noteMs;
      while ((await look(noteOf(sha256))) !== undefined) {
        if (performance.now() > patience) {
          await client.send(new DeleteObjectCommand(noteOf(sha256)));
          break;
        }
        await pause(100);
      }
      if ((await look(targetOf(sha256)))?.ContentLength === size) return;
    }
    throw new Error(
      `The store took the ${size} bytes of ${sha256} three times and did not have them afterwards.`,
    );
  };

  const get = async (sha256: string, range?: { start: number; end: number }) => {
    const target = targetOf(sha256);
    try {
      const Range = range && `bytes=${range.start}-${range.end}`;
      const answer = await client.send(new GetObjectCommand({ ...target, ...(Range && { Range }) }));
      const size = Number(answer.ContentRange?.split("/")[1] ?? answer.ContentLength);
      if (!(answer.Body instanceof Readable) || !Number.isSafeInteger(size))
        throw new Error(`The store answered for ${sha256} without bytes or their number.`);
      return { size, body: answer.Body };
    } catch (error) {
      throw isAbsent(error) ? noBlob(sha256) : asUnavailable(error, options);
    }
  };
  /** A body that breaks off says so in our words. */
  async function* bytesOf(body: Readable): AsyncGenerator<Uint8Array> {
    try {
      yield* body;
    } catch (error) {
      throw asUnavailable(error, options);
    }
  }

  async function* objects(Prefix: string): AsyncGenerator<{ Key: string; LastModified: Date }> {
    let ContinuationToken: string | undefined;
    do {
      const page = await guarded(() =>
        client.send(
          new ListObjectsV2Command({ Bucket, Prefix, ...(ContinuationToken && { ContinuationToken }) }),
        ),
      );
      for (const { Key, LastModified } of page.Contents ?? [])
        if (Key !== undefined && LastModified !== undefined) yield { Key, LastModified };
      ContinuationToken = page.NextContinuationToken;
    } while (ContinuationToken !== undefined);
  }

  return {
    async put(sha256, source, { maxBytes, signal }) {
      const target = targetOf(sha256);
      const draft = await drafts.receive(source, { sha256, maxBytes, ...(signal && { signal }) });
      try {
        await guarded(() => store(sha256, draft.size, () => sendDraft(client, target, draft, signal)));
        return { size: draft.size };
      } catch (error) {
        throw signal?.aborted ? signal.reason : error;
      } finally {
        await rm(draft.path, { force: true });
      }
    },
    async putBytes(bytes) {
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      const target = targetOf(sha256);
      await guarded(() => store(sha256, bytes.byteLength, () => sendBytes(client, target, bytes)));
      return sha256;
    },
    async read(sha256) {
      const { body } = await get(sha256);
      const bytes = await buffer(bytesOf(body));
      // Others may have the keys to the bucket.
      if (createHash("sha256").update(bytes).digest("hex") !== sha256)
        throw new Error(`The bucket has other bytes under ${sha256}. Restore the object, or delete it.`);
      return bytes;
    },
    async open(sha256, range) {
      const { size, body } = await get(sha256, range);
      return { size, stream: Readable.from(bytesOf(body), { objectMode: false }) };
    },
    size: async (sha256) => (await guarded(() => look(targetOf(sha256))))?.ContentLength,
    has: async (sha256) => (await guarded(() => look(targetOf(sha256)))) !== undefined,
    deleteOlder: (sha256, before) =>
      guarded(async () => {
        const target = targetOf(sha256);
        const abortSignal = AbortSignal.timeout(deletionMs);
        const stateOf = async () => {
          const found = await look(target, abortSignal);
          if (found === undefined) return "gone";
          // The store's time is in whole seconds, rounded down.
          return (found.LastModified?.getTime() ?? Number.POSITIVE_INFINITY) + 1_000 > before.getTime()
            ? "young"
            : "old";
        };
        const first = await stateOf();
        if (first !== "old") return first === "gone";
        await sendBytes(client, noteOf(sha256), new Uint8Array(), abortSignal);
        try {
          if ((await stateOf()) === "young") return false;
          await client.send(new DeleteObjectCommand(target), { abortSignal });
          return true;
        } finally {
          await client.send(new DeleteObjectCommand(noteOf(sha256)));
        }
      }),
    async sweep(olderThanMs) {
      const before = Date.now() - olderThanMs;
      let removed = await drafts.sweep(olderThanMs);
      for await (const { Key, LastModified } of objects(`${prefix}deleting/`)) {
        if (LastModified.getTime() > before) continue;
        await guarded(() => client.send(new DeleteObjectCommand({ Bucket, Key })));
        removed++;
      }
      for (const { Key, UploadId, Initiated } of await uploads()) {
        if (Initiated === undefined || Initiated.getTime() > before) continue;
        await guarded(() => client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })));
        removed++;
      }
      return removed;
    },
    async *list() {
      for await (const { Key, LastModified } of objects(prefix)) {
        const sha256 = Key.slice(prefix.length + 3);
        if (isBlobName(sha256) && Key === targetOf(sha256).Key) yield { sha256, storedAt: LastModified };
      }
    },
    async probe() {
      await drafts.probe();
      if (Date.now() - provenAt < probedMs) return;
      await guarded(() => sendBytes(client, { Bucket, Key: `${prefix}probe` }, Buffer.from("muster")));
      provenAt = Date.now();
    },
    ...(publicEndpoint === undefined ? {} : { signedUrl: signer({ ...options, endpoint: publicEndpoint }) }),
  };

  /** Uploads in parts that were begun, a thousand of them: the rest comes next time. */
  async function uploads() {
    try {
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket, Prefix: prefix }));
      return Uploads;
    } catch (error) {
      // A store without this request, or a key that may not make it, has a lifecycle rule instead.
      if (statusOf(error) === 501 || statusOf(error) === 403) return [];
      throw asUnavailable(error, options);
    }
  }

  function signer(reached: S3Options): (sha256: string) => Promise<string> {
    const outside = connectS3(reached);
    return (sha256) =>
      getSignedUrl(
        outside,
        new GetObjectCommand({
          ...targetOf(sha256),
          ResponseContentType: "application/octet-stream",
          ResponseContentDisposition: `attachment; filename="${sha256}"`,
          ResponseCacheControl: "private, max-age=31536000, immutable",
        }),
        { expiresIn: linkSeconds },
      );
  }
}
