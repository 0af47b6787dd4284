import type { TadaDocumentNode } from "gql.tada";
import { type Blobs, createBlobs } from "./blobs.ts";
import { type Broadcast, createBroadcast } from "./broadcast.ts";
import { type CredentialOptions, credentialsFrom } from "./credentials.ts";
import { createEvents, type Events } from "./events.ts";
import { createEvidence, type EvidenceBundles } from "./evidence.ts";
import { graphql, type ResultOf } from "./graphql.ts";
import { createLive } from "./live.ts";
import { createNodes, type Nodes } from "./nodes.ts";
import { createOrganizations, type Organizations } from "./organizations.ts";
import { createRuns, type Runs } from "./runs.ts";
import { createTasks, type Tasks } from "./tasks.ts";
import { type Attempt, type CallOptions, createTransport } from "./transport.ts";

export type ClientOptions = CredentialOptions & {
  /** Where the coordinator listens, for example `http://127.0.0.1:4000`. */
  url: string;
  /** Used in place of the platform's `fetch`. */
  fetch?: typeof fetch;
  /** Used in place of the platform's `WebSocket`: a class with the same interface, such as that of `ws`. */
  webSocketImpl?: unknown;
  /** Milliseconds an operation may take; 30,000. Transfers of blobs have limits of their own. */
  timeout?: number;
  /** Hears how each try of each call over HTTP ended, repetitions included, so that waiting can be told of. Aborted ones are left out. */
  onAttempt?: (attempt: Attempt) => void;
};

const MeDocument = graphql(`
  query Me {
    me {
      kind
      user { id name email }
      nodeIdentity { id name }
      organizations { role organization { id name slug } }
      scopes
    }
  }
`);
const HealthDocument = graphql(`
  query Health {
    health { protocol version serverTime startedAt }
  }
`);
const EnvironmentsDocument = graphql(`
  query Environments {
    environments { slug hash title description }
  }
`);

/** Who is asking, as the coordinator sees it. */
export type Viewer = ResultOf<typeof MeDocument>["me"];
export type Health = ResultOf<typeof HealthDocument>["health"];
export type Environment = ResultOf<typeof EnvironmentsDocument>["environments"][number];

export type MusterClient = AsyncDisposable & {
  runs: Runs;
  tasks: Tasks;
  nodes: Nodes;
  events: Events;
  blobs: Blobs;
  broadcast: Broadcast;
  evidence: EvidenceBundles;
  organizations: Organizations;
  me(options?: CallOptions): Promise<Viewer>;
  health(options?: CallOptions): Promise<Health>;
  environments(options?: CallOptions): Promise<Environment[]>;
  /** Runs a document of your own, written with `graphql`. A mutation is repeated after failures only when it says `repeatable`. */
  execute<Result, Variables>(
    document: TadaDocumentNode<Result, Variables>,
    variables: Variables,
    options?: CallOptions & { repeatable?: boolean },
  ): Promise<Result>;
  /** Closes the socket; streams that are still read reconnect it, so abort them first. */
  close(): Promise<void>;
};

/**
 * A client of one coordinator, for people's programs and for nodes, in Node and in browsers.
 * Nothing is sent before the first call; one socket is shared by all streams and closed when the last one ends.
 * Calls throw {@link ApiError}; those that may be repeated safely are, up to five times and as late as the coordinator asks.
 * @throws TypeError for a URL that is not http(s), or several kinds of credentials.
 */
export function createClient(options: ClientOptions): MusterClient {
  const url = baseUrl(options.url);
  const credentials = credentialsFrom(options);
  const transport = createTransport({
    url,
    credentials,
    fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    timeout: options.timeout ?? 30_000,
    onAttempt: options.onAttempt,
  });
  const live = createLive({
    url: `${url.replace(/^http/, "ws")}/graphql`,
    credentials,
    webSocketImpl: options.webSocketImpl,
  });
  return {
    runs: createRuns(transport),
    tasks: createTasks(transport, live),
    nodes: createNodes(transport),
    events: createEvents(live),
    blobs: createBlobs(transport, url),
    broadcast: createBroadcast(transport, live),
    evidence: createEvidence(transport),
    organizations: createOrganizations(transport),
    me: async (call) => (await transport.execute(MeDocument, {}, call)).me,
    health: async (call) => (await transport.execute(HealthDocument, {}, call)).health,
    environments: async (call) => (await transport.execute(EnvironmentsDocument, {}, call)).environments,
    execute: transport.execute,
    close: () => live.close(),
    [Symbol.asyncDispose]: () => live.close(),
  };
}

function baseUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "http:" && url?.protocol !== "https:") {
    throw new TypeError(`"${text}" is not a coordinator's URL; write it like http://127.0.0.1:4000`);
  }
  return (url.origin + url.pathname).replace(/\/+$/, "");
}
