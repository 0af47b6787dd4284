import { StateBadge } from "../../ui/state-badge.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";

/** What came back from an attempt. */
export type Answer = {
  readonly state: "PENDING" | "DELIVERED" | "FAILED";
  readonly latencyMs: number | null;
  readonly responseStatus: number | null;
  readonly responseBody: string | null;
  readonly error: string | null;
};

/** An answer: status, time, and its first kilobyte, which is a stranger's. */
export function AnswerShown({ answer }: { answer: Answer }) {
  const { state, latencyMs, responseStatus, responseBody, error } = answer;
  return (
    <div role="status">
      <p className="flex flex-wrap items-center gap-2">
        <StateBadge tone={state === "DELIVERED" ? "ok" : "rejected"}>
          {responseStatus === null ? "No answer" : `HTTP ${responseStatus}`}
        </StateBadge>
        {latencyMs === null ? null : <span className="text-table text-subtle">after {latencyMs} ms</span>}
      </p>
      {error ? <p className="mt-1 text-table text-muted">{error}</p> : null}
      {responseBody ? (
        <div className="mt-2 max-h-64 overflow-auto rounded-control bg-raised p-2 text-table">
          <UntrustedText text={responseBody} />
        </div>
      ) : responseStatus === null ? null : (
        <p className="mt-1 text-table text-subtle">The answer has no body.</p>
      )}
    </div>
  );
}
