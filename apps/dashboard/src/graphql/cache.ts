import { type Cache, cacheExchange, type KeyGenerator } from "@urql/exchange-graphcache";
import introspection from "../../generated/introspection.json" with { type: "json" };

/** Parts of the object they are read from: they have no identity of their own. */
const embedded: KeyGenerator = () => null;

/** Types without an `id` of their own; a new one must be named here, or the cache warns. */
const embeddedTypes = [
  "AlertPreview",
  "AlertPreviewEpisode",
  "AttemptCounts",
  "AuditEntry",
  "AuditHead",
  "AuditSummary",
  "Budget",
  // its id is the check's, the same in every verification
  "CheckResult",
  "Coordinator",
  "CreatedApiKey",
  "GroupCounts",
  "Health",
  "Membership",
  "MetricBucket",
  "ReexecutionFinding",
  "RunCreated",
  "RunSpecCheck",
  "RunStats",
  "SpecInvalid",
  "SpecIssue",
  "TaskCounts",
  "TokenView",
  "TrainStepBucket",
  "Viewer",
  "WebhookAttempt",
  "WebhookEndpointWithSecret",
  "AuditEpoch",
] as const;

/** The normalised cache: slow things only. Events and metric points never pass through it. */
export function createCache() {
  const connections = introspection.__schema.types
    .map((type) => type.name)
    .filter((name) => /Connection(Edge)?$|^PageInfo$/.test(name));
  return cacheExchange({
    // the literal types of the file are narrower than the library's
    schema: introspection as never,
    keys: {
      ...Object.fromEntries([...embeddedTypes, ...connections].map((name) => [name, embedded])),
      Probe: (probe) => (typeof probe.task === "string" ? probe.task : null),
      Environment: (environment) => (typeof environment.slug === "string" ? environment.slug : null),
    },
    updates: {
      Mutation: {
        createRun: (_result, _arguments, cache) => forget(cache, "runs"),
      },
    },
  });
}

/** Drops every stored answer of a root field, so that the next reader asks again. */
function forget(cache: Cache, field: string): void {
  for (const { fieldName, arguments: given } of cache.inspectFields("Query")) {
    if (fieldName === field) cache.invalidate("Query", fieldName, given);
  }
}
