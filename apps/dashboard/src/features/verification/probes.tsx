"use client";

import { useState } from "react";
import { graphql } from "../../graphql/graphql.ts";
import { useSteadyQuery } from "../../graphql/use-steady-query.ts";
import { useNudge } from "../../live/use-event-stream.ts";
import { Id } from "../../ui/copy.tsx";
import { absent } from "../../ui/format.ts";
import { Section } from "../../ui/section.tsx";
import { Select } from "../../ui/select.tsx";
import { StateWord, type Tone } from "../../ui/state-badge.tsx";
import { Empty, QueryState } from "../../ui/states.tsx";
import { Cell, Head, Pages, Row, Table } from "../../ui/table.tsx";
import { Age } from "../../ui/time.tsx";
import { UntrustedText } from "../../ui/untrusted-text.tsx";

const ProbesQuery = graphql(`
  query Probes($id: ID!, $after: String, $outcome: ProbeOutcome) {
    run(id: $id) {
      id
      probes(first: 10, after: $after, outcome: $outcome) {
        edges {
          node {
            task
            purpose
            outcome
            note
            policyVersion
            decidedAt
            group {
              id
            }
            validator {
              id
              name
            }
            watched {
              id
              name
            }
          }
        }
        pageInfo {
          hasNextPage
          endCursor
        }
      }
    }
  }
`);

const probePurposes: Record<string, { word: string; meaning: string }> = {
  REEXECUTION: {
    word: "Re-execution",
    meaning: "One of the organizer’s own validators measured again what another one had measured.",
  },
  CANARY_GOOD: {
    word: "Canary",
    meaning: "A group whose measurement is known, given to a validator that had not seen it.",
  },
  CANARY_BAD: {
    word: "Changed canary",
    meaning: "A known group with a few tokens changed: an honest measurement shows it.",
  },
};

const outcomes = ["AGREED", "DISAGREED", "INCONCLUSIVE"] as const;
type Outcome = (typeof outcomes)[number];
const outcomeWords: Record<Outcome, { tone: Tone; word: string }> = {
  AGREED: { tone: "ok", word: "Agreed" },
  DISAGREED: { tone: "rejected", word: "Disagreed" },
  INCONCLUSIVE: { tone: "pending", word: "Inconclusive" },
};

/** How a probe came out. */
export function ProbeOutcomeWord({ outcome }: { outcome: Outcome | null }) {
  if (outcome === null) return <StateWord tone="pending">Not yet</StateWord>;
  return <StateWord tone={outcomeWords[outcome].tone}>{outcomeWords[outcome].word}</StateWord>;
}

/** Tasks that watched a validator and are decided, newest first; open ones are nobody's to know. */
export function Probes({ runId, touched }: { runId: string; touched: number }) {
  const [after, setAfter] = useState<string | null>(null);
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const [{ data, error, fetching }, retry] = useSteadyQuery({
    query: ProbesQuery,
    variables: { id: runId, after, outcome },
  });
  useNudge(touched, retry, 5000);
  const found = data?.run?.probes;
  const probes = found?.edges.map((edge) => edge.node) ?? [];
  return (
    <Section
      title="Probes"
      note="Decided ones only: a validator must not know which of its tasks watch it."
      actions={
        <Select
          label="Outcome"
          value={outcome ?? "all"}
          options={[
            { value: "all", label: "All" },
            ...outcomes.map((value) => ({ value, label: outcomeWords[value].word })),
          ]}
          onChange={(value) => {
            setOutcome(outcomes.find((known) => known === value) ?? null);
            setAfter(null);
          }}
        />
      }
    >
      <QueryState query={{ data, error, fetching }} retry={retry} what="the probes" rows={4} />
      {found && probes.length === 0 ? (
        <Empty title={outcome ? "No probe came out like this" : "No probe is decided yet"}>
          Every rejection and a secret share of accepted audits are measured a second time.
        </Empty>
      ) : null}
      {probes.length > 0 ? (
        <Table
          label="Probes"
          head={
            <>
              <Head>Outcome</Head>
              <Head>Purpose</Head>
              <Head>Watched</Head>
              <Head>Measured by</Head>
              <Head>Group</Head>
              <Head number>Version</Head>
              <Head className="pl-6">Note</Head>
              <Head>Decided</Head>
            </>
          }
        >
          {probes.map((probe) => (
            <Row key={probe.task}>
              <Cell>
                <ProbeOutcomeWord outcome={probe.outcome} />
              </Cell>
              <Cell className="whitespace-nowrap" title={probePurposes[probe.purpose]?.meaning}>
                {probePurposes[probe.purpose]?.word ?? probe.purpose}
              </Cell>
              <Cell className="max-w-40">
                {probe.watched ? <UntrustedText line text={probe.watched.name} /> : absent}
              </Cell>
              <Cell className="max-w-40">
                {probe.validator ? <UntrustedText line text={probe.validator.name} /> : absent}
              </Cell>
              <Cell>
                <Id id={probe.group.id} />
              </Cell>
              <Cell number>v{probe.policyVersion}</Cell>
              <Cell className="max-w-md pl-6 text-muted" title={probe.note ?? undefined}>
                <span className="block truncate">{probe.note}</span>
              </Cell>
              <Cell className="whitespace-nowrap text-muted">
                {probe.decidedAt ? <Age at={probe.decidedAt} /> : absent}
              </Cell>
            </Row>
          ))}
        </Table>
      ) : null}
      <Pages
        after={after}
        next={found?.pageInfo.hasNextPage ? found.pageInfo.endCursor : null}
        onChange={setAfter}
      />
    </Section>
  );
}
