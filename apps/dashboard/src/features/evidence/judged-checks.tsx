import type { CheckResult } from "@muster/verification";
import { Section } from "../../ui/section.tsx";
import { CheckItem } from "./check-item.tsx";
import { FiguresTable } from "./figures-table.tsx";
import type { Verdicts } from "./judge.ts";

/** Every check that was made, with what is on record beside what was found here. */
export function JudgedChecks({
  recorded,
  verdicts,
}: {
  recorded: { checks: readonly CheckResult[] } | null;
  verdicts: Verdicts;
}) {
  const { stored, fresh } = verdicts;
  const found = fresh ?? stored;
  const recordOf = (check: string) => recorded?.checks.find(({ id }) => id === check);
  return (
    <Section
      title="Checks"
      note={
        fresh === null
          ? "Judged with the measurement in the bundle."
          : "Judged with this browser’s own measurement. Machines differ by less than the thresholds, not in the last digit."
      }
    >
      <ul className="divide-y divide-line border-y border-line">
        {found.checks.map((check) => (
          <CheckItem
            key={check.id}
            check={check}
            numbers={
              <FiguresTable
                label={`Numbers of ${check.title}`}
                columns={[
                  { label: "On record", figures: recordOf(check.id)?.observed },
                  {
                    label: fresh === null ? "Judged here" : "Measured here",
                    figures: check.observed,
                    strong: true,
                  },
                  { label: "Expected", figures: check.expected },
                  { label: "Threshold", figures: check.threshold },
                ]}
              />
            }
          />
        ))}
      </ul>
    </Section>
  );
}
