/** Every error the API answers on purpose: its HTTP status and whether trying again can help. */
export const errorTable = {
  UNAUTHENTICATED: { status: 401, retryable: false },
  FORBIDDEN: { status: 403, retryable: false },
  NOT_FOUND: { status: 404, retryable: false },
  INPUT_INVALID: { status: 400, retryable: false },
  DOCUMENT_UNKNOWN: { status: 404, retryable: false },
  QUERY_REFUSED: { status: 400, retryable: false },
  REQUEST_TOO_LARGE: { status: 413, retryable: false },
  TLS_REQUIRED: { status: 403, retryable: false },
  ORIGIN_REFUSED: { status: 403, retryable: false },
  RATE_LIMITED: { status: 429, retryable: true },
  UPGRADE_REQUIRED: { status: 426, retryable: false },
  CHALLENGE_INVALID: { status: 401, retryable: true },
  SIGNATURE_INVALID: { status: 403, retryable: false },
  ROLE_NOT_GRANTED: { status: 403, retryable: false },
  NODE_QUARANTINED: { status: 403, retryable: false },
  LEASE_LOST: { status: 409, retryable: false },
  STATE_CONFLICT: { status: 409, retryable: true },
  SPEC_INVALID: { status: 400, retryable: false },
  BUDGET_EXHAUSTED: { status: 409, retryable: false },
  IDEMPOTENCY_MISMATCH: { status: 409, retryable: false },
  BLOB_NOT_FOUND: { status: 404, retryable: false },
  BLOB_TOO_LARGE: { status: 413, retryable: false },
  BLOB_HASH_MISMATCH: { status: 422, retryable: true },
  BLOB_QUOTA_EXCEEDED: { status: 413, retryable: false },
  PACK_INVALID: { status: 422, retryable: false },
  STORAGE_FULL: { status: 507, retryable: true },
  NOT_READY: { status: 503, retryable: true },
  INTERNAL: { status: 500, retryable: true },
} as const;

export type ErrorCode = keyof typeof errorTable;

/** A refusal with a code from the table. The message says what happened and what to do. */
export class CodedError extends Error {
  readonly code: ErrorCode;
  readonly details: Record<string, unknown>;

  constructor(
    code: ErrorCode,
    message: string,
    options?: { cause?: unknown; details?: Record<string, unknown> },
  ) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.name = "CodedError";
    this.code = code;
    this.details = options?.details ?? {};
  }

  get status(): number {
    return errorTable[this.code].status;
  }

  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }
}

export function notFound(what: string): CodedError {
  return new CodedError(
    "NOT_FOUND",
    `${what} does not exist, or you may not see it. Check the id and who you are signed in as.`,
  );
}
