import { join } from "node:path";
import type { Logger } from "pino";
import { isLoopback } from "../auth/auth.ts";
import type { Config } from "../config.ts";
import { createFileStore } from "./files.ts";
import type { BlobStore } from "./store.ts";

/** The store that the configuration names. @throws Error in one line what is wrong with it, and what to do */
export async function openBlobStore(config: Config, log: Logger): Promise<BlobStore> {
  const folder = join(config.stateDir, "blobs");
  const { s3Endpoint: endpoint, s3Bucket, s3AccessKeyId, s3SecretAccessKey } = config;
  // The configuration has all four or none.
  if (!endpoint || !s3Bucket || !s3AccessKeyId || !s3SecretAccessKey) return await createFileStore(folder);
  const publicEndpoint = config.s3Presign ? (config.s3PublicEndpoint ?? endpoint) : undefined;
  const reachable = publicEndpoint !== undefined && mayBeSentTo(publicEndpoint, config);
  if (publicEndpoint !== undefined && !reachable)
    log.warn(
      { endpoint: publicEndpoint },
      "blobs are served by the coordinator: clients elsewhere cannot reach the S3 store, or not over TLS. Set S3_PUBLIC_ENDPOINT to an https URL of it, or S3_PRESIGN=0",
    );
  // The library is large, and most installations keep their blobs in files.
  const { createS3Store } = await import("./s3.ts");
  return await createS3Store({
    drafts: join(folder, "tmp"),
    endpoint,
    bucket: s3Bucket,
    region: config.s3Region,
    accessKeyId: s3AccessKeyId,
    secretAccessKey: s3SecretAccessKey,
    prefix: config.s3Prefix,
    pathStyle: config.s3PathStyle,
    ...(reachable ? { publicEndpoint } : {}),
  });
}

/** A signed URL opens a blob to whoever reads it: it travels as well protected as the token it was got with. */
function mayBeSentTo(endpoint: string, { publicUrl, host, plainHttp }: Config): boolean {
  const here = publicUrl ?? `http://${host.includes(":") ? `[${host}]` : host}`;
  if (isLoopback(endpoint)) return isLoopback(here);
  return endpoint.startsWith("https:") || plainHttp;
}
