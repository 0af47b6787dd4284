import type { CombinedError } from "@urql/core";

/** Why something could not be shown, in the four ways a page can answer. */
export type Failure =
  | { kind: "signed-out"; message: string }
  | { kind: "no-access"; message: string }
  | { kind: "not-found"; message: string }
  | { kind: "unreachable"; message: string }
  | { kind: "failed"; message: string; code: string; requestId: string | undefined };

/** What an error of the API means for a page. */
export function failureOf(error: CombinedError): Failure {
  const first = error.graphQLErrors[0];
  if (first === undefined) {
    const status = responseStatus(error);
    if (status === 401) return { kind: "signed-out", message: "Your session has ended." };
    if (status !== undefined) {
      return {
        kind: "failed",
        message: `The coordinator answered with HTTP ${status}.`,
        code: `HTTP ${status}`,
        requestId: undefined,
      };
    }
    return { kind: "unreachable", message: "The coordinator does not answer." };
  }
  const code = text(first.extensions.code) ?? "ERROR";
  const message = first.message;
  switch (code) {
    case "UNAUTHENTICATED":
      return { kind: "signed-out", message };
    case "FORBIDDEN":
      return { kind: "no-access", message };
    case "NOT_FOUND":
      return { kind: "not-found", message };
    default:
      return { kind: "failed", message, code, requestId: text(first.extensions.requestId) };
  }
}

function responseStatus(error: CombinedError): number | undefined {
  const response: unknown = error.response;
  if (typeof response !== "object" || response === null || !("status" in response)) return undefined;
  return typeof response.status === "number" && response.status >= 400 ? response.status : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
