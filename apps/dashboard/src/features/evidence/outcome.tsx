"use client";

import type { ReactNode } from "react";
import { Section } from "../../ui/section.tsx";
import { StateBadge } from "../../ui/state-badge.tsx";
import { agrees, damage, type Verdict, type Verdicts } from "./judge.ts";
import type { Judging } from "./judging.ts";

/** The answer in one line, and why. */
export function Outcome({ judging }: { judging: Judging }) {
  const { facts, verdicts, failure } = judging;
  return (
    <Section title="Outcome">
      <div role="status" className="border-y border-line py-3">
        {failure ? (
          <Answer
            badge={<StateBadge tone="rejected">Not to be relied on</StateBadge>}
            title={failure.message}
          >
            {meaningOf(failure.code)} <code className="font-mono text-table text-subtle">{failure.code}</code>
          </Answer>
        ) : verdicts && facts ? (
          <Judged verdicts={verdicts} recorded={facts.header.verdict?.verdict ?? null} />
        ) : (
          <p className="text-muted">Judging …</p>
        )}
      </div>
    </Section>
  );
}

function Judged({ verdicts, recorded }: { verdicts: Verdicts; recorded: Verdict["verdict"] | null }) {
  const { stored, fresh, unmeasured } = verdicts;
  const same = agrees(verdicts);
  const differences = [...new Set([...stored.differences, ...(fresh?.differences ?? [])])];
  return (
    <>
      <Answer
        badge={
          same ? (
            <StateBadge tone="ok">Agrees</StateBadge>
          ) : (
            <StateBadge tone="rejected">Does not agree</StateBadge>
          )
        }
        title={titleOf(same, recorded)}
      >
        {recorded === null
          ? "The coordinator accepted this group on trust: nobody had measured it. "
          : `On record: ${words[recorded]}. From the stored measurement: ${words[stored.verdict]}. `}
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

function Answer({ badge, title, children }: { badge: ReactNode; title: string; children: ReactNode }) {
  return (
    <>
      <p className="flex flex-wrap items-center gap-x-3 gap-y-1">
        {badge}
        <span className="text-strong font-medium">{title}</span>
      </p>
      <p className="mt-1 max-w-[88ch] text-muted">{children}</p>
    </>
  );
}

const words: Record<Verdict["verdict"], string> = {
  ACCEPTED: "accepted",
  REJECTED: "rejected",
  INCONCLUSIVE: "inconclusive",
};

function titleOf(same: boolean, recorded: Verdict["verdict"] | null): string {
  if (recorded === null)
    return same
      ? "Nothing in it contradicts the coordinator."
      : "It contradicts what the coordinator accepted.";
  return same
    ? `The coordinator’s verdict, ${words[recorded]}, is the right one.`
    : "It does not agree with the coordinator’s verdict.";
}

function meaningOf(code: string): string {
  return Object.entries(damage).find(([known]) => known === code)?.[1] ?? "";
}
