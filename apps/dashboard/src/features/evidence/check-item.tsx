import type { ReactNode } from "react";
import { StateWord, type Tone } from "../../ui/state-badge.tsx";

/** What a check is, in words. */
export type CheckWords = {
  readonly title: string;
  readonly verdict: string;
  readonly plain: string;
  readonly note: string;
  readonly does: string;
  readonly cannotCatch: string;
};

/** What came of a check, as a word with its icon. */
export function CheckVerdict({ verdict }: { verdict: string }) {
  const { tone, word } = verdicts[verdict] ?? unknown;
  return <StateWord tone={tone}>{word}</StateWord>;
}

/** One check: its outcome, the sentence that explains it, what it cannot catch, and beside them its numbers. */
export function CheckItem({ check, numbers }: { check: CheckWords; numbers: ReactNode }) {
  return (
    <li
      className="grid gap-x-6 gap-y-2 py-3 md:grid-cols-[9rem_minmax(0,1fr)] xl:grid-cols-[11rem_minmax(0,1fr)_minmax(0,28rem)]"
      aria-label={`${check.title}: ${(verdicts[check.verdict] ?? unknown).word}`}
    >
      <div>
        <h3 className="font-medium">{check.title}</h3>
        <p className="text-table">
          <CheckVerdict verdict={check.verdict} />
        </p>
      </div>
      <div className="max-w-[72ch] text-muted">
        <p className="text-fg">{check.plain}</p>
        {check.note ? <p className="mt-1">{check.note}</p> : null}
        <p className="mt-1 text-table text-subtle">
          <span className="font-medium">What it does.</span> {check.does}
        </p>
        <p className="mt-1 text-table text-subtle">
          <span className="font-medium">What it cannot catch.</span> {check.cannotCatch}
        </p>
      </div>
      <div className="min-w-0 md:col-start-2 xl:col-start-3">{numbers}</div>
    </li>
  );
}

const verdicts: Record<string, { tone: Tone; word: string }> = {
  PASS: { tone: "ok", word: "Passed" },
  FAIL: { tone: "rejected", word: "Failed" },
  INCONCLUSIVE: { tone: "pending", word: "Inconclusive" },
};
const unknown = { tone: "idle", word: "Unknown" } as const;
