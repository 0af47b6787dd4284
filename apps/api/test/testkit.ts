import { createHmac, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createTestDatabase, type TestDatabase } from "@muster/db/testing";
import { challengeBytes, fromTypeId, newId, toTypeId } from "@muster/protocol";
import { type Client, type ClientOptions, createClient } from "graphql-ws";
import type { Logger } from "pino";
import { WebSocket } from "ws";
import { issueApiKey } from "../src/auth/api-keys.ts";
import { membershipsOf } from "../src/auth/authenticate.ts";
import { apiKeyScopes } from "../src/auth/permissions.ts";
import { type Config, readConfig } from "../src/config.ts";
import type { Actor, Ctx } from "../src/context.ts";
import { sequencerLoop } from "../src/events/sequencer.ts";
import type { Loop } from "../src/loops.ts";
import { startServer } from "../src/server.ts";

// A coordinator for a test file: its own database, its own blob folder, a real server on a free port, and seeds to begin from.

/** Whoever sends a request: headers for HTTP, and the actor that the server makes of them. */
export type Caller = { readonly headers: Record<string, string>; readonly actor: Actor };
export const anonymous: Caller = { headers: {}, actor: { kind: "anonymous" } };

export type TestPerson = Caller & { readonly userId: string; readonly email: string };
export type TestKey = Caller & { readonly key: string; readonly id: string };
export type TestOrganization = {
  readonly id: string;
  readonly typeId: string;
  readonly slug: string;
  readonly owner: TestPerson;
};
export type TestNode = Caller & {
  readonly id: string;
  readonly typeId: string;
  readonly publicKey: string;
  readonly privateKey: KeyObject;
  readonly token: string;
  /** Ed25519 over the bytes, hexadecimal. */
  sign(bytes: Uint8Array): string;
};

export type GraphQLAnswer<T> = {
  readonly status: number;
  readonly data: T | null | undefined;
  readonly errors?: readonly {
    message: string;
    path?: readonly (string | number)[];
    extensions: { code: string; retryable: boolean; requestId: string };
  }[];
};

/** The codes of an answer's errors. */
export const codes = ({ errors }: GraphQLAnswer<unknown>): string[] =>
  errors?.map(({ extensions }) => extensions.code) ?? [];

export type TestSubscription<T> = {
  /** The next message; rejects when none comes in time, when the subscription failed or is over. */
  next(timeoutMs?: number): Promise<T>;
  close(): Promise<void>;
};

export type TestServerOptions = {
  readonly config?: Partial<Config>;
  /** Default: only the sequencer. */
  readonly loops?: readonly Loop[];
  readonly log?: Logger;
  /** A second server on the database and the blobs of the first one. */
  readonly sharing?: TestServer;
};

export type TestServer = Awaited<ReturnType<typeof startTestServer>>;

