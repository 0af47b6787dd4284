"use client";

import type { ReactNode } from "react";
import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { formatMoment } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { StateIcon, type Tone } from "../../ui/state-badge.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";

export const CaseTimelineFragment = graphql(`
  fragment CaseTimeline_case on Case {
    id
    state
    statement
    openedAt
    openUntil
    disputedAt
    decision
    decidedAt
    reexecutions {
      task
      outcome
      decidedAt
      validator {
        id
        name
      }
      finding {
        verdict
      }
    }
  }
`);

type Entry = { readonly key: string; readonly at: string; readonly tone: Tone; readonly what: ReactNode };

/** What happened in the case, and what has yet to happen. */
export function CaseTimeline({ found: masked }: { found: FragmentOf<typeof CaseTimelineFragment> }) {
  const found = readFragment(CaseTimelineFragment, masked);
  const entries: readonly Entry[] = [
    { key: "opened", at: found.openedAt, tone: "rejected" as const, what: "Opened by the rejection" },
    ...(found.reexecutions ?? []).map(({ task, decidedAt, validator, finding }) => ({
      key: task,
      at: decidedAt ?? found.openedAt,
      tone: finding === null ? ("idle" as const) : tones[finding.verdict],
      what: (
        <>
          Measured again by <UntrustedText text={validator?.name ?? "a validator"} />
          {finding === null ? "" : `: ${findings[finding.verdict]}`}
        </>
      ),
    })),
    ...(found.disputedAt === null
      ? []
      : [
          {
            key: "disputed",
            at: found.disputedAt,
            tone: "pending" as const,
            what: (
              <>
                The accused objects:
                <UntrustedText text={found.statement ?? ""} className="mt-1 block text-muted" />
              </>
            ),
          },
        ]),
    ...(found.decidedAt === null
      ? []
      : [
          {
            key: "decided",
            at: found.decidedAt,
            tone: found.state === "OVERTURNED" ? ("ok" as const) : ("rejected" as const),
            what: (
              <>
                {found.state === "OVERTURNED" ? "Overturned" : "Upheld"}:{" "}
                <UntrustedText text={found.decision ?? ""} className="font-sans" />
              </>
            ),
          },
        ]),
  ].toSorted((a, b) => a.at.localeCompare(b.at));
  return (
    <Section title="Timeline">
      <ol className="divide-y divide-line border-y border-line">
        {entries.map(({ key, at, tone, what }) => (
          <li key={key} className="flex gap-x-2 py-1.5">
            <Mark tone={tone} />
            <div className="min-w-0 flex-1">{what}</div>
            <span className="shrink-0 text-table text-subtle">
              <Age at={at} />
            </span>
          </li>
        ))}
        {found.state === "OPEN" ? (
          <li className="flex gap-x-2 py-1.5 text-muted">
            <Mark tone="pending" />
            <div className="min-w-0 flex-1">
              {found.disputedAt === null ? (
                <>
                  The accused may object until{" "}
                  <time dateTime={found.openUntil} title={formatMoment(new Date(found.openUntil))}>
                    {formatMoment(new Date(found.openUntil)).split(" here")[0]}
                  </time>
                  ; if measuring again finds the same and nobody objects, the rejection is upheld then.
                </>
              ) : (
                "The organizer decides. Without a decision within seven days, what measuring again found decides."
              )}
            </div>
          </li>
        ) : null}
      </ol>
    </Section>
  );
}

const tones = { ACCEPTED: "ok", REJECTED: "rejected", INCONCLUSIVE: "pending" } as const;
const findings = {
  ACCEPTED: "it passes every check",
  REJECTED: "it fails again",
  INCONCLUSIVE: "nothing could be found out",
} as const;

function Mark({ tone }: { tone: Tone }) {
  const colour = {
    ok: "text-ok",
    pending: "text-pending",
    running: "text-running",
    rejected: "text-rejected",
    slashed: "text-slashed",
    idle: "text-idle",
  }[tone];
  return (
    <span className={`flex h-5 items-center ${colour}`}>
      <StateIcon tone={tone} />
    </span>
  );
}
