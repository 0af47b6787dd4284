import { challengeBytes, protocolVersion } from "@muster/protocol";
import { ApiError, createClient, type MusterClient, pause, retryDelay } from "@muster/sdk";
import { isOutage, watchConnection } from "./connection.ts";
import type { Hardware } from "./hardware.ts";
import type { Identity } from "./identity.ts";
import type { Log } from "./log.ts";

export type SessionOptions = {
  url: string;
  identity: Identity;
  name: string;
  software: string;
  hardware: Hardware;
  /** Ids of runs and organizations; see `WorkerOptions`. */
  worksFor?: readonly string[];
  log: Log;
  /** Gives up the first registration; an open session lives until it is disposed. */
  signal: AbortSignal;
};

/** A registered node: a client whose token renews itself. */
export type Session = AsyncDisposable & {
  client: MusterClient;
  identity: Identity;
  /** TypeID of the node. */
  node: string;
  /** The session's token, for transfers the client has no call for; a fresh one for one that was refused. */
  token(refused?: string): Promise<string>;
};

const RECONNECT = { first: 500, most: 15_000 };
// Share of a session's life after which it is renewed.
const RENEW_AT = 0.7;

/**
 * Registers by challenge, for as long as it takes, and keeps the session alive: renewed before it expires, registered anew when the
 * coordinator no longer knows it.
 * @throws ApiError when the coordinator refuses for good, for example `UPGRADE_REQUIRED`; or `ABORTED`.
 */
export async function openSession(options: SessionOptions): Promise<Session> {
  const { log, signal } = options;
  const stop = new AbortController();
  let ended = AbortSignal.any([signal, stop.signal]);
  const onAttempt = watchConnection(options);
  const anonymous = createClient({ url: options.url, onAttempt });
  let token = "";
  let node = "";
  let expiresAt = 0;
  let renewing: Promise<string> | undefined;

  async function register(): Promise<string> {
    const { publicKey } = options.identity;
    const audience = new URL(options.url).origin;
    const { challenge } = await anonymous.nodes.challenge({ publicKey }, { signal: ended });
    const answer = await anonymous.nodes.register(
      {
        publicKey,
        challenge,
        signature: options.identity.signHex(challengeBytes({ publicKey, challenge, audience })),
        protocol: protocolVersion,
        software: options.software,
        name: options.name,
        hardware: options.hardware,
        worksFor: [...(options.worksFor ?? [])],
      },
      { signal: ended },
    );
    node = answer.node.id;
    log.info({ node, expiresAt: answer.expiresAt }, "registered");
    return accept(answer);
  }

  function accept(answer: { token: string; expiresAt: string }): string {
    token = answer.token;
    expiresAt = Date.parse(answer.expiresAt);
    return token;
  }

  function registerOnce(): Promise<string> {
    // everything that is refused at the same time waits for one registration
    renewing ??= register().finally(() => {
      renewing = undefined;
    });
    return renewing;
  }

  const client = createClient({
    url: options.url,
    onAttempt,
    getToken: ({ refused }) => (refused !== undefined && refused === token ? registerOnce() : token),
  });

  async function keepAlive(): Promise<void> {
    let refused: unknown;
    for (let failures = 0; !ended.aborted; ) {
      // bounded on both sides, because the two clocks may disagree
      const due = Math.min(2_700_000, Math.max(10_000, (expiresAt - Date.now()) * RENEW_AT));
      await pause(failures === 0 ? due : retryDelay(refused, failures, RECONNECT), ended);
      if (ended.aborted) return;
      try {
        accept(await client.nodes.renewSession({ signal: ended }));
        failures = 0;
      } catch (error) {
        // a call that is refused registers anew by itself, so waiting is enough
        failures++;
        refused = error;
        if (!ended.aborted && !isOutage(error))
          log.warn({ error: String(error) }, "the session could not be renewed; trying again");
      }
    }
  }

  for (let attempt = 0; token === ""; attempt++) {
    try {
      await registerOnce();
    } catch (error) {
      // a challenge may expire between the two calls
      const passing = error instanceof ApiError && (error.retryable || error.code === "CHALLENGE_INVALID");
      if (!passing || ended.aborted) throw error;
      if (!isOutage(error))
        log.warn({ error: error.message }, "the node could not be registered; trying again");
      await pause(retryDelay(error, attempt, RECONNECT), ended);
    }
  }
  ended = stop.signal;
  const alive = keepAlive();
  return {
    client,
    identity: options.identity,
    get node() {
      return node;
    },
    token: async (refused) => (refused !== undefined && refused === token ? await registerOnce() : token),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await alive;
      await Promise.all([client.close(), anonymous.close()]);
    },
  };
}
