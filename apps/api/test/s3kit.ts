import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, utimes } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CreateBucketCommand, S3Client } from "@aws-sdk/client-s3";
import type { Config } from "../src/config.ts";
import { until } from "./testkit.ts";

// A real S3 implementation for a test file. With MUSTER_TEST_S3 it is another one, that runs already: <key id>:<secret>@<http URL>.

export type TestS3 = Awaited<ReturnType<typeof startS3>>;

export async function startS3() {
  const elsewhere = /^([^:]+):([^@]+)@(https?:.+)$/.exec(process.env.MUSTER_TEST_S3 ?? "");
  const [, accessKeyId = "S3RVER", secretAccessKey = "S3RVER-secret", url] = elsewhere ?? [];
  const folder = await mkdtemp(join(tmpdir(), "muster-s3-"));
  const own = url === undefined ? await runOwn(folder) : undefined;
  const endpoint = url ?? own?.endpoint ?? "";
  const bucket = `muster-${randomBytes(6).toString("hex")}`;
  const client = new S3Client({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
  });
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  const connection = { endpoint, bucket, region: "us-east-1", accessKeyId, secretAccessKey, pathStyle: true };
  return {
    client,
    bucket,
    /** For `createS3Store`. */
    options: (prefix = "") => ({ ...connection, prefix, drafts: join(folder, "drafts") }),
    /** For a coordinator. */
    config: (prefix = ""): Partial<Config> => ({
      s3Endpoint: endpoint,
      s3Bucket: bucket,
      s3AccessKeyId: accessKeyId,
      s3SecretAccessKey: secretAccessKey,
      s3Prefix: prefix,
    }),
    /** Whether requests' signatures, checksums and uploads in parts are looked after as S3 does; the implementation we start is lenient. */
    strict: own === undefined,
    /** Makes an object look stored at that time; only of the implementation we start. */
    age: (key: string, to: Date) => utimes(join(folder, bucket, `${key}._S3rver_object`), to, to),
    async stop() {
      client.destroy();
      await own?.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function runOwn(directory: string) {
  const path = createRequire(import.meta.url).resolve("s3rver/bin/s3rver.js");
  // Its lists are paged by tokens in a cipher that OpenSSL has put away.
  const args = ["--openssl-legacy-provider", path, "-d", directory, "-a", "127.0.0.1", "-p", "0"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  const ended = once(child, "exit");
  let said = "";
  const hear = (chunk: Buffer) => {
    if (!said.includes("listening")) said += chunk;
  };
  child.stdout.on("data", hear);
  child.stderr.on("data", hear);
  const port = await until(() => {
    if (child.exitCode !== null) throw new Error(`s3rver ended: ${said}`);
    return /listening on 127\.0\.0\.1:(\d+)/.exec(said)?.[1];
  }, 20_000);
  return {
    endpoint: `http://127.0.0.1:${port}`,
    async stop() {
      child.kill();
      await ended;
    },
  };
}
