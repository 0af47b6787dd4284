"use client";

import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { Id } from "../../ui/copy.tsx";
import { formatDuration, formatExact } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { StateBadge, type Tone } from "../../ui/state-badge.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { CheckItem } from "../evidence/check-item.tsx";
import { VerdictFragment } from "../verification/verdict.ts";

export const RolloutChecksFragment = graphql(
  `
    fragment RolloutChecks_group on Group {
      id
      state
      acceptance
      auditRate
      reason
      verifications {
        ...Verdict_verification
      }
    }
  `,
  [VerdictFragment],
);

const verdicts: Record<string, { tone: Tone; word: string }> = {
  ACCEPTED: { tone: "ok", word: "Accepted" },
  REJECTED: { tone: "rejected", word: "Rejected" },
  INCONCLUSIVE: { tone: "pending", word: "Inconclusive" },
};
const unknown = { tone: "idle", word: "Unknown" } as const;

/** Why the group was accepted or not: every check of every measurement, in words and numbers, and what it cannot catch. */
export function RolloutChecks({ group: masked }: { group: FragmentOf<typeof RolloutChecksFragment> }) {
  const group = readFragment(RolloutChecksFragment, masked);
  const verifications = readFragment(VerdictFragment, group.verifications).toSorted((a, b) =>
    b.createdAt.localeCompare(a.createdAt),
  );
  return (
    <Section
      title="Verification"
      note="A group is judged as a whole; its checks hold for each of its rollouts."
    >
      {verifications.length === 0 ? (
        <p className="max-w-[80ch] border-y border-line py-3 text-muted">{unmeasured(group)}</p>
      ) : (
        <div className="grid gap-6">
          {verifications.map((verification) => {
            const { tone, word } = verdicts[verification.verdict] ?? unknown;
            return (
              <article key={verification.id} aria-label={`Verification ${verification.id}`}>
                <div className="flex flex-wrap items-center gap-x-3 gap-y-1 border-y border-line py-1.5 text-table text-subtle">
                  <StateBadge tone={tone}>{word}</StateBadge>
                  <span className="inline-flex max-w-56 items-center gap-1">
                    measured by <UntrustedText line text={verification.validator.name} className="text-fg" />
                  </span>
                  <Id id={verification.id} />
                  <span>{formatExact(verification.tokens)} tokens</span>
                  {verification.cost === null ? null : (
                    <span>{formatDuration(verification.cost)} of CPU</span>
                  )}
                  <Age at={verification.createdAt} />
                </div>
                <ul className="divide-y divide-line">
                  {verification.checks.map((check) => (
                    <CheckItem
                      key={check.id}
                      check={check}
                      numbers={
                        <dl className="grid grid-cols-[auto_1fr] content-start gap-x-4 gap-y-0.5 text-table">
                          <Figures name="Observed" value={check.observed} strong />
                          <Figures name="Expected" value={check.expected} />
                          <Figures name="Threshold" value={check.threshold} />
                        </dl>
                      }
                    />
                  ))}
                </ul>
              </article>
            );
          })}
        </div>
      )}
    </Section>
  );
}

function Figures({ name, value, strong }: { name: string; value: string; strong?: boolean }) {
  return (
    <>
      <dt className="text-subtle">{name}</dt>
      <dd className={strong ? "wrap-anywhere text-right font-medium" : "wrap-anywhere text-right"}>
        {value}
      </dd>
    </>
  );
}

function unmeasured(group: {
  state: string;
  acceptance: string | null;
  auditRate: number;
  reason: string | null;
}): string {
  if (group.state === "VERIFYING")
    return "A validator is measuring this group. Its checks appear here when the verdict is in.";
  if (group.state === "SUBMITTED")
    return "Received and well-formed. The secret draw spared it: it is accepted on trust once the audits of what its node submitted before or with it are decided.";
  if (group.acceptance === "TRUSTED") {
    return `Accepted on trust: the secret draw did not choose it. ${(group.auditRate * 100).toFixed(0)} % of this node's groups are chosen, and the node cannot know which.`;
  }
  return "No validator measured this group.";
}
