"use client";

import type { ReactNode } from "react";
import { Section } from "../../ui/section.tsx";
import { StateBadge } from "../../ui/state-badge.tsx";
import type { Verdict, Verdicts } from "./judge.ts";
import { agrees, damage, type Judging } from "./judging.ts";

/** The answer in one line, and why. */
export function Outcome({ judging }: { judging: Judging }) {
  const { facts, verdicts, failure } = judging;
  return (
    <Section title="Outcome">
      <div role="status" className="border-y border-line py-3">
        {failure ? (
          <Failure code={failure.code} message={failure.message} />
        ) : verdicts && facts ? (
          <Judged verdicts={verdicts} recorded={facts.header.verdict?.verdict ?? null} />
        ) : (
          <p className="text-muted">Judging …</p>
        )}
      </div>
    </Section>
  );
}

function Failure({ code, message }: { code: string; message: string }) {
  const meaning = Object.entries(damage).find(([known]) => known === code)?.[1];
  return (
    <Answer
      badge={
        meaning === undefined ? (
          <StateBadge tone="pending">Could not be judged</StateBadge>
        ) : (
          <StateBadge tone="rejected">Not to be relied on</StateBadge>
        )
      }
    >
      {message} {meaning} <code className="font-mono text-table text-subtle">{code}</code>
    </Answer>
  );
}

function Judged({ verdicts, recorded }: { verdicts: Verdicts; recorded: Verdict["verdict"] | null }) {
  const { stored, fresh, unmeasured } = verdicts;
  const same = agrees(verdicts);
  const differences = [...new Set([...stored.differences, ...(fresh?.differences ?? [])])];
  return (
    <>
      <Answer badge={<StateBadge tone={same ? "ok" : "rejected"}>{badgeOf(same, recorded)}</StateBadge>}>
        {recorded === null
          ? "The coordinator accepted this group on trust: nobody had measured it."
          : `On record: ${words[recorded]}. From the stored measurement: ${words[stored.verdict]}.`}{" "}
        {fresh === null
          ? `It was not measured again. ${unmeasured ?? ""}`
          : `From this browser’s own measurement: ${words[fresh.verdict]}.`}
      </Answer>
      {differences.length > 0 ? (
        <ul className="mt-2 list-disc pl-5 text-fg" aria-label="Differences">
          {differences.map((difference) => (
            <li key={difference}>{difference}</li>
          ))}
        </ul>
      ) : null}
    </>
  );
}

function Answer({ badge, children }: { badge: ReactNode; children: ReactNode }) {
  return (
    <>
      <p>{badge}</p>
      <p className="mt-2 max-w-[88ch] text-strong">{children}</p>
    </>
  );
}

const words: Record<Verdict["verdict"], string> = {
  ACCEPTED: "accepted",
  REJECTED: "rejected",
  INCONCLUSIVE: "inconclusive",
};

function badgeOf(same: boolean, recorded: Verdict["verdict"] | null): string {
  if (recorded === null) return same ? "Does not contradict the coordinator" : "Contradicts the coordinator";
  return same ? "Agrees with the coordinator’s verdict" : "Does not agree with the coordinator’s verdict";
}
