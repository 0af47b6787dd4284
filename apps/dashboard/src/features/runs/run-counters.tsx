"use client";

import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { absent, formatCount, formatCredits, formatExact } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";

export const RunCountersFragment = graphql(`
  fragment RunCounters_run on Run {
    id
    stats {
      tokensGenerated
      tokensMeasured
      verificationShare
      tasks {
        open
        leased
        submitted
        done
        failed
        cancelled
      }
      groups {
        submitted
        verifying
        accepted
        setAside
        rejected
        invalid
        stale
      }
      attempts {
        live
        submitted
        released
        expired
        cancelled
      }
    }
  }
`);

// Apart from the page's query: the budget is for members, and its refusal must not blank the rest.
const RunBudgetQuery = graphql(`
  query RunBudget($id: ID!) {
    run(id: $id) {
      id
      budget {
        funded
        available
        held
        paid
      }
    }
  }
`);

/**
 * Counts of everything that can be counted, in the words of the protocol.
 * @param props.touched grows with every event of the run.
 */
export function RunCounters({
  run: masked,
  touched,
}: {
  run: FragmentOf<typeof RunCountersFragment>;
  touched: number;
}) {
  const { id, stats } = readFragment(RunCountersFragment, masked);
  const { groups, tasks, attempts } = stats;
  const [{ data }, reload] = useSteadyQuery({
    query: RunBudgetQuery,
    variables: { id },
  });
  // money moves with nearly every event, and no event carries it
  useNudge(touched, reload, 2000);
  const budget = data?.run?.budget;
  const judged = groups.accepted + groups.setAside + groups.rejected;
  return (
    <Section title="Counters">
      <div className="grid gap-x-8 gap-y-5 sm:grid-cols-2 xl:grid-cols-4">
        <Counts
          title="Groups"
          rows={[
            ["Submitted", groups.submitted],
            ["Verifying", groups.verifying],
            ["Accepted", groups.accepted + groups.setAside],
            ["… of these set aside, no signal", groups.setAside],
            ["Rejected", groups.rejected],
            ["Invalid, not the node's fault", groups.invalid],
            ["Stale", groups.stale],
            ["Rejected share of judged", judged === 0 ? absent : percent(groups.rejected / judged)],
          ]}
        />
        <Counts
          title="Tasks"
          rows={[
            ["Open", tasks.open],
            ["Leased", tasks.leased],
            ["Submitted", tasks.submitted],
            ["Done", tasks.done],
            ["Failed", tasks.failed],
            ["Cancelled", tasks.cancelled],
          ]}
        />
        <Counts
          title="Attempts"
          rows={[
            ["Live", attempts.live],
            ["Submitted", attempts.submitted],
            ["Released", attempts.released],
            ["Expired", attempts.expired],
            ["Cancelled", attempts.cancelled],
          ]}
        />
        <Counts
          title="Tokens and credits"
          rows={[
            ["Tokens generated", BigInt(stats.tokensGenerated)],
            ["Tokens measured", BigInt(stats.tokensMeasured)],
            [
              "Verification, share of generation",
              stats.verificationShare === null ? absent : percent(stats.verificationShare),
            ],
            ["Budget, credits", budget ? formatCredits(budget.funded) : absent],
            ["Available", budget ? formatCredits(budget.available) : absent],
            ["Held for nodes", budget ? formatCredits(budget.held) : absent],
            ["Paid to nodes", budget ? formatCredits(budget.paid) : absent],
          ]}
        />
      </div>
    </Section>
  );
}

function Counts({
  title,
  rows,
}: {
  title: string;
  rows: readonly (readonly [string, number | bigint | string])[];
}) {
  return (
    <table className="w-full self-start border-collapse text-table">
      <caption className="border-b border-line pb-1 text-left text-label text-subtle">{title}</caption>
      <tbody>
        {rows.map(([name, value]) => (
          <tr key={name} className="hover:bg-raised">
            <th scope="row" className="h-6 text-left font-normal text-muted">
              {name}
            </th>
            <td
              className="h-6 text-right"
              {...(typeof value === "string" ? {} : { title: formatExact(value) })}
            >
              {typeof value === "string" ? value : formatCount(value)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
