/** How an {@link ApiError} is made; `retryable` defaults to what is known about the code. */
export type ApiErrorInit = {
  code: string;
  message: string;
  retryable?: boolean | undefined;
  requestId?: string | undefined;
  status?: number | undefined;
  retryAfterSeconds?: number | undefined;
  cause?: unknown;
};

/**
 * Everything that can go wrong between this program and the coordinator.
 *
 * `code` is the coordinator's (`NOT_FOUND`, `ROLE_NOT_GRANTED`, `UPGRADE_REQUIRED`, …) or, when there was no answer, one of
 * `NETWORK`, `TIMEOUT`, `ABORTED`, `UNAVAILABLE`, `BAD_RESPONSE`, `HASH_MISMATCH`, `TOO_LARGE`. Tokens and keys of the client never
 * appear in `message` or `cause`.
 */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly code: string;
  /** Whether the same call may succeed later without anything being changed. */
  readonly retryable: boolean;
  /** Quote it when reporting a problem: the coordinator's log has the rest. */
  readonly requestId: string | undefined;
  /** HTTP status, when there was an answer. */
  readonly status: number | undefined;
  /** Seconds the coordinator asks to wait before the next try, with `RATE_LIMITED` and sometimes when it is not ready. */
  readonly retryAfterSeconds: number | undefined;

  constructor(init: ApiErrorInit) {
    super(init.message, init.cause === undefined ? undefined : { cause: init.cause });
    this.code = init.code;
    this.retryable = init.retryable ?? retryableCodes.has(init.code);
    this.requestId = init.requestId;
    this.status = init.status;
    this.retryAfterSeconds = init.retryAfterSeconds;
  }
}

const retryableCodes: ReadonlySet<string> = new Set([
  "NETWORK",
  "TIMEOUT",
  "UNAVAILABLE",
  "RATE_LIMITED",
  "INTERNAL_SERVER_ERROR",
  "INTERNAL",
  "STATE_CONFLICT",
  "NOT_READY",
  "STORAGE_FULL",
]);

/** Whether waiting and calling again can help. Anything but an {@link ApiError} is a bug, and a bug does not heal. */
export function isRetryable(error: unknown): boolean {
  return error instanceof ApiError && error.retryable;
}

/** The coordinator's `errors` of an answer as one error: the first one's code decides. */
export function errorOfGraphQL(
  errors: readonly unknown[],
  at: { status?: number | undefined; requestId?: string | undefined },
): ApiError {
  const first = isRecord(errors[0]) ? errors[0] : {};
  const extensions = isRecord(first.extensions) ? first.extensions : {};
  return new ApiError({
    code: text(extensions.code) ?? (at.status === 401 ? "UNAUTHENTICATED" : "BAD_RESPONSE"),
    message: text(first.message) ?? "The coordinator answered with an error that has no message.",
    retryable: typeof extensions.retryable === "boolean" ? extensions.retryable : undefined,
    requestId: text(extensions.requestId) ?? at.requestId,
    status: at.status,
    retryAfterSeconds: seconds(extensions.retryAfterSeconds),
  });
}

/** An HTTP answer that carries no GraphQL errors: a proxy's page, a blob route's refusal. */
export async function errorOfResponse(response: Response): Promise<ApiError> {
  const body = (await response.text().catch(() => "")).slice(0, 2_000);
  return errorOfBody(response, parseRecord(body));
}

/** The same, its body read: what the coordinator refuses before GraphQL is asked, it answers as `{ error: { code, … } }`. */
export function errorOfBody(response: Response, body: unknown): ApiError {
  const parsed = isRecord(body) ? body : {};
  const detail = isRecord(parsed.error) ? parsed.error : parsed;
  const requestId = text(detail.requestId) ?? response.headers.get("x-request-id") ?? undefined;
  return new ApiError({
    code: text(detail.code) ?? codeOfStatus(response.status),
    message: text(detail.message) ?? `${response.status} ${response.statusText}`.trim(),
    retryable: typeof detail.retryable === "boolean" ? detail.retryable : passing(response.status),
    requestId,
    status: response.status,
    retryAfterSeconds: seconds(detail.retryAfterSeconds) ?? retryAfterOf(response.headers),
  });
}

/** What `fetch` or a body reader threw: an abort of the caller's, a time-out, or no connection. */
export function errorOfFetch(cause: unknown, signal: AbortSignal | undefined): ApiError {
  if (cause instanceof ApiError) return cause;
  if (signal?.aborted === true) return aborted(signal);
  if (cause instanceof Error && cause.name === "TimeoutError") {
    return new ApiError({
      code: "TIMEOUT",
      message: "The coordinator did not answer in time; try again.",
      cause,
    });
  }
  const reason = cause instanceof Error ? detailOf(cause) : String(cause);
  return new ApiError({ code: "NETWORK", message: `No connection to the coordinator: ${reason}`, cause });
}

/** The error of a call whose `signal` was aborted. */
export function aborted(signal: AbortSignal): ApiError {
  return new ApiError({ code: "ABORTED", message: "The call was aborted.", cause: signal.reason });
}

/** A copy of the error in which none of the secrets can be read, its cause included. */
export function redact(error: ApiError, secrets: readonly string[]): ApiError {
  const hide = (value: string) =>
    secrets.reduce((shown, secret) => shown.replaceAll(secret, "[redacted]"), value);
  const cause = redactCause(error.cause, hide);
  if (cause === error.cause && hide(error.message) === error.message) return error;
  const { code, retryable, requestId, status, retryAfterSeconds } = error;
  const message = hide(error.message);
  return new ApiError({ code, message, retryable, requestId, status, retryAfterSeconds, cause });
}

function redactCause(cause: unknown, hide: (value: string) => string): unknown {
  if (typeof cause === "string") return hide(cause);
  if (!(cause instanceof Error)) return cause;
  const inner = redactCause(cause.cause, hide);
  const leaks = hide(cause.message) !== cause.message || hide(cause.stack ?? "") !== (cause.stack ?? "");
  if (!leaks && inner === cause.cause) return cause;
  const copy = new Error(hide(cause.message), inner === undefined ? undefined : { cause: inner });
  copy.name = cause.name;
  copy.stack = hide(cause.stack ?? "");
  return copy;
}

/** True for a status that says "later"; undefined leaves it to the code. */
function passing(status: number): true | undefined {
  return status === 408 || status === 429 || status >= 500 ? true : undefined;
}

function codeOfStatus(status: number): string {
  switch (status) {
    case 401:
      return "UNAUTHENTICATED";
    case 403:
      return "FORBIDDEN";
    case 404:
      return "NOT_FOUND";
    case 408:
      return "TIMEOUT";
    case 413:
      return "TOO_LARGE";
    case 429:
      return "RATE_LIMITED";
    default:
      return status >= 500 ? "UNAVAILABLE" : "BAD_RESPONSE";
  }
}

/** `Retry-After`: seconds, or a date. */
function retryAfterOf(headers: Headers): number | undefined {
  const value = headers.get("retry-after");
  if (value === null) return undefined;
  return seconds(/^\d+$/.test(value) ? Number(value) : Math.max(0, (Date.parse(value) - Date.now()) / 1_000));
}

function detailOf(error: Error): string {
  // undici says only "fetch failed"; what failed is one or two causes down
  const inner = error.cause;
  if (inner instanceof AggregateError && inner.errors[0] instanceof Error) return inner.errors[0].message;
  return inner instanceof Error && inner.message !== "" ? inner.message : error.message;
}

function parseRecord(body: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(body);
    return isRecord(value) ? value : {};
  } catch {
    return {};
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function seconds(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined;
}
