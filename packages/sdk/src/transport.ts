import { hashHex } from "@muster/protocol";
import type { TadaDocumentNode } from "gql.tada";
import { print } from "graphql";
import {
  ApiError,
  aborted,
  errorOfBody,
  errorOfFetch,
  errorOfGraphQL,
  errorOfResponse,
  isRetryable,
  redact,
} from "./api-error.ts";
import { type BackOff, pause, retryDelay } from "./back-off.ts";
import type { Credentials } from "./credentials.ts";

// One HTTP request, its failures told apart, repeated where repeating is safe.

export type CallOptions = {
  /** Aborts the call and every wait in it. */
  signal?: AbortSignal;
  /** Milliseconds one try may take; the client's `timeout` when left out. */
  timeout?: number;
};

export type Transport = {
  /** Runs an operation and answers its data. Queries are repeated after retryable failures; a mutation only when `repeatable`. */
  execute<Result, Variables>(
    document: TadaDocumentNode<Result, Variables>,
    variables: Variables,
    options?: CallOptions & { repeatable?: boolean },
  ): Promise<Result>;
  /**
   * A request to a path of the coordinator (or a whole URL, which then gets no credentials), with credentials, a refreshed token after a
   * 401 and one {@link ApiError} for whatever goes wrong. Not repeated otherwise: {@link Transport.repeat} does that.
   */
  request(path: string, init: RequestInit & { timeout?: number }): Promise<Response>;
  /**
   * Calls until it succeeds, fails for good, has been tried `attempts` times, or would have to wait for more than a minute in all. Waits
   * as long as the coordinator asks for.
   */
  repeat<T>(
    signal: AbortSignal | undefined,
    call: (attempt: number) => Promise<T>,
    attempts?: number,
  ): Promise<T>;
};

export type TransportOptions = {
  url: string;
  credentials: Credentials;
  fetch: typeof fetch;
  /** Milliseconds an operation may take. */
  timeout: number;
  onAttempt?: ((attempt: Attempt) => void) | undefined;
};

/** How one try of a call ended. */
export type Attempt = {
  /** `performance.now()` when it began. */
  startedAt: number;
  /** Why it failed; undefined when the coordinator did what was asked. */
  error: ApiError | undefined;
};

const RETRY: BackOff = { first: 250, most: 8_000 };
const ATTEMPTS = 5;
// Whoever is told to come back later than this decides by himself whether to wait.
const MOST_WAITED = 60_000;

export function createTransport(options: TransportOptions): Transport {
  const { url, credentials, fetch, onAttempt } = options;
  // Documents this coordinator does not know by their hash: one of a program's own, or of a client newer than it.
  const unknown = new Set<string>();

  async function once(
    path: string,
    init: RequestInit & { timeout?: number },
    retried: boolean,
  ): Promise<Response> {
    const own = path.startsWith("/");
    const { headers, token } = own ? await credentials.current() : { headers: {}, token: undefined };
    const limit = AbortSignal.timeout(init.timeout ?? options.timeout);
    const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
    const response = await fetch(own ? url + path : path, {
      ...init,
      headers: { ...headers, ...Object.fromEntries(new Headers(init.headers)) },
      signal,
    });
    if (response.status === 401 && own && !retried && (await credentials.refresh(token))) {
      await response.body?.cancel();
      return once(path, init, true);
    }
    return response;
  }

  async function request(path: string, init: RequestInit & { timeout?: number }): Promise<Response> {
    const signal = init.signal ?? undefined;
    try {
      if (signal?.aborted === true) throw aborted(signal);
      return await once(path, init, false);
    } catch (cause) {
      throw redact(errorOfFetch(cause, signal), credentials.secrets());
    }
  }

  async function operation(body: string, call: CallOptions, retried: boolean): Promise<unknown> {
    const { token } = await credentials.current();
    const response = await request("/graphql", {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/graphql-response+json, application/json",
      },
      body,
      ...call,
    });
    const answer = await answerOf(response, call.signal);
    if (answer.errors === undefined) return answer.data;
    const error = errorOfGraphQL(answer.errors, {
      status: response.status,
      requestId: requestIdOf(response),
    });
    // GraphQL may answer 200 with UNAUTHENTICATED inside, which the check of the status cannot see
    if (
      error.code === "UNAUTHENTICATED" &&
      response.status !== 401 &&
      !retried &&
      (await credentials.refresh(token))
    ) {
      return operation(body, call, true);
    }
    throw error;
  }

  async function repeat<T>(
    signal: AbortSignal | undefined,
    call: (attempt: number) => Promise<T>,
    attempts = ATTEMPTS,
  ): Promise<T> {
    let waited = 0;
    for (let attempt = 0; ; attempt++) {
      const startedAt = performance.now();
      try {
        const result = await call(attempt);
        onAttempt?.({ startedAt, error: undefined });
        return result;
      } catch (error) {
        if (error instanceof ApiError && error.code !== "ABORTED") onAttempt?.({ startedAt, error });
        if (!isRetryable(error) || attempt + 1 >= attempts) throw error;
        const wait = retryDelay(error, attempt, RETRY);
        waited += wait;
        if (waited > MOST_WAITED) throw error;
        await pause(wait, signal);
        if (signal?.aborted === true) throw aborted(signal);
      }
    }
  }

  return {
    request,
    repeat,
    async execute(document, variables, { repeatable = isQuery(document), ...call } = {}) {
      const operationName = nameOf(document);
      const byText = () => JSON.stringify({ query: printed(document), variables, operationName });
      const byHash = (sha256Hash: string) =>
        JSON.stringify({
          variables,
          operationName,
          extensions: { persistedQuery: { version: 1, sha256Hash } },
        });
      const hash = hashOf(document);
      const once = async () => {
        if (unknown.has(hash)) return operation(byText(), call, false);
        try {
          return await operation(byHash(hash), call, false);
        } catch (error) {
          if (!(error instanceof ApiError) || error.code !== "DOCUMENT_UNKNOWN") throw error;
          unknown.add(hash);
          return operation(byText(), call, false);
        }
      };
      try {
        const data = await repeat(call.signal, once, repeatable ? ATTEMPTS : 1);
        // the coordinator validates its answers against the schema the document was typed from
        return data as never;
      } catch (error) {
        throw error instanceof ApiError ? redact(error, credentials.secrets()) : error;
      }
    },
  };
}

