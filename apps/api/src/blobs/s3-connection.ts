import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { CodedError } from "../errors.ts";
import { systemCode } from "./drafts.ts";

export type S3Options = {
  /** URL without the bucket. */
  readonly endpoint: string;
  readonly bucket: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** What every key begins with: empty, or a path with a slash at the end. */
  readonly prefix: string;
  /** `<endpoint>/<bucket>/<key>` instead of `<bucket>.<endpoint>/<key>`. */
  readonly pathStyle: boolean;
};

export function connectS3({
  endpoint,
  region,
  accessKeyId,
  secretAccessKey,
  pathStyle,
}: S3Options): S3Client {
  return new S3Client({
    endpoint,
    region,
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: pathStyle,
    // What is sent names its SHA-256; the SDK's own checksums are in a framing that not every store reads.
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: {
      connectionTimeout: 5_000,
      // Without a byte in either direction.
      socketTimeout: 60_000,
      httpAgent: { keepAlive: true, maxSockets: 256 },
      httpsAgent: { keepAlive: true, maxSockets: 256 },
    },
  });
}

/** @throws Error in one line what is wrong with the configuration or the store, and what to do */
export async function assertUsable(client: S3Client, options: S3Options): Promise<void> {
  const { bucket: Bucket, prefix } = options;
  const Key = `${prefix}probe`;
  const steps = [
    ["s3:PutObject", () => client.send(new PutObjectCommand({ Bucket, Key, Body: "muster" }))],
    [
      "s3:GetObject",
      async () => (await client.send(new GetObjectCommand({ Bucket, Key }))).Body?.transformToByteArray(),
    ],
    ["s3:ListBucket", () => client.send(new ListObjectsV2Command({ Bucket, Prefix: Key }))],
    // What is not there may be deleted too, by those who may.
    ["s3:DeleteObject", () => client.send(new DeleteObjectCommand({ Bucket, Key: `${Key}-none` }))],
  ] as const;
  for (const [action, step] of steps) {
    try {
      await step();
    } catch (error) {
      throw new Error(remedyOf(error, action, options));
    }
  }
}

function remedyOf(error: unknown, action: string, options: S3Options): string {
  const { bucket, endpoint, region } = options;
  const name = nameOf(error);
  switch (name) {
    case "NoSuchBucket":
      return `S3_BUCKET: there is no bucket ${bucket} at ${endpoint} (${name}). Make it, or name the right one.`;
    case "InvalidBucketName":
      return `S3_BUCKET: ${bucket} is no bucket's name (${name}). Name the right one.`;
    case "InvalidAccessKeyId":
    case "XAdminUserNotFound":
      return `S3_ACCESS_KEY_ID: ${endpoint} does not know the key (${name}). Set the id of a key that exists there.`;
    case "SignatureDoesNotMatch":
      return `S3_SECRET_ACCESS_KEY: it is not the secret of S3_ACCESS_KEY_ID (${name}). Set both from the same key; a proxy before ${endpoint} must leave the Host header as it is.`;
    case "AccessDenied":
    case "AllAccessDisabled":
      return `S3_ACCESS_KEY_ID: the key may not ${action} on ${bucket}/${options.prefix} (${name}). Give it the policy in docs/deploy.md.`;
    case "AuthorizationHeaderMalformed":
    case "PermanentRedirect":
    case "IllegalLocationConstraintException":
      return `S3_REGION: the bucket ${bucket} is not in ${region}, or not at ${endpoint} (${name}). Set the bucket's own region and endpoint.`;
    case "RequestTimeTooSkewed":
      return `The clocks of this machine and of ${endpoint} differ too much (${name}). Set the clock.`;
  }
  if (statusOf(error) === undefined)
    return `S3_ENDPOINT: ${endpoint} cannot be reached (${name}). Start the store, or set its URL, without the bucket.`;
  return `The S3 store at ${endpoint} did not allow ${action} on ${bucket}/${options.prefix}: ${textOf(error, options)}. Check the S3_ variables.`;
}

/**
 * What a store answered, or that it did not, for whoever asked the coordinator: trying again can help, as the fault is not his. The
 * library's own error is not passed on, as it may quote the request with its signature.
 */
export function asUnavailable(error: unknown, options: S3Options): CodedError {
  if (error instanceof CodedError) return error;
  const cause = new Error(textOf(error, options));
  if (full.has(nameOf(error)) || statusOf(error) === 507)
    return new CodedError(
      "STORAGE_FULL",
      "The coordinator's store is full; nothing was stored. Try again when its operator has made room.",
      { cause },
    );
  return new CodedError(
    "NOT_READY",
    "The coordinator's store of blobs does not serve it now. Try again in a moment; if it stays, its operator finds the reason in the log.",
    { cause },
  );
}

/** As stores name it; S3 itself is never full. */
const full = new Set([
  "QuotaExceeded",
  "QuotaExceededException",
  "InsufficientStorage",
  "InsufficientCapacity",
  "XMinioStorageFull",
  "XMinioAdminBucketQuotaExceeded",
  "StorageFull",
]);

/** Whether the store says that there is no such object. */
export const isAbsent = (error: unknown): boolean =>
  statusOf(error) === 404 && ["NoSuchKey", "NotFound"].includes(nameOf(error));

export function statusOf(error: unknown): number | undefined {
  if (typeof error !== "object" || error === null || !("$metadata" in error)) return undefined;
  const { $metadata } = error;
  if (typeof $metadata !== "object" || $metadata === null || !("httpStatusCode" in $metadata))
    return undefined;
  return typeof $metadata.httpStatusCode === "number" ? $metadata.httpStatusCode : undefined;
}

function nameOf(error: unknown): string {
  const code = systemCode(error);
  if (typeof code === "string") return code;
  return error instanceof Error ? error.name : String(error);
}

function textOf(error: unknown, { accessKeyId, secretAccessKey }: S3Options): string {
  const status = statusOf(error);
  const message = error instanceof Error ? error.message : String(error);
  const text = `${nameOf(error)}: ${message}${status === undefined ? "" : ` (HTTP ${status})`}`;
  // Stores have been seen quoting what they were sent.
  return text.replaceAll(secretAccessKey, "[hidden]").replaceAll(accessKeyId, "[key]");
}
