// Everything that ends a command early becomes one Failure: what happened, why, and the commands that mend it.
import { CommanderError } from "commander";
import { type Exit, exitCodes } from "./exit-codes.ts";

export type FailureInit = {
  exit: Exit;
  /** Stable name for programs, such as `PORT_TAKEN`. */
  code: string;
  /** What happened, in one sentence. */
  what: string;
  why?: string | undefined;
  /** Commands or sentences that mend it; each is printed on a line of its own, so that it can be copied whole. */
  fix?: readonly string[];
  requestId?: string | undefined;
  cause?: unknown;
};

/** An outcome the user is told about in words; never shown as a stack trace. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly exit: Exit;
  readonly code: string;
  readonly why: string | undefined;
  readonly fix: readonly string[];
  readonly requestId: string | undefined;

  constructor(init: FailureInit) {
    super(init.what, init.cause === undefined ? undefined : { cause: init.cause });
    this.exit = init.exit;
    this.code = init.code;
    this.why = init.why;
    this.fix = init.fix ?? [];
    this.requestId = init.requestId;
  }
}

/** The one failure for whatever was thrown. */
export async function failureOf(error: unknown): Promise<Failure> {
  if (error instanceof Failure) return error;
  if (error instanceof CommanderError) {
    // commander has printed its own sentence already
    return new Failure({ exit: "usage", code: "USAGE", what: error.message.replace(/^error: /, "") });
  }
  // Loaded here only: a command that succeeds does not pay for them.
  const { ApiError } = await import("@muster/sdk");
  if (error instanceof ApiError) return ofApiError(error);
  const { DatabaseError } = await import("@muster/db");
  if (error instanceof DatabaseError) {
    return new Failure({ exit: "failed", code: error.code, what: error.message, cause: error });
  }
  if (error instanceof Error && error.name === "AbortError") return interrupted(error);
  if (error instanceof Error && codedErrors.has(error.name)) {
    return new Failure({
      exit: "failed",
      code: systemCode(error) ?? "FAILED",
      what: error.message,
      cause: error,
    });
  }
  const what = error instanceof Error ? error.message : String(error);
  return new Failure({
    exit: "failed",
    code: "FAILED",
    what,
    why:
      systemCode(error) === undefined ? "It was not expected. --debug shows where it happened." : undefined,
    cause: error,
  });
}

/** Errors of our packages that say in words what is wrong with somebody's bytes or machine, by their names: loading the classes to ask takes time. */
const codedErrors: ReadonlySet<string> = new Set([
  "PolicyError",
  "CheckpointError",
  "EvidenceError",
  "ShardcastError",
]);

/** How a failure is told to people. */
export function describe(failure: Failure): string {
  const lines = [`error: ${failure.message}`];
  if (failure.why !== undefined) lines.push(`  why: ${failure.why}`);
  if (failure.fix.length > 0) lines.push("  fix:", ...failure.fix.map((line) => `    ${line}`));
  if (failure.requestId !== undefined) lines.push(`  request: ${failure.requestId}`);
  return lines.join("\n");
}

/** How a failure is told to programs. */
export function failureJson(failure: Failure): unknown {
  const { code, message, why, fix, requestId, exit } = failure;
  return { error: { code, message, why, fix, requestId, exitCode: exitCodes[exit].code } };
}

export function interrupted(cause?: unknown): Failure {
  return new Failure({ exit: "interrupted", code: "INTERRUPTED", what: "Interrupted.", cause });
}

type ApiErrorLike = Error & { code: string; requestId: string | undefined };

function ofApiError(error: ApiErrorLike): Failure {
  const shared = { code: error.code, what: error.message, requestId: error.requestId, cause: error };
  switch (error.code) {
    case "ABORTED":
      return interrupted(error);
    case "UNAUTHENTICATED":
      return new Failure({
        ...shared,
        exit: "signedOut",
        why: "The coordinator wants to know who asks. An owner of your organization makes API keys in the dashboard, under Settings.",
        fix: ["export MUSTER_API_KEY=<key>"],
      });
    case "NETWORK":
    case "TIMEOUT":
    case "UNAVAILABLE":
    case "NOT_READY":
      return new Failure({
        ...shared,
        exit: "unreachable",
        why: "`npm start` starts a coordinator on this machine; doctor looks for what else may be the reason.",
        fix: ["npm start", "npm run muster -- doctor"],
      });
    case "TLS_REQUIRED":
      return new Failure({
        ...shared,
        exit: "refused",
        what: "The coordinator takes no plain HTTP from other machines.",
        why: "Keys and prompts would cross the network in the clear. Dial it by its https address, which its operator knows (docs/deploy.md).",
      });
    case "BAD_RESPONSE":
      return new Failure({
        ...shared,
        exit: "unreachable",
        why: "What answers there may not be a Muster coordinator.",
      });
    case "INTERNAL":
    case "HASH_MISMATCH":
    case "TOO_LARGE":
      return new Failure({ ...shared, exit: "failed" });
    default:
      return new Failure({ ...shared, exit: "refused" });
  }
}

/** The system's code of an error (`ENOENT`), if it carries one. */
export function systemCode(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