/** The text of a document; printing is cached because documents are constants. */
export function printed(document: TadaDocumentNode<unknown, never>): string {
  const known = texts.get(document);
  if (known !== undefined) return known;
  const text = print(document);
  texts.set(document, text);
  return text;
}

const texts = new WeakMap<object, string>();

/** What the coordinator knows our own documents by: SHA-256 of the printed text. */
function hashOf(document: TadaDocumentNode<unknown, never>): string {
  const known = hashes.get(document);
  if (known !== undefined) return known;
  const hash = hashHex(printed(document));
  hashes.set(document, hash);
  return hash;
}

const hashes = new WeakMap<object, string>();

type Answer = { data?: unknown; errors?: readonly unknown[] };

async function answerOf(response: Response, signal: AbortSignal | undefined): Promise<Answer> {
  if (response.headers.get("content-type")?.includes("json") !== true) throw await errorOfResponse(response);
  let body: unknown;
  try {
    body = await response.json();
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw errorOfFetch(cause, signal);
    throw new ApiError({
      code: "BAD_RESPONSE",
      message: "The coordinator's answer is not JSON.",
      requestId: requestIdOf(response),
      status: response.status,
      cause,
    });
  }
  if (typeof body === "object" && body !== null) {
    if ("errors" in body && Array.isArray(body.errors) && body.errors.length > 0)
      return { errors: body.errors };
    if ("data" in body && typeof body.data === "object" && body.data !== null) return { data: body.data };
  }
  // what refuses a request before it is known to be GraphQL: the coordinator's own door, or a proxy that says "later"
  const refused = typeof body === "object" && body !== null && "error" in body;
  if (!response.ok && (refused || [401, 429].includes(response.status) || response.status >= 500))
    throw errorOfBody(response, body);
  throw new ApiError({
    code: "BAD_RESPONSE",
    message: `${response.status}: the answer is neither GraphQL data nor GraphQL errors. Is the URL the coordinator's?`,
    requestId: requestIdOf(response),
    status: response.status,
  });
}

function requestIdOf(response: Response): string | undefined {
  return response.headers.get("x-request-id") ?? undefined;
}

function operationOf(document: TadaDocumentNode<unknown, never>) {
  return document.definitions.find((definition) => definition.kind === "OperationDefinition");
}

function isQuery(document: TadaDocumentNode<unknown, never>): boolean {
  return operationOf(document)?.operation === "query";
}

function nameOf(document: TadaDocumentNode<unknown, never>): string | undefined {
  return operationOf(document)?.name?.value;
}
