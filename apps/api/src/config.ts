import { z } from "zod";

/** The coordinator's configuration. This file is the only reader of the environment. */
export type Config = z.infer<typeof configSchema>;

const seconds = (value: number) => z.coerce.number().positive().default(value);
const flag = z.enum(["0", "1", "true", "false"]).transform((value) => value === "1" || value === "true");

const s3Url = z
  .url({ protocol: /^https?$/, error: "set an http or https URL" })
  // Whoever reads an error or a redirect would read them too.
  .refine((value) => new URL(value).username === "", "leave the key out of the URL: set S3_ACCESS_KEY_ID")
  .transform((value) => value.replace(/\/+$/, ""));

const configSchema = z.object({
  databaseUrl: z.string().min(1, "set DATABASE_URL to a Postgres URL"),
  host: z.string().default("127.0.0.1"),
  port: z.coerce.number().int().min(0).max(65535).default(4000),
  /** Where people and nodes reach this API. Default: http://<host>:<port>. */
  publicUrl: z.url().optional(),
  /** Where people open the dashboard; its origin may call the API with cookies. */
  dashboardUrl: z.url().default("http://127.0.0.1:4001"),
  /** Folder of everything that is not in Postgres: blobs by hash. */
  stateDir: z.string().default(".muster"),
  /** Signs people's sessions and encrypts audit keys at rest: 32 bytes or more. */
  secret: z.string().min(32, "set MUSTER_SECRET to at least 32 random characters"),
  /** Lets the local supervisor create the demo organization and sign-in links. Off unless set. */
  operatorToken: z.string().min(32).optional(),
  /** Whether sign-in links are written to the log. Default: only when this API is reached on loopback, where the operator reads it. */
  signInLinks: z.enum(["log", "hide"]).optional(),
  /** Believe X-Forwarded-For and X-Forwarded-Proto: set it behind a proxy that overwrites them, and only there. */
  trustProxy: flag.default(false),
  /** Accept clients beyond loopback without TLS: only for a network where everyone may read everything. */
  plainHttp: flag.default(false),
  logLevel: z.enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"]).default("info"),
  /** Whether this process runs the planner, sweepers and sequencer. Any number of processes may. */
  loops: flag.default(true),
  graphiql: flag.default(true),
  /** Seconds after start before sweepers may expire leases: nodes get time to come back. */
  sweepDelaySeconds: z.coerce.number().min(0).default(30),
  leaseSeconds: seconds(60),
  sessionSeconds: seconds(3600),
  maxPackBytes: z.coerce
    .number()
    .int()
    .positive()
    .default(100 * 1024 * 1024),
  maxBodyBytes: z.coerce
    .number()
    .int()
    .positive()
    .default(1024 * 1024),
  /** Requests a client may make in ten seconds before it is told to slow down; a node ten times as many. */
  requestsPerTenSeconds: z.coerce.number().int().positive().default(600),
  /** Keys of one address that may register for the first time in a minute: keys cost nothing, and each is a row for at least a day. */
  newNodesPerMinute: z.coerce.number().int().positive().default(60),
  /** Sockets one address may hold open at once; a node may hold eight. */
  socketsPerAddress: z.coerce.number().int().positive().default(1000),
  blobGraceSeconds: seconds(3600),
  eventRetentionDays: z.coerce.number().positive().default(30),
  /** How long what was measured of a final group is kept at least. */
  evidenceRetentionDays: z.coerce.number().positive().default(7),
  /**
   * Most database connections of this process, beside three of its own for notifications and leadership. A transaction waits for one
   * for ten seconds and is then refused as NOT_READY; more than a few per core of the database only make everyone slower.
   */
  poolSize: z.coerce.number().int().positive().default(10),
  /** Share of accepted audits that the organizer's own validators measure again. Of rejections they measure all. */
  reexecutionShare: z.coerce.number().min(0).max(1).default(0.05),
  /** Most relays that pull from the coordinator, and from each relay. */
  relayFanOut: z.coerce.number().int().min(1).max(64).default(4),
  /** Whether relays may be on this machine or in its private network. Default: only when the coordinator itself is reached there. */
  privateRelays: flag.optional(),
  /** Whether webhooks may go to this machine or its private network. Default: only when the coordinator itself is reached there. */
  privateWebhooks: flag.optional(),
  /** An S3-compatible store for blobs instead of files: its URL without the bucket, which comes with a bucket and a key. */
  s3Endpoint: s3Url.optional(),
  s3Bucket: z.string().optional(),
  s3Region: z.string().default("us-east-1"),
  s3AccessKeyId: z.string().optional(),
  s3SecretAccessKey: z.string().optional(),
  /** What the bucket's keys begin with. */
  s3Prefix: z
    .string()
    .default("")
    .transform((value) => (value === "" || value.endsWith("/") ? value : `${value}/`))
    .refine(
      (value) => /^((?!\.{1,2}\/)[\w.-]+\/)*$/.test(value),
      "set letters, digits and . _ - with / between them",
    ),
  /** Send whoever may read a blob to the store with a signed URL, instead of serving the bytes. */
  s3Presign: flag.default(true),
  /** Where clients reach the store, when that is not s3Endpoint. */
  s3PublicEndpoint: s3Url.optional(),
  /** `<endpoint>/<bucket>/<key>`; off for stores that want `<bucket>.<endpoint>/<key>`. */
  s3PathStyle: flag.default(true),
  /** Apply the database's migrations before anything else. */
  migrate: flag.default(false),
});