export async function startTestServer(options: TestServerOptions = {}) {
  const database: TestDatabase = options.sharing?.database ?? (await createTestDatabase({ max: 4 }));
  const stateDir = options.sharing?.config.stateDir ?? (await mkdtemp(join(tmpdir(), "muster-api-")));
  const config: Config = {
    ...readConfig({
      DATABASE_URL: database.url,
      MUSTER_SECRET: "a secret for tests that nobody else uses",
      MUSTER_OPERATOR_TOKEN: operatorToken,
      MUSTER_PORT: "0",
      MUSTER_STATE_DIR: stateDir,
      MUSTER_LOG_LEVEL: process.env.MUSTER_LOG_LEVEL ?? "silent",
      MUSTER_SWEEP_DELAY_SECONDS: "0",
      // A measurement more or less by chance is nothing to test with.
      MUSTER_REEXECUTION_SHARE: "0",
      MUSTER_REQUESTS_PER_TEN_SECONDS: "100000",
      MUSTER_NEW_NODES_PER_MINUTE: "100000",
    }),
    ...options.config,
  };
  const server = await startServer(config, {
    loops: options.loops ?? [sequencerLoop],
    ...(options.log === undefined ? {} : { log: options.log }),
  });
  const { url, services } = server;
  const clients = new Set<Client>();

  /** Asks over HTTP and returns the answer as it came. */
  const graphql = async <T = Record<string, unknown>>(
    query: string,
    variables: Record<string, unknown> = {},
    as: Caller = anonymous,
  ): Promise<GraphQLAnswer<T>> => {
    const response = await fetch(`${url}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json", ...as.headers },
      body: JSON.stringify({ query, variables }),
    });
    return { status: response.status, ...((await response.json()) as Omit<GraphQLAnswer<T>, "status">) };
  };

  /** Asks over HTTP and returns the data; throws the first error. */
  const ask = async <T = Record<string, unknown>>(
    query: string,
    variables: Record<string, unknown> = {},
    as: Caller = anonymous,
  ): Promise<T> => {
    const { data, errors } = await graphql<T>(query, variables, as);
    const first = errors?.[0];
    if (first !== undefined)
      throw Object.assign(new Error(`${first.extensions?.code}: ${first.message}`), first.extensions);
    if (data == null) throw new Error("no data");
    return data;
  };

  const ctx = (caller: Caller | Actor = { kind: "system" }): Ctx => ({
    ...services,
    actor: "actor" in caller ? caller.actor : caller,
    requestId: "test",
  });

  const person = async (
    organizationId: string,
    role: "owner" | "admin" | "member" = "member",
  ): Promise<TestPerson> => {
    const userId = newId("user");
    const email = `${userId}@example.com`;
    await services.prisma.user.create({ data: { id: userId, email, name: role, emailVerified: true } });
    await services.prisma.member.create({ data: { id: newId(), organizationId, userId, role } });
    // As the library sets it at the end of a sign-in; the sign-in itself has tests, and a limit.
    const { internalAdapter, authCookies, secret } = await services.auth.$context;
    const { token } = await internalAdapter.createSession(userId);
    const signature = createHmac("sha256", secret).update(token).digest("base64");
    const cookie = `${authCookies.sessionToken.name}=${encodeURIComponent(`${token}.${signature}`)}`;
    const actor: Actor = { kind: "person", userId, memberships: await membershipsOf(services, userId) };
    return { userId, email, actor, headers: { cookie, origin: new URL(config.dashboardUrl).origin } };
  };

  const organization = async (name = `Organization ${newId()}`): Promise<TestOrganization> => {
    const id = newId("org");
    const slug = `org-${id}`;
    await services.prisma.organization.create({ data: { id, name, slug } });
    return { id, typeId: toTypeId("org", id), slug, owner: await person(id, "owner") };
  };

  const apiKey = async (
    { id: organizationId, owner }: TestOrganization,
    scopes: readonly string[] = apiKeyScopes,
  ): Promise<TestKey> => {
    const { key, id } = await issueApiKey(services, owner.userId, { organizationId, name: "test", scopes });
    return {
      key,
      id,
      headers: { "x-api-key": key },
      actor: { kind: "apiKey", keyId: id, organizationId, scopes },
    };
  };

  /** Registers a node through the API's own door. */
  const node = async ({
    name = "node",
    keys = generateKeyPairSync("ed25519"),
    worksFor = [],
  }: {
    name?: string;
    /** TypeIDs of runs and organizations. */
    worksFor?: readonly string[];
    keys?: { publicKey: KeyObject; privateKey: KeyObject };
  } = {}): Promise<TestNode> => {
    const { publicKey, signBytes } = readKeys(keys);
    const { createNodeChallenge } = await ask<{ createNodeChallenge: { challenge: string } }>(
      "mutation($input: CreateNodeChallengeInput!) { createNodeChallenge(input: $input) { challenge } }",
      { input: { publicKey } },
    );
    const { challenge } = createNodeChallenge;
    const input = {
      publicKey,
      challenge,
      signature: signBytes(challengeBytes({ publicKey, challenge, audience: url })),
      protocol: 1,
      software: "testkit 1",
      name,
      hardware: { cpus: 1 },
      worksFor,
    };
    const { registerNode } = await ask<{ registerNode: { token: string; node: { id: string } } }>(
      "mutation($input: RegisterNodeInput!) { registerNode(input: $input) { token node { id } } }",
      { input },
    );
    const { token } = registerNode;
    const id = fromTypeId(registerNode.node.id, "node");
    const session = await services.prisma.nodeSession.findFirstOrThrow({
      where: { nodeId: id },
      orderBy: { createdAt: "desc" },
    });
    return {
      id,
      typeId: registerNode.node.id,
      publicKey,
      privateKey: keys.privateKey,
      token,
      sign: signBytes,
      headers: { authorization: `Bearer ${token}` },
      actor: { kind: "node", nodeId: id, sessionId: session.id },
    };
  };

  /** A graphql-ws client of the caller. */
  const client = (as: Caller, more: Partial<ClientOptions> = {}): Client => {
    class Socket extends WebSocket {
      constructor(address: string, protocols: string[]) {
        const { cookie, origin } = as.headers;
        super(address, protocols, {
          headers: {
            ...(cookie === undefined ? {} : { cookie }),
            ...(origin === undefined ? {} : { origin }),
          },
        });
      }
    }
    const { authorization, "x-api-key": key } = as.headers;
    const made = createClient({
      url: `${url.replace("http", "ws")}/graphql`,
      webSocketImpl: Socket,
      connectionParams: {
        protocol: 1,
        ...(authorization === undefined ? {} : { authorization }),
        ...(key === undefined ? {} : { apiKey: key }),
      },
      retryAttempts: 0,
      ...more,
    });
    clients.add(made);
    return made;
  };

  /** Subscribes over WebSocket. `next()` gives the data of one message after the other. */
  const subscribe = <T = Record<string, unknown>>(
    query: string,
    variables: Record<string, unknown> = {},
    as: Caller = anonymous,
  ): TestSubscription<T> => {
    const own = client(as);
    const iterator = own.iterate({ query, variables });
    return {
      async next(timeoutMs = 8_000) {
        const result = await within(iterator.next(), timeoutMs, "no message came");
        if (result.done) throw new Error("the subscription is over");
        const { data, errors } = result.value;
        if (errors?.[0] !== undefined)
          throw Object.assign(new Error(errors[0].message), errors[0].extensions);
        return data as T;
      },
      async close() {
        await iterator.return?.();
        clients.delete(own);
        await own.dispose();
      },
    };
  };

  const stop = async (): Promise<void> => {
    for (const one of clients) await one.dispose();
    clients.clear();
    await server.stop();
    if (options.sharing !== undefined) return;
    await database.drop();
    await rm(stateDir, { recursive: true, force: true });
  };

  return {
    url,
    config,
    services,
    database,
    prisma: services.prisma,
    graphql,
    ask,
    ctx,
    organization,
    person,
    apiKey,
    node,
    client,
    subscribe,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

export const operatorToken = "the operator's token for tests, long enough";

/** Waits until the check gives something, looking every 10 ms. */
export async function until<T>(
  check: () => T | undefined | null | false | Promise<T | undefined | null | false>,
  timeoutMs = 8_000,
): Promise<T> {
  const giveUp = Date.now() + timeoutMs;
  for (;;) {
    const found = await check();
    if (found !== undefined && found !== null && found !== false) return found;
    if (Date.now() > giveUp) throw new Error(`waited ${timeoutMs} ms in vain`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function readKeys({ publicKey, privateKey }: { publicKey: KeyObject; privateKey: KeyObject }) {
  const { x = "" } = publicKey.export({ format: "jwk" });
  return {
    publicKey: Buffer.from(x, "base64url").toString("hex"),
    signBytes: (bytes: Uint8Array) => sign(null, bytes, privateKey).toString("hex"),
  };
}

async function within<T>(promise: Promise<T>, ms: number, message: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${message} within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
