"use client";

import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { formatDuration, formatExact } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";
import { CheckItem, CheckVerdict } from "../evidence/check-item.tsx";
import { parseFigures } from "../evidence/figure-rows.ts";
import { FiguresTable } from "../evidence/figures-table.tsx";
import { ProbeOutcomeWord } from "./probes.tsx";
import { VerdictFragment } from "./verdict.ts";

export const CaseChecksFragment = graphql(
  `
    fragment CaseChecks_case on Case {
      id
      group {
        id
        verifications {
          ...Verdict_verification
        }
      }
      reexecutions {
        task
        outcome
        note
        validator {
          id
          name
        }
        finding {
          verdict
          checks {
            id
            verdict
            observed
          }
        }
      }
    }
  `,
  [VerdictFragment],
);

/** Every check with the numbers of the measurement that decided beside those of the one that was made to confirm it. */
export function CaseChecks({ found: masked }: { found: FragmentOf<typeof CaseChecksFragment> }) {
  const { group, reexecutions } = readFragment(CaseChecksFragment, masked);
  const [verification] = readFragment(VerdictFragment, group.verifications).toSorted((a, b) =>
    b.createdAt.localeCompare(a.createdAt),
  );
  const again = reexecutions?.at(-1);
  if (verification === undefined)
    return (
      <Section title="Checks">
        <p className="border-y border-line py-3 text-muted">
          The verdict’s numbers were deleted by retention.
        </p>
      </Section>
    );
  const againOf = (check: string) => again?.finding?.checks.find(({ id }) => id === check);
  return (
    <Section
      title="Checks"
      note={
        <>
          First measured by <UntrustedText text={verification.validator.name} className="text-fg" />,{" "}
          {formatExact(verification.tokens)} tokens
          {verification.cost === null ? "" : ` in ${formatDuration(verification.cost)} of CPU`}
          {again ? (
            <>
              ; again by <UntrustedText text={again.validator?.name ?? "another"} className="text-fg" />.
            </>
          ) : (
            ". Not measured again yet."
          )}
        </>
      }
    >
      {again ? (
        <p className="mb-2 flex flex-wrap gap-x-2 text-table text-muted">
          The two measurements: <ProbeOutcomeWord outcome={again.outcome} /> {again.note}
        </p>
      ) : null}
      <ul className="divide-y divide-line border-y border-line">
        {verification.checks.map((check) => {
          const second = againOf(check.id);
          return (
            <CheckItem
              key={check.id}
              check={check}
              numbers={
                <>
                  <FiguresTable
                    label={`Numbers of ${check.title}`}
                    columns={[
                      { label: "First", figures: parseFigures(check.observed), strong: true },
                      ...(again?.finding
                        ? [
                            {
                              label: "Again",
                              figures: second ? parseFigures(second.observed) : undefined,
                              strong: true,
                            },
                          ]
                        : []),
                      { label: "Expected", figures: parseFigures(check.expected) },
                      { label: "Threshold", figures: parseFigures(check.threshold) },
                    ]}
                  />
                  {second && second.verdict !== check.verdict ? (
                    <p className="mt-1 flex justify-end gap-1 text-table text-muted">
                      measured again: <CheckVerdict verdict={second.verdict} />
                    </p>
                  ) : null}
                </>
              }
            />
          );
        })}
      </ul>
    </Section>
  );
}
