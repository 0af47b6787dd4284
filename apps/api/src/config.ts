import { z } from "zod";

/** The coordinator's configuration. This file is the only reader of the environment. */
export type Config = z.infer<typeof configSchema>;

const seconds = (value: number) => z.coerce.number().positive().default(value);
const flag = z.enum(["0", "1", "true", "false"]).transform((value) => value === "1" || value === "true");

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
  migrate: "MUSTER_MIGRATE",
};

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
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => {
    const field = String(issue.path[0] ?? "");
    return `${field in variables ? variables[field as keyof Config] : field}: ${issue.message}`;
  });
  throw new Error(`The configuration is wrong.\n${problems.join("\n")}`);
}