const variables: Record<keyof Config, string> = {
  databaseUrl: "DATABASE_URL",
  host: "MUSTER_HOST",
  port: "MUSTER_PORT",
  publicUrl: "MUSTER_PUBLIC_URL",
  dashboardUrl: "MUSTER_DASHBOARD_URL",
  stateDir: "MUSTER_STATE_DIR",
  secret: "MUSTER_SECRET",
  operatorToken: "MUSTER_OPERATOR_TOKEN",
  signInLinks: "MUSTER_SIGN_IN_LINKS",
  trustProxy: "MUSTER_TRUST_PROXY",
  plainHttp: "MUSTER_PLAIN_HTTP",
  logLevel: "MUSTER_LOG_LEVEL",
  loops: "MUSTER_LOOPS",
  graphiql: "MUSTER_GRAPHIQL",
  sweepDelaySeconds: "MUSTER_SWEEP_DELAY_SECONDS",
  leaseSeconds: "MUSTER_LEASE_SECONDS",
  sessionSeconds: "MUSTER_SESSION_SECONDS",
  maxPackBytes: "MUSTER_MAX_PACK_BYTES",
  maxBodyBytes: "MUSTER_MAX_BODY_BYTES",
  requestsPerTenSeconds: "MUSTER_REQUESTS_PER_TEN_SECONDS",
  newNodesPerMinute: "MUSTER_NEW_NODES_PER_MINUTE",
  socketsPerAddress: "MUSTER_SOCKETS_PER_ADDRESS",
  blobGraceSeconds: "MUSTER_BLOB_GRACE_SECONDS",
  eventRetentionDays: "MUSTER_EVENT_RETENTION_DAYS",
  evidenceRetentionDays: "MUSTER_EVIDENCE_RETENTION_DAYS",
  poolSize: "MUSTER_POOL_SIZE",
  reexecutionShare: "MUSTER_REEXECUTION_SHARE",
  relayFanOut: "MUSTER_RELAY_FAN_OUT",
  privateRelays: "MUSTER_PRIVATE_RELAYS",
  privateWebhooks: "MUSTER_PRIVATE_WEBHOOKS",
  s3Endpoint: "S3_ENDPOINT",
  s3Bucket: "S3_BUCKET",
  s3Region: "S3_REGION",
  s3AccessKeyId: "S3_ACCESS_KEY_ID",
  s3SecretAccessKey: "S3_SECRET_ACCESS_KEY",
  s3Prefix: "S3_PREFIX",
  s3Presign: "S3_PRESIGN",
  s3PublicEndpoint: "S3_PUBLIC_ENDPOINT",
  s3PathStyle: "S3_PATH_STYLE",
  migrate: "MUSTER_MIGRATE",
};

/** A store is named whole or not at all: half of it would leave the blobs in files unnoticed. */
const s3Together = ["s3Endpoint", "s3Bucket", "s3AccessKeyId", "s3SecretAccessKey"] as const;

/**
 * Reads the configuration.
 * @throws Error that names every wrong variable and what is expected.
 */
export function readConfig(env: Record<string, string | undefined>): Config {
  const values = Object.fromEntries(
    Object.entries(variables).flatMap(([field, variable]) => {
      const value = env[variable];
      return value === undefined || value === "" ? [] : [[field, value]];
    }),
  );
  const parsed = configSchema.safeParse(values);
  const problems = (parsed.error?.issues ?? []).map((issue) => {
    const field = String(issue.path[0] ?? "");
    return `${field in variables ? variables[field as keyof Config] : field}: ${issue.message}`;
  });
  const given = s3Together.find((field) => values[field] !== undefined);
  if (given !== undefined)
    for (const field of s3Together)
      if (values[field] === undefined)
        problems.push(`${variables[field]}: set it as well, because ${variables[given]} is set`);
  if (parsed.success && problems.length === 0) return parsed.data;
  throw new Error(`The configuration is wrong.\n${problems.join("\n")}`);
}
