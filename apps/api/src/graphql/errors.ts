import { ProtocolError } from "@muster/protocol";
import { GraphQLError } from "graphql";
import type { Logger } from "pino";
import { ZodError, z } from "zod";
import { CodedError, errorTable } from "../errors.ts";

/**
 * An error as a client may see it. What the caller can act on keeps its message and gets a code; anything else is our fault,
 * is logged with the request's id and answered without a word about the inside.
 */
export function publicError(
  error: unknown,
  { requestId, log }: { requestId: string; log: Logger },
): GraphQLError {
  const at = error instanceof GraphQLError ? error : undefined;
  const cause = rootOf(error);
  const coded = asCoded(cause);
  if (coded !== undefined) {
    if (coded.code === "NOT_READY") log.warn({ err: cause, requestId }, "a request could not be served now");
    return wrap(coded.message, at, {
      ...coded.details,
      code: coded.code,
      retryable: coded.retryable,
      requestId,
    });
  }
  // graphql's own: syntax, validation, a value that does not fit its type.
  if (cause instanceof GraphQLError) {
    // Already made public, by the plugin before this one.
    if (cause.extensions.requestId !== undefined) return cause;
    const { code: named } = cause.extensions;
    const code = typeof named === "string" && named in errorTable ? named : "QUERY_REFUSED";
    return wrap(cause.message, at, { ...cause.extensions, code, retryable: false, requestId });
  }
  log.error({ err: cause, requestId, path: at?.path }, "a request failed");
  return wrap(`Something failed here. Try again; if it stays, report the request id ${requestId}.`, at, {
    code: "INTERNAL" satisfies keyof typeof errorTable,
    retryable: true,
    requestId,
  });
}

/** The same error as a coded one, when the caller caused it. */
export function asCoded(error: unknown): CodedError | undefined {
  if (error instanceof CodedError) return error;
  if (error instanceof ProtocolError) return new CodedError("INPUT_INVALID", error.message, { cause: error });
  if (error instanceof ZodError) {
    const issues = error.issues.map(({ path, message }) => ({ path: path.join("."), message }));
    const first = issues[0];
    const where = first?.path ? `${first.path}: ` : "";
    return new CodedError("INPUT_INVALID", `The input does not fit. ${where}${first?.message ?? ""}`, {
      cause: error,
      details: { issues },
    });
  }
  const code = databaseCode(error);
  if (code !== undefined && unstorable.has(code)) {
    return new CodedError(
      "INPUT_INVALID",
      "A text holds a NUL or half a character, which cannot be stored. Leave it out.",
      { cause: error },
    );
  }
  if (isDatabaseAway(error)) {
    return new CodedError("NOT_READY", "The coordinator's database does not answer. Try again in a moment.", {
      cause: error,
    });
  }
  return undefined;
}

/** A character that no encoding of the database has; an escape that jsonb cannot hold. */
const unstorable = new Set(["22021", "22P05"]);

function databaseCode(error: unknown): string | undefined {
  const parsed = error instanceof Error ? failureSchema.safeParse(error) : undefined;
  return parsed?.data?.meta?.driverAdapterError?.cause?.originalCode ?? parsed?.data?.code;
}

/** Connections refused or cut, a server that starts or stops, no connection or transaction to be had in time. */
const away = new Set(
  [
    [
      "ECONNREFUSED",
      "ECONNRESET",
      "EPIPE",
      "57P01",
      "57P02",
      "57P03",
      "53300",
      "08000",
      "08001",
      "08003",
      "08006",
    ],
    ["P1001", "P1002", "P1008", "P1017", "P2024", "P2028"],
  ].flat(),
);

function isDatabaseAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (/^(Connection terminated|timeout exceeded when trying to connect)/.test(error.message)) return true;
  const parsed = failureSchema.safeParse(error);
  if (!parsed.success) return false;
  const { code, meta } = parsed.data;
  const inner = meta?.driverAdapterError?.cause;
  if (inner?.kind === "ConnectionClosed" || inner?.kind === "DatabaseNotReachable") return true;
  return (
    (code !== undefined && away.has(code)) ||
    (inner?.originalCode !== undefined && away.has(inner.originalCode))
  );
}

/** Where pg and Prisma's adapter say what went wrong. */
const failureSchema = z.object({
  code: z.string().optional(),
  meta: z
    .object({
      driverAdapterError: z
        .object({
          cause: z.object({ originalCode: z.string().optional(), kind: z.string().optional() }).optional(),
        })
        .optional(),
    })
    .optional(),
});

function rootOf(error: unknown): unknown {
  let root = error;
  while (root instanceof GraphQLError && root.originalError !== undefined) root = root.originalError;
  return root;
}

function wrap(
  message: string,
  at: GraphQLError | undefined,
  extensions: Record<string, unknown>,
): GraphQLError {
  return new GraphQLError(message, {
    ...(at?.nodes === undefined ? {} : { nodes: at.nodes }),
    ...(at?.source === undefined ? {} : { source: at.source }),
    ...(at?.positions === undefined ? {} : { positions: at.positions }),
    ...(at?.path === undefined ? {} : { path: at.path }),
    extensions,
  });
}
